"""How results leave the library: files by suffix, pickles and copies, xarray; and what damaged files do."""

import copy
import csv
import json
import pickle
import sys

import numpy as np
import pytest

from erfjax import files
from erfjax.errors import FileFormatError, LayoutError, MissingDependencyError
from erfjax.fields import EffectiveField, TheoreticalField
from tests.results import effective, gaussian, theoretical_field


@pytest.fixture
def field():
    return theoretical_field()


def test_theoretical_round_trip(field, tmp_path):
    field, _ = field
    path = field.save(tmp_path / "field.npz")
    again = TheoreticalField.load(path)
    assert again == field
    assert again.phases() == field.phases()
    assert repr(again.layers) == repr(field.layers)
    np.testing.assert_array_equal(again.mask(), field.mask())
    assert [p.name for p in tmp_path.iterdir()] == ["field.npz"]
    with np.load(path, allow_pickle=False) as file:
        json.loads(str(file["metadata"]), parse_constant=lambda name: pytest.fail(name) if name != "NaN" else None)


def test_effective_round_trip(field, tmp_path):
    theoretical, _ = field
    rng = np.random.default_rng(1)
    full = effective(
        rng.random((30, 40)),
        stderr=rng.random((30, 40)),
        samples=12,
        coverage="measured",
        notes=("a", "b"),
        batches=rng.random((4, 30, 40)),
        theoretical=theoretical,
        metadata={"seed": np.int64(3), "device": "cpu", "list": [1, None]},
        channels=3,
        averages="inputs and weights",
    )
    again = EffectiveField.load(full.save(tmp_path / "erf.npz"))
    for name in ("map", "stderr", "batches"):
        np.testing.assert_array_equal(getattr(again, name), getattr(full, name))
    for name in ("statistic", "samples", "unit", "coverage", "notes", "theoretical", "channels", "averages"):
        assert getattr(again, name) == getattr(full, name)
    assert again.metadata == {"seed": 3, "device": "cpu", "list": [1, None]}
    assert repr(again.theoretical.layers) == repr(theoretical.layers)
    bare = EffectiveField.load(effective(np.ones((2, 3, 1))).save(tmp_path / "bare.npz"))
    assert bare.stderr is bare.batches is bare.theoretical is bare.channels is bare.averages is None


def test_files_from_before_channels_were_recorded_load(tmp_path):
    plain = {"statistic": "square", "samples": 0, "unit": [1, 2], "coverage": "exact", "notes": [], "metadata": {}}
    old = files.save(tmp_path / "old.npz", "EffectiveField", {"map": np.ones((3, 4))}, plain | {"statistic": "signed"})
    assert EffectiveField.load(old).channels is EffectiveField.load(old).averages is None
    assert EffectiveField.load(old).statistic == "mean"


def test_results_are_one_line_inside_of_others(field):
    theoretical, calls = field
    assert repr(theoretical) == "TheoreticalField(unit (3, 4) sees 11 × ∞ of 30 × 40 pixels, stride 2 × 1)"
    assert not calls
    measured = effective(np.ones((30, 40)), samples=12, coverage="measured", theoretical=theoretical)
    assert (
        repr(measured)
        == "EffectiveField(30 × 40 pixels, E[g²], measured, 12 samples, error bars: not checked: the samples were not kept)"
    )
    assert repr(theoretical.advice()).startswith("Advice(advice for an image of 30 × 40")
    assert repr(theoretical.phases()) == "PhaseTable(period 2 × 1, shift 4 × 1)"


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_results_are_pickled_and_copied_whole(field, tmp_path, loaded, copied):
    theoretical, calls = field
    full = effective(np.random.default_rng(0).random((30, 40)), theoretical=theoretical, channels="sum")
    if loaded:
        full = EffectiveField.load(full.save(tmp_path / "erf.npz"))
    again = copied(copied(full))
    assert again.theoretical == theoretical
    assert again.channels == "sum"
    assert again.theoretical.phases() == theoretical.phases()
    assert repr(again.theoretical.layers) == repr(theoretical.layers)
    np.testing.assert_array_equal(again.theoretical.mask(), theoretical.mask())
    np.testing.assert_array_equal(again.map, full.map)
    assert str(again.theoretical) == str(theoretical)
    assert calls == ["layers"]  # what is lazy is computed once, however often it is copied


def test_a_suffix_says_what_is_written(field, tmp_path):
    theoretical, _ = field
    measured = effective(
        np.arange(6.0).reshape(2, 3), stderr=np.full((2, 3), 0.5), samples=4, coverage="measured", averages="inputs"
    )
    rows = list(csv.DictReader(measured.save(tmp_path / "erf.csv").read_text().splitlines()))
    assert rows[4] == {"height": "1", "width": "1", "map": "4.0", "stderr": "0.5"}
    assert len(rows) == 6
    found = json.loads(measured.save(tmp_path / "erf.JSON").read_text())
    assert (found["kind"], found["averages"], found["map"]) == ("EffectiveField", "inputs", measured.map.tolist())
    assert {row["measure"] for row in found["sizes"]} >= {"luo", "sigma", "effective_area"}
    layers = list(csv.DictReader(theoretical.save(tmp_path / "trf.csv").read_text().splitlines()))
    assert [row["layer"] for row in layers] == ["conv <1>", "mean"]
    assert layers[0]["size"] == "3 × 5"
    assert json.loads(theoretical.save(tmp_path / "trf.json").read_text())["size"] == [11, "inf"]
    for name, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")):
        assert measured.save(tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["erf.txt", "erf", "erf.npy"])
def test_other_suffixes_are_refused(field, tmp_path, name):
    for result in (effective(np.ones((2, 3))), field[0]):
        with pytest.raises(FileFormatError, match=r"\.npz, \.json, \.csv, \.png, \.pdf, \.svg, but got"):
            result.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_sizes_are_a_table_with_units():
    g = gaussian((61, 83), (30, 41), (4, 6))
    rows = {row["measure"]: row for row in effective(g).table().to_dict()}
    assert rows["sigma"] == {
        "measure": "sigma",
        "size": effective(g).size("sigma"),
        "± se": None,
        "unit": "pixels",
    }
    assert rows["effective_area"]["unit"] == "pixels²"
    assert "fwhm" not in {row["measure"] for row in effective(np.ones((5, 4))).table().to_dict()}


def test_fields_become_xarray_datasets(field):
    xarray = pytest.importorskip("xarray", reason="the extra `xarray` is not installed")
    theoretical, _ = field
    batches = np.random.default_rng(0).random((4, 30, 40))
    full = effective(
        batches.mean(0), batches=batches, stderr=batches.std(0), samples=8, coverage="measured", theoretical=theoretical
    )
    found = full.to_xarray(spacing=(0.5, 2), units="µm")
    assert isinstance(found, xarray.Dataset)
    assert found["map"].dims == ("height", "width")
    assert found.batches.dims == ("batch", "height", "width")
    assert found["map"].sel(height=3.5, width=8.0).item() == full.map[7, 4]
    assert found.height.attrs["units"] == "µm"
    assert (found.attrs["statistic"], found.attrs["samples"]) == ("square", 8)
    assert "channels" not in found.attrs
    seen = theoretical.to_xarray()
    np.testing.assert_array_equal(seen.mask, theoretical.mask())
    assert seen.layer_size.dims == ("layer", "axis")
    assert seen.layer_name.values.tolist() == ["conv <1>", "mean"]
    with pytest.raises(LayoutError, match="one per spatial axis"):
        full.to_xarray(spacing=(1, 2, 3))


def test_without_xarray_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'erfjax\[xarray\]'"):
        effective(np.ones((2, 3))).to_xarray()


def test_files_that_are_no_fields(field, tmp_path):
    theoretical, _ = field
    good = theoretical.save(tmp_path / "good.npz")
    content = good.read_bytes()
    with pytest.raises(FileFormatError, match="should hold a EffectiveField, but holds a TheoreticalField"):
        EffectiveField.load(good)
    for name, data in (("cut", content[: len(content) // 2]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError, match=f"{name}.*damaged or something else"):
            TheoreticalField.load(tmp_path / name)
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    with pytest.raises(FileFormatError, match="KeyError"):
        TheoreticalField.load(tmp_path / "foreign.npz")
    np.savez(tmp_path / "pickled.npz", metadata=np.array([{"kind": 1}], dtype=object))
    with pytest.raises(FileFormatError, match="pickle"):
        TheoreticalField.load(tmp_path / "pickled.npz")
    np.savez(tmp_path / "newer.npz", metadata=np.array(json.dumps({"kind": "TheoreticalField", "format": 99})))
    with pytest.raises(FileFormatError, match="install a newer erfjax"):
        TheoreticalField.load(tmp_path / "newer.npz")
    np.savez(tmp_path / "half.npz", metadata=np.array(json.dumps({"kind": "EffectiveField", "format": 1})))
    with pytest.raises(FileFormatError, match=r"half.npz.*KeyError"):
        EffectiveField.load(tmp_path / "half.npz")
    with pytest.raises(FileNotFoundError):
        TheoreticalField.load(tmp_path / "none.npz")


def test_any_flipped_byte_is_refused_or_harmless(tmp_path):
    field = effective(np.random.default_rng(0).random((5, 7)))
    content = field.save(tmp_path / "erf.npz").read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        (tmp_path / "bad.npz").write_bytes(bytes(damaged))
        try:
            again = EffectiveField.load(tmp_path / "bad.npz")
        except FileFormatError:
            continue
        np.testing.assert_array_equal(again.map, field.map)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = effective(np.ones((2, 3))).save(tmp_path / "erf.npz")
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez_compressed", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        effective(np.zeros((2, 3))).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["erf.npz"]
