"""Units of images: those of a network, and levels of 255, in which files and the engine are.

uint8 images are levels always. float32 images are within the bounds that their network declares.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from advjax.errors import AdvjaxError

Bounds = tuple[float, float]
LEVELS: Bounds = (0.0, 255.0)

# What arithmetic in float32 leaves of a whole level: 8-bit images that were divided by 255 are
# whole levels again, and keep the widest box in 8 bits.
_WHOLE, _WHOLE_DELTA = 1e-4, 1e-6


def check_bounds(bounds: Any) -> Bounds:
    """Return the bounds as two numbers of float32.

    Raises:
        AdvjaxError: They are not two finite numbers, the smaller one first.
    """
    try:
        low, high = (float(np.float32(bound)) for bound in bounds)
        good = -np.inf < low < high < np.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise AdvjaxError(f"bounds is {bounds!r}; give the least and the largest value of a pixel")
    return low, high


def one_level(bounds: Bounds) -> float:
    """Return the size of a level of 255 in these units."""
    return (bounds[1] - bounds[0]) / 255


def from_levels(images: Any, bounds: Bounds) -> Any:
    """Return images of 0..255, of NumPy or JAX, as float32 in these units.

    Example:
        >>> from_levels(np.array([0, 51, 255], np.uint8), (-1.0, 1.0)).round(6).tolist()
        [-1.0, -0.6000000238418579, 1.0]
    """
    images = images.astype(np.float32)
    if bounds == LEVELS:
        return images
    return images / 255 * (bounds[1] - bounds[0]) + bounds[0]


def to_levels(images: Any, bounds: Bounds) -> Any:
    """Return images in these units as float32 in 0..255; uint8 images as they are.

    Example:
        >>> to_levels(np.float32([51 / 255, 0.5]), (0.0, 1.0)).tolist()
        [51.0, 127.5]
    """
    images = np.asarray(images)
    if images.dtype == np.uint8 or bounds == LEVELS:
        return images
    exact = (images.astype(np.float64) - bounds[0]) / one_level(bounds)
    whole = np.rint(exact)
    levels = np.where(np.abs(exact - whole) < _WHOLE, whole, exact)
    return np.clip(levels, 0, 255).astype(np.float32)


def delta_to_levels(delta: float, bounds: Bounds) -> float:
    """Return the half-width of a box in levels.

    Example:
        >>> delta_to_levels(8 / 255, (0.0, 1.0)), delta_to_levels(10.0, LEVELS)
        (8.0, 10.0)
    """
    exact = delta / one_level(bounds)
    whole = float(np.rint(exact))
    return whole if abs(exact - whole) < _WHOLE_DELTA * whole else exact


def changed(
    source: Float[np.ndarray, "..."],
    change: Float[np.ndarray, "..."],
    delta: float,
    bounds: Bounds,
) -> Float[np.ndarray, "..."]:
    """Return the float32 image that differs from `source` by a change in levels.

    A change of at most delta in levels is, as a real number, at most delta in units: it is rounded
    towards the source. Where there is no change, the source's own value is returned.

    Args:
        source: float32, in units.
        change: float64, in levels.
        delta: In units.
        bounds: The units.

    Example:
        >>> changed(np.float32([0.5, 0.9]), np.array([-8.0, 0.0]), 8 / 255, (0.0, 1.0)).tolist()
        [0.4686274528503418, 0.8999999761581421]
    """
    source = source.astype(np.float64)
    move = change * one_level(bounds)
    inside = np.abs(change) <= delta_to_levels(delta, bounds)
    move = np.where(inside, np.clip(move, -delta, delta), move)
    image = (source + move).astype(np.float32)
    too_far = np.abs(image.astype(np.float64) - source) > np.abs(move)
    image = np.where(too_far, np.nextafter(image, source.astype(np.float32)), image)
    return np.clip(image, np.float32(bounds[0]), np.float32(bounds[1]))
