"""The figure of an account: the three cross-sections, and what every step does to the total and to σ²."""

from typing import Any

import numpy as np

from erfjax.plot.canvas import DASHES, INK, figure
from erfjax.plot.profiles import centre, limits, profile
from erfjax.summary import counted
from erfjax.typing import Axes, Figure

NAMES = ("variance of the weights", "+ coherence", "measured")


def draw(account: Any, ax: Axes | None = None, label: str | None = None) -> Figure | Axes:
    """The figure of an `Account`; or its cross-sections in given axes."""
    if ax is not None:
        return _sections(account, ax, f"{label}: " if label else "")
    with figure(10.2, 3.4) as drawing:
        shares, totals, variances = drawing.subplots(1, 3, width_ratios=(1.5, 1, 1))
        drawing.suptitle(label or "what the measured field is made of")
        _sections(account, shares, "")
        _steps(totals, account.totals, "total, squared gradient", log=True)
        _steps(variances, account.variances, f"σ², {counted(account.measured)}²", log=False)
    return drawing


def _sections(account: Any, ax: Axes, before: str) -> Axes:
    """The share of every column, field over field."""
    for style, (name, field) in enumerate(zip(NAMES, account.fields.values(), strict=True)):
        line, ends = profile(field)
        at = np.arange(len(line)) - centre(field)
        look: dict[str, Any] = {"color": INK[style], "linestyle": DASHES[style], "label": f"{before}{name}"}
        ax.plot(at, line, linewidth=1.2, **look)
        if ends is not None:
            ax.fill_between(at, *ends, color=INK[style], alpha=0.2, linewidth=0)
    limits(ax, int(np.ceil(4 * max(account.variances) ** 0.5)))
    units = counted(account.measured)
    ax.set_xlabel(f"{units} from the centre")
    ax.set_ylabel(f"share per {'column' if account.measured.map.ndim > 1 else units.removesuffix('s')}")
    ax.legend(fontsize="small")
    return ax


def _steps(ax: Axes, values: Any, name: str, *, log: bool) -> None:
    """One bar per field, with what each step multiplies or adds written above."""
    at = np.arange(len(values))
    ax.bar(at, values, 0.62, color=[INK[i] for i in at], alpha=0.75)
    for i, value in enumerate(values):
        text = (
            f"{value:.3g}" if i == 0 else f"× {value / values[i - 1]:.3g}" if log else f"{value - values[i - 1]:+.3g}"
        )
        ax.annotate(text, (i, value), xytext=(0, 3), textcoords="offset points", ha="center", fontsize="small")
    ax.set_xticks(at, labels=["variance", "coherence", "measured"], fontsize="small")
    if log:
        ax.set_yscale("log")
        ax.set_ylim(min(values) / 4, max(values) * 4)
        ax.yaxis.set_minor_formatter("")
    else:
        ax.set_ylim(0, 1.18 * max(values))
    ax.set_ylabel(name)
