"""The report of a run: its figures, brought together for the template `page.html`.

Pictures are in the page as text, which a script makes into images as they are scrolled to;
thousands of pairs open at once.
"""

import collections
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from jaxtyping import Int

from advjax import attacks
from advjax.display import DASH, Descent, descent, infinite, mean, number, quantile
from advjax.errors import AdvjaxError
from advjax.files import write_text
from advjax.pages import template
from advjax.report import charts as draw
from advjax.report.gallery import LABELS, Pictures, Rows, View, cards, class_name, csv_heads
from advjax.runs import open_run
from advjax.runs.reading import RunData
from advjax.runs.schema import ERROR
from advjax.solvers import Status

GALLERY = 2000  # pairs with pictures
FULL, FEW = 256, 300  # pictures of so many pairs are up to so many pixels wide,
SMALL_SIDE = 144  # of more pairs, this
MAX_TRACES = 5000
MAX_GROUPS = 8  # groups of pairs with charts of their own
MAX_FAILURES = 1000  # that are listed
RATIOS = (0.1, 0.2, 0.5)


class Group(NamedTuple):
    """Pairs attacked alike: same layer, same delta."""

    layer: str
    delta: float
    rows: np.ndarray  # places in Rows

    @property
    def name(self) -> str:
        """The group's heading."""
        return f"{self.layer}, δ {self.delta:g}"


class Part(NamedTuple):
    """One run of the page."""

    mark: str  # "A" and "B" of two runs, "" of one
    name: str
    data: RunData
    rows: Rows
    good: Int[np.ndarray, "g"]  # places in Rows of the pairs that were attacked
    groups: list[Group]

    @property
    def title(self) -> str:
        """The network and the name."""
        return f"{self.data.settings['network']}, {self.name}"

    def named(self, text: str) -> str:
        """Return a text that says of which run it is."""
        return f"{self.mark} · {text}" if self.mark and text else self.mark or text


def write_report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    beside: str | os.PathLike[str] | None = None,
    gallery: int = GALLERY,
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a run, finished or not, as one HTML page; or two runs side by side.

    Args:
        run: The run's directory.
        out: The file; `report.html` in the directory when None, or `report-OTHER.html` beside
            another run.
        beside: The directory of another run. The gallery has the pairs of source and guide that
            both have attacked.
        gallery: The maximum number of pairs shown with pictures; of a larger run so many are
            chosen, evenly over the order of their ratios. Figures and charts are of all pairs.
        root: The folder that the paths of sources and guides are relative to, when the images have
            been moved.

    Returns:
        The file written.

    Raises:
        RunError: There is no run, or it is damaged.
        AdvjaxError: It has no rows yet, or the file cannot be written.

    Example:
        `advjax.report.write_report("run")`
    """
    if gallery < 0:
        raise AdvjaxError(f"gallery is {gallery}; give 0 or more pairs")
    runs = [run] if beside is None else [run, beside]
    marks = [""] if beside is None else ["A", "B"]
    parts = [_part(*each) for each in zip(marks, _names(runs), runs, strict=True)]
    first = parts[0]
    name = "report" if beside is None else f"report-{parts[1].name}"
    path = Path(out) if out is not None else first.data.path / f"{name}.html"
    alike = _alike(parts)
    chosen = _chosen(first.rows, alike[0], gallery)
    place = {row: i for i, row in enumerate(alike[0])}
    shown = [rows[[place[row] for row in chosen]] for rows in alike]
    store = Pictures(SMALL_SIDE if len(chosen) > FEW else FULL)
    mixed = any(len(part.groups) > 1 for part in parts)
    views = [View(p.mark, p.data, p.rows, at) for p, at in zip(parts, shown, strict=True)]
    gallery_cards = list(cards(views, store, root, mixed))
    page = template("advjax.report", "page.html").render(
        **_head(parts, store, len(alike[0])),
        parts=[_about_run(part) for part in parts],
        summary={"heads": HEADS, "lines": [line for part in parts for line in _summary(part)]},
        left_out=sum(max(0, len(part.groups) - MAX_GROUPS) for part in parts),
        charts=[chart for part in parts for chart in _charts(part)],
        failed=sum(int((part.rows["status"] == ERROR).sum()) for part in parts),
        failures=[row for part in parts for row in _failures(part)],
        cards=gallery_cards,
        csv_heads=csv_heads(views),
        choices=_choices(views),
        about_gallery=_about(parts, len(alike[0]), len(chosen), store),
        images=store.encoded(),
    )
    write_text(path, page)
    return path


def _names(runs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Name runs by their folders, or, where these are called alike, by the nearest that are not."""
    paths = [Path(run).resolve() for run in runs]
    upward = [[path.name, *(above.name for above in path.parents)] for path in paths]
    for folders in zip(*upward, strict=False):
        if len(set(folders)) == len(folders):
            return list(folders)
    return [path.name for path in paths]


def _part(mark: str, name: str, run: str | os.PathLike[str]) -> Part:
    """Read a run.

    Raises:
        RunError: There is no run, or it is damaged.
        AdvjaxError: It has no rows yet.
    """
    data = open_run(run)
    rows = _rows(data)
    if not len(rows["index"]):
        raise AdvjaxError(f"run {str(run)!r} has no finished pair yet; wait for the first")
    good = np.flatnonzero(rows["status"] != ERROR)
    return Part(mark, name, data, rows, good, _groups(rows, good))


def _alike(parts: Sequence[Part]) -> list[Int[np.ndarray, "p"]]:
    """Return the rows of the same pairs in each run: all of one run, the common ones of two.

    A source and a guide may stand in a run several times, as with several deltas: the first is
    beside the first, and so on.
    """
    if len(parts) == 1:
        return [parts[0].good]
    keyed = []
    for part in parts:
        seen: collections.Counter[tuple[str, str]] = collections.Counter()
        keys = {}
        for row in part.good:
            pair = part.rows["source"][row], part.rows["guide"][row]
            keys[*pair, seen[pair]] = row
            seen[pair] += 1
        keyed.append(keys)
    common = [key for key in keyed[0] if key in keyed[1]]
    return [np.array([keys[key] for key in common], int) for keys in keyed]


def _choices(views: Sequence[View]) -> dict[str, list[tuple[str, str]]]:
    """Return the values by which the gallery can be filtered, (value, name); none of one value."""
    first = views[0]
    rows, classes = first.rows, first.data.classes
    layers = list(dict.fromkeys(rows["layer"][first.chosen]))
    deltas = sorted({float(rows["delta"][row]) for row in first.chosen})
    labels = {int(rows[name][row]) for name in LABELS for row in first.chosen} - {-1}
    named = sorted((class_name(classes, label), str(label)) for label in labels)
    choices = {
        "layer": [(layer, layer) for layer in layers],
        "delta": [(repr(delta), number(delta)) for delta in deltas],
        "class": [(label, name) for name, label in named],
    }
    return {name: values for name, values in choices.items() if len(values) > 1}


def _rows(data: RunData) -> Rows:
    """Return the columns from which figures are made."""
    names = ["index", "id", "source", "guide", "layer", "delta", "status", "error", "evaluations"]
    names += ["initial_distance", "distance", "source_label", "guide_label", "keeps_perceptual"]
    for end in ("", "_uint8"):
        names += [f"{name}{end}" for name in ("ratio", "cosine", "mean_change", "max_change")]
        names += [f"psnr{end}", f"ssim{end}", f"adversarial{end}_label"]
    table = data.table(names)

    def column(name: str) -> np.ndarray:
        values = table[name]
        if pa.types.is_string(values.type):
            return np.array(values.to_pylist(), object)
        if name.endswith("_label") or name == "index":
            return values.fill_null(-1).to_numpy().astype(np.int64)
        return values.cast(pa.float64()).to_numpy(zero_copy_only=False)

    return {name: column(name) for name in names}


def _groups(rows: Rows, good: Int[np.ndarray, "g"]) -> list[Group]:
    """Return the pairs that were attacked alike, the largest group first."""
    kinds: dict[tuple[str, float], list[int]] = {}
    for row in good:
        kinds.setdefault((rows["layer"][row], rows["delta"][row]), []).append(row)
    groups = [Group(layer, delta, np.array(members)) for (layer, delta), members in kinds.items()]
    return sorted(groups, key=lambda group: -len(group.rows))


def _chosen(rows: Rows, good: Int[np.ndarray, "g"], count: int) -> Int[np.ndarray, "c"]:
    """Return up to `count` rows, evenly over the order of their ratios, smallest first."""
    order = good[np.argsort(rows["ratio"][good], kind="stable")]
    if len(order) <= count:
        return order
    return order[np.round(np.linspace(0, len(order) - 1, count)).astype(int)]


def _head(parts: Sequence[Part], store: Pictures, common: int) -> dict[str, Any]:
    notices = []
    for part in parts:
        count, total = len(part.rows["index"]), part.data.pairs
        if count < total:
            which = f"Run {part.mark}" if part.mark else "This run"
            notices.append(
                f"{which} is not finished: {count:,} of {total:,} pairs are done. Give its command "
                "again to go on, and make the report anew."
            )
    if len(parts) > 1 and not common:
        notices.append("The runs have no pair of source and guide in common.")
    if store.unreadable:
        notices.append(
            f"{len(store.unreadable):,} source and guide images are not where the run found them "
            f"({store.unreadable[0]}); give their folder with --root to see them."
        )
    shape = parts[0].data.settings["input_shape"]
    height, width = (int(side) for side in shape[:2])
    return {
        "title": " beside ".join(p.name for p in parts) if len(parts) > 1 else parts[0].title,
        "notices": notices,
        "version": parts[0].data.directory.manifest["versions"]["advjax"],
        "aspect": f"{width} / {height}",
        "pixelated": store.exact(shape),
    }


def _about_run(part: Part) -> dict[str, Any]:
    """Return what the page says of one run as a whole."""
    settings, manifest = part.data.settings, part.data.directory.manifest
    count, total, ratio = len(part.rows["index"]), part.data.pairs, part.rows["ratio"][part.good]
    tiles = [
        ("pairs" if count == total else f"of {total:,} pairs", number(count)),
        ("mean ratio", number(mean(ratio))),
        ("median ratio", number(quantile(ratio, 0.5))),
        ("attack success", _percent(_taken(part.rows, part.good))),
        ("unreadable", number(count - len(part.good))),
    ]
    kept = part.rows["keeps_perceptual"][part.good]
    if np.isfinite(kept).any():
        tiles.insert(-1, ("keep the perceptual bound", _percent(kept)))
    solver = settings["solver"]
    how = _attack_name(settings)
    if solver is not None:  # runs of earlier versions may have none
        maximum = _text(solver.get("max_evaluations"))
        how += f", {solver['name']}, at most {maximum} evaluations a pair"
    layers = dict.fromkeys([group.layer for group in part.groups] or [settings["layer"]])
    deltas = sorted({group.delta for group in part.groups} or {settings["delta"]})
    kinds = f"Layer {', '.join(layers)}, δ {', '.join(map(number, deltas[:MAX_GROUPS]))}"
    shown = {k: v for k, v in manifest.items() if k not in ("classes", "root")}
    return {
        "mark": part.mark,
        "title": part.title,
        "subtitle": f"{kinds} of 255, {how}",
        "tiles": tiles,
        "ended": _ended(part.rows, part.good),
        "settings": list(_settings(settings, manifest)),
        "origin": list(_origin(part.data)),
        "manifest": json.dumps(shown, indent=2, ensure_ascii=False),
    }


def _attack_name(settings: Mapping[str, Any]) -> str:
    """Return the attack's name; the setting may hold its options as well."""
    attack = settings["attack"]
    return attack["name"] if isinstance(attack, Mapping) else attack


def _settings(
    settings: Mapping[str, Any], manifest: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            value = ", ".join(
                str(v) if k == "name" else f"{k.replace('_', ' ')} {_text(v)}"
                for k, v in value.items()
            )
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = " x ".join(map(str, value))
        text = _text(value)
        if re.fullmatch("[0-9a-f]{32,}", text):  # a digest; the manifest has the whole of it
            text = text[:12] + "…"
        yield name.replace("_", " "), text
    yield "devices at the start", str(manifest.get("devices", "unknown"))
    yield "versions at the start", ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())


def _origin(data: RunData) -> Iterator[tuple[str, str]]:
    """Yield what the sessions of a run say of where its rows come from; nothing of an older run."""
    history = data.history
    if not history:
        return
    first, last = history[0], history[-1]
    yield "command", first["command"]
    if (latest := last["command"]) != first["command"]:
        yield "the last command", latest
    yield "folder", str(first.get("folder", DASH))
    yield "start", first["start"]
    yield "end", max((s["end"] for s in history if s.get("end")), default="not recorded")
    killed = sum(1 for session in history if not session.get("end"))
    some = f", {killed:,} of them without an end: killed, or still at work" if killed else ""
    yield "sessions", f"{len(history):,}{some}"
    for name in ("host", "system", "devices"):
        yield name, "; ".join(dict.fromkeys(str(session.get(name, DASH)) for session in history))
    made = [", ".join(f"{k} {v}" for k, v in s.get("versions", {}).items()) for s in history]
    yield "versions", "; ".join(dict.fromkeys(made))
    named = {name: value for s in history for name, value in s.get("files", {}).items()}
    yield from named.items()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    return DASH if value is None else str(value)


HEADS = (
    *("layer, δ", "pairs", "mean ratio", "median", "10 %", "90 %"),
    *(f"under {ratio:g}" for ratio in RATIOS),
    "cosine",
    *("attack success", "leaves the source's label", "mean change", "largest", "PSNR", "SSIM"),
    "evaluations",
)


def _summary(part: Part) -> list[tuple[str, list[str]]]:
    """Return the lines of a table: each group before and after rounding."""
    named = [("All pairs", part.good)] if len(part.groups) > 1 else []
    named += [(group.name, group.rows) for group in part.groups[:MAX_GROUPS]]
    return [
        (part.named(name) + text, _figures(part.rows, at, end))
        for name, at in named
        for end, text in (("", ""), ("_uint8", " in 8 bits"))
    ]


def _figures(rows: Rows, at: Int[np.ndarray, "g"], end: str) -> list[str]:
    ratio = rows[f"ratio{end}"][at]
    label, known = rows[f"adversarial{end}_label"][at], rows["source_label"][at] >= 0
    left = np.where(known, label != rows["source_label"][at], np.nan)
    return [
        number(len(at)),
        _mean(ratio),
        *(number(quantile(ratio, fraction)) for fraction in (0.5, 0.1, 0.9)),
        *(_percent(ratio < limit) for limit in RATIOS),
        _mean(rows[f"cosine{end}"][at]),
        _percent(_taken(rows, at, end)),
        _percent(left),
        _mean(rows[f"mean_change{end}"][at]),
        number(quantile(rows[f"max_change{end}"][at], 1)),
        _mean(rows[f"psnr{end}"][at]),
        _mean(rows[f"ssim{end}"][at]),
        "" if end else number(mean(rows["evaluations"][at])),
    ]


def _mean(values: Any) -> str:
    """Return the mean of the finite values, and how many are infinite."""
    left_out = infinite(values)
    return number(mean(values)) + (f" ({left_out:,} infinite)" if left_out else "")


def _ended(rows: Rows, good: Int[np.ndarray, "g"]) -> str:
    names, counts = np.unique(rows["status"][good].astype(str), return_counts=True)
    return "; ".join(
        f"{count:,} because {_reason(name)}" for name, count in zip(names, counts, strict=True)
    )


def _reason(status: str) -> str:
    """Return why a pair ended in words, without what to do about it."""
    return Status[status].reason if status in Status.__members__ else status


def _charts(part: Part) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield each group's heading and its charts, (caption, SVG)."""
    rows = part.rows
    for group in part.groups[:MAX_GROUPS]:
        at = group.rows
        charts = [
            ("Ratio", draw.histogram(rows["ratio"][at], "ratio")),
            ("Distance of adversarial and guide", draw.histogram(rows["distance"][at], "distance")),
            ("Mean change of a pixel", draw.histogram(rows["mean_change"][at], "levels of 255")),
        ]
        ssim = rows["ssim"][at]
        if np.isfinite(ssim).any():
            charts.append(("Likeness to the source", draw.histogram(ssim, "SSIM")))
        curves = _curves(part.data, rows, at)
        if curves is not None:
            charts.insert(1, ("Descent", draw.descent(curves.values, curves.name)))
        yield part.named(group.name if len(part.groups) > 1 else ""), charts


def _curves(data: RunData, rows: Rows, at: Int[np.ndarray, "g"]) -> Descent | None:
    """Return each pair's smallest distance so far, as a fraction of its initial distance.

    The objective as it is, where it is no squared distance. A pair that ended early keeps its last
    value. None when no pair has a trace, or when a trace is of several objectives.
    """
    attack = _attack_name(data.settings)
    if attack in attacks.BY_NAME:
        kind = attacks.BY_NAME[attack]()
        squared, attempts = kind.squared, kind.attempts
    else:
        squared, attempts = (data.settings["attack"][name] for name in ("squared", "attempts"))
    if attempts > 1:
        return None
    kept = at[np.round(np.linspace(0, len(at) - 1, min(len(at), MAX_TRACES))).astype(int)]
    initial = dict(zip(rows["index"][kept], rows["initial_distance"][kept], strict=True))
    wanted = ds.field("index").isin(list(map(int, initial)))
    table = data.table(["index", "trace"], wanted)
    name, traces = "", []
    for index, trace in zip(table["index"].to_pylist(), table["trace"], strict=True):
        values, name = descent(
            trace.values if trace.is_valid else [], attack, squared=squared, rooted=True
        )
        unit = initial[index] if squared else 1.0
        if values.size and unit > 0 and np.isfinite(values[0]):
            traces.append(np.fmin.accumulate(values) / unit)
    if not traces:
        return None
    longest = max(map(len, traces))
    curves = [np.pad(trace, (0, longest - len(trace)), "edge") for trace in traces]
    return Descent(np.stack(curves), f"{name} / initial distance" if squared else name)


def _failures(part: Part) -> list[list[Any]]:
    failed = np.flatnonzero(part.rows["status"] == ERROR)[:MAX_FAILURES]
    names = ("id", "source", "guide", "error")
    return [
        [part.named(part.rows["id"][row]), *(part.rows[n][row] for n in names[1:])]
        for row in failed
    ]


def _about(parts: Sequence[Part], good: int, chosen: int, store: Pictures) -> str:
    shape = parts[0].data.settings["input_shape"]
    text = "The number on a pair is its ratio. "
    if len(parts) > 1:
        text = f"The {good:,} pairs that both runs have attacked, with their ratios. "
    text += "A click on a picture enlarges it. "
    if chosen < good:
        text += (
            f"{chosen:,} of {good:,} pairs are shown, chosen evenly over the order of ratios; "
            "figures and charts are of all. "
        )
    if store.exact(shape):
        text += "Pictures are exact, 8 bits. "
    else:
        size = f"{min(store.side, max(shape[:2]))} pixels wide"
        text += f"Pictures are JPEG, {size}; the run keeps the adversarials exactly, as PNG. "
    return text + "Labels of adversarials are those of the 8-bit images."


def _taken(rows: Rows, at: Int[np.ndarray, "g"], end: str = "") -> np.ndarray:
    """Return 1 for each pair that takes the guide's label, 0, or NaN where there are no labels."""
    label, guide = rows[f"adversarial{end}_label"][at], rows["guide_label"][at]
    return np.where(guide >= 0, label == guide, np.nan)


def _percent(values: np.ndarray) -> str:
    fraction = mean(values)
    return DASH if np.isnan(fraction) else f"{100 * fraction:.3g} %"
