"""The box of the paper in exact float32, and rounding that stays inside it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from advjax.data.units import LEVELS, Bounds, one_level
from advjax.errors import AdvjaxError

DELTA = 10.0
"""Half-width of the box in levels, where none is given."""


class PixelBox(NamedTuple):
    """lower <= I <= upper for every pixel; as real numbers, not up to rounding."""

    lower: Float[np.ndarray, "..."]
    upper: Float[np.ndarray, "..."]


def check_delta(delta: float | None, bounds: Bounds = LEVELS) -> float:
    """Return `delta` as a float, in the units of these bounds; DELTA levels when None.

    Raises:
        AdvjaxError: It is not a finite number, is under half a level of 255, or, where the bounds
            are not those of levels, above their range.

    Example:
        >>> check_delta(8 / 255, (0, 1)) * 255, check_delta(None)
        (8.0, 10.0)
    """
    level = one_level(bounds)
    if delta is None:
        return DELTA * level
    try:
        value = float(delta)
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if bounds == LEVELS:
        if not 0 < value < float("inf"):
            raise AdvjaxError(
                f"delta is {delta!r}; give a number of pixel levels above 0, such as 10"
            )
        if value < 0.5:
            raise AdvjaxError(
                f"delta is {delta!r}, under half a level of 255; give levels, such as 10, or "
                "declare the units by advjax.Network(..., bounds=(0, 1))"
            )
    elif not 0.5 * level <= value <= 255 * level * (1 + 1e-6):
        low, high = bounds
        raise AdvjaxError(
            f"delta is {delta!r}, and pixels are {low:g}..{high:g}; give a number in these units, "
            f"from {0.5 * level:.3g} (half a level of 255) to {high - low:g}"
        )
    return value


def pixel_box(source: np.ndarray, delta: float) -> PixelBox:
    """Return |I - source| <= delta and 0 <= I <= 255 (Sabour et al., eq. 2) in float32.

    The bounds are rounded inward, so that a float32 inside them satisfies the inequalities as real
    numbers, and no tighter than that.

    Args:
        source: The source image, uint8 or float32, 0..255.
        delta: In pixel levels, above 0.

    Raises:
        AdvjaxError: delta under 0.5 with a source that is not in whole numbers: no uint8 image
            might be inside.

    Example:
        >>> box = pixel_box(np.array([3, 250], np.uint8), 10.0)
        >>> box.lower.tolist(), box.upper.tolist()
        ([0.0, 240.0], [13.0, 255.0])
    """
    if source.dtype == np.uint8:  # its 256 levels have few bounds to compute
        levels = _bounds(np.arange(256, dtype=np.float64), delta)
        return PixelBox(*(np.take(bound, source) for bound in levels))
    exact = np.asarray(source, np.float64)
    if delta < 0.5 and np.any(exact != np.rint(exact)):
        raise AdvjaxError(
            f"delta is {delta} and the source has fractions of levels, so that no 8-bit image "
            "may be inside the box; give a uint8 source or a delta of at least 0.5"
        )
    return _bounds(exact, delta)


def _bounds(exact: np.ndarray, delta: float) -> PixelBox:
    low = np.maximum(exact - delta, 0).astype(np.float32)
    high = np.minimum(exact + delta, 255).astype(np.float32)
    # Not compared with source -+ delta, which float64 rounds: the difference of two float32 is
    # exact in it, or, where one of them is tiny, rounded without crossing delta.
    return PixelBox(
        np.where(exact - low > delta, np.nextafter(low, np.float32(np.inf)), low),
        np.where(high - exact > delta, np.nextafter(high, np.float32(-np.inf)), high),
    )


def round_into(image: Float[np.ndarray, "..."], box: PixelBox) -> UInt8[np.ndarray, "..."]:
    """Return the nearest 8-bit image that is inside the box.

    Example:
        >>> box = pixel_box(np.array([100.0]), 9.7)
        >>> round_into(np.array([109.7]), box).tolist()
        [109]
    """
    return np.clip(np.rint(image), np.ceil(box.lower), np.floor(box.upper)).astype(np.uint8)


def whole_box(shape: tuple[int, ...]) -> PixelBox:
    """Return the box of every image of this shape: 0 <= I <= 255."""
    return PixelBox(np.zeros(shape, np.float32), np.full(shape, 255, np.float32))
