"""Pairs as cards with their pictures, which are in the page as text."""

import base64
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.dataset as ds
from jaxtyping import Int, UInt8
from PIL import Image

from advjax.data.images import Preprocessing, decode_image
from advjax.display import SMALL, TIMES, difference, magnification, number, squeeze_grey
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.runs.image_reader import Reader
from advjax.runs.reading import RunData

Rows = Mapping[str, Any]
"""Columns of a run as NumPy arrays; a figure that is null is NaN, a label -1."""
LABELS = ("source_label", "guide_label", "adversarial_uint8_label")
SORTED = {n: n for n in ("ratio", "distance", "ssim", "cosine")} | {"change": "mean_change"}


class Pictures:
    """Pictures for the page, each once: PNG when they are small, else JPEG."""

    def __init__(self, side: int):
        self.side = side
        self.contents: list[bytes] = []
        self.numbers: dict[tuple[str, bool], int | None] = {}  # of sources and guides
        self.unreadable: list[str] = []

    def add(self, image: UInt8[np.ndarray, "h w c"], quality: int = 82) -> int:
        """Return the picture's number."""
        picture = Image.fromarray(np.ascontiguousarray(squeeze_grey(image)))
        stream = io.BytesIO()
        if self.exact(image.shape):
            picture.save(stream, "PNG")
        else:
            picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
            picture.save(stream, "JPEG", quality=quality)
        self.contents.append(stream.getvalue())
        return len(self.contents) - 1

    @staticmethod
    def exact(shape: Sequence[int]) -> bool:
        """Return True if pictures of this size are kept as they are."""
        return max(shape[:2]) <= SMALL

    def read(self, reader: Reader, name: str) -> tuple[np.ndarray | None, int | None]:
        """Return a source or guide and its picture's number, or None where it cannot be read."""
        key = (name, True)
        try:
            image = reader(name)
        except AdvjaxError as error:
            if key not in self.numbers:
                self.numbers[key] = None
                self.unreadable.append(str(error))
            return None, None
        if key not in self.numbers:
            self.numbers[key] = self.add(image)
        return image, self.numbers[key]

    def encoded(self) -> Iterator[str]:
        """Yield the pictures in base64, in the order of their numbers."""
        for content in self.contents:
            yield base64.b64encode(content).decode()

    def media_type(self, image: int) -> str:
        """Return the media type of a picture."""
        return "image/png" if self.contents[image].startswith(b"\x89PNG") else "image/jpeg"


class View(NamedTuple):
    """The pairs of one run that are shown."""

    mark: str  # "A" and "B" of two runs, "" of one
    data: RunData
    rows: Rows
    chosen: Int[np.ndarray, "c"]  # indices into `rows`; of two runs the same pairs in one order


class Four(NamedTuple):
    """The numbers of a pair's pictures; None where an image cannot be read."""

    source: int | None
    guide: int | None
    adversarial: int
    change: int | None


def cards(
    views: Sequence[View], store: Pictures, root: str | os.PathLike[str] | None, mixed: bool
) -> Iterator[dict[str, Any]]:
    """Yield the values that `page.html` shows of each chosen pair, in their order.

    Args:
        views: One run, or two that have the same pairs.
        store: The pictures; those of the chosen rows are added.
        root: The folder that image paths start from; the run's own when None.
        mixed: Show each pair's layer and delta.
    """
    pictures = [_pictures(view, store, root) for view in views]
    for k in range(len(views[0].chosen)):
        mine = [(view, int(view.chosen[k])) for view in views]
        fours = [
            numbers[int(view.rows["index"][row])]
            for numbers, (view, row) in zip(pictures, mine, strict=True)
        ]
        yield _card(mine, fours, store, mixed)


def _pictures(view: View, store: Pictures, root: str | os.PathLike[str] | None) -> dict[int, Four]:
    """Add the pictures of a run's chosen pairs; return their numbers by the pairs' indices."""
    data, rows = view.data, view.rows
    settings = data.settings
    shape = tuple(settings["input_shape"])
    made = settings["preprocessing"]
    # All of a network that reading files needs.
    net = Network(
        lambda images: {"data": images},
        shape,
        name=settings["network"],
        preprocessing=None if made is None else Preprocessing(**made),
    )
    reader = Reader(net, data.directory.manifest["root"] if root is None else root)
    row_of = {int(rows["index"][row]): row for row in view.chosen}
    pictures: dict[int, Four] = {}
    wanted = ds.field("index").isin(list(row_of))
    scan = data.dataset().to_batches(
        columns=["index", "adversarial_png"], filter=wanted, batch_size=64
    )
    for batch in scan:
        for record in batch.to_pylist():
            row = row_of[record["index"]]
            adversarial = decode_image(
                record["adversarial_png"], f"adversarial {record['index']}", shape[-1]
            )
            source, of_source = store.read(reader, rows["source"][row])
            _, of_guide = store.read(reader, rows["guide"][row])
            change = None
            if source is not None:
                factor = magnification(rows["delta"][row])
                change = store.add(difference(adversarial, source, factor), 65)
            pictures[record["index"]] = Four(of_source, of_guide, store.add(adversarial), change)
    return pictures


def class_name(classes: Sequence[str] | None, label: int) -> str:
    """Return the name of a label; "" where there is none."""
    if label < 0:
        return ""
    return classes[label] if classes and label < len(classes) else f"class {label}"


def _card(
    mine: Sequence[tuple[View, int]], fours: Sequence[Four], store: Pictures, mixed: bool
) -> dict[str, Any]:
    four = fours[0]

    def value(name: str, at: tuple[View, int] = mine[0]) -> Any:
        return at[0].rows[name][at[1]]

    def label(name: str, at: tuple[View, int] = mine[0]) -> str:
        return class_name(at[0].data.classes, value(name, at))

    shown = [
        ("s", "Source", label("source_label"), "", _file_name(value("source")), four.source),
        ("g", "Guide", label("guide_label"), "", _file_name(value("guide")), four.guide),
    ]
    for at, numbers in zip(mine, fours, strict=True):
        colour, note = _verdict(*(value(name, at) for name in LABELS))
        name = f"Adversarial {at[0].mark}".strip()
        shown.append(("a", name, label(LABELS[2], at), colour, note, numbers.adversarial))
    if len(mine) == 1:
        name = f"Difference {TIMES} {magnification(value('delta'))}"
        shown.append(("d", name, "", "", "", four.change))

    def plain(name: str, at: tuple[View, int] = mine[0]) -> str:
        return repr(float(value(name, at))) if np.isfinite(value(name, at)) else ""

    ratios = [_fixed(value("ratio", at)) for at in mine]
    if len(mine) > 1:
        ratios = [f"{at[0].mark} {ratio}" for at, ratio in zip(mine, ratios, strict=True)]
    return {
        "index": value("index"),
        "id": value("id"),
        "data": {
            **{name: plain(column) for name, column in SORTED.items()},
            **({"other": plain("ratio", mine[1]), "gain": _gain(mine)} if len(mine) > 1 else {}),
            "delta": repr(float(value("delta"))),
            "layer": value("layer"),
            "class": " ".join(str(value(name)) for name in LABELS),
            "taken": int(value(LABELS[2]) >= 0 and value(LABELS[2]) == value("guide_label")),
        },
        "shown_ratio": ", ".join(ratios),
        "numbers": [_numbers(view, row, mixed) for view, row in mine],
        "row": _csv([cell for view, row in mine for cell in _cells(view, row)]),
        "pictures": [
            {
                "kind": kind,
                "name": name,
                "label": text,
                "colour": colour,
                "note": note,
                "image": image,
                "media_type": None if image is None else store.media_type(image),
            }
            for kind, name, text, colour, note, image in shown
        ],
    }


def _verdict(source: int, guide: int, adversarial: int) -> tuple[str, str]:
    """Return the colour of an adversarial's label, and what it is, in words."""
    if adversarial < 0:
        return "", ""
    if adversarial == guide:
        return "is-guide", "the guide's label"
    if adversarial == source:
        return "is-source", "still the source's"
    return "", "another label"


def _gain(mine: Sequence[tuple[View, int]]) -> str:
    """Return by how much the first run's ratio is smaller than the second's."""
    a, b = (view.rows["ratio"][row] for view, row in mine)
    return repr(float(b - a)) if np.isfinite(b - a) else ""


def _numbers(view: View, row: int, mixed: bool) -> str:
    def shown(name: str) -> str:
        return number(view.rows[name][row])

    numbers = [
        f"distance {shown('initial_distance')} → {shown('distance')}",
        f"{shown('evaluations')} evaluations",
        f"mean change {shown('mean_change')}",
    ]
    numbers += [
        f"{text} {shown(name)}"
        for name, text in (("ssim", "SSIM"), ("cosine", "cosine"), ("cosine_uint8", "in 8 bits"))
        if np.isfinite(view.rows[name][row])
    ]
    if mixed:
        numbers.append(f"{view.rows['layer'][row]}, δ {shown('delta')}")
    return f"{view.mark} " * bool(view.mark) + " · ".join(numbers)


def csv_heads(views: Sequence[View]) -> str:
    """Return the first line of the rows as CSV."""
    return _csv(
        f"{name}{'_' if view.mark else ''}{view.mark}" for view in views for name in view.rows
    )


def _cells(view: View, row: int) -> Iterator[str]:
    for name, values in view.rows.items():
        value = values[row]
        if name.endswith("_label"):
            yield class_name(view.data.classes, int(value))
        elif value is None or (isinstance(value, float) and np.isnan(value)):
            yield ""
        else:
            yield str(value)


def _csv(cells: Iterable[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


def _fixed(ratio: float) -> str:
    """Return a ratio with three decimals, so that ratios compare at a glance."""
    return f"{ratio:.3f}" if ratio >= 0.01 else number(ratio)


def _file_name(name: str) -> str:
    return re.split(r"[/#]", name)[-1]
