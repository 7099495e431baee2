"""The result of an attack on one pair and on many: shown, saved and read again."""

import base64
import dataclasses
import html
import io
import json
import math
import operator
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from advjax import attacks, files
from advjax.attacks.base import Attack
from advjax.data.images import read_image, write_png
from advjax.data.units import LEVELS, Bounds, delta_to_levels, to_levels
from advjax.display import (
    DASH,
    SMALL,
    descent,
    difference,
    magnification,
    number,
    spread,
    squeeze_grey,
    to_uint8,
    versions,
)
from advjax.errors import AdvjaxError
from advjax.sheet import Labels, Sheet, draw_sheet, sheet_png
from advjax.solvers import Status

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGES = ("advjax", "jax", "jaxlib", "flax", "numpy")
SHOWN = 4  # pairs with pictures in a notebook
RECORD, IMAGE, TENSORS, SHEET = (
    "result.json",
    "adversarial.png",
    "adversarial.safetensors",
    "sheet.png",
)


class PairResult(NamedTuple):
    """The result of one pair; its distances are computed by the attack at `highest` precision."""

    index: int  # of the pair in the stream, from 0
    adversarial: Float[np.ndarray, "h w c"]
    adversarial_uint8: UInt8[np.ndarray, "h w c"]
    ratio: float  # distance / initial_distance
    distance: float  # of the adversarial to the guide; NaN without a guide
    initial_distance: float  # of the source to the guide
    distance_uint8: float
    evaluations: int
    status: Status
    source_label: int | None  # None where the network has no `output`
    guide_label: int | None
    label: int | None
    label_uint8: int | None
    trace: Float[np.ndarray, "e"] | None  # the objective at each evaluation
    # The attack's objective at the adversarial, in the solver's precision. feature-opt: the squared
    # distance; feature-linear: that of the linear map.
    objective: float = math.nan
    cosine: float = math.nan  # of adversarial and guide in the layer; NaN for several layers
    cosine_uint8: float = math.nan  # of the image in 8 bits
    layer_ratios: Float[np.ndarray, "k"] | float = math.nan  # of each layer by itself
    # Of the image in 8 bits, where the attack has a perceptual budget of it; else NaN and None.
    ssim_uint8: float = math.nan
    lpips_uint8: float = math.nan
    keeps_perceptual: bool | None = None

    @property
    def ratio_uint8(self) -> float:
        """The ratio of the image in 8 bits: distance_uint8 / initial_distance."""
        return ratio_of(self.distance_uint8, self.initial_distance)

    def __repr__(self) -> str:
        """Describe the pair's result in one line."""
        return (
            f"PairResult({self.index}: ratio {number(self.ratio)} after {self.evaluations:,} "
            f"evaluations, {self.status.name})"
        )


def ratio_of(distance: float, initial: float) -> float:
    """Return distance / initial; of 0 and 0 it is 0, of more and 0 NaN.

    Example:
        >>> ratio_of(1.0, 4.0), ratio_of(0.0, 0.0), ratio_of(1.0, 0.0)
        (0.25, 0.0, nan)
    """
    return distance / initial if initial else 0.0 if distance == 0 else math.nan


COLUMNS = tuple(name for name in PairResult._fields if name != "index")
"""The fields that the results of one pair and of many have in common."""
REALS = (
    "ratio",
    "distance",
    "initial_distance",
    "distance_uint8",
    "objective",
    "cosine",
    "cosine_uint8",
    "ssim_uint8",
    "lpips_uint8",
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """The results of n pairs in their order, as arrays over the pairs.

    `len(result)` is n, `result[i]` the `PairResult` of pair i, `result[2:5]` or `result[mask]` the
    results of some pairs; a loop over it gives one `PairResult` after the other.

    Attributes:
        adversarial: The images found, within the network's bounds (0..255).
        adversarial_uint8: The same in 8 bits, rounded inside the box.
        ratio: distance / initial_distance.
        distance: Of the adversarial to the guide; NaN without a guide.
        initial_distance: Of the source to the guide.
        distance_uint8: Of the image in 8 bits to the guide.
        evaluations: Of the network and its gradient.
        status: Numbers of `advjax.Status`.
        source_label: The class that the network gives the source; None if it has no `output`.
        guide_label: The guide's class.
        label: The adversarial's class.
        label_uint8: The class of the image in 8 bits.
        trace: The objective at each evaluation, NaN after a pair's last; None if it was not kept.
        objective: The attack's objective at the adversarial, in the solver's precision.
        cosine: The cosine of the angle between the activations of adversarial and guide; NaN for
            several layers, without a guide, or where one of them is zero.
        cosine_uint8: The same of the image in 8 bits.
        layer_ratios: The ratio in each layer by itself: of an ensemble each member's own.
        ssim_uint8: The SSIM of the image in 8 bits with the source, where the attack's perceptual
            budget (`advjax.Perceptual`) bounds it; else NaN.
        lpips_uint8: Its LPIPS distance, likewise.
        keeps_perceptual: The image in 8 bits keeps that budget; None without one.
        source: The sources, as the network takes them.
        guide: The guides: images [n, h, w, c], or [n, k, h, w, c]; None where they were
            activations, or where there were none.
        delta: The half-width of each pair's box, in the network's units; NaN
            for attacks that have no box but 0..255.
        classes: The names of the classes that occur, by number.
        settings: The network, layer, attack, solver and so on, as `save` notes them.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
        >>> result = advjax.attack(net, images, images[::-1], max_evaluations=2)
        >>> len(result), [pair.evaluations for pair in result], len(result[1:])
        (3, [2, 1, 2], 2)
        >>> result.to_dict()["status"]
        ['MAX_EVALUATIONS', 'GTOL', 'MAX_EVALUATIONS']
    """

    adversarial: Float[np.ndarray, "n h w c"]
    adversarial_uint8: UInt8[np.ndarray, "n h w c"]
    ratio: Float[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    initial_distance: Float[np.ndarray, "n"]
    distance_uint8: Float[np.ndarray, "n"]
    evaluations: Int[np.ndarray, "n"]
    status: Int[np.ndarray, "n"]
    source_label: Int[np.ndarray, "n"] | None
    guide_label: Int[np.ndarray, "n"] | None
    label: Int[np.ndarray, "n"] | None
    label_uint8: Int[np.ndarray, "n"] | None
    trace: Float[np.ndarray, "n e"] | None
    objective: Float[np.ndarray, "n"]
    cosine: Float[np.ndarray, "n"]
    cosine_uint8: Float[np.ndarray, "n"]
    layer_ratios: Float[np.ndarray, "n k"]
    ssim_uint8: Float[np.ndarray, "n"]
    lpips_uint8: Float[np.ndarray, "n"]
    keeps_perceptual: Bool[np.ndarray, "n"] | None
    source: Shaped[np.ndarray, "n h w c"] | None = None
    guide: Shaped[np.ndarray, "n ..."] | None = None
    delta: Float[np.ndarray, "n"] | None = None
    classes: Mapping[int, str] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def ratio_uint8(self) -> Float[np.ndarray, "n"]:
        """The ratio of the images in 8 bits: distance_uint8 / initial_distance."""
        initial, distance = self.initial_distance, self.distance_uint8
        none = np.where(distance == 0, np.float32(0), np.float32(np.nan))
        return np.divide(distance, initial, out=none, where=initial != 0)

    def __len__(self) -> int:
        return len(self.adversarial)

    def __iter__(self) -> Iterator[PairResult]:
        return (self._pair(i) for i in range(len(self)))

    @overload
    def __getitem__(self, which: SupportsIndex) -> PairResult: ...
    @overload
    def __getitem__(self, which: slice | Sequence[int] | np.ndarray) -> "AttackResult": ...
    def __getitem__(self, which: Any) -> Any:
        """Return the `PairResult` of one pair; the `AttackResult` of a slice, a list or a mask."""
        try:
            index = operator.index(which)
        except TypeError:
            which = which if isinstance(which, slice) else np.asarray(which)
            rows = {
                name: value[which]
                for name in (*COLUMNS, "source", "guide", "delta")
                if (value := getattr(self, name)) is not None
            }
            return dataclasses.replace(self, **rows)
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}; the first is 0")
        return self._pair(index % len(self))

    def _pair(self, i: int) -> PairResult:
        row: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[i] for name in COLUMNS
        }
        numbers: dict[str, Any] = {
            k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()
        }
        numbers["status"] = Status(numbers["status"])
        if self.trace is not None:
            numbers["trace"] = self.trace[i][: numbers["evaluations"]]
        return PairResult(index=i, **numbers)

    def __repr__(self) -> str:
        """Describe the results in one line of fewer than 200 characters."""
        known = self.settings
        where = f", {known['attack']} at {_layers(known)} of {known['network']}" if known else ""
        pairs = "1 pair" if len(self) == 1 else f"{len(self):,} pairs"
        text = f"AttackResult({pairs}{where}: ratio {spread(self.ratio)}"
        most = int(self.evaluations.max(initial=0))
        return f"{text[:150]}, at most {most:,} evaluations)"

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the numbers of all pairs as lists, ready for JSON: None for NaN and infinity.

        `status` is a name of `advjax.Status`; where the classes' names are known, `source_class`,
        `guide_class` and `class` have them. Images and traces are left out.
        """
        table: dict[str, list[Any]] = {"pair": list(range(len(self)))}
        for name in ("ratio", "ratio_uint8", "distance", "distance_uint8", "initial_distance"):
            table[name] = [_finite(value) for value in getattr(self, name)]
        for name in ("cosine", "cosine_uint8", "objective", "delta"):
            if (column := getattr(self, name)) is not None:
                table[name] = [_finite(value) for value in column]
        if self.keeps_perceptual is not None:
            table["keeps_perceptual"] = self.keeps_perceptual.tolist()
            for name in ("ssim_uint8", "lpips_uint8"):
                if not np.isnan(column := getattr(self, name)).all():
                    table[name] = [_finite(value) for value in column]
        table["evaluations"] = self.evaluations.tolist()
        table["status"] = [Status(code).name for code in self.status]
        for name in ("source_label", "guide_label", "label", "label_uint8"):
            if (column := getattr(self, name)) is not None:
                table[name] = column.tolist()
                if self.classes and name != "label_uint8":
                    shown = name.replace("label", "class")
                    table[shown] = [self._class(label) for label in column]
        return table

    def to_pandas(self) -> Any:
        """Return `to_dict` as a `pandas.DataFrame`, a row for each pair.

        Raises:
            AdvjaxError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise AdvjaxError(
                "to_pandas needs pandas: run pip install pandas, or take to_dict"
            ) from None
        return pandas.DataFrame(self.to_dict()).set_index("pair")

    def sheet(
        self, i: int = 0, labels: tuple[Labels, Labels, Labels] | None = None, names=("", "")
    ) -> Sheet:
        """Return what the picture of pair i shows.

        Args:
            i: The pair.
            labels: The classes of source, guide and adversarial with their probabilities; without
                them only the likeliest are named.
            names: Captions of source and guide.

        Raises:
            AdvjaxError: The source or the guide is no image.
        """
        pair, name = self[i], self.settings.get("attack", "")
        source, guide = self._source(pair.index), self._guide(pair.index)
        if source is None or guide is None:
            what = "source" if source is None else "guide"
            raise AdvjaxError(
                f"the {what} of pair {pair.index} is no image, so that there is no picture of the "
                "pair; see adversarial_uint8"
            )
        kind = attacks.BY_NAME.get(name, Attack)
        trace = None
        # One step is no descent, and the objectives of many c do not compare.
        if pair.trace is not None and not kind.one_step and self.settings.get("attempts", 1) == 1:
            trace = descent(pair.trace, name, squared=self.settings.get("squared", False))
        return Sheet(
            source=source,
            guide=guide,
            adversarial=pair.adversarial_uint8,
            delta=self._delta(pair.index),
            initial_distance=pair.initial_distance,
            distance=pair.distance,
            network=self.settings.get("network", ""),
            layer=_layers(self.settings),
            labels=labels or self._labels(pair),
            trace=None if trace is None else trace.values,
            trace_title=trace.name.capitalize() if trace and trace.name != "distance" else None,
            names=names,
            attack=name,
            verdict=_verdict(pair) if kind.to_label else "",
        )

    def show(self, i: int = 0) -> "Image":
        """Return the picture of pair i: source, guide, adversarial, difference and descent.

        A notebook shows it; elsewhere call its `show()` or `save("pair.png")`.

        Raises:
            AdvjaxError: The source or the guide is no image.
        """
        from PIL import Image

        return Image.open(io.BytesIO(sheet_png(self.sheet(i))))

    def _repr_html_(self) -> str:
        """Return the first pairs with their pictures, for notebooks."""
        heads = ("", "source", "guide", "adversarial", "difference", "ratio", "evaluations")
        rows = "".join(self._row(i) for i in range(min(SHOWN, len(self))))
        more = len(self) - SHOWN
        rest = f"<p>and {more:,} more: <code>result[{SHOWN}:]</code></p>" if more > 0 else ""
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr>"
            + "".join(f"<th>{head}</th>" for head in heads)
            + f"</tr></thead><tbody>{rows}</tbody></table>{rest}"
        )

    def _row(self, i: int) -> str:
        pair, source, guide, delta = self._pair(i), self._source(i), self._guide(i), self._delta(i)
        images = [source, guide, pair.adversarial_uint8]
        labels = [pair.source_label, pair.guide_label, pair.label_uint8]
        cells = [
            _picture(image)
            + (f"<br>{html.escape(self._class(label))}" if label is not None else "")
            for image, label in zip(images, labels, strict=True)
        ]
        if source is None:
            cells.append(DASH)
        else:
            change = np.abs(np.asarray(pair.adversarial_uint8, np.float64) - source).max()
            factor = magnification(max(1.0, float(change)) if delta is None else delta)
            shown = difference(pair.adversarial_uint8, source, factor)
            cells.append(f"{_picture(shown)}<br>magnified {factor} times")
        cells = [
            str(i),
            *cells,
            f"{number(pair.ratio)}<br>8 bits: {number(pair.ratio_uint8)}",
            f'<div style="width:10em;white-space:normal">{pair.evaluations:,}<br>'
            f"{html.escape(pair.status.reason)}</div>",
        ]
        return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

    @property
    def bounds(self) -> Bounds:
        """The bounds of the images, as `Network.bounds`."""
        low, high = self.settings.get("bounds", LEVELS)
        return low, high

    def _source(self, i: int) -> np.ndarray | None:
        """Return the source in levels."""
        return None if self.source is None else to_levels(self.source[i], self.bounds)

    def _guide(self, i: int) -> np.ndarray | None:
        """Return the guide's image in levels; of several the first; None where there is none."""
        if self.guide is None:
            return None
        guide = self.guide[i] if self.guide.ndim == 4 else self.guide[i][0]
        return to_levels(guide, self.bounds)

    def _delta(self, i: int) -> float | None:
        """Return the half-width of the box in levels."""
        delta = None if self.delta is None else _finite(self.delta[i])
        return None if delta is None else delta_to_levels(delta, self.bounds)

    def _class(self, label: int) -> str:
        return self.classes.get(int(label), f"class {label}")

    def _labels(self, pair: PairResult) -> tuple[Labels, Labels, Labels] | None:
        labels = pair.source_label, pair.guide_label, pair.label_uint8
        if any(label is None for label in labels):
            return None
        source, guide, found = ([(self._class(label), math.nan)] for label in labels)  # type: ignore
        return source, guide, found

    def record(self, i: int) -> dict[str, Any]:
        """Return what `save` notes of pair i in its result.json."""
        pair = self[i]
        labels, delta = self._labels(pair), None if self.delta is None else _finite(self.delta[i])
        words = labels and [[(name, _finite(p)) for name, p in each] for each in labels]
        numbers = {pair.source_label, pair.guide_label, pair.label, pair.label_uint8}
        return {
            "figures": _figures(pair, self.settings),
            "labels": words and dict(zip(("source", "guide", "adversarial"), words, strict=True)),
            "classes": {str(n): name for n, name in self.classes.items() if n in numbers},
            "settings": {**self.settings, "delta": delta},
            "versions": versions(PACKAGES),
        }

    def save(self, folder: str | os.PathLike[str], *, sheets: bool = True) -> Path:
        """Write a folder for each pair, "00000", ..., with the files that `advjax attack` writes.

        These are adversarial.png, adversarial.safetensors (the exact image, the trace, source and
        guide), result.json (every figure and setting), and sheet.png, the picture of the pair.

        Args:
            folder: Made when missing. Pairs that an earlier `save` wrote there are replaced.
            sheets: Draw the pictures, half a second each.

        Returns:
            The folder.

        Raises:
            AdvjaxError: The folder cannot be written.
        """
        folder = Path(folder)
        for stale in folder.glob(f"*/{RECORD}"):
            if re.fullmatch(r"\d+", stale.parent.name):
                _remove(stale)
        for i in range(len(self)):
            drawn = sheets and self.source is not None and self.guide is not None
            write_pair(
                folder / f"{i:05}", self, i, self.record(i), self.sheet(i) if drawn else None
            )
        return folder

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> "AttackResult":
        """Read what `save` wrote, or a folder of `advjax attack`.

        Raises:
            AdvjaxError: The folder holds no results, or damaged ones.
        """
        folder = Path(folder)
        records = [folder / RECORD] if (folder / RECORD).is_file() else []
        records = records or sorted(folder.glob(f"*/{RECORD}"))
        if not records:
            raise AdvjaxError(
                f"{str(folder)!r} holds no results; give a folder that AttackResult.save or "
                "'advjax attack' wrote"
            )
        read = [_read_pair(record, i) for i, record in enumerate(records)]
        pairs, tensors, noted = zip(*read, strict=True)
        images = {name: _stacked([t.get(name) for t in tensors]) for name in ("source", "guide")}
        deltas = [note["settings"].get("delta") for note in noted]
        settings = {k: v for k, v in noted[0]["settings"].items() if k != "delta"}
        classes = {int(n): name for note in noted for n, name in note.get("classes", {}).items()}
        numbers = np.array([math.nan if delta is None else delta for delta in deltas])
        return stack(pairs, **images, delta=numbers, classes=classes, settings=settings)


def stack(results: Sequence[PairResult], **more: Any) -> AttackResult:
    """Stack the results of single pairs into arrays over them; `more` are the other fields."""
    longest = max((len(r.trace) for r in results if r.trace is not None), default=0)

    def column(name: str) -> Any:
        values = [getattr(result, name) for result in results]
        if any(value is None for value in values):
            return None
        if name == "trace":
            values = [np.pad(v, (0, longest - len(v)), constant_values=np.nan) for v in values]
        single = isinstance(values[0], float) or name == "layer_ratios"
        return np.asarray(values, np.float32 if single else None)

    return AttackResult(**{name: column(name) for name in COLUMNS}, **more)


def _stacked(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    shapes = {None if array is None else array.shape for array in arrays}
    return None if None in shapes or len(shapes) > 1 else np.stack(arrays)  # type: ignore


def _layers(settings: Mapping[str, Any]) -> str:
    layer = settings.get("layer", "")
    return layer if isinstance(layer, str) else ", ".join(layer)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _figures(pair: PairResult, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a pair as plain numbers for JSON; None for NaN and infinity."""
    trace: Any = []
    if pair.trace is not None:
        squared = settings.get("squared", False)
        trace = descent(pair.trace, settings.get("attack", ""), squared=squared).values

    def taken(label: int | None) -> bool | None:
        wanted = pair.guide_label
        return None if label is None or wanted is None else label == wanted

    return {
        "takes_label": taken(pair.label),
        "takes_label_uint8": taken(pair.label_uint8),
        "source_label": pair.source_label,
        "guide_label": pair.guide_label,
        "label": pair.label,
        "label_uint8": pair.label_uint8,
        "evaluations": pair.evaluations,
        "status": pair.status.name,
        "status_text": pair.status.text,
        **{name: _finite(getattr(pair, name)) for name in ("ratio_uint8", *REALS)},
        "layer_ratios": [_finite(value) for value in np.atleast_1d(pair.layer_ratios)],
        "keeps_perceptual": pair.keeps_perceptual,
        "trace": [_finite(value) for value in trace],
    }


def _verdict(pair: PairResult) -> str:
    if pair.label_uint8 == pair.guide_label:
        return "Takes the guide's label"
    if pair.label == pair.guide_label:
        return "Takes the guide's label, but not when rounded to 8 bits"
    return "Does not take the guide's label"


def write_pair(
    folder: Path, result: AttackResult, i: int, record: Mapping[str, Any], sheet: Sheet | None
) -> None:
    """Write the files of one pair; result.json is last, so that a folder that has it is whole."""
    from safetensors.numpy import save

    text = json.dumps(record, indent=2, default=str) + "\n"
    pair = result[i]
    tensors = {
        "adversarial": pair.adversarial,
        "trace": pair.trace,
        "source": None if result.source is None else result.source[i],
        "guide": None if result.guide is None else result.guide[i],
    }
    _remove(folder / RECORD)  # that of an earlier result must not speak for this one
    write_png(folder / IMAGE, pair.adversarial_uint8)
    content = {k: np.ascontiguousarray(v) for k, v in tensors.items() if v is not None}
    files.write_bytes(folder / TENSORS, save(content))
    if sheet is not None:
        draw_sheet(folder / SHEET, sheet)
    files.write_text(folder / RECORD, text)


def _read_pair(
    record: Path, index: int
) -> tuple[PairResult, dict[str, np.ndarray], dict[str, Any]]:
    """Return a pair's result, the arrays of its file, and its record."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        noted = json.loads(record.read_text(encoding="utf-8"))
        tensors = load_file(record.with_name(TENSORS))
        adversarial, figures = tensors["adversarial"], noted["figures"]
        rounded = read_image(record.with_name(IMAGE), adversarial.shape[-1])
        known: dict[str, Any] = {name: figures.get(name) for name in COLUMNS[2:]}
        known = {k: math.nan if v is None and k in REALS else v for k, v in known.items()}
        known |= {"status": Status[known["status"]], "trace": tensors.get("trace")}
        known["layer_ratios"] = np.array(known["layer_ratios"] or [None], np.float32)
        noted["settings"].get("delta")
        pair = PairResult(index, adversarial, rounded, **known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, AdvjaxError):
            raise
        raise AdvjaxError(
            f"{str(record)!r} is no whole result ({type(error).__name__}: {error}); make it again"
        ) from error
    return pair, tensors, noted


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise AdvjaxError(
            f"out {str(path.parent)!r}: {path.name} of an earlier run cannot be removed "
            f"({error.strerror}); choose another folder"
        ) from error


def _picture(image: Shaped[np.ndarray, "h w c"] | None) -> str:
    """Return an image of a page: exact where it is small, else compressed, for the eye alone."""
    if image is None:
        return DASH
    from PIL import Image

    small, content = max(image.shape[:2]) <= SMALL, io.BytesIO()
    kind = "png" if small else "jpeg"
    Image.fromarray(squeeze_grey(to_uint8(image))).save(content, kind, quality=90)
    data = base64.b64encode(content.getvalue()).decode()
    style = "width:128px" + (";image-rendering:pixelated" if small else "")
    return f'<img alt="" style="{style}" src="data:image/{kind};base64,{data}">'
