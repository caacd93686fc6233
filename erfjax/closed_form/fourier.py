"""The transfer function of a kernel: what one layer does to each spatial frequency; n layers do it n times, V^n."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erfjax.closed_form import kernels
from erfjax.closed_form.kernels import Kernel
from erfjax.errors import KernelError


def transfer_function(kernel: Kernel, omega: Any) -> Any:
    """The transfer function V(ω) = Σ_m w(m) e^{-iω·m} of a kernel at the angular frequencies ω, in radians per pixel.

    V(0) is the sum of the taps; for a kernel that sums to 1, V(ω) = 1 - iω·mean - (1/2) ω·(second moment)·ω + ... . A
    chain with strides and dilations has the product of V_l(j_{l-1} d_l ω).

    Args:
        kernel: w, an array of D >= 1 axes; index 0 is the origin.
        omega: frequencies: of any shape for D = 1; otherwise the last axis holds the D components.

    Returns:
        Complex array, one value per frequency; NumPy complex128, or JAX if either argument is a JAX array.

    Raises:
        KernelError: a bad kernel, or frequencies whose last axis is not D.

    Source: Luo et al. 2016, section 2.1, equation 5.

    Example:
        >>> import erfjax as ej
        >>> import numpy as np
        >>> np.abs(ej.closed_form.transfer_function([1, 1, 1], [0.0, 2 * np.pi / 3])).round(12)
        array([3., 0.])
    """
    xp = kernels.namespace(kernel, omega)
    w = kernels.array(jnp.asarray(kernel) if xp is jnp else kernel)
    frequency = xp.asarray(omega, dtype=w.dtype)
    if w.ndim == 1:
        frequency = frequency[..., None]
    if frequency.ndim == 0 or frequency.shape[-1] != w.ndim:
        raise KernelError(
            f"The last axis of `omega` must hold the {w.ndim} components of a frequency, one per axis of the kernel, "
            f"but its shape is {frequency.shape}."
        )
    points = xp.asarray(np.argwhere(np.ones(w.shape)), dtype=w.dtype)
    phase = kernels.dot(frequency, points.T)
    flat = w.reshape(-1)
    real, imaginary = kernels.dot(xp.cos(phase), flat), -kernels.dot(xp.sin(phase), flat)
    return jax.lax.complex(real, imaginary) if xp is jnp else real + 1j * imaginary
