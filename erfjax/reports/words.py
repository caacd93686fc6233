"""The words of a report: what each size means, what a mean is taken over, whether two readings agree, and advice for a task."""

import math
from collections.abc import Sequence
from typing import Literal

from erfjax import summary
from erfjax.agreement import Comparison
from erfjax.errors import MapError
from erfjax.fields import EffectiveField, TheoreticalField
from erfjax.typing import Number

Task = Literal["classify", "segment", "detect", "track", "sequence"]
TASKS: tuple[Task, ...] = ("classify", "segment", "detect", "track", "sequence")
SIZES: dict[str, tuple[str, str]] = {
    "luo": (
        "Luo size",
        "The number of pixels above 4.55 % of the central pixel, to the power 1 / number of axes: the side of a square of that "
        "area. 4.41 σ for a two-dimensional Gaussian. It counts pixels, so noise in faint pixels makes it larger. "
        "W. Luo et al. 2016, section 3.",
    ),
    "sigma": (
        "σ",
        "The standard deviation of the map taken as a distribution, along one axis; the root mean square over the axes. Far, "
        "faint pixels weigh much in it.",
    ),
    "fwhm": (
        "FWHM",
        "The full width at half of the maximum, along the line through the largest pixel; the root mean square over the axes. "
        "2.355 σ for a Gaussian. A single bright pixel makes it smaller.",
    ),
    "energy_radius": (
        "90 % energy radius",
        "The smallest distance from the centre of mass within which pixels hold 90 % of the sum of the map. 2.146 σ for a "
        "two-dimensional Gaussian.",
    ),
    "effective_area": (
        "effective area",
        "(Σg)² / Σg², the participation number: n for n equal pixels, 4πσ² for a Gaussian in the plane. Noise makes it smaller.",
    ),
    "entropy_area": (
        "entropy area",
        "The exponential of the entropy of the map divided by its sum: n for n equal pixels, 2πeσ² for a Gaussian in the plane.",
    ),
}
MEANS = {
    "inputs": "a mean over inputs, of one network with its weights as they are",
    "weights": "a mean over random weights: what an ensemble of such networks does, not one of them",
    "inputs and weights": "a mean over inputs and over random weights with the given variances: what an ensemble of such "
    "networks does, not this one",
    None: "of one network and one input, without a mean",
}
COVERAGES = {
    "exact": "The closed form is exact for this program under the assumptions in its notes.",
    "exact in the limit of width": "The closed form is exact for this program as its channels become many; finite widths differ "
    "as the notes say.",
    "approximate": "The closed form is approximate; its notes name the places.",
    "measured": "Measured by differentiation, averaged over samples.",
}


def mean_of(field: EffectiveField) -> str:
    """What the mean of a field is taken over, in words."""
    return MEANS[field.averages]


def in_short(theory: TheoreticalField, used: EffectiveField | None) -> str:
    """The two fields in one or two sentences."""
    everything = "" if all(map(math.isfinite, theory.size)) else " (∞: all of the axis)"
    said = f"Unit {theory.unit} can look at {summary.cell(theory.size)} {summary.places(len(theory.size))}{everything}."
    if used is None:
        return said
    try:
        share, radius = used.size("luo") ** used.map.ndim, used.size("energy_radius", fraction=0.9)
    except MapError:
        return said
    noun = summary.places(used.map.ndim)
    seen = math.prod(b - a for a, b in zip(*theory.clipped, strict=True))
    part = f" ({share / seen:.0%} of those that it can look at in this image)" if seen else ""
    most = f"90 % of the effective field lies within {radius:.3g} {noun} of its centre"
    return f"{said} {share:.0f} {noun}{part} count for more than 4.55 % of the peak; {most}."


def agreement(result: Comparison) -> tuple[str, ...]:
    """Sentences on whether two fields agree."""
    a, b = result.labels
    distance = (
        f"Divided by their sums, the two maps differ by a total variation of {result.total_variation:.3g} (0: the same shape, 1: "
        f"disjoint). Sampling noise alone makes {result.noise_floor:.3g} of it on average."
    )
    over = tuple(f"The {name} map is {mean_of(field)}." for name, field in ((a, result.a), (b, result.b)))
    if result.within_chance is None:
        verdict = "No verdict on chance: see the notes for what the two maps do not have in common."
    elif result.within_chance:
        verdict = (
            f"Chance explains every difference that was asked about: {', '.join(q.what for q in result.questions)}."
        )
    else:
        worst = min(result.questions, key=lambda question: question.p)
        verdict = (
            f"The two readings differ by more than chance explains, most in {worst.what} (p = {worst.p:.1g}). For a closed form "
            "that is approximate this is expected: the difference is its error."
        )
    return (verdict, distance, *over)


def advice(
    task: Task | None,
    theory: TheoreticalField | None,
    used: EffectiveField | None,
    image_size: tuple[int, ...],
    objects: Sequence[Number],
) -> summary.Table:
    """Advice for a task, from the fields that are known."""
    pairs: dict[str, object] = {"image": image_size}
    notes: list[str] = []
    if theory is not None:
        pairs["theoretical receptive field"] = theory.size
        pairs["theoretical field / image"] = _ratios(theory.size, image_size)
    diameter, noun = _diameter(used), summary.places(len(image_size))
    if diameter is not None:
        pairs["diameter that holds 90 % of the effective field"] = f"{diameter:.4g} {noun}"
    if task in (None, "classify") and theory is not None and theory.layers:
        found = theory.advice(image_size)
        pairs["first layer behind the border"] = found.border_layer
        pairs["unproductive layers"] = len(found.unproductive)
        pairs["feasible image size"] = ", ".join(
            "global" if pair is None else f"{pair[0]} to {pair[1]}" for pair in found.feasible
        )
        if found.unproductive:
            notes.append(
                "A layer is unproductive when all that it reads sees more than the image already: larger images, or fewer such "
                f"layers, use the network better (M. Richter et al. 2021). Here: {', '.join(found.unproductive)}."
            )
    if task == "classify" and theory is not None and any(s < n for s, n in zip(theory.size, image_size, strict=True)):
        notes.append("The unit does not see the whole image: only pooling behind it can join what lies further apart.")
    if task == "segment" and theory is not None:
        margins = tuple(
            max(0, s - t) if math.isfinite(s) else s for s, t in zip(theory.size, theory.stride, strict=True)
        )
        pairs["margin of a tile, both sides together"] = margins
        notes.append(
            "Computed tile by tile, the image must be read with this margin around each tile; `ej.tiling` gives the plan and "
            "says whether it is exact."
        )
        if diameter is not None:
            notes.append(f"A label rests mostly on context within {diameter / 2:.3g} {noun}.")
    if task == "detect":
        notes += _detection(theory, diameter, objects)
    if task == "track" and theory is not None:
        ratios = [s / n for s, n in zip(theory.size, image_size, strict=True)]
        place = "above" if max(ratios) > 0.8 else "below" if min(ratios) < 0.6 else "inside"
        notes.append(
            f"The field is {place} the 60 to 80 % of the exemplar that Z. Zhang and H. Peng (2019) found best for Siamese "
            "trackers; take the size of the exemplar as the image size."
        )
        pairs["stride"] = theory.stride
    if task == "sequence" and theory is not None:
        stands = theory.place or (None,) * len(theory.size)
        for name, at, a, b in zip(summary.axis_names(len(theory.size)), stands, theory.start, theory.stop, strict=True):
            if at is not None:
                pairs[f"this unit, {name}"] = f"looks back {summary.cell(at - a)}, ahead {summary.cell(b - 1 - at)}"
    return summary.facts(f"advice: {task or 'general'}", pairs, tuple(notes))


def _detection(theory: TheoreticalField | None, diameter: float | None, objects: Sequence[Number]) -> list[str]:
    """How objects, or anchors, compare with the fields."""
    if not objects:
        return ["Name the sizes of your objects or anchors to have them compared with the fields (--objects 16,32,64)."]
    notes = []
    for size in objects:
        said = []
        if theory is not None:
            said.append(
                "fits into the theoretical field"
                if size <= min(theory.size)
                else "is larger than the theoretical field"
            )
        if diameter is not None:
            said.append(f"is {size / diameter:.2g} times the 90 % diameter of the effective field")
        notes.append(f"An object of {summary.cell(size)} pixels {' and '.join(said)}." if said else "")
    notes.append(
        "Anchors should match the effective field rather than the theoretical one (S. Zhang et al. 2017, S3FD)."
    )
    return list(filter(None, notes))


def _diameter(used: EffectiveField | None) -> float | None:
    """Twice the radius that holds 90 % of a map."""
    if used is None:
        return None
    try:
        return 2 * used.size("energy_radius", fraction=0.9)
    except MapError:
        return None


def _ratios(size: Sequence[Number], image_size: Sequence[int]) -> str:
    return " × ".join("∞" if math.isinf(s) else f"{s / n:.1%}" for s, n in zip(size, image_size, strict=True))
