"""Charts as SVG: no library, no resource from elsewhere, colours by the page's style sheet.

Elements carry classes (`bar`, `band`, `line`, `mark`, `axis`, `grid`), so that one chart serves a
light and a dark page. Every chart has a sentence for those who do not see it.
Charts are `Markup`: text from a run is escaped here.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

from advjax.display import number

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 22, 38  # margins around the plot


def ticks(low: float, high: float, maximum: int = 6) -> Float[np.ndarray, "t"]:
    """Return round numbers that cover [low, high] in steps of 1, 2, 2.5 or 5 times 10^k.

    There are at most `maximum` steps.

    Example:
        >>> ticks(0.03, 0.94).tolist()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        spread = abs(low) / 2 or 0.5
        low, high = low - spread, high + spread
    rough = (high - low) / maximum
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= maximum:
            break
    return np.round(np.arange(first, last + 1) * step, 12)


def histogram(values: Float[np.ndarray, "n"], label: str) -> Markup:
    """Draw a histogram with its median marked.

    Args:
        values: The numbers; those that are not finite are left out.
        label: Of the axis.

    Returns:
        One `<svg>` element, or a sentence when there is nothing to show.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return Markup('<p class="quiet">{}: no figures</p>').format(label)
    at = ticks(values.min(), values.max())
    # As many bins as the square root of the number of values, between ticks as many as between
    # others, and such that their edges are round.
    parts = {1: 1, 2: 2, 3: 2, 4: 4}.get(round(values.size**0.5 / (len(at) - 1)), 5)
    edges = np.linspace(at[0], at[-1], max(1, parts) * (len(at) - 1) + 1)
    # The edges are round numbers, on which values may lie but for the last bit.
    counts, _ = np.histogram(values.astype(np.float32), edges.astype(np.float32))
    median = float(np.median(values))
    heights = ticks(0, counts.max(), 4)
    heights = heights[heights == np.round(heights)]  # pairs are whole

    def x(value):
        return LEFT + (value - at[0]) / (at[-1] - at[0]) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - value / heights[-1] * (HEIGHT - TOP - BOTTOM)

    body = _frame(
        at, [number(t) for t in at], x, heights, [number(h) for h in heights], y, label, "pairs"
    )
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            title = f"{number(low)} to {number(high)}: {count:,} {_pairs(count)}"
            body.append(
                f'<rect class="bar" x="{x(low) + 0.5:.1f}" y="{y(count):.1f}" '
                f'width="{max(x(high) - x(low) - 1, 0.5):.1f}" '
                f'height="{y(0) - y(count):.1f}"><title>{title}</title></rect>'
            )
    body.append(
        f'<line class="mark" x1="{x(median):.1f}" x2="{x(median):.1f}" y1="{TOP}" y2="{y(0):.1f}"/>'
    )
    right = x(median) > WIDTH * 0.7
    body.append(
        f'<text class="note" x="{x(median) + (-5 if right else 5):.1f}" y="{TOP - 8}" '
        f'text-anchor="{"end" if right else "start"}">median {number(median)}</text>'
    )
    text = (
        f"Histogram of {label}, {len(values):,} {_pairs(len(values))}: from {number(values.min())} "
        f"to {number(values.max())}, median {number(median)}"
    )
    return _svg(text, body)


def descent(curves: Float[np.ndarray, "n e"], label: str) -> Markup:
    """Draw the median, and the band of the middle 80 %, of curves over evaluations 1, 2, ..., e.

    Args:
        curves: One row for each pair, without NaN; the logarithmic axis needs values above 0.
        label: Of the vertical axis.
    """
    low, middle, high = np.quantile(np.asarray(curves, np.float64), (0.1, 0.5, 0.9), axis=0)
    count = curves.shape[1]
    shown = np.unique(np.round(np.linspace(0, count - 1, min(count, 160))).astype(int))
    bottom, top = float(low.min()), float(high.max())
    logarithmic = bottom > 0 and top > 8 * bottom
    across = ticks(0, count)
    if logarithmic:
        decades = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
        steps = (1, 2, 5) if top < 300 * bottom else (1,)
        up = np.array([k * 10.0**d for d in decades for k in steps])
        first = max(0, int(np.searchsorted(up, bottom * 1.0001)) - 1)
        up = up[first : int(np.searchsorted(up, top * 0.9999)) + 1]
    else:
        up = ticks(0, top, 4)
    scale = np.log if logarithmic else np.asarray

    def x(value):
        return LEFT + value / across[-1] * (WIDTH - LEFT - RIGHT)

    def y(value):
        fraction = (scale(value) - scale(up[0])) / (scale(up[-1]) - scale(up[0]))
        return HEIGHT - BOTTOM - np.clip(fraction, 0, 1) * (HEIGHT - TOP - BOTTOM)

    def path(values):
        return [f"{x(i + 1):.1f},{y(values[i]):.1f}" for i in shown]

    body = _frame(
        *(across, [number(t) for t in across], x, up, [number(u) for u in up], y),
        *("evaluations", label),
    )
    body.append(f'<polygon class="band" points="{" ".join(path(low) + path(high)[::-1])}"/>')
    body.append(f'<polyline class="line" points="{" ".join(path(middle))}"/>')
    body.append(
        f'<text class="note" x="{WIDTH - RIGHT}" y="{TOP - 8}" text-anchor="end">'
        "median, and the middle 80 % of pairs</text>"
    )
    text = (
        f"{label} against evaluations, {len(curves):,} {_pairs(len(curves))}: median "
        f"{number(middle[0])} at the first evaluation, {number(middle[-1])} after {count:,}"
    )
    return _svg(text, body)


def _frame(across, names, x, up, heights, y, label, upright) -> list[str]:
    """Draw both axes, their names, their labels and the horizontal lines of a grid."""
    elements = []
    for value, name in zip(up, heights, strict=True):
        elements.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
            f'y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="axis" x="{LEFT - 6}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{name}</text>'
        )
    elements += [
        f'<text class="axis" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 15}" '
        f'text-anchor="middle">{name}</text>'
        for value, name in zip(across, names, strict=True)
    ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    elements.append(
        f'<text class="axis" transform="rotate(-90)" x="{-middle}" y="11" '
        f'text-anchor="middle">{escape(upright)}</text>'
    )
    elements.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" '
        f'text-anchor="middle">{escape(label)}</text>'
    )
    return elements


def _svg(text: str, body: Sequence[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">'
        f"{''.join(body)}</svg>"
    )


def _pairs(count: int) -> str:
    return "pair" if count == 1 else "pairs"
