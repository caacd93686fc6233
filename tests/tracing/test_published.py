"""Fields that others have published, or that were derived from their networks, pixel for pixel."""

import jax
import jax.numpy as jnp
import pytest

import erfjax as ej
from tests import catalogue

SLIM = catalogue.published("slim")
SMALL = catalogue.published("small")
ALIGNMENT = catalogue.published("alignment")["cases"]
UNET = {name: case for name, case in catalogue.published("unet").items() if name not in ("source", "meaning")}
NETWORKS = [name for name in SLIM if name != "source"]


def square(n, channels=1):
    return jax.ShapeDtypeStruct((1, n, n, channels), jnp.float32)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("resolution", [None, 224, 321])
def test_published_table(name, resolution):
    """Every end point of the table at once: one trace, a dict of fields. Exact."""
    network = SLIM[name]
    f = catalogue.build(catalogue.nodes_of(network["nodes"]), tuple(network["ends"].values()))
    fields = ej.theoretical(f, square(resolution or 512))
    centres = network["centre"].get(str(resolution), [None] * len(network["ends"]))
    for (end, name_of_end), (size, stride, padding), centre in zip(
        network["ends"].items(), network["published"][str(resolution)], centres, strict=True
    ):
        field = fields[name_of_end]
        assert field.size == (size, size), end
        assert field.stride == (stride, stride), end
        if padding is not None:  # the table leaves out what depends on the unknown resolution
            assert field.padding == (padding, padding), end
            assert field.start == tuple(u * stride - padding for u in field.unit)
        if centre is not None:
            check_centre(field, *centre)


def check_centre(field, units, unit, first, last, clipped_first, clipped_last, pixels, holes):
    assert field.output_shape == (units, units)
    assert field.unit == (unit, unit)
    assert (field.start, field.stop) == ((first, first), (last + 1, last + 1))
    assert field.clipped == ((clipped_first, clipped_first), (clipped_last + 1, clipped_last + 1))
    for axis in (0, 1):
        line = field.mask().any(axis)
        assert line.sum() == pixels
        assert clipped_last + 1 - clipped_first - pixels == holes


def test_the_table_is_complete():
    rows = [row for name in NETWORKS for table in SLIM[name]["published"].values() for row in table]
    centres = [row for name in NETWORKS for table in SLIM[name]["centre"].values() for row in table]
    assert (len(rows), len(centres)) == (180, 120)


@pytest.mark.parametrize("case", ALIGNMENT, ids=lambda case: case["name"])
def test_alignment(case):
    f = catalogue.build(catalogue.nodes_of(case["nodes"]))
    field = ej.theoretical(f, square(case["resolution"] or 64))
    assert field.shift_invariant == (case["expected"] is not None)
    if case["expected"] is not None:
        assert [list(field.size), list(field.stride), list(field.padding)] == case["expected"]


def test_misaligned_branches_have_exact_hulls_per_unit():
    """Pad (2, 1), conv5 stride 2 beside conv3, conv3: unit u sees [2u - 2, 2u + 3) and [u, u + 5)."""
    case = next(case for case in ALIGNMENT if case["expected"] is None)
    f = catalogue.build(catalogue.nodes_of(case["nodes"]))
    units = [(0, 3), (1, 2), (9, 20), (31, 0)]
    for field, unit in zip(ej.theoretical(f, square(64), unit=units), units, strict=True):
        assert field.start == tuple(min(2 * u - 2, u) for u in unit)
        assert field.stop == tuple(max(2 * u + 3, u + 5) for u in unit)
        assert not field.shift_invariant
        line = field.mask().any(0)
        u = unit[1]
        seen = {*range(2 * u - 2, 2 * u + 3), *range(u, u + 5)}
        assert set(line.nonzero()[0].tolist()) == {p for p in seen if 0 <= p < 64}
    table = field.phases()
    assert [row.size for row in table.rows if row.axis == 0][:4] == [7, 6, 5, 6]


@pytest.mark.parametrize("name", UNET)
def test_unet(name):
    """Transposed convolutions make the field depend on the unit: least and greatest size over phases, and the centre."""
    case = UNET[name]
    first, last = case["centre"]
    field = ej.theoretical(catalogue.build(catalogue.unet(case["depth"], case["kernel"])), square(576))
    assert field.unit == (288, 288)
    assert (field.start, field.stop) == ((first, first), (last + 1, last + 1))
    assert not field.shift_invariant
    table = field.phases()
    assert table.period == (2 ** case["depth"],) * 2 == table.shift
    assert (table.minimum, table.maximum) == tuple((n, n) for n in case["size"])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "trf412" else n for n in UNET])
def test_unet_layers(name):
    """The published list per layer is the greatest size over all units of that layer."""
    case = UNET[name]
    nodes = [n for n in catalogue.unet(case["depth"], case["kernel"]) if n.op != "concat"]
    network = catalogue.build(catalogue.unet(case["depth"], case["kernel"]), [n.name for n in nodes])
    fields = ej.theoretical(network, square(576))
    for n, (_, size) in zip(nodes, case["layers"], strict=True):
        assert fields[n.name].phases().maximum == (size, size), n.name


DEEP = {"resnet101", "resnet152"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in catalogue.RESNETS]
)
def test_resnet_layers(name):
    """Torchvision's ResNets: size, stride, padding per stage, as rows of one field."""
    field = ej.theoretical(catalogue.build(catalogue.resnet(*catalogue.RESNETS[name])), square(224))
    rows = {row.name: row for row in field.layers}
    ends = {"conv1": "conv1", "maxpool": "pool2"}
    for stage, (size, stride, padding) in SMALL["resnets"][name].items():
        units = catalogue.RESNETS[name][0]
        row = rows[ends.get(stage) or f"{stage}.{units[int(stage[-1]) - 1] - 1}"]
        assert (row.size, row.stride, row.padding) == ((size,) * 2, (stride,) * 2, (padding,) * 2)
        assert row.start == tuple((n // 2) * stride - padding for n in row.shape[1:3])


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("alexnet", catalogue.ALEXNET),
        ("vgg16", catalogue.vgg(catalogue.VGG["vgg16"])),
        ("RepLKNet-31B", catalogue.replknet((31, 29, 27, 13), (2, 2, 18, 2))),
        ("RepLKNet-13", catalogue.replknet((13,) * 4, (2, 2, 18, 2))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whole_networks(name, nodes):
    field = ej.theoretical(catalogue.build(nodes), square(256))
    size, stride, padding = SMALL[name]
    assert (field.size, field.stride, field.padding) == ((size,) * 2, (stride,) * 2, (padding,) * 2)


@pytest.mark.parametrize("name", catalogue.VGG)
def test_vgg_lists(name):
    """rfa-toolbox: the size after every layer."""
    field = ej.theoretical(catalogue.build(catalogue.vgg(catalogue.VGG[name])), square(224))
    assert [1, *(row.size[0] for row in field.layers)] == SMALL["vgg"][name]
    assert all(row.size[0] == row.size[1] for row in field.layers)


def branches(first, second, stride=1, then=()):
    """conv3, two branches summed, then more convolutions."""
    nodes = [
        catalogue.node("conv1", "conv", ["input"], 3, stride, "SAME"),
        catalogue.node("a", "conv", ["conv1"], *first, "SAME"),
        catalogue.node("b", "conv", ["conv1"], *second, "SAME"),
        catalogue.node("sum", "add", ["a", "b"]),
    ]
    for i, kernel in enumerate(then):
        nodes.append(catalogue.node(f"then{i}", "conv", [nodes[-1].name], kernel, 1, "SAME"))
    return nodes


def sizes(nodes, n=97):
    f = catalogue.build(nodes, [node.name for node in nodes])
    fields = ej.theoretical(f, square(n))
    return [fields[node.name].size for node in nodes]


def test_rfa_toolbox_sequences():
    """MLRichter/receptive_field_analysis_toolbox, tests/test_graph; of branches the larger is the field."""

    def plain(*layers):
        return [size for size, _ in sizes(catalogue.chain(*(("conv", k, s, "SAME") for k, s in layers)))]

    assert plain(*[(3, 1)] * 5) == [3, 5, 7, 9, 11]
    assert plain(*[(3, s) for s in (1, 2, 1, 2, 1)]) == [3, 5, 9, 13, 21]
    assert plain((1, 1), (1, 2), (1, 1), (3, 2), (1, 1)) == [1, 1, 1, 5, 5]
    assert [a for a, _ in sizes(branches((3, 2), (5, 2), then=(3, 3)))] == [3, 5, 7, 7, 11, 15]
    assert sizes(branches((3, 1), (5, 1), (1, 2), then=(3,))) == [(3, 3), (5, 7), (7, 11), (7, 11), (9, 15)]


def test_shelfwise_cases():
    """shelfwise/receptivefield, tests and README: size, stride, and the centre of unit 0 (there in pixel edges, + 1/2)."""

    def field(*layers):
        spelled = [("conv", k, 1, "VALID") if k != "pool" else ("pool", 2, 2, "VALID") for k in layers]
        return ej.theoretical(catalogue.build(catalogue.chain(*spelled)), square(96), unit=(0, 0))

    for layers, size, stride, offset in [
        ((5, 3), 7, 1, None),
        ((5, 3, "pool", 3, 3), 16, 2, None),
        ((3, 3, "pool"), 6, 2, None),
        ((3, 3, "pool", 3, 3, "pool"), 16, 4, None),
        ((3, 3, "pool", 3, 3, "pool", 3, 3, "pool"), 36, 8, None),
        ((5,), 5, 1, 2.5),
        ((7, 5, "pool", 5), 20, 2, 10),
        ((5, 3, "pool", 3, 3, "pool", 3, 3), 34, 4, 17),
    ]:
        found = field(*layers)
        assert (found.size, found.stride) == ((size, size), (stride, stride)), layers
        assert offset is None or found.centre == (offset - 0.5,) * 2, layers
