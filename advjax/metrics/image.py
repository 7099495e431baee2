"""Measures of a visible change. Pixels are 0..255; for the figures of uint8 give rounded images.

The library that has these for JAX, dm-pix, agrees, but its SSIM takes three and a half times as
long on a CPU, and it would be one more dependency for the few lines below.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from advjax.errors import AdvjaxError

RADIUS, SIGMA = 5, 1.5  # of the 11 x 11 Gaussian window of Wang et al. 2004
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def max_change(x: Real[ArrayLike, "b h w c"], y: Real[ArrayLike, "b h w c"]) -> Float[Array, "b"]:
    """Compute |x - y|_inf in pixel levels, which delta bounds (Sabour et al., equation 2).

    Example:
        >>> max_change(jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 10.0))
        Array([10.], dtype=float32)
    """
    x, y = _pixels(x, y)
    return jnp.abs(x - y).max((1, 2, 3))


def mean_change(x: Real[ArrayLike, "b h w c"], y: Real[ArrayLike, "b h w c"]) -> Float[Array, "b"]:
    """Compute the mean of |x - y| over pixels and channels, in pixel levels.

    Example:
        >>> mean_change(jnp.zeros((1, 1, 2, 1)), jnp.array([[[[4.0], [0.0]]]]))
        Array([2.], dtype=float32)
    """
    x, y = _pixels(x, y)
    return jnp.abs(x - y).mean((1, 2, 3))


def psnr(x: Real[ArrayLike, "b h w c"], y: Real[ArrayLike, "b h w c"]) -> Float[Array, "b"]:
    """Compute the peak signal-to-noise ratio, 10 log10(255^2 / mean (x - y)^2), in decibels.

    Returns:
        Infinite for equal images. Within 1e-4 of float64.

    Example:
        >>> psnr(jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 25.5))
        Array([20.], dtype=float32)
    """
    x, y = _pixels(x, y)
    return -10 * jnp.log10(jnp.square((x - y) / 255).mean((1, 2, 3)))


def ssim(x: Real[ArrayLike, "b h w c"], y: Real[ArrayLike, "b h w c"]) -> Float[Array, "b"]:
    """Compute the structural similarity, as the mean over the image and its channels.

    Wang, Bovik, Sheikh and Simoncelli, *Image Quality Assessment: From Error Visibility to
    Structural Similarity*, IEEE Trans. Image Processing 13(4), 2004, equation 13: at every pixel
    where the window of 11 x 11 (Gaussian, sigma 1.5) lies inside the image

        (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

    with the weighted means m, variances s^2 and covariance s_xy, C1 = (0.01 * 255)^2 and
    C2 = (0.03 * 255)^2. Channels are separate, as in scikit-image with `gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False`; within 1e-5 of it in float64.

    Args:
        x: Pixels, 0..255, at least 11 x 11.
        y: The same shape.

    Returns:
        At most 1, which equal images have.

    Raises:
        AdvjaxError: Smaller images.

    Example:
        >>> ssim(jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 3)))
        Array([1.], dtype=float32)
    """
    x, y = _pixels(x, y)
    if min(x.shape[1:3]) < 2 * RADIUS + 1:
        raise AdvjaxError(f"x has shape {x.shape}; SSIM's window needs images of at least 11 x 11")
    x, y = x - 128, y - 128  # smaller numbers, so that the variances keep their digits
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(x: Float[Array, "b h w c"]) -> Float[Array, "b h-10 w-10 c"]:
    """Apply the Gaussian window as two banded matrices, one for each axis."""
    rows, columns = _band(x.shape[1]), _band(x.shape[2])
    # At `highest`: the variances are small differences of these.
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def _band(size: int) -> Float[np.ndarray, "size-10 size"]:
    offsets = np.arange(size)[None, :] - np.arange(size - 2 * RADIUS)[:, None] - RADIUS
    weights = np.where(np.abs(offsets) <= RADIUS, np.exp(-0.5 * (offsets / SIGMA) ** 2), 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _pixels(x, y) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    # Floats first: uint8 would wrap around at a difference below 0.
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    if x.shape != y.shape or x.ndim != 4:
        raise AdvjaxError(
            f"x and y have shapes {x.shape} and {y.shape}; give two batches [b, h, w, c] of a size"
        )
    return x, y
