"""The look of the figures: the page's column widths, one palette, nothing that is not needed."""

import contextlib
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advjax.display import SMALL, squeeze_grey, to_uint8
from advjax.reproduce.output import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct to colour-blind eyes.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#777777"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX"
COLUMN, PAGE = 3.3, 6.8  # inches


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Set matplotlib's settings for the figures, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 8,
                "axes.labelsize": 8,
                "axes.titlesize": 8,
                "xtick.labelsize": 7,
                "ytick.labelsize": 7,
                "legend.fontsize": 7,
                "legend.frameon": False,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.linewidth": 0.6,
                "xtick.major.width": 0.6,
                "ytick.major.width": 0.6,
                "lines.linewidth": 1.2,
                "lines.markersize": 3.5,
                "savefig.dpi": 200,
                "figure.constrained_layout.use": True,
                "figure.constrained_layout.w_pad": 0.02,
                "figure.constrained_layout.h_pad": 0.02,
            }
        )
        yield


def panels(rows: int, columns: int, width: float, height: float, **more: Any) -> tuple[Any, Any]:
    """Return a figure and its axes, always as an array [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def histogram(axes: "Axes", values: Any, label: str, colour: str = BLUE, bins: int = 20) -> None:
    """Draw percentages of pairs, from 0 on, with the mean marked."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    axes.set_xlabel(label)
    if not len(values):
        axes.text(0.5, 0.5, "no such pair", ha="center", transform=axes.transAxes, color=GREY)
        return
    edges = np.linspace(0, max(1.0, float(values.max())), bins + 1).tolist()
    axes.hist(values, edges, weights=np.full(len(values), 100 / len(values)), color=colour)
    mean = f"mean {shown(values.mean())}"
    axes.axvline(values.mean(), color=BLACK, linewidth=0.8, linestyle="--", label=mean)
    axes.set_xlim(0, edges[-1])
    axes.legend()


def picture(axes: "Axes", image: np.ndarray) -> None:
    """Draw an image [h, w, 1 or 3] in 0..255, without axes."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    interpolation = "nearest" if max(image.shape[:2]) <= SMALL else "lanczos"
    grey = squeeze_grey(to_uint8(image))
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation=interpolation)


def gallery(
    pictures: Sequence[Sequence[Any]], names: Sequence[str], captions: Any = (), width: float = PAGE
) -> Any:
    """Draw rows of pictures, the columns named above, captions below.

    A picture is up to `width` inches wide. A picture or a caption may be missing: None, and "".
    """
    columns = len(names)
    each = min(width, PAGE / columns)
    lines = max((text.count("\n") + 1 for row in captions for text in row if text), default=0)
    captioned = lines > 0
    below = 0.06 + 0.1 * lines if captioned else 0
    figure, axes = panels(
        len(pictures), columns, each * columns, len(pictures) * (each + below) + 0.2
    )
    for r, row in enumerate(pictures):
        for c, image in enumerate(row):
            if image is None:
                axes[r, c].set_axis_off()
            else:
                picture(axes[r, c], image)
            if r == 0:
                axes[r, c].set_title(names[c], pad=3, fontsize=7)
            if captioned and captions[r][c]:
                axes[r, c].set_xlabel(captions[r][c], fontsize=6, labelpad=2)
    return figure


def class_name(classes: Sequence[str] | None, label: float) -> str:
    r"""Return a class's first name in lines of a small picture's width; "" where there is none.

    A network without an output layer has NaN for labels.

    Example:
        >>> class_name(["tabby, tabby cat", "great white shark, white shark"], 1)
        'great white\nshark'
    """
    if classes is None or not 0 <= label < len(classes):
        return ""
    lines = textwrap.wrap(classes[int(label)].split(",")[0], 15, max_lines=2, placeholder="…")
    return "\n".join(lines)


def save(figure: "Figure", path: Any) -> None:
    """Write a figure in the format of the path's suffix, atomically."""
    from advjax.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:])
