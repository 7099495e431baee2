"""A run as one HTML page: no server, no resource from elsewhere.

The page is `page.html` with its `{{places}}` filled. Pictures are in it as text, which a script
makes into images as they are scrolled to; thousands of pairs open at once.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from jaxtyping import Int

from advjax.errors import AdvjaxError
from advjax.files import write_text
from advjax.report.charts import DASH, descent, histogram, number
from advjax.report.gallery import Pictures, Rows, cards
from advjax.runs import open_run
from advjax.runs.reading import RunData
from advjax.runs.schema import ERROR

GALLERY = 2000  # pairs with pictures
FULL, FEW = 256, 300  # pictures of so many pairs are up to so many pixels wide,
SMALL = 144  # of more pairs, this
MOST_TRACES = 5000
MOST_GROUPS = 8  # settings of pairs with charts of their own
MOST_FAILURES = 1000  # that are listed
SHARES = (0.1, 0.2, 0.5)


class Group(NamedTuple):
    """Pairs attacked alike: same layer, same delta."""

    layer: str
    delta: float
    rows: np.ndarray  # places in Rows

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.layer}, δ {self.delta:g}"


def write_report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    gallery: int = GALLERY,
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a run, finished or not, as one HTML page.

    Args:
        run: The run's directory.
        out: The file; `report.html` in the directory when None.
        gallery: The most pairs shown with pictures; of a larger run so many are chosen, evenly over
            the order of their ratios. Figures and charts are of all pairs.
        root: What the paths of sources and guides are relative to, when the images have been moved.

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
    store = Pictures(SMALL if len(chosen) > FEW else FULL)
    gallery_cards = list(cards(data, rows, chosen, store, root, len(groups) > 1))
    places = {
        **_head(data, rows, good, groups, store),
        "summary": _summary(rows, good, groups),
        "charts": "".join(_charts(data, rows, groups)),
        "failures": _failures(rows),
        "gallery": "".join(gallery_cards),
        "about_gallery": _about(data, len(good), len(chosen), store),
        "images": "".join(store.written()),
    }
    template = resources.files("advjax.report").joinpath("page.html").read_text(encoding="utf-8")
    # One pass, so that a file called "{{title}}" is only a name.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: places[match[1]], template)
    write_text(path, page)
    return path


def _rows(data: RunData) -> Rows:
    """The columns that figures are made of."""
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
    """The pairs that were attacked alike, the largest group first."""
    kinds: dict[tuple[str, float], list[int]] = {}
    for row in good:
        kinds.setdefault((rows["layer"][row], rows["delta"][row]), []).append(row)
    groups = [Group(layer, delta, np.array(found)) for (layer, delta), found in kinds.items()]
    return sorted(groups, key=lambda group: -len(group.rows))


def _chosen(rows: Rows, good: Int[np.ndarray, "g"], most: int) -> Int[np.ndarray, "c"]:
    """At most so many rows, evenly over the order of their ratios, smallest first."""
    order = good[np.argsort(rows["ratio"][good], kind="stable")]
    if len(order) <= most:
        return order
    return order[np.round(np.linspace(0, len(order) - 1, most)).astype(int)]


def _head(
    data: RunData,
    rows: Rows,
    good: Int[np.ndarray, "g"],
    groups: Sequence[Group],
    store: Pictures,
) -> dict[str, str]:
    settings, count, total = data.settings, len(rows["index"]), data.pairs
    failed = count - len(good)
    ratio = rows["ratio"][good]
    tiles = [
        (number(count), "pairs" if count == total else f"of {total:,} pairs"),
        (number(_mean(ratio)), "mean ratio"),
        (number(_median(ratio)), "median ratio"),
        (_share(_taken(rows, good)), "take the guide's label"),
        (number(failed), "failed"),
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
    manifest, solver = data.store.manifest, settings["solver"]
    how = settings["attack"]
    if solver is not None:  # the fast gradients have none, and label-opt may have its usual one
        most = _text(solver.get("max_evaluations"))
        how += f", {solver['name']}, at most {most} evaluations a pair"
    layers = dict.fromkeys([group.layer for group in groups] or [settings["layer"]])
    deltas = sorted({group.delta for group in groups} or {settings["delta"]})
    kinds = f"Layer {', '.join(layers)}, δ {', '.join(map(number, deltas[:MOST_GROUPS]))}"
    shown = {k: v for k, v in manifest.items() if k not in ("classes", "root")}
    return {
        "title": html.escape(f"{settings['network']}, {data.path.resolve().name}"),
        "subtitle": html.escape(f"{kinds} of 255, {how}"),
        "notices": "".join(f'<p class="notice">{html.escape(text)}</p>' for text in notices),
        "tiles": "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for value, name in tiles),
        "settings": "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"
            for name, text in _settings(settings, manifest)
        ),
        "manifest": html.escape(json.dumps(shown, indent=2, ensure_ascii=False)),
        "footer": f"Made by advjax {html.escape(manifest['versions']['advjax'])}.",
        "aspect": "{1} / {0}".format(*settings["input_shape"]),
        "rendering": "image-rendering: pixelated;" if settings["input_shape"][0] <= 64 else "",
    }


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
    yield "devices", str(manifest.get("devices", "unknown"))
    yield "versions", ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    return DASH if value is None else str(value)


def _summary(rows: Rows, good: Int[np.ndarray, "g"], groups: Sequence[Group]) -> str:
    """A table: each group as it was found and as it was rounded."""
    if not len(good):
        return '<p class="quiet">No pair was attacked.</p>'
    heads = ["", "pairs", "mean ratio", "median", "10 %", "90 %"]
    heads += [f"under {share:g}" for share in SHARES]
    heads += ["guide's label", "leaves the source's", "mean change", "largest", "PSNR", "SSIM"]
    heads += ["evaluations"]
    named = [("All pairs", good)] if len(groups) > 1 else []
    named += [(group.name, group.rows) for group in groups[:MOST_GROUPS]]
    lines = []
    for name, at in named:
        for end, what in (("", ""), ("_uint8", " in 8 bits")):
            ratio = rows[f"ratio{end}"][at]
            low, high = _quantiles(ratio)
            label, known = rows[f"adversarial{end}_label"][at], rows["source_label"][at] >= 0
            left = np.where(known, label != rows["source_label"][at], np.nan)
            cells = [number(len(at)), number(_mean(ratio)), number(_median(ratio))]
            cells += [number(low), number(high)]
            cells += [_share((ratio < share).astype(float)) for share in SHARES]
            cells += [_share(_taken(rows, at, end)), _share(left)]
            cells += [number(_mean(rows[f"{n}{end}"][at])) for n in ("mean_change",)]
            cells += [number(_most(rows[f"max_change{end}"][at]))]
            cells += [number(_mean(rows[f"{n}{end}"][at])) for n in ("psnr", "ssim")]
            cells += [number(_mean(rows["evaluations"][at])) if not end else ""]
            body = "".join(f"<td>{cell}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{html.escape(name + what)}</th>{body}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rest = len(groups) - MOST_GROUPS
    note = f'<p class="quiet">{rest} smaller groups are not shown.</p>' if rest > 0 else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-labelledby="summary"><table><thead>'
        f"<tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{note}"
        '<p class="quiet">Ratio: distance of adversarial and guide by distance of source and '
        f"guide, at the layer. Changes are in levels of 255. {_ended(rows, good)}</p>"
    )


def _ended(rows: Rows, good: Int[np.ndarray, "g"]) -> str:
    names, counts = np.unique(rows["status"][good].astype(str), return_counts=True)
    said = [f"{count:,} {name}" for name, count in zip(names, counts, strict=True)]
    return "Ended by: " + ", ".join(said) + "."


def _charts(data: RunData, rows: Rows, groups: Sequence[Group]) -> Iterator[str]:
    if not groups:
        return
    yield '<section aria-labelledby="charts"><h2 id="charts">Distributions and descent</h2>'
    for group in groups[:MOST_GROUPS]:
        at = group.rows
        charts = [
            ("Ratio", histogram(rows["ratio"][at], "ratio")),
            ("Distance of adversarial and guide", histogram(rows["distance"][at], "distance")),
            ("Mean change of a pixel", histogram(rows["mean_change"][at], "levels of 255")),
        ]
        ssim = rows["ssim"][at]
        if np.isfinite(ssim).any():
            charts.append(("Likeness to the source", histogram(ssim, "SSIM")))
        curves = _curves(data, rows, at)
        if curves is not None:
            charts.insert(1, ("Descent", descent(curves, "distance / initial distance")))
        if len(groups) > 1:
            yield f"<h3>{html.escape(group.name)}</h3>"
        drawn = (
            f"<figure><figcaption>{name}</figcaption>{chart}</figure>" for name, chart in charts
        )
        yield f'<div class="charts">{"".join(drawn)}</div>'
    yield "</section>"


def _curves(data: RunData, rows: Rows, at: Int[np.ndarray, "g"]) -> np.ndarray | None:
    """Shares of the initial distance, the best so far; a pair that ended early keeps its last."""
    kept = at[np.round(np.linspace(0, len(at) - 1, min(len(at), MOST_TRACES))).astype(int)]
    initial = dict(zip(rows["index"][kept], rows["initial_distance"][kept], strict=True))
    wanted = ds.field("index").isin(list(map(int, initial)))
    found = data.table(["index", "trace"], wanted)
    traces = []
    for index, trace in zip(found["index"].to_pylist(), found["trace"], strict=True):
        values = np.asarray(trace.values, np.float64) if trace.is_valid else np.zeros(0)
        if values.size and initial[index] > 0 and np.isfinite(values[0]):
            traces.append(np.fmin.accumulate(values) / initial[index])
    if not traces:
        return None
    longest = max(map(len, traces))
    return np.stack([np.pad(trace, (0, longest - len(trace)), "edge") for trace in traces])


def _failures(rows: Rows) -> str:
    failed = np.flatnonzero(rows["status"] == ERROR)
    if not len(failed):
        return '<p class="quiet">None.</p>'
    lines = []
    for row in failed[:MOST_FAILURES]:
        cells = "".join(
            f"<td>{html.escape(str(rows[name][row]))}</td>" for name in ("source", "guide", "error")
        )
        lines.append(f'<tr><th scope="row">{html.escape(rows["id"][row])}</th>{cells}</tr>')
    more = f", the first {MOST_FAILURES:,} of them here" if len(failed) > MOST_FAILURES else ""
    head = "".join(
        f'<th scope="col">{n}</th>' for n in ("pair", "source", "guide", "what is wrong")
    )
    return (
        f"<p>{len(failed):,} {'pair' if len(failed) == 1 else 'pairs'} could not be "
        f'attacked{more}. <code>--retry-failed</code> does them again.</p><div class="wide text" '
        f'tabindex="0" role="region" aria-labelledby="failures"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


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
    """Whether each takes the guide's label: 1, 0, or NaN where there are no labels."""
    label, guide = rows[f"adversarial{end}_label"][at], rows["guide_label"][at]
    return np.where(guide >= 0, label == guide, np.nan)


def _share(values: np.ndarray) -> str:
    mean = _mean(values)
    return DASH if np.isnan(mean) else f"{100 * mean:.3g} %"


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _median(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if values.size else float("nan")


def _most(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.max()) if values.size else float("nan")


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, (0.1, 0.9))
    return float(low), float(high)
