"""The moment column: the few ways in which a primitive acts on second moments.

If g is the gradient at the result of a primitive with the Jacobian J, the gradient at its operand is Jᵀg; and where the entries
of g are uncorrelated, E (Jᵀg)² = (J∘J)ᵀ E g². A kind says what is known of J∘J:

| kind | Jacobian | what is done with E g² |
|---|---|---|
| `LINEAR`, `SCALED`, `QUOTIENT`, `EXCLUSIVE`, `GATE` | diagonal (elementwise operations) | times the squared slope |
| `SELECTION` | entries 0 or 1 by structure: slices, pads, gathers | the transpose of the primitive itself |
| `TOTAL`, `WINDOW_TOTAL` | entries 0 or 1, several in a row: sums | the transpose of the primitive itself |
| `Choice` | entries 0 or 1 that the data choose: extrema, sorting | the same; evenly shared where there are no data |
| `BILINEAR` | linear in each operand: convolution, dot product | the transpose, with the partner squared |
| `LOOP` | that of its body, once for each step | the walk of the body, from the last step to the first |
| `SILENT` | zero: steps, comparisons, stopped gradients | nothing passes |

What fits no kind (a dense Jacobian of dependent entries: fft, linear algebra) has no moment column and is refused. With power 1
the same walk carries first moments: squares become plain values. The elementwise kinds differ only where there are no data
to take slopes from (mean field), and in what may interfere (the survey).
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any


class Kind(enum.Enum):
    """How the Jacobian of a primitive is built.

    Example:
        >>> from erfjax.tracing import Kind
        >>> Kind.GATE.value
        'any other elementwise operation: a nonlinearity'
    """

    LINEAR = "elementwise and linear in all operands together: add, subtract, convert"
    SCALED = "an elementwise product"
    QUOTIENT = "an elementwise quotient"
    EXCLUSIVE = "elementwise: one of the operands is passed on at every position (select)"
    GATE = "any other elementwise operation: a nonlinearity"
    SELECTION = "every result is one entry of an operand, whatever the data"
    TOTAL = "a sum over whole axes"
    WINDOW_TOTAL = "a sum over a window"
    LOOP = "a scan, whose body the walk enters"
    BILINEAR = "linear in each of two operands: convolution, dot product"
    SILENT = "no gradient passes: comparisons, steps, stop_gradient"


@dataclasses.dataclass(frozen=True)
class Choice:
    """An extremum or an order statistic: one of several entries, which the data choose.

    Attributes:
        evenly: (step, array) -> the mean of an array over the entries to choose from, and their number (NumPy); None: without
            data such a primitive is refused.
        sign: 1 for the greatest, -1 for the least.
    """

    evenly: Callable[[Any, Any], tuple[Any, Any]] | None = None
    sign: int = 1


Moment = Kind | Choice
"""What stands in the moment column of a rule."""

PRODUCTS = (Kind.SCALED, Kind.QUOTIENT)
ELEMENTWISE = (Kind.GATE, Kind.LINEAR, Kind.EXCLUSIVE, *PRODUCTS)
TOTALS = (Kind.TOTAL, Kind.WINDOW_TOTAL)
