"""Numbers, images and descents as they are shown, and statistics that leave NaN out."""

import contextlib
import importlib.metadata
import math
import platform
import sys
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from advjax.errors import AdvjaxError

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
SMALL = 64  # pixels; images up to this size are shown pixel by pixel


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text: `digits` significant digits, thousands apart, a dash for none.

    Example:
        >>> number(0.12345), number(1234567), number(12.0), number(1.5e-7)
        ('0.123', '1,234,567', '12', '1.5e-07')
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) >= 10**digits or value == int(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.{digits}g}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def without_nan(values: Any) -> Float[np.ndarray, "n"]:
    """Return the values as float64 without NaN."""
    values = np.asarray(values, np.float64)
    return values[~np.isnan(values)]


def mean(values: Any) -> float:
    """Return the mean of the finite values; NaN when there is none.

    `infinite` counts what is left out, such as the PSNR of a pair that did not change.

    Example:
        >>> mean([1.0, np.nan, 3.0, np.inf]), mean([np.nan])
        (2.0, nan)
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def infinite(values: Any) -> int:
    """Return how many values are infinite."""
    return int(np.isinf(np.asarray(values, np.float64)).sum())


def quantile(values: Any, fraction: float) -> float:
    """Return a quantile without NaN, 0 the minimum, 0.5 the median and 1 the maximum.

    Example:
        >>> quantile([1.0, np.nan, 2.0, 6.0], 0.5), quantile([], 1)
        (2.0, nan)
    """
    values = without_nan(values)
    if not values.size:
        return math.nan
    # Between an infinite value and another there is no point to be interpolated.
    method = "linear" if np.isfinite(values).all() else "lower"
    return float(np.quantile(values, fraction, method=method))


def median(values: Any) -> float:
    """Return the median without NaN; NaN when no value is left."""
    return quantile(values, 0.5)


def squeeze_grey(image: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "..."]:
    """Return a grey image [h, w, 1] as [h, w], as Pillow and matplotlib take it; others as is."""
    return image[..., 0] if image.shape[-1] == 1 else image


def to_uint8(image: Any) -> UInt8[np.ndarray, "..."]:
    """Return an image rounded to 8 bits, values outside of 0..255 clipped."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def magnification(delta: float) -> int:
    """Return the largest whole k with k delta <= 127.5, half the range; at least 1.

    Args:
        delta: In levels of 0..255.

    Raises:
        AdvjaxError: `delta` is not a positive number.

    Example:
        >>> magnification(10.0)
        12
    """
    if not 0 < delta < math.inf:
        raise AdvjaxError(f"delta is {delta!r}; give a positive number of levels of 0..255")
    return max(1, math.floor(127.5 / delta))


def difference(
    image: Shaped[np.ndarray, "h w c"], source: Shaped[np.ndarray, "h w c"], factor: float
) -> UInt8[np.ndarray, "h w c"]:
    """Return image - source, magnified by `factor`, about mid-grey.

    Example:
        >>> difference(np.array([[[13]]]), np.array([[[10]]]), 10).item()
        158
    """
    return to_uint8(127.5 + factor * (np.asarray(image, np.float64) - source))


class Descent(NamedTuple):
    """An attack's trace as it is shown."""

    values: Float[np.ndarray, "... e"]
    name: str  # of the axis


def descent(trace: Any, attack: str, *, squared: bool, rooted: bool = False) -> Descent:
    """Return the distances of a trace of squared distances, and any other trace as it is.

    Args:
        trace: The objective at each evaluation.
        attack: The name of the attack that minimised it.
        squared: Its objective is a squared distance (`Attack.squared`).
        rooted: The trace has the distances already, as the column `trace` of a run has.

    Example:
        >>> descent([9.0, 4.0], "feature-opt", squared=True)
        Descent(values=array([3., 2.]), name='distance')
    """
    values = np.asarray(trace, np.float64)
    if not squared:
        return Descent(values, "objective")
    name = "distance by linear map" if attack == "feature-linear" else "distance"
    return Descent(values if rooted else np.sqrt(values), name)


def spread(values: Any) -> str:
    """Return median, minimum and maximum as text; one number where they are equal.

    Example:
        >>> spread([0.5, 0.1, 0.2]), spread([0.25])
        ('0.2 (0.1 to 0.5)', '0.25')
    """
    low, middle, high = (number(quantile(values, fraction)) for fraction in (0, 0.5, 1))
    return middle if low == high else f"{middle} ({low} to {high})"


def in_notebook() -> bool:
    """Return True inside of a notebook's kernel, whose standard error is read at once."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(interactive, "config", {})


def progress_bar(shown: bool | None, **settings: Any) -> Any:
    """Return a tqdm bar on standard error, or as a notebook's widget; one that may be hidden.

    Args:
        shown: None: on a terminal and in a notebook; a log is left alone.
        **settings: Of tqdm: total, unit, desc, ...
    """
    with warnings.catch_warnings():  # where ipywidgets is missing the bar is text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    if shown is None:
        shown = sys.stderr.isatty() or in_notebook()
    return tqdm(disable=not shown, **settings)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    numbers = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            numbers[name] = importlib.metadata.version(name)
    return numbers
