"""The TARGET of a command: a function by its name, what makes it, one of its outputs."""

import pytest

from tests.test_cli import run, written

MODEL = """
from jax import lax

def blur(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 5, 1), (1, 1, 2, 1), "VALID")

def several():
    return lambda x: {"logits": x.mean((1, 2)), "hidden": (x, blur(x))}
"""


@pytest.fixture
def model(tmp_path):
    return written(tmp_path, MODEL)


def test_one_of_several_outputs(model):
    shape = ("--shape", "1,20,31,2", "--samples", "2")
    refused = run("report", f"{model}:several()", *shape).output
    assert "hidden/0, hidden/1, logits" in refused
    assert "--output hidden/0" in refused
    assert "3 × 5" in run("report", f"{model}:several()", *shape, "--output", "hidden/1").output
    assert (
        "no output '7': there are 0, 1." in run("report", f"{model}:several()", *shape, "--output", "hidden/7").output
    )
    assert "no output 'x'" in run("context", f"{model}:blur", "--shape", "1,9,9,2", "--layout", "NHWC", "--axis", "W",
                                  "--output", "x").output  # fmt: skip
    assert "FILE:f()" in run("report", f"{model}:several", *shape).output


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("no colon", "package.module:function or file.py:function"),
        ("no_such_package.module:f", "There is no module"),
        ("no_such_file.py:f", "There is no file"),
        ("math:nothing", "has no 'nothing'"),
        ("math:pi", "should be a function"),
    ],
)
def test_targets_that_are_none(target, says):
    done = run("report", target, "--shape", "1,8,8,1")
    assert done.exit_code == 1
    assert says in done.output
    assert "Traceback" not in done.output
