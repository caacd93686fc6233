"""What of a model stays the same while it learns, and what changes: a function, and the weights that it holds as a pytree.

A plain function is compiled with what it closes over. A callable that is a pytree of arrays (`jax.tree_util.Partial(apply,
params)`, an Equinox module) says itself which arrays are its weights: another model of the same structure is the same
computation on other numbers, so a field can be followed through training without compiling anything twice.
"""

import collections
import dataclasses
import inspect
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.calling import briefly
from erfjax.errors import FunctionError


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A callable taken apart.

    Attributes:
        weights: its floating-point arrays; none if it is a plain function.
        structure: everything else about it, equal for models that differ in their weights alone; None if it is a plain
            function, or holds something that cannot be compared.
        rebuild: weights -> the callable with these.
    """

    weights: tuple[Any, ...]
    structure: Hashable
    rebuild: Callable[[Sequence[Any]], Callable[..., Any]]


def take_apart(f: Callable[..., Any]) -> Model:
    """The function and the weights of a callable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from erfjax.measurement.model import take_apart
        >>> models = [jax.tree_util.Partial(jnp.multiply, jnp.full(3, w)) for w in (1.0, 2.0)]
        >>> one, two = map(take_apart, models)
        >>> one.structure == two.structure, float(one.rebuild(two.weights)(3.0)[0])
        (True, 6.0)
    """
    leaves, tree = jax.tree.flatten(f)
    if len(leaves) == 1 and leaves[0] is f:
        return Model((), None, lambda weights: f)
    moving = [i for i, leaf in enumerate(leaves) if _is_weight(leaf)]

    def rebuild(weights: Sequence[Any]) -> Callable[..., Any]:
        held = list(leaves)
        for i, weight in zip(moving, weights, strict=True):
            held[i] = weight
        return jax.tree.unflatten(tree, held)

    structure: Hashable = (tree, *(_mark(leaf) for leaf in leaves))
    try:
        hash(structure)
    except TypeError:
        structure = None
    return Model(tuple(jnp.asarray(leaves[i]) for i in moving), structure, rebuild)


def zeros(weights: Sequence[Any]) -> Hashable:
    """Where weights are zero, or as low as masks: which positions see which depends on that, for models of one structure."""
    found: list[Hashable] = []
    for leaf in weights:
        if not isinstance(leaf, jax.core.Tracer):
            value = np.asarray(leaf)
            kinds = np.where(value == 0, 1, np.where(value > LOW, 0, 2)).astype(np.uint8)
            found.append(kinds.tobytes() if kinds.any() else None)
    return tuple(found)


def require_function(f: Any, arguments: Sequence[str] = ("x",)) -> None:
    """Refuses what cannot be called as f(x), or as f(key, x).

    Raises:
        FunctionError: f is no function, or takes other arguments.
    """
    if not callable(f):
        raise FunctionError(f"`f` must be a function of an array, but got {briefly(f)}.")
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # a callable without a signature
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        called = ", ".join(arguments)
        if not signature.parameters:
            raise FunctionError(
                "`f` takes no arguments. If it makes the function, pass what it returns: f() (on the command line FILE:f())."
            ) from None
        if len(arguments) > 1:
            raise FunctionError(
                f"`f` is called as f({called}) since there is a `key`, but takes {signature}: leave the key out to measure f as "
                "it is, or give ej.redraw(f), which draws its weights anew for every key."
            ) from None
        raise FunctionError(
            f"`f` is called as f({called}), but takes {signature}: bind other arguments first, lambda {called}: f({called}, ...)."
            " A function that draws its own weights takes (key, x), and needs `key` and `samples`."
        ) from None


LOW = -1e3  # masks that are added to scores are lower: -1e4 and less
_kept: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()
_recent: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
MOST_RECENT = 64  # things that are kept for pytree models


def cached(f: Callable[..., Any], settings: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gives for f with these settings, made if there is none yet: it lives as long as f does.

    What is made for a pytree model serves all models of its structure; the least recently used is dropped.
    """
    structure = take_apart(f).structure
    if structure is not None:
        found = _recent.pop((structure, settings), None)
        _recent[structure, settings] = make() if found is None else found
        if len(_recent) > MOST_RECENT:
            _recent.popitem(last=False)
        return _recent[structure, settings]
    owner = f.__self__ if inspect.ismethod(f) else f  # a bound method is a new object each time
    settings = (f.__func__ if inspect.ismethod(f) else None, settings)
    try:
        kept = _kept.setdefault(owner, {})
        found = kept.get(settings)
    except TypeError:  # a callable that cannot be hashed or weakly referenced
        return make()
    return found if found is not None else kept.setdefault(settings, make())


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _mark(leaf: Any) -> Hashable:
    """What two leaves must share for one compiled function to serve both: the shape of weights, the value of all else."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return leaf
    content = () if _is_weight(leaf) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf).tobytes()
    return leaf.shape, str(leaf.dtype), content
