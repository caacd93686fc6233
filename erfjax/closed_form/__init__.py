"""The textbook side: a network as a product of kernels, its map by repeated convolution, Fourier and the central limit.

Everything runs in float64 NumPy on the host, whatever JAX's x64 flag says; given JAX arrays the elementary functions
(`power`, `cascade`, `moments`, `gaussian`, `transfer_function`, `laws.sigma`) stay in JAX and can be traced and
differentiated.
"""

from erfjax.closed_form import laws, mean_field
from erfjax.closed_form.asymptotics import BerryEsseen, berry_esseen, edgeworth, saddlepoint
from erfjax.closed_form.cascades import cascade
from erfjax.closed_form.central_limit import Moments, gaussian, moments
from erfjax.closed_form.convolution import extended_binomial, log_power, power
from erfjax.closed_form.finite_width import LogTotal, log_total
from erfjax.closed_form.fourier import transfer_function

__all__ = [
    "BerryEsseen",
    "LogTotal",
    "Moments",
    "berry_esseen",
    "cascade",
    "edgeworth",
    "extended_binomial",
    "gaussian",
    "laws",
    "log_power",
    "log_total",
    "mean_field",
    "moments",
    "power",
    "saddlepoint",
    "transfer_function",
]
