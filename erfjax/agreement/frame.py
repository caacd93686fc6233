"""Whether two fields answer one question, and how their maps come to lie on one frame of pixels."""

import dataclasses

import numpy as np

from erfjax.errors import ComparisonError, MapError
from erfjax.fields import EffectiveField

SAME_CHANNELS = {"random-signs": "frobenius"}  # a random sign per channel estimates the sum of the channels' squares
SQUARES = ("square", "rms")


def one_question(a: EffectiveField, b: EffectiveField) -> None:
    """Nothing, if both are the same statistic of the gradient of the same output channels.

    Raises:
        ComparisonError: they are not.
        MapError: they have not the same number of axes.
    """
    if a.map.ndim != b.map.ndim:
        raise MapError(f"Maps of {a.map.ndim} and {b.map.ndim} dimensions cannot be compared pixel by pixel.")
    first, second = a.statistic, b.statistic
    if first != second:
        raise ComparisonError(
            f"Both fields must be of one statistic, but one is {first!r}, the other {second!r}, which have different sizes "
            f"by definition: read both with statistic={first!r}."
        )
    same = SAME_CHANNELS if first in SQUARES else {}
    channels = [same.get(str(field.channels), field.channels) for field in (a, b)]
    if None not in channels and channels[0] != channels[1]:
        raise ComparisonError(
            f"Both fields must be of the same output channels, but one has channels={a.channels!r}, the other "
            f"{b.channels!r}: behind a nonlinearity the gradient of a sum of channels is another quantity than the channels' "
            f"own gradients. Read both with channels={a.channels!r}."
        )


def one_side_over_weights(a: EffectiveField, b: EffectiveField, names: tuple[str, str]) -> tuple[bool, tuple[str, ...]]:
    """Whether one field is a mean over weights and the other of one network, and what to say about the two means."""
    over = [field.averages is not None and "weights" in field.averages for field in (a, b)]
    single = [
        field.averages == "inputs" or (field.averages is None and field.channels is not None and field.samples == 1)
        for field in (a, b)
    ]
    notes = []
    for side, other in ((0, 1), (1, 0)):
        if over[side] and single[other]:
            notes.append(
                f"{names[side]} is a mean over weights, {names[other]} is one network: they differ by the draw of its weights, "
                "which is no error of either; measure redrawn weights (`ej.redraw`) to compare the same mean"
            )
    known = [field.channels is not None for field in (a, b)]
    if known[0] != known[1]:
        notes.append(f"{names[known.index(False)]} does not say which output channels it is of")
    return any(over) and any(single), tuple(notes)


def caveats(a: EffectiveField, b: EffectiveField, names: tuple[str, str]) -> tuple[str, ...]:
    """What the reader should know before the verdict is believed: bars that are not to be trusted, weights that are not drawn."""
    notes = [
        f"{name}: {note}"
        for field, name in zip((a, b), names, strict=True)
        for note in field.notes
        if note.startswith("do not trust")
    ]
    for field, other, (name, its) in ((a, b, names), (b, a, names[::-1])):
        drawn = other.coverage == "measured" and other.averages is not None and "weights" in other.averages
        if drawn and field.metadata.get("weights") == "given":
            notes.append(
                f"{name} takes the squares of one network's weights as they are, {its} draws all weights anew: two different "
                f'means; read {name} with weights="exchangeable"'
            )
    return tuple(notes)


def one_frame(a: EffectiveField, b: EffectiveField) -> tuple[EffectiveField, EffectiveField, tuple[int, ...] | None]:
    """Both fields on a frame that holds both maps, and the pixel of that frame that sizes refer to, if theory says."""
    shapes = np.array([a.map.shape, b.map.shape])
    theory = [field.theoretical for field in (a, b)]
    centres = np.array([t.centre for t in theory if t is not None])
    if (shapes[0] == shapes[1]).all():
        starts = np.zeros_like(shapes)
    else:
        middles = centres if len(centres) == 2 else (shapes - 1) / 2
        starts = middles.max(0) - middles
        if (starts % 1).any():
            raise MapError(
                f"Maps of shapes {a.map.shape} and {b.map.shape} lie half a pixel apart: measure the unit at the centre "
                "of the input, or give maps of equal shape."
            )
        starts = starts.astype(int)
    frame = (starts + shapes).max(0)
    pixel = None
    if len(centres):
        first = 0 if theory[0] is not None else 1
        pixel = tuple(int(c) for c in np.clip(np.floor(centres[0] + starts[first] + 0.5), 0, frame - 1))
    return _embed(a, starts[0], frame), _embed(b, starts[1], frame), pixel


def _embed(field: EffectiveField, start: np.ndarray, frame: np.ndarray) -> EffectiveField:
    """The field on a larger frame: its map begins at `start`."""
    if field.map.shape == tuple(frame):
        return field
    sides = [(int(s), int(n - s - m)) for s, m, n in zip(start, field.map.shape, frame, strict=True)]

    def pad(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.pad(values, [(0, 0)] * (values.ndim - len(sides)) + sides)

    return dataclasses.replace(
        field, map=np.pad(field.map, sides), stderr=pad(field.stderr), batches=pad(field.batches), theoretical=None
    )
