"""`make bench-check`: a guard, run by hand: ratios of a few minutes, cold and warm, with generous bounds.

Cold are CPU seconds of a first call over the dense gradient's, in processes of their own (see `cold`); warm are medians over the
dense gradient's in one process (see `measured`). Ratios hardly depend on the machine; a bound is about twice what was measured.
"""

from collections.abc import Iterator

from benchmarks import cold, harness, models
from benchmarks.measured import BASELINE, Case

COLD = (
    ("ResNet-50", 96, 2, {"empirical": 2.0, "analytic, random signs": 2.0, "analytic, sum": 4.0}),
    ("U-Net, depth 4", 64, 2, {"empirical": 1.5, "analytic, random signs": 2.0}),
    ("ViT-Ti-like", 64, 2, {"empirical": 2.5, "analytic, random signs": 3.0}),
)
"""Network, pixels, images, and the ratios that are not to be exceeded."""

WARM = (
    ("plain 3x3, 20 layers", models.plain(20, 64), 64, 4, 4.0),
    ("plain 3x3, 10 layers", models.plain(10, 64), 112, 2, 10.0),
    ("VGG16 to conv3_3", models.vgg16(3), 96, 2, 3.0),
)
"""Network, pixels, images, and how many times faster than the dense gradient a measurement is at least."""


def rows() -> Iterator[harness.Row]:
    """Three rows cold and three warm.

    Raises:
        SystemExit: a bound does not hold; after all rows, with the list of those.
    """
    broken, done = [], []
    for name, size, batch, bounds in COLD:
        row = cold.row(name, size, batch, (cold.DENSE, *bounds))
        for way, bound in bounds.items():
            found = row.timings[way].first / row.timings[cold.DENSE].first if way in row.timings else float("inf")
            if found > bound:
                broken.append(f"{name}, {way}: {found:.2f}x the first dense gradient, at most {bound:g}x is wanted")
        done.append(row)
        yield row
    for what, network, size, batch, least in WARM:
        case = Case(network, size, batch)
        row = harness.compare(
            what, f"{size} px, batch {batch}", {BASELINE: case.dense, "erfjax": case.erfjax}, BASELINE
        )
        if row.ratio("erfjax") < least:
            broken.append(f"{what}: {row.ratio('erfjax'):.2f}x as fast as dense JAX, at least {least:g}x is wanted")
        done.append(row)
        yield row
    if broken:
        print(harness.table("check", done))
        raise SystemExit("\n".join(broken))
