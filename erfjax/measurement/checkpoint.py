"""A measurement's state, and how it survives: saved in one step, recognised, continued to the same bits.

The state changes only between batches, and a continued run cuts its batches where the first one would have: same
programs, same operands, same order of sums. A *fingerprint* says which run a file belongs to.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from erfjax import files
from erfjax.errors import CheckpointError, FileFormatError
from erfjax.measurement.accumulate import Accumulator

KIND = "Checkpoint"
REMEDY = "delete the file to start afresh, or give another path"


@dataclasses.dataclass(frozen=True)
class State:
    """How far a measurement has come.

    Attributes:
        accumulator: the samples so far.
        position: index of the next sample.
        skipped: indices of samples that were left out because they are not finite.
        batch_size: samples per batch from here on.
        digest: checksum of the input rows so far.
        done: whether nothing remains to be measured.
        notes: what happened on the way.
    """

    accumulator: Accumulator
    position: int = 0
    skipped: tuple[int, ...] = ()
    batch_size: int = 1
    digest: int = 0
    done: bool = False
    notes: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str], fingerprint: dict[str, str]) -> None:
        """Writes the state: the file is the old or the new one, whole, whenever the process dies."""
        plain = {name: getattr(self, name) for name in PLAIN}
        files.save(path, KIND, self.accumulator.arrays(), {"fingerprint": fingerprint, "state": plain})

    @classmethod
    def load(cls, path: str | os.PathLike[str], fingerprint: dict[str, str]) -> "State | None":
        """The state that was saved, or None if there is no file.

        Raises:
            CheckpointError: the file is damaged, something else, or of another run; the message names what differs.
        """
        path = Path(path)
        for litter in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed while it wrote
            litter.unlink(missing_ok=True)
        if not path.exists():
            return None
        try:
            arrays, metadata = files.load(path, KIND)
            with files.damaged(path):
                found, plain = dict(metadata["fingerprint"]), {name: metadata["state"][name] for name in PLAIN}
                accumulator = Accumulator.from_arrays(arrays)
        except FileFormatError as error:
            raise CheckpointError(
                f"{os.fspath(path)!r} is no checkpoint that can be continued ({error}): {REMEDY}."
            ) from None
        for name, value in fingerprint.items():
            if found.get(name) != value:
                raise CheckpointError(
                    f"The checkpoint {os.fspath(path)!r} belongs to another run: its {name} was {found.get(name)}, this "
                    f"one has {value}. Repeat its settings; or {REMEDY}."
                )
        plain |= {name: tuple(plain[name]) for name in ("skipped", "notes")}
        return cls(accumulator, **plain)

    def check_shared(self, path: str | os.PathLike[str]) -> None:
        """Refuses to go on where processes of one run are not equally far.

        Raises:
            CheckpointError: they found different files.
        """
        if jax.process_count() == 1:
            return
        positions = multihost_utils.process_allgather(np.array(self.position)).tolist()
        if len(set(positions)) > 1:
            raise CheckpointError(
                f"The processes found different states in {os.fspath(path)!r}, after {positions} samples: the "
                "checkpoint must lie on a file system that all of them share."
            )


PLAIN = tuple(field.name for field in dataclasses.fields(State) if field.name != "accumulator")


def fingerprint(model: str, consts: Any, key: Any, settings: dict[str, Any]) -> dict[str, str]:
    """What makes a run this run: hashes of the model and its weights, the key, the settings and the version of JAX."""
    program = hashlib.sha256(model.encode()).hexdigest()[:16]
    weights = hashlib.sha256()
    for leaf in jax.tree.leaves(consts):
        weights.update(f"{leaf.shape}{leaf.dtype}".encode())
        weights.update(np.ascontiguousarray(leaf).tobytes())
    key_data = jax.random.key_data(key) if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return {name: str(value) for name, value in settings.items()} | {
        "key": str(np.asarray(key_data).tolist()),
        "jax version": jax.__version__,
        "model": program,
        "weights": weights.hexdigest()[:16],
    }
