"""Units that see padding alone, or nothing that a mask leaves; loops that shift a buffer; transforms that are inverted."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import erfjax as ej

IMAGE = jax.ShapeDtypeStruct((1, 5, 7, 2), jnp.float32)
DIMS = ("NHWC", "HWIO", "NHWC")


def weights(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def padded(x):
    """Taps three apart, padded by more than they reach: the corner sees padding alone."""
    return lax.conv_general_dilated(
        x, weights(2, 2, 2, 3), (1, 1), ((12, 12), (9, 9)), None, (3, 3), dimension_numbers=DIMS
    )


def projected(x):
    return jnp.tanh(padded(x)) @ weights(3, 4)


def hidden(x):
    return jnp.where(jnp.arange(5)[:, None, None] > 1, x, 0.0) @ weights(2, 4)


@pytest.mark.parametrize(
    ("f", "start", "stop", "units"),
    [(padded, (-12, -9), (-8, -5), (9, 6)), (projected, (-12, -9), (-8, -5), (9, 6)), (hidden, (0, 0), (0, 0), (0, 0))],
)
def test_units_that_see_nothing(f, start, stop, units, tmp_path):
    """Padding has a place, also behind a product with what is known to be zero; what a mask hides has none."""
    field = ej.theoretical(f, IMAGE, unit=(0, 0))
    assert (field.start, field.stop, field.clipped) == (start, stop, ((0, 0), (0, 0)))
    assert not field.mask().any()
    assert field.mask().shape == (5, 7)
    assert "Nothing of the image is seen" in str(field)
    assert field.locate([(0, 0)]).start.tolist() == [list(map(float, start))]
    assert field.units_of([(0, 0)]).start.tolist() == [list(map(float, units))]
    assert field.advice().image_size == (5, 7)
    assert pickle.loads(pickle.dumps(field)).size == field.size
    assert ej.TheoreticalField.load(field.save(tmp_path / "field.npz")) == field
    assert field.plot().axes
    assert not ej.empirical(f, jnp.ones(IMAGE.shape), unit=(0, 0)).map.any()
    seen = ej.theoretical(f, IMAGE, unit=(4, 5) if f is hidden else (11, 9))
    assert not any("Nothing" in note for note in seen.notes)


def test_tiles_of_an_image_with_much_padding():
    f = lambda x: projected(x)[:, :-3, :-3]  # noqa: E731
    x = np.random.default_rng(1).normal(size=(1, 40, 48, 2)).astype(np.float32)
    plan = ej.tiling(lambda x: f(x)[:, 9:-9, 6:-6], x, tile=8)
    assert plan.exact, plan.why
    np.testing.assert_allclose(plan(lambda x: f(x)[:, 9:-9, 6:-6], x), f(x)[:, 9:-9, 6:-6], rtol=1e-5, atol=1e-6)


def shifted(x):
    def step(buffer, row):
        buffer = jnp.concatenate([buffer[1:], row[None]])
        return buffer, buffer.sum(0)

    return lax.scan(step, jnp.zeros((4, x.shape[2])), x[0])[1][None]


def rolled(x):
    def step(buffer, row):
        buffer = jnp.roll(buffer, -1, 0).at[-1].set(row)
        return buffer, buffer.sum(0)

    return lax.scan(step, jnp.zeros((4, x.shape[2])), x[0])[1][None]


@pytest.mark.parametrize("f", [shifted, rolled])
def test_a_buffer_has_no_padding(f):
    x = jax.ShapeDtypeStruct((1, 32, 3), jnp.float32)
    fields = ej.theoretical(f, x, layout="NLC", unit=[16, 1])
    assert [(field.start, field.stop) for field in fields] == [((13,), (17,)), ((0,), (2,))]
    assert [np.flatnonzero(field.mask()).tolist() for field in fields] == [[13, 14, 15, 16], [0, 1]]


def long_convolution(x):
    """A causal convolution with a kernel of five taps, as a product of spectra."""
    n = x.shape[1]
    kernel = jnp.fft.rfft(weights(5), 2 * n)
    return jnp.fft.irfft(jnp.fft.rfft(x, 2 * n, axis=1) * kernel[None, :, None], 2 * n, axis=1)[:, :n]


def mixed(x):
    """Two layers of FNet: transforms that nothing inverts."""
    for _ in range(2):
        x = jnp.tanh(jnp.fft.fft(x, axis=1).real)
    return x


def test_transforms_that_are_inverted_are_an_upper_bound():
    x = jax.ShapeDtypeStruct((1, 16, 3), jnp.float32)
    field, found = ej.theoretical(long_convolution, x, layout="NLC"), ej.context(long_convolution, x)
    for notes in (field.notes, found.notes):
        assert any(note.startswith("Upper bound: `fft` at") and "long_convolution" in note for note in notes)
    assert not found.exact
    assert "at most 15" in str(found)
    seen = ej.empirical(
        long_convolution, np.random.default_rng(2).normal(size=x.shape).astype(np.float32), layout="NLC"
    )
    assert (seen.map > 1e-6 * seen.map.max()).sum() == 5
    assert field.mask().all()
    assert ej.theoretical(mixed, x, layout="NLC").notes == ()
    assert ej.context(mixed, x).exact


@pytest.mark.parametrize(("f", "margins"), [(padded, (3, 3)), (hidden, (0, 0))])
def test_a_report_on_a_unit_that_sees_nothing(f, margins):
    """It says why there is no account of the field, and what a tile needs is not negative."""
    made = ej.report(f, IMAGE, unit=(0, 0), samples=2, task="segment", layers="none", account=True, progress=False)
    assert "sums to 0" in made.refused["account"]
    assert dict(made.advice[0].rows)["margin of a tile, both sides together"] == " × ".join(map(str, margins))
    assert "Nothing of the image is seen" in str(made)
