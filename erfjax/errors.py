"""Every exception of the library, each with what to do about it.

`ErfjaxError` is the root. What a caller got wrong derives from `ValueError` as well, so `except ValueError` keeps working.
`InternalError` alone means that the library is at fault.
"""


class ErfjaxError(Exception):
    """The root of all errors raised on purpose by erfjax."""


class KernelError(ErfjaxError, ValueError):
    """A kernel, exponent or chain has no closed form. Remedy: the message names the argument and what it must satisfy."""


class GeometryError(ErfjaxError, ValueError):
    """A size, stride, dilation or padding makes no layer. Remedy: positive integers; one, or one per spatial axis."""


class StackError(ErfjaxError, ValueError):
    """A stack cannot be composed as written. Remedy: branches must keep the same stride and number of dimensions."""


class UnitError(ErfjaxError, ValueError):
    """A unit is outside the output. Remedy: one zero-based index per spatial axis of the output, or None for the centre."""


class LayoutError(ErfjaxError, ValueError):
    """A layout does not fit the array. Remedy: one letter per axis: N batch, C channels, D H W (or L) space."""


class MapError(ErfjaxError, ValueError):
    """A map has no such measure (empty, NaN, all zero ...). Remedy: check the map first; the message says what it holds."""


class ComparisonError(ErfjaxError, ValueError):
    """Two fields do not answer the same question. Remedy: read both with the statistic and channels the message names."""


class SampleError(ErfjaxError, ValueError):
    """A sample cannot be measured, e.g. a gradient is not finite. Remedy: the message names the index of the sample."""


class CheckpointError(ErfjaxError, ValueError):
    """A checkpoint is of another run, or damaged. Remedy: delete the file, or repeat the settings it was written with."""


class FileFormatError(ErfjaxError, ValueError):
    """A file is not what it should be. Remedy: the message names the file, what was expected and what was found."""


class MissingDependencyError(ErfjaxError, ImportError):
    """An optional package is needed. Remedy: install the extra that the message names."""


class FunctionError(ErfjaxError, TypeError, ValueError):
    """The function raises an error, or is none that JAX can trace or differentiate. Remedy: the message names its line."""


class UnsupportedPrimitiveError(ErfjaxError, NotImplementedError):
    """A primitive has no rule. Remedy: measure with `empirical`, or teach it with `erfjax.tracing.register`."""


class DataDependentError(ErfjaxError, NotImplementedError):
    """The path through the program depends on the data. Remedy: make the loop or index static, or measure instead."""


class InternalError(ErfjaxError, AssertionError):
    """erfjax itself is wrong. Remedy: please report it with the message and the function that was traced."""
