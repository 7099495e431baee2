"""The report of a run: its figures, brought together for the template `page.html`.

Pictures are in the page as text, which a script makes into images as they are scrolled to;
thousands of pairs open at once.
"""

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
from advjax.report.gallery import Pictures, Rows, cards
from advjax.runs import open_run
from advjax.runs.reading import RunData
from advjax.runs.schema import ERROR

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


def write_report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    gallery: int = GALLERY,
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a run, finished or not, as one HTML page.

    Args:
        run: The run's directory.
        out: The file; `report.html` in the directory when None.
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
    data = open_run(run)
    rows = _rows(data)
    if not len(rows["index"]):
        raise AdvjaxError(f"run {str(run)!r} has no finished pair yet; wait for the first")
    path = Path(out) if out is not None else data.path / "report.html"
    good = np.flatnonzero(rows["status"] != ERROR)
    groups = _groups(rows, good)
    chosen = _chosen(rows, good, gallery)
    store = Pictures(SMALL_SIDE if len(chosen) > FEW else FULL)
    gallery_cards = list(cards(data, rows, chosen, store, root, len(groups) > 1))
    page = template("advjax.report", "page.html").render(
        **_head(data, rows, good, groups, store),
        summary=_summary(rows, good, groups),
        ended=_ended(rows, good),
        left_out=max(0, len(groups) - MAX_GROUPS),
        charts=list(_charts(data, rows, groups)),
        failed=int((rows["status"] == ERROR).sum()),
        failures=_failures(rows),
        cards=gallery_cards,
        about_gallery=_about(data, len(good), len(chosen), store),
        images=store.encoded(),
    )
    write_text(path, page)
    return path


def _rows(data: RunData) -> Rows:
    """Return the columns from which figures are made."""
    names = ["index", "id", "source", "guide", "layer", "delta", "status", "error", "evaluations"]
    names += ["initial_distance", "distance", "source_label", "guide_label"]
    for end in ("", "_uint8"):
        names += [f"{n}{end}" for n in ("ratio", "mean_change", "max_change", "psnr", "ssim")]
        names.append(f"adversarial{end}_label")
    table = data.table(names)

    def column(name: str) -> np.ndarray:
        values = table[name]
        if pa.types.is_string(values.type):
            return np.array(values.to_pylist(), object)
        if name.endswith("_label") or name == "index":
            return values.fill_null(-1).to_numpy().astype(np.int64)
        return values.to_numpy(zero_copy_only=False).astype(np.float64)

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


def _head(
    data: RunData,
    rows: Rows,
    good: Int[np.ndarray, "g"],
    groups: Sequence[Group],
    store: Pictures,
) -> dict[str, Any]:
    settings, count, total = data.settings, len(rows["index"]), data.pairs
    failed = count - len(good)
    ratio = rows["ratio"][good]
    tiles = [
        ("pairs" if count == total else f"of {total:,} pairs", number(count)),
        ("mean ratio", number(mean(ratio))),
        ("median ratio", number(quantile(ratio, 0.5))),
        ("take the guide's label", _percent(_taken(rows, good))),
        ("failed", number(failed)),
    ]
    notices = []
    if count < total:
        notices.append(
            f"This run is not finished: {count:,} of {total:,} pairs are done. Give its command "
            "again to go on, and make the report anew."
        )
    if store.unreadable:
        first = store.unreadable[0]
        notices.append(
            f"{len(store.unreadable):,} source and guide images are not where the run found them "
            f"({first}); give their folder with --root to see them."
        )
    manifest, solver = data.directory.manifest, settings["solver"]
    how = _attack_name(settings)
    if solver is not None:  # runs of earlier versions may have none
        maximum = _text(solver.get("max_evaluations"))
        how += f", {solver['name']}, at most {maximum} evaluations a pair"
    layers = dict.fromkeys([group.layer for group in groups] or [settings["layer"]])
    deltas = sorted({group.delta for group in groups} or {settings["delta"]})
    kinds = f"Layer {', '.join(layers)}, δ {', '.join(map(number, deltas[:MAX_GROUPS]))}"
    shown = {k: v for k, v in manifest.items() if k not in ("classes", "root")}
    height, width = (int(side) for side in settings["input_shape"][:2])
    return {
        "title": f"{settings['network']}, {data.path.resolve().name}",
        "subtitle": f"{kinds} of 255, {how}",
        "notices": notices,
        "tiles": tiles,
        "settings": list(_settings(settings, manifest)),
        "origin": list(_origin(data)),
        "manifest": json.dumps(shown, indent=2, ensure_ascii=False),
        "version": manifest["versions"]["advjax"],
        "aspect": f"{width} / {height}",
        "pixelated": store.exact(settings["input_shape"]),
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
    *("", "pairs", "mean ratio", "median", "10 %", "90 %"),
    *(f"under {ratio:g}" for ratio in RATIOS),
    *("guide's label", "leaves the source's", "mean change", "largest", "PSNR", "SSIM"),
    "evaluations",
)


def _summary(rows: Rows, good: Int[np.ndarray, "g"], groups: Sequence[Group]) -> dict[str, Any]:
    """Return a table: each group before and after rounding."""
    named = [("All pairs", good)] if len(groups) > 1 else []
    named += [(group.name, group.rows) for group in groups[:MAX_GROUPS]]
    lines = [
        (name + text, _figures(rows, at, end))
        for name, at in named
        for end, text in (("", ""), ("_uint8", " in 8 bits"))
    ]
    return {"heads": HEADS, "lines": lines}


def _figures(rows: Rows, at: Int[np.ndarray, "g"], end: str) -> list[str]:
    ratio = rows[f"ratio{end}"][at]
    label, known = rows[f"adversarial{end}_label"][at], rows["source_label"][at] >= 0
    left = np.where(known, label != rows["source_label"][at], np.nan)
    return [
        number(len(at)),
        _mean(ratio),
        *(number(quantile(ratio, fraction)) for fraction in (0.5, 0.1, 0.9)),
        *(_percent(ratio < limit) for limit in RATIOS),
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
    return ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True))


def _charts(
    data: RunData, rows: Rows, groups: Sequence[Group]
) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield each group's heading and its charts, (caption, SVG)."""
    for group in groups[:MAX_GROUPS]:
        at = group.rows
        charts = [
            ("Ratio", draw.histogram(rows["ratio"][at], "ratio")),
            ("Distance of adversarial and guide", draw.histogram(rows["distance"][at], "distance")),
            ("Mean change of a pixel", draw.histogram(rows["mean_change"][at], "levels of 255")),
        ]
        ssim = rows["ssim"][at]
        if np.isfinite(ssim).any():
            charts.append(("Likeness to the source", draw.histogram(ssim, "SSIM")))
        curves = _curves(data, rows, at)
        if curves is not None:
            charts.insert(1, ("Descent", draw.descent(curves.values, curves.name)))
        yield (group.name if len(groups) > 1 else "", charts)


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


def _failures(rows: Rows) -> list[list[Any]]:
    failed = np.flatnonzero(rows["status"] == ERROR)[:MAX_FAILURES]
    names = ("id", "source", "guide", "error")
    return [[rows[name][row] for name in names] for row in failed]


def _about(data: RunData, good: int, chosen: int, store: Pictures) -> str:
    shape = data.settings["input_shape"]
    text = "The number on a pair is its ratio. "
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
