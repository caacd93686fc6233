"""The ERF of transformers: shares and horizons in closed form, and that the study runs and saves."""

import numpy as np
import pytest

from erfjax.closed_form import laws
from erfjax.errors import SampleError, StackError
from erfjax.studies._attention import attention, families, horizon


def test_horizons_with_residuals_grow_with_depth_and_the_u_needs_residuals():
    share = laws.attention_share(200, 40, window=8, skip=0.95, branch=0.05)
    assert share.sum() == pytest.approx(1)
    assert horizon(share) <= 8
    decoder, without = (
        families(1, scale=0)[name](6).analytic(image_shape=16, unit=15, channels="random-signs", in_channels=8).map
        for name in ("decoder", "decoder, no residuals")
    )
    assert decoder.argmin() not in (0, 15)
    assert (np.diff(without) < 0).all()


@pytest.mark.parametrize(
    ("options", "error"),
    [({"depths": ()}, StackError), ({"networks": ["mamba"]}, StackError), ({"samples": 1}, SampleError)],
)
def test_bad_settings_are_refused(options, error):
    with pytest.raises(error):
        attention(**options)


@pytest.mark.slow
def test_closed_forms_are_measured(tmp_path):
    names = ["decoder", "decoder, no residuals", "window"]
    result = attention((1, 3), networks=names, tokens=16, width=64, samples=256, layers=(4, 8), progress=False)
    for row in result.table().rows:
        assert row[-1] < 0.06, row[:2]
    assert [table.title for table in result.tables()][1].startswith("log-log")
    assert (result.save(tmp_path) / "attention.png").exists()
