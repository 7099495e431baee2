"""Pairs as cards with their pictures, which are in the page as text."""

import base64
import html
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
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.report.charts import number
from advjax.runs.images import Reader
from advjax.runs.reading import RunData
from advjax.sheet import magnification

TIMES = "\N{MULTIPLICATION SIGN}"

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
        """The picture's number."""
        picture = Image.fromarray(
            np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
        )
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
        """Whether pictures of this size are kept as they are."""
        return max(shape[:2]) <= 64

    def read(self, reader: Reader, name: str) -> tuple[np.ndarray | None, int | None]:
        """A source or guide, and its picture's number; None where it cannot be read."""
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

    def written(self) -> Iterator[str]:
        """Inert elements that hold the pictures as text."""
        for place, content in enumerate(self.contents):
            text = base64.b64encode(content).decode()
            yield f'<script type="text/plain" id="i{place}">{text}</script>\n'

    def kind(self, place: int) -> str:
        """The media type."""
        return "image/png" if self.contents[place].startswith(b"\x89PNG") else "image/jpeg"


def cards(
    data: RunData,
    rows: Rows,
    chosen: Int[np.ndarray, "c"],
    store: Pictures,
    root: str | os.PathLike[str] | None,
    mixed: bool,
) -> Iterator[str]:
    """One `<article>` for each chosen row, in their order; their pictures go into `store`.

    Args:
        data: The run.
        rows: Its columns.
        chosen: Places in `rows`.
        store: Takes the pictures.
        root: What image paths are relative to; as the run had it when None.
        mixed: Say each pair's layer and delta.
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
    reader = Reader(net, data.store.manifest["root"] if root is None else root)
    place_of = {int(rows["index"][row]): place for place, row in enumerate(chosen)}
    pictures: dict[int, list[int | None]] = {}
    wanted = ds.field("index").isin(list(place_of))
    scan = data.dataset().to_batches(
        columns=["index", "adversarial_png"], filter=wanted, batch_size=64
    )
    for batch in scan:
        for found in batch.to_pylist():
            row = chosen[place_of[found["index"]]]
            adversarial = decode_image(
                found["adversarial_png"], f"adversarial {found['index']}", shape[-1]
            )
            source, source_place = store.read(reader, rows["source"][row])
            _, guide_place = store.read(reader, rows["guide"][row])
            change = None
            if source is not None:
                factor = magnification(rows["delta"][row])
                change = np.clip(127.5 + factor * (adversarial.astype(float) - source), 0, 255)
                change = store.add(np.rint(change).astype(np.uint8), 65)
            pictures[found["index"]] = [source_place, guide_place, store.add(adversarial), change]
    for row in chosen:
        yield _card(data.classes, rows, row, pictures[int(rows["index"][row])], store, mixed)


def _card(
    classes: Sequence[str] | None,
    rows: Rows,
    row: int,
    pictures: Sequence[int | None],
    store: Pictures,
    mixed: bool,
) -> str:
    def value(name: str) -> Any:
        return rows[name][row]

    def label(number: int) -> str:
        if number < 0:
            return ""
        return classes[number] if classes and number < len(classes) else f"class {number}"

    ends = [value(f"{who}_label") for who in ("source", "guide", "adversarial_uint8")]
    taken = ends[2] >= 0 and ends[2] == ends[1]
    whose = ""
    if ends[2] >= 0:
        whose = "is-guide" if taken else "is-source" if ends[2] == ends[0] else ""
    said = {"is-guide": "the guide's label", "is-source": "still the source's", "": ""}[whose]
    if ends[2] >= 0 and not whose:
        said = "another label"
    parts = [
        ("s", "Source", label(ends[0]), _file(value("source"))),
        ("g", "Guide", label(ends[1]), _file(value("guide"))),
        ("a", "Adversarial", label(ends[2]), said),
        ("d", f"Difference {TIMES} {magnification(value('delta'))}", "", ""),
    ]
    figures = []
    for (kind, name, what, note), place in zip(parts, pictures, strict=True):
        alt = f"{name}{': ' + what if what else ''}"
        if place is None:
            inner = '<span class="missing">not found</span>'
        else:
            inner = (
                f'<img alt="{html.escape(alt)}" decoding="async" data-image="i{place}" '
                f'data-kind="{store.kind(place)}">'
            )
        strong = (
            f'<span class="{whose}">{html.escape(what)}</span>'
            if kind == "a"
            else html.escape(what)
        )
        note = html.escape(note).replace("_", "_<wbr>")  # long names of files break there
        lines = "<br>".join(filter(None, (strong if what else "", note)))
        figures.append(
            f'<figure class="{kind}"><span class="frame">{inner}</span>'
            f"<figcaption><b>{name}</b>{lines}</figcaption></figure>"
        )
    numbers = [
        f"distance {number(value('initial_distance'))} → {number(value('distance'))}",
        f"{number(value('evaluations'))} evaluations",
        f"mean change {number(value('mean_change'))}",
    ]
    if mixed:
        numbers.append(f"{html.escape(value('layer'))}, δ {number(value('delta'))}")

    def plain(name: str) -> str:
        return repr(float(value(name))) if np.isfinite(value(name)) else ""

    return (
        f'<article data-index="{value("index")}" data-ratio="{plain("ratio")}" '
        f'data-distance="{plain("distance")}" data-change="{plain("mean_change")}" '
        f'data-taken="{int(taken)}"><header><span class="ratio">{_fixed(value("ratio"))}</span>'
        f"<h3>{html.escape(value('id'))}</h3></header>"
        f'<p class="figures">{" · ".join(numbers)}</p>'
        f'<div class="pictures">{"".join(figures)}</div></article>\n'
    )


def _fixed(ratio: float) -> str:
    """With three decimals, so that ratios compare at a glance."""
    return f"{ratio:.3f}" if ratio >= 0.01 else number(ratio)


def _file(name: str) -> str:
    return re.split(r"[/#]", name)[-1]
