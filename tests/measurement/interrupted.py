"""A run that tests start in processes of its own, to kill it, to split it and to compare: `python -m` with a path to a checkpoint
or "", a path for the field, the number of samples, and for one of two processes an address and a rank."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.fields import EffectiveField
from erfjax.measurement import run
from erfjax.readings.empirical import empirical


def f(key, x):
    return jnp.tanh(x * jax.random.normal(key, x.shape, x.dtype))


def measure(samples: int, checkpoint: str | None = None) -> EffectiveField:
    """Random gates on a small image, shared by all devices there are."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("samples",)) if len(jax.devices()) > 1 else None
    x = np.linspace(-1, 1, 1 * 40 * 3 * 2, dtype=np.float32).reshape(1, 40, 3, 2)
    return empirical(f, x, key=jax.random.key(0), samples=samples, batch_size=8, mesh=mesh, checkpoint=checkpoint)


if __name__ == "__main__":
    checkpoint, out, samples, *distributed = sys.argv[1:]
    if distributed:
        jax.distributed.initialize(distributed[0], 2, int(distributed[1]))
    run.SAVE_EVERY, run.SAVE_SHARE = 0.0, 1.0
    print("ready", flush=True)
    field = measure(int(samples), checkpoint or None)
    if jax.process_index() == 0:
        field.save(out)
