"""One attack as a picture: source, guide, adversarial, their difference, labels and the descent."""

import dataclasses
import io
import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from advjax.display import (
    SMALL,
    TIMES,
    difference,
    magnification,
    number,
    squeeze_grey,
    to_uint8,
)
from advjax.errors import AdvjaxError, ImageError
from advjax.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Labels = Sequence[tuple[str, float]]

# Okabe and Ito's palette: distinct to colour-blind eyes and in grey.
SOURCE, GUIDE = "#0072B2", "#D55E00"
INK, QUIET, PALE, TRACK = "#1a1a1a", "#666666", "#b5b5b5", "#ececec"
TITLE, CAPTION, TEXT = 22, 14, 12  # points

# Inches; 120 dots to the inch make the whole sheet 1920 pixels wide.
DPI = 120
MARGIN, GAP, PICTURE, HEADER, ROW = 0.55, 0.3, 2.5, 1.75, 0.5
TRACE_GAP, TRACE, TRACE_RIGHT = 0.95, 2.4, 0.65


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The images, numbers and texts of a sheet.

    Attributes:
        source: The image that was changed, [h, w, 3] or [h, w, 1], 0..255.
        guide: The image whose representation was approached; the same shape.
        adversarial: The result; the same shape.
        delta: The bound on the change of a pixel, in levels of 0..255; None: only the range.
        initial_distance: Distance between source and guide in the layer.
        distance: Distance between adversarial and guide in the layer.
        network: Name of the network; may be empty.
        layer: Name of the layer; may be empty.
        labels: For source, guide and adversarial, the likeliest classes as (name, probability),
            best first (three are shown); NaN where only the name is known; None for a network
            without classes.
        trace: Distance at each evaluation, from the source's own on; what is not finite is left
            out. None for a sheet without the plot.
        trace_title: The name of the trace if it is not the distance to the guide.
        names: Captions of source and guide, such as the names of their files; may be empty.
        attack: Name of the attack; may be empty.
        verdict: The text before the distances; may be empty.
    """

    source: Shaped[np.ndarray, "h w c"]
    guide: Shaped[np.ndarray, "h w c"]
    adversarial: Shaped[np.ndarray, "h w c"]
    delta: float | None
    initial_distance: float
    distance: float
    network: str = ""
    layer: str = ""
    labels: tuple[Labels, Labels, Labels] | None = None
    trace: Float[np.ndarray, "evaluations"] | Sequence[float] | None = None
    names: tuple[str, str] = ("", "")
    trace_title: str | None = None
    attack: str = ""
    verdict: str = ""


def draw_sheet(path: str | os.PathLike[str], sheet: Sheet) -> None:
    """Draw an attack on one sheet and write it as PNG, atomically.

    One row: source, guide, adversarial, and the difference between adversarial and source,
    magnified about mid-grey by the largest whole factor that keeps `delta` (without one, the
    largest change) in range. Under the first three, the likeliest classes; the source's own top
    class is blue wherever it appears, the guide's orange. Beside them the distance to the guide
    over the evaluations: pale, at each evaluation; dark, the smallest so far.

    Args:
        path: The PNG file.
        sheet: The content.

    Raises:
        ImageError: The three images differ in shape, or are not [h, w, 1 or 3] and finite.
        AdvjaxError: A distance or `delta` that cannot be, `labels` that are not three lists, or a
            file that cannot be written.

    Example:
        >>> import tempfile
        >>> grey = np.full((28, 28, 1), 128, np.uint8)
        >>> target = os.path.join(tempfile.mkdtemp(), "sheet.png")
        >>> draw_sheet(target, Sheet(grey, grey, grey, 10.0, 8.0, 2.0))
        >>> os.path.getsize(target) > 1000
        True
    """
    write_bytes(path, sheet_png(sheet))


def sheet_png(sheet: Sheet) -> bytes:
    """Draw an attack on one sheet and return it as PNG (see `draw_sheet`)."""
    import matplotlib

    pictures = _pictures(sheet)
    for name in ("initial_distance", "distance"):
        if not 0 <= getattr(sheet, name) < math.inf:
            raise AdvjaxError(
                f"{name} is {getattr(sheet, name)!r}; give a finite number, 0 or more"
            )
    if sheet.labels is not None and len(sheet.labels) != 3:
        raise AdvjaxError(
            f"labels has {len(sheet.labels)} lists; give one each for source, guide, adversarial"
        )
    # The user's own style must not show through, nor a class name in Chinese stop the run because
    # the font has no such letters.
    with matplotlib.rc_context(), warnings.catch_warnings(), io.BytesIO() as content:
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        _draw(sheet, pictures).savefig(content, format="png")
        return content.getvalue()


def _pictures(sheet: Sheet) -> list[np.ndarray]:
    """Return source, guide, adversarial and difference in 8 bits."""
    images = []
    for name in ("source", "guide", "adversarial"):
        image = np.asarray(getattr(sheet, name))
        if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.size == 0:
            raise ImageError(f"{name} has shape {list(image.shape)}; give [h, w, 3] or [h, w, 1]")
        if image.shape != np.shape(sheet.source):
            raise ImageError(
                f"{name} has shape {list(image.shape)}, source {list(np.shape(sheet.source))}; "
                "give three images of one shape"
            )
        image = image.astype(np.float64)
        if not np.isfinite(image).all():
            raise ImageError(f"{name} holds NaN or infinity; give values in 0..255")
        images.append(image)
    return [*map(to_uint8, images), difference(images[2], images[0], _factor(sheet))]


def _factor(sheet: Sheet) -> int:
    if sheet.delta is not None:
        return magnification(sheet.delta)
    # Less than a level is no change of an 8-bit image: a source that stayed has no difference.
    return magnification(max(1.0, float(_changes(sheet).max())))


def _changes(sheet: Sheet) -> np.ndarray:
    return np.abs(np.asarray(sheet.adversarial, np.float64) - np.asarray(sheet.source))


def _draw(sheet: Sheet, pictures: list[np.ndarray]) -> "Figure":
    from matplotlib.figure import Figure

    trace = None if sheet.trace is None else np.asarray(sheet.trace, np.float64)
    if trace is not None and not np.isfinite(trace).any():
        trace = None
    rows = 0 if sheet.labels is None else min(3, max(map(len, sheet.labels)))
    width = (
        2 * MARGIN
        + 4 * PICTURE
        + 3 * GAP
        + (0 if trace is None else TRACE_GAP + TRACE + TRACE_RIGHT)
    )
    below = 0.15 + max(rows, 1) * ROW
    height = HEADER + PICTURE + below + MARGIN - 0.15
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    # A canvas that covers the sheet, in inches from its upper left corner.
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()
    _header(page, sheet, width - 2 * MARGIN, trace)

    captions = [
        "Source",
        "Guide",
        "Adversarial",
        f"Difference {TIMES} {_factor(sheet)}",
    ]
    colours = [SOURCE, GUIDE, INK, INK]
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = MARGIN + i * (PICTURE + GAP)
        _text(page, left, HEADER - 0.14, caption, CAPTION, colours[i], weight="bold")
        if i < 2:
            _text(
                page,
                left + PICTURE,
                HEADER - 0.14,
                sheet.names[i],
                TEXT,
                QUIET,
                PICTURE - 0.85,
                "right",
            )
        box = (left / width, 1 - (HEADER + PICTURE) / height, PICTURE / width, PICTURE / height)
        _picture(figure.add_axes(box), picture)
        if i < 3 and sheet.labels is not None:
            _labels(page, left, sheet.labels[i], _class_colours(sheet.labels))
    _change(page, MARGIN + 3 * (PICTURE + GAP), sheet)
    if trace is not None:
        left = width - MARGIN - TRACE_RIGHT - TRACE
        title = sheet.trace_title or "Distance to the guide"
        _text(page, left, HEADER - 0.14, title, CAPTION, INK, weight="bold")
        # Down to the lowest bar of the labels, or to the pictures' edge.
        bottom = HEADER + PICTURE + (below - 0.6 if rows else -0.15)
        box = (left / width, 1 - bottom / height, TRACE / width, (bottom - HEADER) / height)
        _trace(figure.add_axes(box), sheet, trace)
    return figure


def _text(
    page: "Axes",
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str,
    room: float = math.inf,
    align: str = "left",
    weight: str = "normal",
) -> None:
    """Write one line with its baseline at (x, y), cut with an ellipsis where it exceeds `room`."""
    text = " ".join(str(text).split())
    style = {"size": size, "color": colour, "ha": align, "va": "baseline", "weight": weight}
    line = page.text(x, y, text, parse_math=False, **style)
    while len(text) > 1 and (width := line.get_window_extent().width / DPI) > room:
        text = text[: min(len(text) - 1, math.ceil(len(text) * room / width))]
        line.set_text(text.rstrip(" ,.(-_") + "…")


def _header(page: "Axes", sheet: Sheet, room: float, trace: np.ndarray | None) -> None:
    before, after = number(sheet.initial_distance, 4), number(sheet.distance, 4)
    title = f"Distance to the guide {before} → {after}"
    if sheet.initial_distance > 0:
        ratio = sheet.distance / sheet.initial_distance
        title += f", ratio {ratio:.3f}" if ratio > 0.01 else f", ratio {ratio:.2g}"
    _text(page, MARGIN, 0.72, sheet.verdict or title, TITLE, INK, room, weight="bold")
    setting = [sheet.network, sheet.attack, f"layer {sheet.layer}" if sheet.layer else ""]
    if sheet.verdict:
        setting.append(title[0].lower() + title[1:])
    setting.append("" if sheet.delta is None else f"δ = {sheet.delta:g} of 255")
    if trace is not None:
        setting.append(f"{np.isfinite(trace).sum()} evaluations")
    _text(page, MARGIN, 1.08, "  ·  ".join(filter(None, setting)), CAPTION, QUIET, room)


def _picture(axes: "Axes", picture: np.ndarray) -> None:
    axes.set_axis_off()
    # Enlarged pixels are shown as such; the difference too, where smoothing would hide it.
    interpolation = "nearest" if max(picture.shape[:2]) <= SMALL else "lanczos"
    axes.imshow(squeeze_grey(picture), cmap="gray", vmin=0, vmax=255, interpolation=interpolation)


def _class_colours(labels: tuple[Labels, Labels, Labels]) -> dict[str, str]:
    tops = zip(labels[:2], (SOURCE, GUIDE), strict=True)
    return {classes[0][0]: colour for classes, colour in tops if classes}


def _labels(page: "Axes", left: float, classes: Labels, colours: dict[str, str]) -> None:
    for rank, (name, probability) in enumerate(classes[:3]):
        y = HEADER + PICTURE + 0.37 + rank * ROW
        ink = INK if rank == 0 else QUIET
        if math.isnan(probability):
            _text(page, left, y, name, TEXT, colours.get(name, ink), PICTURE)
            continue
        _text(page, left, y, name, TEXT, ink, PICTURE - 0.6)
        _text(page, left + PICTURE, y, _percent(probability), TEXT, ink, align="right")
        for length, colour in ((1.0, TRACK), (probability, colours.get(name, PALE))):
            bar = [left, left + PICTURE * float(np.clip(length, 0, 1))]
            page.plot(bar, [y + 0.11] * 2, color=colour, linewidth=4, solid_capstyle="butt")


def _percent(probability: float) -> str:
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 else f"{100 * probability:.0f} %"


def _change(page: "Axes", left: float, sheet: Sheet) -> None:
    change = _changes(sheet)
    y = HEADER + PICTURE + 0.37
    _text(page, left, y, f"largest {change.max():.1f} of 255", TEXT, QUIET)
    _text(page, left + PICTURE, y, f"mean {change.mean():.1f}", TEXT, QUIET, align="right")


def _trace(axes: "Axes", sheet: Sheet, trace: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    seen = np.isfinite(trace)
    at, values = np.arange(1, trace.size + 1)[seen], trace[seen]
    axes.plot(at, values, color=PALE, linewidth=1.2)
    axes.plot(at, np.minimum.accumulate(values), color=INK, linewidth=2, clip_on=False)
    # The starting point may be another than the source, and the trace is of lower precision: what
    # is marked is what the title says. Right of its point, where a falling curve never is.
    first, last = sheet.initial_distance, sheet.distance
    if sheet.trace_title is not None:
        first, last = float(values[0]), float(values.min())
    for x, y, colour, weight in ((1, first, SOURCE, "normal"), (at[-1], last, INK, "bold")):
        axes.plot([x], [y], "o", color=colour, markersize=8, clip_on=False, zorder=3)
        style = {"color": colour, "weight": weight, "size": TEXT, "va": "center"}
        offset = {"xytext": (9, 0), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(number(y, 4), (x, y), **offset, **style)
    low, high = min(values.min(), last), max(values.max(), first)
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        steps = (1, 2, 5) if high < 300 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, 1.08 * high or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("evaluations", size=TEXT, color=QUIET)
    axes.tick_params(colors=QUIET, labelsize=TEXT - 1, length=3, width=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=PALE, linewidth=0.8)
