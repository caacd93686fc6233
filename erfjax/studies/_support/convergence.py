"""Does a wider field at initialisation learn faster? A small convolutional network on digits, several seeds per initialiser.

The network is a stack of 3 x 3 convolutions with ReLU and a linear readout, either of all units (every pixel is seen by
some unit, whatever the field) or of the centre unit alone (what its field leaves out is lost). It is trained by stochastic
gradient descent with momentum; seed i has the same split, the same order of examples and its own weights under every initialiser.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from erfjax.layers import Conv
from erfjax.studies import datasets

Readout = Literal["all", "centre"]
SIDE, BATCH, TEST, MOMENTUM = 8, 64, 497, 0.9


class Learning(NamedTuple):
    """Learning curves of one initialiser: training loss of each epoch and test accuracy after it, one row per seed."""

    loss: Float[np.ndarray, "seeds epochs"]
    accuracy: Float[np.ndarray, "seeds epochs"]

    @property
    def mean_accuracy(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean accuracy over seeds after every epoch, and half-widths of its 95 % confidence intervals."""
        found = [interval(epoch) for epoch in self.accuracy.T]
        return np.array([one.mean for one in found]), np.array([one.half for one in found])


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % confidence interval (Student's t)."""

    mean: float
    half: float


def interval(values: Float[np.ndarray, " seeds"]) -> Interval:
    """The mean of independent values and its 95 % confidence interval.

    Example:
        >>> import numpy as np
        >>> from erfjax.studies._support.convergence import interval
        >>> found = interval(np.array([1.0, 2.0, 3.0]))
        >>> found.mean, round(found.half, 3)
        (2.0, 2.484)
    """
    count = len(values)
    error = values.std(ddof=1) / np.sqrt(count)
    return Interval(float(values.mean()), float(scipy.stats.t.ppf(0.975, count - 1) * error))


def learn(
    init: Any, readout: Readout, *, depth: int, width: int, epochs: int, seeds: Sequence[int], rate: float
) -> Learning:
    """The learning curves of networks drawn by `init`, a name or an initialiser as in `Settings`.

    Raises:
        MissingDependencyError: scikit-learn, which holds the digits, is not installed.
    """
    images, labels = _digits()
    step, judge = _compiled(readout, depth, width, rate)
    rows = []
    for seed in seeds:
        params, split, order = _start(init, readout, depth, width, seed)
        shuffled = np.asarray(jax.random.permutation(split, len(images)))
        test, train = shuffled[:TEST], shuffled[TEST:]
        state = (params, jax.tree.map(jnp.zeros_like, params))
        row = []
        for key in jax.random.split(order, epochs):
            shown = train[np.asarray(jax.random.permutation(key, len(train)))]
            losses = []
            for chosen in np.split(shown[: len(shown) // BATCH * BATCH], len(shown) // BATCH):
                state, value = step(state, images[chosen], labels[chosen])
                losses.append(value)
            row.append(
                (np.mean([float(value) for value in losses]), float(judge(state[0], images[test], labels[test])))
            )
        rows.append(row)
    loss, accuracy = np.moveaxis(np.array(rows), -1, 0)
    return Learning(loss, accuracy)


def _net(width: int) -> dict[str, Any]:
    return {"width": width, "in_channels": 1, "activation": "relu"}


def _start(init: Any, readout: Readout, depth: int, width: int, seed: int) -> tuple[Any, Any, Any]:
    """The parameters of a network and the keys of its split and of its order of examples."""
    weights, head, split, order = jax.random.split(jax.random.key(seed), 4)
    seen = width * (SIDE**2 if readout == "all" else 1)
    stack = (Conv(3) ** depth).init(weights, init=init, dtype=jnp.float32, **_net(width))
    drawn = jax.nn.initializers.lecun_normal()(head, (seen, 10), jnp.float32)
    return {"stack": stack, "head": drawn, "bias": jnp.zeros(10, jnp.float32)}, split, order


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits with mean 0 and variance 1 and their labels."""
    found = datasets.digits()
    pixels = (found.images - found.images.mean()) / found.images.std()
    return pixels.astype(np.float32), found.labels.astype(np.int32)


@functools.cache  # so that nothing is compiled anew for another initialiser
def _compiled(readout: Readout, depth: int, width: int, rate: float) -> tuple[Any, Any]:
    """Two compiled functions: one step of a state (parameters, velocities) with its loss; the accuracy of parameters.

    Steps are called one by one: on a CPU, XLA runs convolutions inside a compiled loop many times more slowly.
    """
    stack = Conv(3) ** depth

    def logits(params: Any, x: Array) -> Array:
        units = stack.apply(params["stack"], x, **_net(width))
        seen = units[:, SIDE // 2, SIDE // 2] if readout == "centre" else units.reshape(len(units), -1)
        return seen @ params["head"] + params["bias"][None]

    def loss(params: Any, x: Array, y: Array) -> Array:
        scores = jax.nn.log_softmax(logits(params, x))
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    @jax.jit
    def step(state: Any, x: Array, y: Array) -> Any:
        params, speed = state
        value, slope = jax.value_and_grad(loss)(params, x, y)
        speed = jax.tree.map(lambda v, g: MOMENTUM * v + g, speed, slope)
        return (jax.tree.map(lambda p, v: p - rate * v, params, speed), speed), value

    @jax.jit
    def judge(params: Any, x: Array, y: Array) -> Array:
        return (jnp.argmax(logits(params, x), -1) == y).astype(x.dtype).mean()

    return step, judge
