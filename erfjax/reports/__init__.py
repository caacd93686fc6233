"""Reports for people: `report` puts all readings of one unit on one page; `doctor` says what is installed."""

from erfjax.reports.making import Report, report
from erfjax.reports.target import load_target, output_of

__all__ = ["Report", "load_target", "output_of", "report"]
