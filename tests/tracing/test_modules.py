"""Layers of modules have the names that users gave them."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

import erfjax as ej
from erfjax.tracing.program.modules import named

nnx = pytest.importorskip("flax.nnx")
eqx = pytest.importorskip("equinox")


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.conv1, self.conv2 = (nnx.Conv(width, width, (3,), rngs=rngs) for _ in range(2))

    def __call__(self, x):
        return x + self.conv2(nnx.relu(self.conv1(x)))


class Wider(Block):
    def __call__(self, x):
        return jnp.tanh(super().__call__(x))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 4, (5,), rngs=rngs)
        self.blocks = nnx.List([Block(4, rngs), Wider(4, rngs)])
        self.heads = nnx.Dict(near=nnx.Linear(4, 3, rngs=rngs), far=nnx.Conv(4, 3, (7,), rngs=rngs))

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return {"near": self.heads["near"](x), "far": self.heads["far"](x)}


class Leaf(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight[None] * x


class Tree(eqx.Module):
    leaves: list
    last: Leaf

    def __call__(self, x):
        for leaf in self.leaves:
            x = leaf(x[1:] + x[:-1])
        return self.last(x)


NAMES = ["stem", "blocks/0/conv1", "blocks/0/conv2", "blocks/0", "blocks/1/conv1", "blocks/1/conv2", "blocks/1"]


@pytest.fixture(scope="module")
def net():
    return Net(nnx.Rngs(0))


@pytest.mark.parametrize("inside", [False, True], ids=["module", "closure"])
def test_paths_of_nnx_modules(net, inside):
    x = jnp.ones((1, 40, 2))
    found = ej.theoretical((lambda x: net(x)["far"]) if inside else net, x, layout="NWC")
    field = found if inside else found["far"]
    assert [row.name for row in field.layers] == [*NAMES, "heads/far"]
    assert [row.size for row in field.layers if "conv" in row.name or row.name == "stem"] == [
        (5,),
        (7,),
        (9,),
        (11,),
        (13,),
    ]


def test_by_layer_takes_paths(net):
    x = jax.random.normal(jax.random.key(0), (3, 24, 2))
    fields = ej.by_layer(lambda x: net(x)["far"], x, layout="NWC", layers=["blocks/0/conv2"], progress=False)
    assert list(fields) == ["blocks/0/conv2"]


def test_paths_of_equinox_modules():
    leaf = Leaf(jnp.arange(2.0, 5.0))
    tree = Tree([leaf, Leaf(jnp.ones(3))], Leaf(jnp.ones(3)))
    field = ej.theoretical(tree, jnp.ones((9, 3)), layout="LC")
    assert [row.name for row in field.layers if row.operation == "mul"] == ["leaves/0", "leaves/1", "last"]
    assert field.size == (3,)


def test_classes_are_given_back(net):
    before = {kind: vars(kind)["__call__"] for kind in (Block, Wider, Net, nnx.Conv, Leaf, eqx.nn.Conv)}
    with contextlib.suppress(ZeroDivisionError), named():
        assert vars(Block)["__call__"] is not before[Block]
        raise ZeroDivisionError
    assert all(vars(kind)["__call__"] is call for kind, call in before.items())


def test_names_of_transformations_are_left_out():
    def f(x):
        with jax.named_scope("outer"):
            return jax.vmap(jax.jit(jax.named_scope("inner")(lambda row: row[1:] * row[:-1])))(x.T).T

    assert {row.name for row in ej.theoretical(f, jnp.ones((5, 3)), layout="LC").layers} == {"outer", "outer/inner"}
