"""The command line: what it prints, what it writes, how it fails."""

import json
import re
import subprocess
import sys
from urllib.parse import unquote

import click
import pytest
from click.testing import CliRunner

from erfjax import __version__
from erfjax.cli import main
from erfjax.errors import StackError

MODEL = """
import jax
import jax.numpy as jnp
from jax import lax

def blur(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 5, 1), (1, 1, 2, 1), "VALID")

def tokens(x):
    return blur(x).reshape(1, -1, x.shape[-1])

def mystery(x):
    return jax.pure_callback(lambda a: a, x, x)

number = 7

def wrong(x):
    y = x + 1
    return y @ jnp.ones((5, 2))

def mode(x, train):
    return x

def unfinished(x):
    return mode(x)

def family(n):
    return wrong
"""


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(folder, text):
    """A file with a model in it."""
    path = folder / "toy_model.py"
    path.write_text(text)
    return path


@pytest.fixture
def model(tmp_path):
    return written(tmp_path, MODEL)


def test_growth_prints_tables_and_writes_a_folder(tmp_path):
    small = ("--depths", "1,2", "--activations", "linear", "--weights", "random", "--samples", "4", "--width", "4")
    done = run("growth", *small, "--out", tmp_path / "g")
    assert done.exit_code == 0, done.output
    assert "closed form" in done.output
    assert (tmp_path / "g" / "growth.png").stat().st_size > 10_000


FAMILY = """
import jax, jax.numpy as jnp

def family(n):
    kernel = jax.random.normal(jax.random.key(n), (3, 2, 2))

    def f(x):
        for _ in range(n):
            x = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        return x

    return f

def network(x):
    return jnp.sin(x)
"""


def test_growth_reads_a_family_of_the_user(tmp_path):
    path = tmp_path / "my_models.py"
    path.write_text(FAMILY)
    shape = ("--shape", "1,17,2", "--layout", "NWC", "--depths", "1,3", "--measure", "sigma")
    done = run("growth", f"{path}:family", *shape, "--samples", "9", "--predict", "5", "--out", tmp_path / "g")
    assert done.exit_code == 0, done.output
    assert "field by depth: family" in done.output
    assert "channels 'sum'" in done.output
    assert [line.split()[:2] for line in done.output.splitlines() if line.strip()[:2] in ("1 ", "3 ", "5 ")] == [
        ["1", "3"],
        ["3", "7"],
        ["5", "11"],
    ]
    assert (tmp_path / "g" / "growth.png").exists()
    for arguments, says in (
        ((f"{path}:family",), "needs --shape"),
        ((f"{path}:family", *shape, "--kernel", "5"), "read without a TARGET"),
        (("--predict", "80"), "--predict needs a TARGET"),
        ((f"{path}:other", *shape), "has no 'other'"),
        ((f"{path}:network", *shape), "`family` must give a function"),
    ):
        refused = run("growth", *arguments)
        assert refused.exit_code
        assert says in refused.output
        assert "Traceback" not in refused.output


class Saved:
    """A study that takes no time."""

    def save(self, path):
        path.mkdir(parents=True, exist_ok=True)
        (path / "the figure.png").write_bytes(b"")
        (path / "tables.txt").write_text("1 < 2")
        claims = [{"what": "a < b", "reported": "0.5", "here": "0.4"}]
        (path / "tables.json").write_text(json.dumps({"claims": claims}))
        return path

    def __str__(self):
        return "a table"


def refused():
    raise StackError("`depths` must be positive.")


def broken():
    raise ZeroDivisionError("a < b")


def test_reproduce_knows_its_studies(tmp_path, monkeypatch):
    from erfjax import studies

    monkeypatch.setattr(studies, "BY_NAME", {"one": Saved, "two": Saved, "three": Saved})
    assert str(tmp_path / "two") in run("reproduce", "two", "--out", tmp_path).output
    assert (tmp_path / "index.html").read_text().count("<img") == 1
    done = run("reproduce", "all", "--out", tmp_path / "all")
    assert done.output.count("a table") == 3
    assert "study 3 of 3: three" in done.output
    page = (tmp_path / "all" / "index.html").read_text()
    assert page.count("<img") == 3
    assert "erfjax reproduce three" in page
    assert "1 &lt; 2" in page
    assert page.count("<td>a &lt; b</td><td>0.5</td><td>0.4</td>") == 3
    for link in re.findall('(?:href|src)="([^#"]+)"', page):
        assert (tmp_path / "all" / unquote(link)).is_file(), link
    assert set(re.findall('href="#([^"]+)"', page)) == set(re.findall('id="([^"]+)"', page)) == {"one", "two", "three"}
    wrong = run("reproduce", "four")
    assert wrong.exit_code == 2
    assert "one, two, three, all" in wrong.output


def test_a_study_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    from erfjax import studies

    monkeypatch.setattr(studies, "BY_NAME", {"refused": refused, "broken": broken, "fine": Saved})
    done = run("reproduce", "all", "--out", tmp_path)
    assert done.exit_code == 1
    assert "2 of 3 studies failed: refused, broken" in done.output
    page = (tmp_path / "index.html").read_text()
    assert page.count("<img") == 1
    assert "`depths` must be positive." in page
    assert "ZeroDivisionError: a &lt; b" in page
    assert "earlier run" not in page
    monkeypatch.setattr(studies, "BY_NAME", {"fine": broken})
    assert isinstance(run("reproduce", "fine", "--out", tmp_path).exception, ZeroDivisionError)
    run("reproduce", "all", "--out", tmp_path)
    assert "earlier run" in (tmp_path / "index.html").read_text()


def interrupted():
    raise KeyboardInterrupt


def test_an_interrupted_run_of_all_studies_goes_on(tmp_path, monkeypatch):
    from erfjax import studies

    monkeypatch.setattr(studies, "BY_NAME", {"one": Saved, "two": interrupted, "three": Saved})
    assert run("reproduce", "all", "--out", tmp_path).exit_code
    monkeypatch.setattr(studies, "BY_NAME", {"one": broken, "two": Saved, "three": Saved})
    done = run("reproduce", "all", "--out", tmp_path, "--log", tmp_path / "logs" / "run.txt")
    assert done.exit_code == 0, done.output
    assert "one was done before the interruption" in done.stderr
    assert re.findall(
        r"^[\d-]+ [\d:]+ study (.*)$", (tmp_path / "logs" / "run.txt").read_text(), flags=re.MULTILINE
    ) == [
        "1 of 3: one was done before the interruption",
        "2 of 3: two",
        "3 of 3: three",
    ]
    assert "failed: one" in run("reproduce", "all", "--out", tmp_path).output  # that run came to its end: all run again


def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path, monkeypatch):
    from erfjax import studies

    monkeypatch.setattr(studies, "BY_NAME", {"one": Saved})
    (tmp_path / "file").write_text("")
    done = run("reproduce", "one", "--out", tmp_path / "file" / "inside")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("Error: ")


def test_reproduce_passes_settings_on(tmp_path, monkeypatch):
    from erfjax import studies

    class Result:
        def __init__(self, depths=(1,), data="digits"):
            self.said = f"{depths} {data}"

        def save(self, path):
            return path

        def __str__(self):
            return self.said

    monkeypatch.setattr(studies, "BY_NAME", {"one": Result})
    done = run("reproduce", "one", "--out", tmp_path, "--set", "depths=(2, 3)", "--set", "data=cifar10")
    assert "(2, 3) cifar10" in done.output
    for wrong in (("one", "--set", "seeds=3"), ("one", "--set", "depths"), ("all", "--set", "data=a")):
        done = run("reproduce", *wrong)
        assert done.exit_code == 2
        assert len(done.output.splitlines()) <= 6, done.output


def test_a_study_says_how_far_it_is_where_there_is_no_terminal(tmp_path):
    small = [word for pair in ("widths=(1,)", "depths=(1, 2)", "runs=2", "repeats=2") for word in ("--set", pair)]
    done = run("reproduce", "slopes", *small, "--out", tmp_path, "--log", tmp_path / "log.txt")
    assert done.exit_code == 0, done.output
    said = ["study 1 of 1: slopes", "0 of 2 nets: width 1, 1 layers", "2 of 2 nets"]
    assert [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()] == said
    assert done.stderr.splitlines() == said
    quiet = run("reproduce", "slopes", *small, "--set", "progress=False", "--out", tmp_path)
    assert quiet.stderr.splitlines() == said[:1]


def test_report_prints_field_layers_and_advice(model):
    done = run("report", f"{model}:blur", "--shape", "1,20,31,2", "--samples", "3")
    assert done.exit_code == 0, done.output
    assert "3 × 5" in done.output
    assert "feasible image size" in done.output
    assert "Siamese" not in done.output
    assert "measured ..." in done.stderr
    assert "..." not in done.stdout


def test_report_keeps_a_log(model, tmp_path):
    done = run(
        "report", f"{model}:blur", "--shape", "1,20,31,2", "--samples", "2", "--quiet", "--log", tmp_path / "log.txt"
    )
    assert done.exit_code == 0, done.output
    assert not done.stderr
    assert "measured ..." in (tmp_path / "log.txt").read_text()


def test_report_on_tokens_and_on_primitives_without_a_rule(model):
    shape = ("--shape", "1,20,31,2", "--samples", "1", "--quiet")
    assert "out_layout" in run("report", f"{model}:tokens", *shape).output
    assert "3 × 5" in run("report", f"{model}:tokens", *shape, "--out-layout", "NLC", "--unit", "40").output
    assert "no rule" in run("report", f"{model}:mystery", *shape).output
    assert "1 equation(s)" in run("report", f"{model}:mystery", *shape, "--unknown", "everything").output


def test_report_writes_one_page(model, tmp_path):
    from erfjax import plot

    image = plot.save(plot.effective(__import__("erfjax").layers.Conv(3).analytic()), tmp_path / "image.png")
    done = run(
        "report",
        f"{model}:blur",
        "--shape",
        "1,20,31,2",
        "--unit",
        "0,2",
        "--image",
        image,
        "--samples",
        "2",
        "--out",
        tmp_path / "r.html",
    )
    assert done.exit_code == 0, done.output
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png;base64,") == 5  # no error bars: the gradient of a sum is the same at every input
    assert f"erfjax report {model}:blur --shape 1,20,31,2 --unit 0,2 --image {image} --samples 2" in page
    assert "neither one nor three channels" in page


def test_what_the_library_refuses_ends_in_one_line(model):
    done = run("report", f"{model}:blur", "--shape", "1,20,31,2", "--unit", "0,99")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("command", "target", "says"),
    [
        (
            "report",
            "wrong",
            r"raised TypeError: dot_general.*\n  at .*model.py:19, in wrong: return y @ jnp.*\n.*on float32",
        ),
        (
            "report",
            "unfinished",
            r"TypeError: mode\(\) missing 1.*\n  at .*:25, in unfinished: return mode\(x\)[^$]*Bind the",
        ),
        ("context", "wrong", r"raised TypeError: dot_general.*\n  at .*toy_model.py:19, in wrong"),
        ("growth", "family", r"raised TypeError: dot_general.*\n  at .*toy_model.py:19, in wrong"),
    ],
)
def test_what_the_users_function_raises_is_one_error_with_its_line(model, command, target, says):
    done = run(command, f"{model}:{target}", "--shape", "1,9,3", "--layout", "NWC", "--out-layout", "NWC")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert re.search(says, done.output), done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import no_such_package",
            r"raised ModuleNotFoundError: No module .*\n  at .*:1: import no_such",
        ),
        ("f = 1 / 0", r"raised ZeroDivisionError: division by zero\n  at .*:1: f = 1 / 0"),
        ("def f(x) return x", r"raised SyntaxError.*\n  at .*:1: def f\(x\) return x"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(tmp_path, text, says):
    (tmp_path / "broken.py").write_text(text)
    done = run("report", f"{tmp_path / 'broken.py'}:f", "--shape", "1,9,9,3")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert re.search(says, done.output), done.output


def test_options_are_checked():
    assert "integers separated by commas" in run("growth", "--depths", "five").output
    assert "linear or relu" in run("growth", "--activations", "tanh").output
    done = run("report", "some.py:f", "--shape", "1,8,8,1", "--objects", "32")
    assert done.exit_code == 2
    assert "--task detect" in done.output


def test_results_that_cannot_be_written_are_refused_at_once(tmp_path, model):
    (tmp_path / "file").write_text("in the way")
    for command in (("growth",), ("reproduce", "slopes"), ("report", f"{model}:blur", "--shape", "1,20,31,2")):
        done = run(*command, "--out", tmp_path / "file" / "sub" / "results")
        assert done.exit_code == 1
        assert done.output.startswith("Error: ")
        assert done.output.count("\n") == 1


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "erfjax", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["erfjax,", "version", __version__]


def test_doctor_says_what_is_installed():
    done = run("doctor")
    assert done.exit_code == 0
    assert __version__ in done.output
    assert "jaxlib" in done.output
    assert "compilation cache" in done.output


def test_the_tab_key_offers_studies_and_files():
    names = {command.name: command.params[0].shell_complete for command in main.commands.values() if command.params}
    context = click.Context(main)
    assert [found.value for found in names["reproduce"](context, "a")] == ["architecture", "attention", "all"]
    assert [found.type for name in ("report", "context", "growth") for found in names[name](context, "my")] == [
        "file"
    ] * 3
