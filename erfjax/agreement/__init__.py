"""Where theory meets measurement: two effective fields compared with error bars, and growth laws fitted to sizes."""

from erfjax.agreement.comparing import compare
from erfjax.agreement.comparison import Comparison, Question, Ratio
from erfjax.agreement.slopes import ScalingLaw, scaling_law

__all__ = ["Comparison", "Question", "Ratio", "ScalingLaw", "compare", "scaling_law"]
