"""Shuffled gates: gradients through the weights as they are, with every layer's gates taken from another image.

A gradient is a product of weights and of *gates*: slopes of nonlinearities, choices of pools, statistics of norms, whatever the
data decide. Here the probe is pulled back through the true weights, but what lies behind each contraction with weights, a
*layer*, has the data of another image. So the mean of the squares knows the weights and how the gates of one layer go together,
and takes gates of different layers as independent: it is the expectation K of `analytic(weights="given",
positions="together")`, by sampling, at any size.

Images are taken in blocks of `BLOCK`. Inside a block, layer l of image i has the gates of image i + s_l (cyclic); the shifts s_l
are different for `BLOCK` consecutive layers. A block is one sample: its images meet all of each other's gates.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.errors import SampleError
from erfjax.layouts import Layout, parse_input
from erfjax.measurement import jacobian, reduction
from erfjax.measurement.cone import Traced, abstract_cone, cone_of, cotangent_shift, cut_piece, read
from erfjax.measurement.inputs import Row, Source
from erfjax.measurement.probe import Probe
from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.registry import lengths
from erfjax.tracing.second_moments.layerwise import live, pulled
from erfjax.tracing.windows.cone import Cone
from erfjax.typing import Channels, Statistic

BLOCK = 8  # images that exchange gates: gates of layers that are further apart hardly depend on each other
SHIFTS = 0x54F7  # folded into a sample's key


def in_blocks(source: Source, main: int, layout: Layout, size: int) -> Source:
    """The samples of a source, so many images each: the array asked about along its batch axis, others along a new first one.

    Images that fill no block are left out.

    Raises:
        SampleError: the images are drawn by a key.
    """
    if source.draw is not None:
        raise SampleError('gates="shuffled" exchanges gates between images: give them as an array of rows.')
    axis = 0 if layout.batch is None else layout.batch

    def joined(rows: Sequence[Row]) -> Row:
        joins: list[Any] = [np.stack] * len(rows[0])
        if layout.batch is not None:
            joins[main] = functools.partial(np.concatenate, axis=axis)
        return tuple(join([row[i] for row in rows]) for i, join in enumerate(joins))

    def rows() -> Iterator[Row]:
        while len(block := tuple(itertools.islice(source.rows, size))) == size:
            yield joined(block)

    specs = jax.tree.leaves(source.spec)
    shapes = joined([tuple(np.broadcast_to(np.zeros((), s.dtype), s.shape) for s in specs)] * size)
    return Source(source.layouts, shapes, rows(), None if source.total is None else source.total // size, block=size)


def probe_of_blocks(traced: Traced, size: int) -> Probe:
    """The probe of a function whose samples are blocks of images, all units in one piece."""
    cone = abstract_cone(traced)
    if cone is None:
        raise SampleError('gates="shuffled": the output does not depend on the input.')
    spec, source = traced.sample[traced.main], traced.source
    shape = source.space(spec.shape)
    letters = source.letters if source.batch is not None else f"N{source.letters}"
    blocks = parse_input(letters, (size, *spec.shape) if source.batch is None else spec.shape)
    cost = sum(int(np.prod(lengths(step.box), dtype=np.int64)) * step.output.dtype.itemsize for step in cone.steps)
    pixel = int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize // max(1, int(np.prod(shape)))
    return Probe(
        functions=lambda consts, key, others: [],
        pieces=(cut_piece(tuple(range(len(traced.units))), cone, source),),
        consts=traced.consts,
        layout=blocks,
        shape=shape,
        units=traced.units,
        channels=traced.channels,
        pixel_bytes=pixel * size,
        cost=2 * cost * size,
        shift=cotangent_shift([cone]),
    )


def sample_map(
    traced: Traced, statistic: Statistic, channels: Channels, probe: Probe, size: int, layer_of: Sequence[int]
) -> Callable[..., Any]:
    """The function (consts, key, block, others) -> (maps, exponents, fault) of one block, as `jacobian.sample_maps` gives it.

    Args:
        layer_of: for every step of the cone, the number of the layer whose image gives its data.
    """
    source, degree = traced.source, reduction.order(statistic)

    def sample(consts: Any, key: Any, block: Any, others: Any = ()) -> Any:
        cone = cone_of(traced.program(consts), source, traced.target, traced.units)
        assert cone is not None
        cone.settled()
        images = block if source.batch is None else jnp.stack(jnp.split(block, size, source.batch))
        leaves = (images, *others)
        atoms = [*cone.block.inputs, *(step.output for step in cone.steps)]

        def forward(*leaves: Any) -> list[Any]:
            windows = [leaves[0], *(read(*pair) for pair in zip(leaves[1:], cone.windows[1:], strict=True))]
            held = cone.values(*windows)
            return [held[atom] for atom in atoms]

        values: dict[Atom, Any] = dict(zip(atoms, jax.vmap(forward)(*leaves), strict=True))
        shifts = jax.random.permutation(jax.random.fold_in(key, SHIFTS), size)

        def of_image(i: Any) -> Any:
            row = jax.random.fold_in(key, i)
            rows = jacobian.cotangents(channels, traced.channels, _output(cone).dtype, row)
            rows = rows * np.asarray(2.0**probe.shift, rows.dtype)

            def data(layer: int, atom: Atom) -> Any:
                return values[atom][(i + shifts[layer % size]) % size]

            def unit_map(unit: Sequence[int]) -> Any:
                gradients = jacobian.for_each(lambda row: _pulled(cone, traced, unit, row, layer_of, data), rows)
                maps, exponent, finite = reduction.reduce(gradients, statistic, source)
                return maps, exponent - probe.shift, finite

            parts = zip(*map(unit_map, traced.units), strict=True)
            return tuple(jnp.stack(part) for part in parts)

        maps, exponents, finite = jax.vmap(of_image)(jnp.arange(size))
        fault = jnp.where(finite.all(), 0, jacobian.GRADIENT_FAULT)
        fault = jnp.where(jnp.isfinite(values[_output(cone)]).all(), fault, jacobian.OUTPUT_FAULT)
        return *reduction.mean(maps, exponents, degree, size), fault

    return sample


def _output(cone: Cone) -> Var:
    (output,) = cone.wanted
    assert isinstance(output, Var)
    return output


def _pulled(
    cone: Cone, traced: Traced, unit: Sequence[int], row: Any, layer_of: Sequence[int], data: Callable[[int, Atom], Any]
) -> Any:
    """The gradient of one unit at the window, every layer at its own data."""
    output, source = _output(cone), cone.block.inputs[0]
    origin = [int(cone.wanted[output][axis].start) for axis in traced.target.spatial]
    place = tuple(u - o for u, o in zip(unit, origin, strict=True))

    def probed(values: Any) -> Any:
        return traced.target.unit_channels(cone.read({output: values}, output, cone.wanted[output]), place)

    whole = jax.ShapeDtypeStruct(lengths(cone.boxes[output]), output.dtype)
    arrived: dict[Atom, Any] = {output: jax.linear_transpose(probed, whole)(row)[0]}
    steps = [(step, functools.partial(data, layer)) for step, layer in zip(cone.steps, layer_of, strict=True)]
    found = pulled(cone, steps, live(cone), arrived).get(source)
    return jnp.zeros(lengths(cone.windows[0]), source.dtype) if found is None else found
