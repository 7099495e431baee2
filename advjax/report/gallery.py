"""Pairs as cards with their pictures, which are in the page as text."""

import base64
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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


def cards(
    data: RunData,
    rows: Rows,
    chosen: Int[np.ndarray, "c"],
    store: Pictures,
    root: str | os.PathLike[str] | None,
    mixed: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the values that `page.html` shows of each chosen row, in their order.

    Args:
        data: The run.
        rows: Its columns.
        chosen: Indices into `rows`.
        store: The pictures; those of the chosen rows are added.
        root: The folder that image paths start from; the run's own when None.
        mixed: Show each pair's layer and delta.
    """
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
    row_of = {int(rows["index"][row]): row for row in chosen}
    pictures: dict[int, list[int | None]] = {}
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
            pictures[record["index"]] = [of_source, of_guide, store.add(adversarial), change]
    for row in chosen:
        yield _card(data.classes, rows, row, pictures[int(rows["index"][row])], store, mixed)


def _card(
    classes: Sequence[str] | None,
    rows: Rows,
    row: int,
    pictures: Sequence[int | None],
    store: Pictures,
    mixed: bool,
) -> dict[str, Any]:
    def value(name: str) -> Any:
        return rows[name][row]

    def label(number: int) -> str:
        if number < 0:
            return ""
        return classes[number] if classes and number < len(classes) else f"class {number}"

    source, guide, adversarial = (
        value(f"{name}_label") for name in ("source", "guide", "adversarial_uint8")
    )
    taken = adversarial >= 0 and adversarial == guide
    colour, note = "", "another label"
    if adversarial < 0:
        note = ""
    elif taken:
        colour, note = "is-guide", "the guide's label"
    elif adversarial == source:
        colour, note = "is-source", "still the source's"
    captions = [
        ("s", "Source", label(source), "", _file_name(value("source"))),
        ("g", "Guide", label(guide), "", _file_name(value("guide"))),
        ("a", "Adversarial", label(adversarial), colour, note),
        ("d", f"Difference {TIMES} {magnification(value('delta'))}", "", "", ""),
    ]
    numbers = [
        f"distance {number(value('initial_distance'))} → {number(value('distance'))}",
        f"{number(value('evaluations'))} evaluations",
        f"mean change {number(value('mean_change'))}",
    ]
    if mixed:
        numbers.append(f"{value('layer')}, δ {number(value('delta'))}")

    def plain(name: str) -> str:
        return repr(float(value(name))) if np.isfinite(value(name)) else ""

    return {
        "index": value("index"),
        "id": value("id"),
        "ratio": plain("ratio"),
        "distance": plain("distance"),
        "change": plain("mean_change"),
        "taken": int(taken),
        "shown_ratio": _fixed(value("ratio")),
        "numbers": " · ".join(numbers),
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
            for (kind, name, text, colour, note), image in zip(captions, pictures, strict=True)
        ],
    }


def _fixed(ratio: float) -> str:
    """Return a ratio with three decimals, so that ratios compare at a glance."""
    return f"{ratio:.3f}" if ratio >= 0.01 else number(ratio)


def _file_name(name: str) -> str:
    return re.split(r"[/#]", name)[-1]
