"""One small ResNet, written in four libraries: a strided stem, a pooling, two residual blocks. Kernels are random and positive.

Each maker returns a function of an NHWC image in float64, the model's own layout hidden inside.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SHAPE = (1, 88, 80, 3)
WIDTH = 4


def positive(tree):
    """The same tree of shapes with random positive values in float64, and zeros for means and biases."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        none = any(word in jax.tree_util.keystr(path) for word in ("mean", "bias", "'b'"))
        return jnp.asarray(np.zeros(leaf.shape) if none else rng.uniform(0.1, 1, leaf.shape))

    return jax.tree_util.tree_map_with_path(one, tree)


def linen() -> Callable:
    from flax import linen as nn

    class Block(nn.Module):
        stride: int

        @nn.compact
        def __call__(self, x):
            norm = {"use_running_average": True}
            y = nn.Conv(WIDTH, (3, 3), self.stride, use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(**norm)(y))
            y = nn.BatchNorm(**norm)(nn.Conv(WIDTH, (3, 3), use_bias=False)(y))
            return nn.relu(y + nn.Conv(WIDTH, (1, 1), self.stride, name="shortcut")(x))

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(WIDTH, (7, 7), 2, name="stem")(x)
            x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), "SAME")
            return Block(2, name="block2")(Block(1, name="block1")(x))

    model = ResNet()
    params = positive(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(SHAPE)))
    return lambda x: model.apply(params, x)


def nnx() -> Callable:
    from flax import nnx as nn

    class Block(nn.Module):
        def __init__(self, stride, rngs):
            def conv(kernel, stride=1):
                return nn.Conv(WIDTH, WIDTH, kernel, stride, use_bias=False, rngs=rngs)

            self.first, self.second, self.shortcut = conv((3, 3), stride), conv((3, 3)), conv((1, 1), stride)
            self.norms = nn.List([nn.BatchNorm(WIDTH, use_running_average=True, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            y = nn.relu(self.norms[0](self.first(x)))
            return nn.relu(self.norms[1](self.second(y)) + self.shortcut(x))

    class ResNet(nn.Module):
        def __init__(self, rngs):
            self.stem = nn.Conv(3, WIDTH, (7, 7), 2, rngs=rngs)
            self.block1, self.block2 = Block(1, rngs), Block(2, rngs)

        def __call__(self, x):
            x = nn.max_pool(nn.relu(self.stem(x)), (3, 3), (2, 2), "SAME")
            return self.block2(self.block1(x))

    graph, state = nn.split(nn.eval_shape(lambda: ResNet(nn.Rngs(0))))
    model = nn.merge(graph, positive(state))
    return lambda x: model(x)


def equinox() -> Callable:
    import equinox as eqx

    class Block(eqx.Module):
        first: eqx.nn.Conv2d
        second: eqx.nn.Conv2d
        shortcut: eqx.nn.Conv2d

        def __init__(self, stride, key):
            keys = jax.random.split(key, 3)
            self.first = eqx.nn.Conv2d(WIDTH, WIDTH, 3, stride, 1, key=keys[0])
            self.second = eqx.nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, key=keys[1])
            self.shortcut = eqx.nn.Conv2d(WIDTH, WIDTH, 1, stride, key=keys[2])

        def __call__(self, x):
            return jax.nn.relu(self.second(jax.nn.relu(self.first(x))) + self.shortcut(x))

    class ResNet(eqx.Module):
        stem: eqx.nn.Conv2d
        pool: eqx.nn.MaxPool2d
        blocks: list

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.stem = eqx.nn.Conv2d(3, WIDTH, 7, 2, 3, key=keys[0])
            self.pool = eqx.nn.MaxPool2d(3, 2, 1)
            self.blocks = [Block(1, keys[1]), Block(2, keys[2])]

        def __call__(self, x):
            x = self.pool(jax.nn.relu(self.stem(x)))
            for block in self.blocks:
                x = block(x)
            return x

    model = positive(eqx.filter_eval_shape(ResNet, jax.random.key(0)))
    return lambda x: model(x[0].transpose(2, 0, 1)).transpose(1, 2, 0)[None]


def haiku() -> Callable:
    import haiku as hk

    class Block(hk.Module):
        def __init__(self, stride, name):
            super().__init__(name)
            self.stride = stride

        def __call__(self, x, training):
            def norm(name, y):
                return hk.BatchNorm(True, True, 0.9, name=name)(y, training)

            y = jax.nn.relu(norm("norm1", hk.Conv2D(WIDTH, 3, self.stride, name="first")(x)))
            y = norm("norm2", hk.Conv2D(WIDTH, 3, name="second")(y))
            return jax.nn.relu(y + hk.Conv2D(WIDTH, 1, self.stride, name="shortcut")(x))

    def net(x, training):
        x = jax.nn.relu(hk.Conv2D(WIDTH, 7, 2, name="stem")(x))
        x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        return Block(2, "block2")(Block(1, "block1")(x, training), training)

    model = hk.transform_with_state(net)  # its statistics come into being in training only
    init = jax.eval_shape(lambda key, x: model.init(key, x, True), jax.random.key(0), jnp.zeros(SHAPE))
    params, state = positive(init)
    return lambda x: model.apply(params, state, None, x, False)[0]


MAKERS = {"flax.linen": linen, "flax.nnx": nnx, "equinox": equinox, "haiku": haiku}
