"""Which axis of an array is which: layouts such as "NHWC", and which unit of an output is asked about.

One letter per axis: N batch, C channels, and space in D (depth), H (height), W (width) or L (a sequence of tokens).
Spatial axes keep the order in which the layout names them; units and maps have one entry per spatial axis in that
order. Nothing here looks at values, so every function takes NumPy arrays and JAX arrays alike, traced or not.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from erfjax.calling import no_array
from erfjax.errors import LayoutError, UnitError

BATCH, CHANNEL, SPACE = "N", "C", "DHWL"
INFERRED = {3: "NWC", 4: "NHWC", 5: "NDHWC"}
"""The layout of an array with so many axes, where none is given."""
HELP = 'one letter per axis: N batch, C channels, and D, H, W or L for space, for example "NHWC"'


@dataclasses.dataclass(frozen=True)
class Layout:
    """The roles of an array's axes.

    Attributes:
        letters: one letter per axis.
        batch: the axis of the batch, or None.
        channel: the axis of the channels, or None.
        spatial: the spatial axes, in order.
    """

    letters: str
    batch: int | None
    channel: int | None
    spatial: tuple[int, ...]

    def space(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The spatial part of a shape."""
        return tuple(int(shape[axis]) for axis in self.spatial)

    def summed(self) -> tuple[int, ...]:
        """The axes that a map sums over: batch and channels."""
        return tuple(axis for axis in (self.batch, self.channel) if axis is not None)

    def index(self, unit: Sequence[int]) -> tuple[int | slice, ...]:
        """The index that picks the channels of one unit from a batch of one."""
        index: list[int | slice] = [slice(None)] * len(self.letters)
        if self.batch is not None:
            index[self.batch] = 0
        for axis, position in zip(self.spatial, unit, strict=True):
            index[axis] = position
        return tuple(index)

    def unit_channels(self, output: Any, unit: Sequence[int]) -> Any:
        """All channels of one unit of an output with a batch of one, as a vector (length one without channels)."""
        return output[self.index(unit)].reshape(-1)


def parse(layout: str, ndim: int) -> Layout:
    """The roles of the axes that a layout names.

    Args:
        layout: one letter per axis, each once: N, C, D, H, W, L.
        ndim: how many axes the array has.

    Raises:
        LayoutError: a letter is unknown or repeated, or the array has another number of axes.

    Example:
        >>> from erfjax.layouts import parse
        >>> parse("NCHW", 4)
        Layout(letters='NCHW', batch=0, channel=1, spatial=(2, 3))
    """
    unknown = sorted(set(layout) - set(BATCH + CHANNEL + SPACE))
    if unknown:
        raise LayoutError(f"The layout {layout!r} holds the unknown letter {unknown[0]!r}: give {HELP}.")
    if len(set(layout)) != len(layout):
        raise LayoutError(f"The layout {layout!r} names an axis twice: give {HELP}.")
    if len(layout) != ndim:
        alone = "add the batch axis, x[None], or " if BATCH in layout and ndim == len(layout) - 1 else ""
        raise LayoutError(
            f"The layout {layout!r} names {len(layout)} axes, but the array has {ndim}: {alone}give {HELP}."
        )
    find = {letter: axis for axis, letter in enumerate(layout)}
    spatial = tuple(axis for axis, letter in enumerate(layout) if letter in SPACE)
    return Layout(layout, find.get(BATCH), find.get(CHANNEL), spatial)


def parse_input(layout: str, shape: Sequence[int]) -> Layout:
    """The layout of an input of which a map can be made: it has space, and no axis is empty.

    Raises:
        LayoutError: the layout does not fit, or the shape cannot have a receptive field.
    """
    parsed = parse(layout, len(shape))
    if not parsed.spatial:
        raise LayoutError(f"The input layout {layout!r} has no spatial axis: give {HELP}.")
    if 0 in shape:
        raise LayoutError(f"An input of shape {tuple(shape)} is empty: every axis needs at least one entry.")
    return parsed


def parse_output(
    layout: str | None, shape: Sequence[int], input_layout: str, input_shape: Sequence[int] = ()
) -> Layout:
    """The layout of an output: as named, or deduced from the input's when None (see `default_out_layout`).

    Where the shape of the input is given, tokens of an image are known by their number: one for each square patch of some size
    that tiles the image, and a class token or none.

    Args:
        layout: of the output, or None.
        shape: of the output.
        input_layout, input_shape: of the input.

    Raises:
        LayoutError: the layout does not fit, or cannot be deduced.
    """
    if layout is None:
        tokens = _tokens(input_layout, input_shape, shape) if len(input_shape) == len(input_layout) else None
        layout = tokens or default_out_layout(input_layout, len(input_layout), len(shape))
    return parse(layout, len(shape))


def _tokens(layout: str, input_shape: Sequence[int], shape: Sequence[int]) -> str | None:
    """The layout of an output that can only be the tokens of an image with channels last; None if it may be anything else."""
    parsed = parse(layout, len(input_shape))
    space = "".join(layout[axis] for axis in parsed.spatial)
    letters = "".join(letter for letter in layout if letter not in space[1:]).replace(space[:1], "L")
    if len(space) < 2 or len(letters) != len(shape) or not layout.endswith(space + CHANNEL):
        return None
    sides, count = parsed.space(input_shape), shape[letters.index("L")]
    patches = [math.prod(n // p for n in sides) for p in range(1, min(sides) + 1) if all(n % p == 0 for n in sides)]
    return letters if count not in sides and (count in patches or count - 1 in patches) else None


@dataclasses.dataclass(frozen=True)
class Layouts:
    """The layouts of the arrays that a function takes: of one, or of every leaf of a tuple or dict.

    Attributes:
        letters: one layout per leaf; None for one that no field is asked of.
        treedef: the tree, as JAX describes it; None for a single array.
        notes: what was inferred.
    """

    letters: tuple[str | None, ...]
    treedef: Any
    notes: tuple[str, ...] = ()

    def leaves(self, x: Any) -> list[Any]:
        """The arrays of a tree."""
        return [x] if self.treedef is None else self.treedef.flatten_up_to(x)

    def tree(self, leaves: Sequence[Any]) -> Any:
        """The tree of these arrays."""
        return leaves[0] if self.treedef is None else jax.tree.unflatten(self.treedef, leaves)


def shaped(x: Any) -> Any:
    """x as what has a shape and a dtype: an array or a `jax.ShapeDtypeStruct` as it is, nested lists of numbers as an array.

    Raises:
        LayoutError: something else.
    """
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return x
    if not isinstance(x, list):
        raise LayoutError(no_array(x, several=False))
    return np.asarray(x)


def of_tree(x: Any, layout: Any = None) -> Layouts:
    """The layouts of one array, or of a tuple or dict of arrays.

    Args:
        x: the array or tree.
        layout: letters, for every array with as many axes (or one less, a sample without its batch axis); or a tree of letters
            like `x`, None for an array of which no field is wanted. None infers "NWC", "NHWC" or "NDHWC" from 3, 4, 5 axes.

    Raises:
        LayoutError: nothing can be inferred, or the trees differ.

    Example:
        >>> import numpy as np
        >>> from erfjax.layouts import of_tree
        >>> of_tree({"image": np.ones((1, 8, 9, 3)), "time": np.ones(1)}).letters
        ('NHWC', None)
    """
    if hasattr(x, "shape"):
        if layout is None:
            one = _inferred(x)
            said = f'the layout was inferred from {len(x.shape)} axes: "{one}" (name it with layout=)'
            return Layouts((one,), None, () if one == "NHWC" else (said,))
        if not isinstance(layout, str):
            raise LayoutError(f"`layout` must be letters such as 'NHWC' for a single array, but got {layout!r}.")
        return Layouts((layout,), None)
    flat: tuple[list[Any], Any] = jax.tree.flatten(x)
    leaves, treedef = flat
    if not any(hasattr(leaf, "shape") for leaf in leaves):
        raise LayoutError(no_array(x))
    if layout is None or isinstance(layout, str):
        letters: tuple[str | None, ...] = tuple(_letters(leaf, layout) for leaf in leaves)
    else:
        try:
            letters = tuple(treedef.flatten_up_to(layout))
        except ValueError as error:
            raise LayoutError(
                f"`layout` must be letters, or a tree like the inputs, but got {layout!r}: {error}"
            ) from None
    if not any(letters):
        raise LayoutError(f"No input has an axis of space, so there is no field: name the axes with layout, {HELP}.")
    inferred = [one for one in letters if one and layout is None]
    return Layouts(letters, treedef, (f"layouts were inferred: {', '.join(inferred)}",) if inferred else ())


def _letters(leaf: Any, layout: str | None) -> str | None:
    """The layout of a leaf of a tree; None where no field is asked of it."""
    floating = jax.numpy.issubdtype(getattr(leaf, "dtype", int), jax.numpy.floating)
    ndim = len(getattr(leaf, "shape", ()))
    if not floating:
        return None
    if layout is not None and ndim in (len(layout), len(layout) - ("N" in layout)):
        return layout
    return INFERRED.get(ndim) if layout is None else None


def _inferred(x: Any) -> str:
    if len(x.shape) not in INFERRED:
        raise LayoutError(
            f"The layout of an input with {len(x.shape)} axes, {tuple(x.shape)}, cannot be inferred: name it with layout, {HELP}."
        )
    return INFERRED[len(x.shape)]


def require_batch_of_one(layout: Layout, shape: Sequence[int]) -> None:
    """Refuses an array of this layout and shape with several rows along its batch axis.

    Raises:
        LayoutError: the batch axis has another length than one.
    """
    if layout.batch is not None and shape[layout.batch] != 1:
        raise LayoutError(
            f"Expected a batch of one along axis {layout.batch} of {layout.letters!r}, but got shape {tuple(shape)}: "
            "a field belongs to one sample; if that axis is no batch, name the axes with layout or out_layout."
        )


def default_out_layout(layout: str, in_ndim: int, out_ndim: int) -> str:
    """The layout of an output whose axes nobody named.

    As many axes as the input: the same letters. Only as many as the input has batch and channels: these two, without
    space (logits). One less: a batch of scalars. None: a scalar. Anything else is ambiguous and refused.

    Args:
        layout: of the input.
        in_ndim, out_ndim: how many axes input and output have.

    Raises:
        LayoutError: the output's axes cannot be told from their number.

    Example:
        >>> from erfjax.layouts import default_out_layout
        >>> default_out_layout("NHWC", 4, 4), default_out_layout("NCHW", 4, 2), default_out_layout("HWC", 3, 1)
        ('NHWC', 'NC', 'C')
    """
    parsed = parse(layout, in_ndim)
    candidates = (layout, "".join(c for c in layout if c not in SPACE), "".join(c for c in layout if c == BATCH), "")
    for candidate in candidates:
        if len(candidate) == out_ndim:
            return candidate
    space = "".join(layout[axis] for axis in parsed.spatial)
    raise LayoutError(
        f"The output has {out_ndim} axes and the input {in_ndim} ({layout!r}), so which are {space} cannot be told: "
        f'name them with out_layout, for example "NLC" for a sequence of tokens, "{layout.replace(CHANNEL, "")}" for one channel.'
    )


def is_index(value: Any) -> bool:
    """Whether a value is one integer, as Python's and NumPy's are."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def check_channels(channels: Any, count: int, statistic: str) -> None:
    """Refuses a choice of output channels that an output of `count` channels does not have.

    Args:
        channels, statistic: as in the verbs.
        count: how many channels the output has.

    Raises:
        UnitError: no such channel, or no such choice.

    Example:
        >>> from erfjax.layouts import check_channels
        >>> check_channels("random-signs", 8, "square")
    """
    if isinstance(channels, str):
        if channels not in ("sum", "frobenius", "random-signs"):
            raise UnitError(
                f"`channels` must be 'sum', 'frobenius', 'random-signs' or an integer, but got {channels!r}."
            )
        if channels == "random-signs" and statistic not in ("square", "rms", "share"):
            raise UnitError(f'Random signs estimate squares only: statistic={statistic!r} needs channels="frobenius".')
    elif isinstance(channels, bool) or not is_index(channels) or not 0 <= channels < count:
        raise UnitError(
            f"`channels` must be one of the {count} output channels, but got {channels!r}: they count from zero."
        )


def resolve_unit(unit: Any, spatial_shape: Sequence[int]) -> tuple[int, ...]:
    """The zero-based index of one unit: as given, or the centre `n // 2` of every axis when None.

    Args:
        unit: one integer per spatial axis, a bare integer if there is one axis, or None.
        spatial_shape: the spatial shape of the output.

    Raises:
        UnitError: the unit lies outside, or does not have one integer per axis.

    Example:
        >>> from erfjax.layouts import resolve_unit
        >>> resolve_unit(None, (7, 10)), resolve_unit((6, 0), (7, 10)), resolve_unit(3, (7,))
        ((3, 5), (6, 0), (3,))
    """
    shape = tuple(int(n) for n in spatial_shape)
    if 0 in shape:
        raise UnitError(f"The output of spatial shape {shape} has no unit: use a larger input.")
    if unit is None:
        return tuple(n // 2 for n in shape)
    try:
        index = tuple(operator.index(u) for u in ((unit,) if is_index(unit) else unit))
    except TypeError:
        raise UnitError(
            f"`unit` must hold one integer for each of the {len(shape)} spatial axes (None is the centre), but got {unit!r}."
        ) from None
    if len(index) != len(shape):
        more = " A channel is chosen by channels=." if len(index) > len(shape) else ""
        raise UnitError(
            f"`unit` must hold one integer for each spatial axis of the output {shape}, but got {index}: "
            f"{len(shape)} expected, {len(index)} given.{more}"
        )
    if not all(0 <= u < n for u, n in zip(index, shape, strict=True)):
        raise UnitError(f"`unit` must lie inside the output {shape}, but got {index}: indices are zero-based.")
    return index


def resolve_units(unit: Any, spatial_shape: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """The units asked about, and whether a batch of them was: a list of units is a batch, anything else is one unit.

    A list of integers is one unit if the output has several spatial axes, and a batch of units if it has one.

    Args:
        unit: as users give it.
        spatial_shape: of the output.

    Raises:
        UnitError: no unit at all, or one that does not fit.

    Example:
        >>> from erfjax.layouts import resolve_units
        >>> resolve_units([(0, 0), None], (7, 10))
        (((0, 0), (3, 5)), True)
        >>> resolve_units((2, 3), (7, 10))
        (((2, 3),), False)
    """
    one_axis = len(spatial_shape) == 1
    if not isinstance(unit, list) or (unit and not one_axis and all(is_index(u) for u in unit)):
        return (resolve_unit(unit, spatial_shape),), False
    if not unit:
        raise UnitError("`unit` is an empty list: give at least one unit, or None for the centre.")
    return tuple(resolve_unit(u, spatial_shape) for u in unit), True


def paired_axes(source: Layout, target: Layout) -> list[int | None]:
    """For each spatial axis of the input, the spatial axis of the output that goes with it: of the same letter, else in order.

    Where the output has a letter of its own for several axes of the input (tokens), they all go with it.

    Args:
        source, target: the layouts of input and output.
    """
    ins = [source.letters[a] for a in source.spatial]
    outs = [target.letters[a] for a in target.spatial]
    if len(ins) == len(outs) and set(ins) != set(outs):
        return list(range(len(outs)))
    own = next((i for i, letter in enumerate(outs) if letter not in ins), None)
    return [outs.index(letter) if letter in outs else own for letter in ins]
