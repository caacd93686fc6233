"""The report: which readings it holds, what it says of those that are missing, and how its page behaves in a browser."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import erfjax as ej
from erfjax import errors, summary
from erfjax.reports import layers as by_depth
from erfjax.reports.doctor import doctor, versions
from erfjax.reports.inputs import inputs_of
from erfjax.reports.words import TASKS

SHAPE = jax.ShapeDtypeStruct((1, 14, 19, 3), jnp.float32)
KERNEL = np.random.default_rng(0).standard_normal((3, 5, 3, 2)).astype(np.float32)


def pooled(x):
    """A convolution of 3 × 5 with stride 2 along the width."""
    dims = ("NHWC", "HWIO", "NHWC")
    return jnp.tanh(jax.lax.conv_general_dilated(x, KERNEL, (1, 2), "SAME", dimension_numbers=dims))


@pytest.fixture(scope="module")
def made():
    photograph = np.random.default_rng(1).uniform(size=(30, 60, 3)).astype(np.float32)
    return ej.report(pooled, SHAPE, images=[photograph], samples=6, task="detect", objects=(2, 40), name="a < b")


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    path = made.save(tmp_path_factory.mktemp("report") / "r.html")
    return path.read_text()


class Checked(HTMLParser):
    """What a page needs to be read by everyone: alt texts, heads of tables with their scope, tags that close."""

    VOID = frozenset({"img", "meta", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.ids, self.links, self.seen = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img" and len(given.get("alt", "")) < 20:
            self.faults.append(f"an image without a text: {given.get('alt')!r}")
        if tag == "th" and given.get("scope") not in ("row", "col"):
            self.faults.append("a head without scope")
        if tag == "html" and not given.get("lang"):
            self.faults.append("no language")
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("src", "href") if name in given]

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.faults.append(f"{tag} closes what it did not open")


def test_all_readings_are_there_and_agree_in_theory(made):
    assert made.theoretical.size == (3, 5)
    assert not made.refused
    assert made.measured.samples == 6
    assert set(made.sizes) >= {"luo", "sigma", "effective_area"}
    closed, interval = made.sizes["sigma"]
    assert closed == made.analytic.size("sigma")
    assert interval.low < made.measured.size("sigma") < interval.high
    again = ej.empirical(pooled, made.inputs.rows)
    np.testing.assert_array_equal(again.map, made.measured.map)


def test_the_page_is_sound_and_stands_alone(page):
    checked = Checked()
    checked.feed(page)
    assert checked.faults == []
    assert not checked.open
    assert all(link.startswith(("data:image/png", "#")) for link in checked.links)
    assert {link[1:] for link in checked.links if link[0] == "#"} <= set(checked.ids)
    assert len(set(checked.ids)) == len(checked.ids)
    assert "script" not in checked.seen
    assert checked.seen.count("img") == 6  # the input, two maps, error bars, two cross-sections
    assert "<h1>a &lt; b</h1>" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_the_page_says_what_is_behind_its_numbers(made, page):
    text = unescape(re.sub("<[^>]+>", " ", page))
    interval = made.sizes["sigma"][1]
    assert f"{interval.low:.4g} to {interval.high:.4g}" in text
    assert page.count('class="definition"') == len(made.sizes)
    assert "crops of 1 photograph" in text
    assert "An object of 40 pixels is larger than the theoretical field" in text
    assert "An object of 2 pixels fits" in text
    assert "default_rng(0)" in text
    for name, version in versions().items():
        assert name in text
        assert version in text
    assert "a mean over inputs, of one network" in text
    assert "Siamese" not in text


def test_a_reading_that_is_refused_leaves_the_others():
    weights = jax.ShapeDtypeStruct(KERNEL.shape, jnp.float32)

    def net(w, x):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    made = ej.report(jax.tree_util.Partial(net, weights), SHAPE, samples=2)
    assert made.theoretical.size == (3, 5)
    assert set(made.refused) >= {"measured"}
    assert "Measured reading: not possible here." in made._repr_html_()
    assert "measured" in str(made)


def test_a_unit_that_sees_one_pixel_has_sizes():
    made = ej.report(jnp.sin, jax.ShapeDtypeStruct((1, 9, 1), jnp.float32), layout="NWC", samples=4)
    assert not made.refused
    assert made.sizes["sigma"][1].value == 0
    assert tuple(made.sizes["sigma"][1]) == (0, 0)


def test_layers_have_both_sizes_and_a_growth(monkeypatch):
    kernels = [jax.random.normal(jax.random.key(i), (3, c, 4)) / 2 for i, c in enumerate((2, 4, 4))]

    def deep(x):
        for i, kernel in enumerate(kernels):
            with jax.named_scope(f"layer{i}"):
                x = jnp.tanh(
                    jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
                )
        return x

    x = np.random.default_rng(0).normal(size=(4, 15, 2)).astype(np.float32)
    made = ej.report(deep, x, samples=4)
    rows = {row["layer"]: row for row in by_depth.table(made.theoretical, made.by_layer).to_dict()}
    assert [rows[f"layer{i}"]["theoretical size"] for i in range(3)] == [(3,), (5,), (7,)]
    value, error = made.by_layer["layer1"].size(), made.by_layer["layer1"].size_stderr()
    assert rows["layer1"]["effective size"].split(" ± ")[0] == f"{value:.4g}"
    assert error is not None
    assert by_depth.glance(made.theoretical, made.by_layer).rows == tuple(tuple(row.values()) for row in rows.values())
    monkeypatch.setattr(by_depth, "LONG", 2)
    assert [row[0] for row in by_depth.glance(made.theoretical, {"layer1": made.by_layer["layer1"]}).rows] == ["layer1"]
    slope, _ = by_depth.growth(made.by_layer)
    assert slope == pytest.approx(
        np.polyfit(np.log([1, 2, 3]), np.log([f.size() for f in made.by_layer.values()]), 1)[0]
    )
    assert f"n^{slope:.2f}" in str(made)
    assert made.command == "ej.report(deep, x, layout='NWC', seed=0).save('report.html')"
    none = ej.report(deep, x, layers="none", unit=(3,))
    assert not none.by_layer
    assert "unit=(3,)" in none.command
    assert "effective size" not in str(none)


def test_where_nothing_can_be_read_the_first_error_is_raised():
    with pytest.raises(errors.UnsupportedPrimitiveError, match="no rule"):
        ej.report(lambda x: jax.pure_callback(lambda a: a, x, x), SHAPE, samples=2)


def test_arguments_are_checked():
    with pytest.raises(errors.SampleError, match="`task` must be one of"):
        ej.report(pooled, SHAPE, task="sing")
    with pytest.raises(errors.SampleError, match="`samples` must be a positive number"):
        ej.report(pooled, SHAPE, samples=0)
    with pytest.raises(errors.UnitError, match="one unit"):
        ej.report(pooled, SHAPE, unit=[(0, 0), (1, 1)])
    with pytest.raises(errors.FunctionError, match="one array"):
        ej.report(lambda both: both[0] + both[1], (SHAPE, SHAPE))


def test_advice_is_about_the_task_alone(made):
    from erfjax.reports.words import advice

    words = {"track": "Siamese", "segment": "ej.tiling", "detect": "--objects", "sequence": "looks back"}
    for task in (None, *TASKS):
        said = str(advice(task, made.theoretical, made.measured, (14, 19), ()))
        for other, word in words.items():
            assert (word in said) == (other == task), (task, word)


@pytest.mark.parametrize("letters", ["NHWC", "NCHW", "HWC", "CHW"])
def test_crops_of_photographs_have_the_layout_of_the_input(letters):
    sizes = {"N": 1, "H": 6, "W": 8, "C": 3}
    photograph = np.zeros((20, 40, 3), np.float32)
    photograph[..., 1] = 0.5
    photograph[:, 20:, 2] = 1.0
    given = inputs_of(
        jax.ShapeDtypeStruct(tuple(sizes[letter] for letter in letters), jnp.float32), letters, [photograph], 4, 0
    )
    own = letters if "N" in letters else "N" + letters
    values = np.transpose(given.rows, [own.index(letter) for letter in "NHWC"])
    assert values.shape == (4, 6, 8, 3)
    np.testing.assert_allclose(values[..., 1], 0.5, atol=1e-6)
    np.testing.assert_array_equal(values[..., 0], 0)
    assert values[0, :, 0, 2].max() < 0.1 < 0.9 < values[0, :, -1, 2].min()
    np.testing.assert_array_equal(given.picture, values[0])


def test_doctor_names_versions_and_what_is_missing():
    facts = dict(doctor().rows)
    assert facts["erfjax"] == ej.__version__
    assert facts["jax"] == jax.__version__
    assert facts["64-bit numbers (jax_enable_x64)"] == ("yes" if jax.config.jax_enable_x64 else "no")
    assert "cpu" in facts["devices"] or "gpu" in facts["devices"] or "tpu" in facts["devices"]


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOOK = """<body>{frames}<script>
 addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
   const page = frame.contentDocument, root = page.documentElement;
   return {{width: root.clientWidth, wide: root.scrollWidth, broken: [...page.images].filter(i => !i.naturalWidth).length,
    images: page.images.length, font: parseFloat(frame.contentWindow.getComputedStyle(page.body).fontSize)}};
  }});
  document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
 }});
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: install Debian's package chromium to look at the page")
def test_in_a_browser_nothing_scrolls_sideways(page, tmp_path):
    frame = '<iframe srcdoc="{page}" style="width:{width}px;height:900px;border:0"></iframe>'
    frames = "".join(frame.format(page=escape(page, quote=True), width=width) for width in (390, 1280))
    (tmp_path / "look.html").write_text(f"<!doctype html><meta charset=utf-8>{LOOK.format(frames=frames)}")
    switches = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/profile",
    )
    done = subprocess.run(
        [BROWSER, *switches, "--dump-dom", (tmp_path / "look.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r"<pre>(\[.*?\])</pre>", done.stdout)[1])
    assert [one["wide"] <= one["width"] <= width for one, width in zip(found, (390, 1280), strict=True)] == [True, True]
    assert [one["broken"] for one in found] == [0, 0]
    assert found[0]["images"] == page.count("<img")
    assert min(one["font"] for one in found) >= 14


def test_tables_on_a_page_have_heads_with_scope():
    shown = summary.scrolling(summary.Table("t", ("a", "b"), ((1, 2),), ("a note < 1",)))
    assert shown.count('scope="col"') == 2
    assert "a note &lt; 1" in shown
    assert summary.facts("t", {"size": 3})._repr_html_().count('scope="row"') == 1


def test_a_constant_sum_of_channels_is_asked_about_with_random_signs():
    """Behind a layer norm the sum of the channels has no gradient; a page of rounding would be of no use."""

    def normed(x):
        y = jnp.tanh(jax.lax.conv_general_dilated(x, KERNEL[0], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")))
        y = jnp.concatenate([y, y[..., ::-1] * 3, x], -1)
        return (y - y.mean(-1, keepdims=True)) / (y.std(-1, keepdims=True) + 1e-3)

    said = []
    made = ej.report(normed, jax.ShapeDtypeStruct((1, 19, 3), jnp.float32), samples=4, progress=said.append)
    assert any("random signs" in line for line in said)
    assert made.analytic.channels == made.measured.channels == "random-signs"
    assert made.measured.map.sum() > 0.1
    assert "channels='random-signs'" in made.command
    assert {row[-1] for row in made.table().rows} == {"positions"}
