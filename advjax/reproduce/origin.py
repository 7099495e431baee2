"""How a target was made, and OUT/settings.json and OUT/index.html, which keep it."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advjax import files
from advjax.display import number, versions
from advjax.pages import template
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import DASH, Made, columns, shown
from advjax.reproduce.published import DELTA
from advjax.reproduce.settings import Settings
from advjax.runs import open_run
from advjax.runs.history import PACKAGES, command

SETTINGS, INDEX = "settings.json", "index.html"


def origin(
    experiments: Experiments, chosen: Sequence[Experiment], measured: bool
) -> dict[str, str]:
    """Return how a target was made, by what is said.

    Args:
        experiments: The settings and what was made with them.
        chosen: The target's attacks, which are done.
        measured: The target was measured beside the training images.
    """
    s = experiments.settings
    lines: dict[str, str] = {}
    budgets = experiments.budgets(chosen)
    if len(set(budgets.values())) > 1:
        each = ", ".join(f"{attack} {count:,}" for attack, count in budgets.items())
        lines["not at equal budgets"] = (
            f"the attacks had different numbers of evaluations of a pair ({each}), so that "
            "they cannot be compared by these numbers alone"
        )
    lines["network"] = "; ".join(_of_networks(experiments, chosen)) or s.model.name
    if chosen:
        lines["attacks"] = "; ".join(_of_attacks(experiments, chosen))
        lines["pairs"] = _of_pairs(experiments, chosen)
        deltas = dict.fromkeys(e.delta for e in chosen if e.attack != "label-opt")
        if deltas:
            lines["delta"] = f"{', '.join(map(number, deltas))} levels of 255"
    if measured:
        p = s.protocol
        lines["measured"] = (
            f"beside {len(experiments.training.names):,} images of {len(experiments.classes):,} "
            f"classes; {p.neighbours} neighbours, {p.near} near and {p.far[0]} to {p.far[1]} far "
            f"ones, {p.reference} of reference, {p.components} components"
        )
    lines["seed"] = str(s.seed)
    lines["date"] = _date(experiments, chosen)
    usual = Settings()
    lines["the paper"] = (
        f"trained networks, {usual.max_evaluations} evaluations of L-BFGS for each pair, "
        f"{usual.source_count} sources and {usual.guide_count:,} guides, delta {DELTA:g}"
    )
    return lines


def _of_networks(experiments: Experiments, chosen: Sequence[Experiment]) -> list[str]:
    texts = []
    for model in dict.fromkeys(experiment.model for experiment in chosen):
        layers = dict.fromkeys(e.layer for e in chosen if e.model == model)
        texts.append(f"{model.name} at {', '.join(layers)}")
    return texts


def _of_attacks(experiments: Experiments, chosen: Sequence[Experiment]) -> list[str]:
    texts, s = [], experiments.settings
    solver = s.solver + (" with smoothed gradients" if s.smoothing == "auto" else "")
    budgets = experiments.budgets(chosen)
    for attack in dict.fromkeys(experiment.attack for experiment in chosen):
        if attack not in budgets:
            texts.append(f"{attack}, one signed step")
        else:
            count = s.evaluations(attack)
            some = "" if budgets[attack] == count else f" for each of {budgets[attack] // count} c"
            texts.append(f"{attack} by {solver}, at most {count:,} evaluations of a pair{some}")
    return texts


def _of_pairs(experiments: Experiments, chosen: Sequence[Experiment]) -> str:
    """Return how many pairs each attack has, and of how many it could not be made."""
    texts = []
    for pool in dict.fromkeys(experiment.pool for experiment in chosen):
        pairs = experiments.pairs(pool)
        text = f"{len(pairs.sources):,} of {len(set(pairs.sources)):,} sources and "
        text += f"{len(set(pairs.guides)):,} guides"
        failed = max(experiments.failed(e) for e in chosen if e.pool == pool)
        if failed:
            text += f", up to {failed:,} of which could not be attacked"
        texts.append(text if pool == chosen[0].pool else f"{pool}: {text}")
    return "; ".join(texts)


def _date(experiments: Experiments, chosen: Sequence[Experiment]) -> str:
    """Return when the attacks were made, and when the target was drawn."""
    history = [s for e in chosen for s in open_run(experiments.folder(e)).history]
    drawn = f"drawn {_now()} by advjax {_version()}"
    if not history:
        return drawn
    first = min(session["start"] for session in history)
    last = max(session["end"] or session["start"] for session in history)
    hosts = ", ".join(dict.fromkeys(session["host"] for session in history))
    devices = ", ".join(dict.fromkeys(session["devices"] for session in history))
    return f"attacks {first} to {last} on {hosts} ({devices}), {drawn}"


def _version() -> str:
    return versions(["advjax"]).get("advjax", DASH)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def text(lines: Mapping[str, str]) -> str:
    """Return how a target was made as a Markdown list.

    Example:
        >>> print(text({"seed": "0", "delta": "10 levels of 255"}))
        * seed: 0
        * delta: 10 levels of 255
    """
    return "\n".join(f"* {name}: {line}" for name, line in lines.items())


def keep(
    settings: Settings, name: str, what: str, made: Made, lines: Mapping[str, str], figure: str
) -> None:
    """Add a target to OUT/settings.json, and make OUT/index.html of all that are there.

    Args:
        settings: The settings of this command.
        name: The target.
        what: What it is.
        made: Its tables.
        lines: How it was made.
        figure: The name of its figure's file; "" without one.
    """
    path = settings.out / SETTINGS
    targets: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        targets = dict(json.loads(path.read_text(encoding="utf-8"))["targets"])
    targets[name] = {
        "what": what,
        "command": command(),
        "folder": os.getcwd(),
        "versions": versions(PACKAGES),
        "settings": dataclasses.asdict(settings),
        "origin": dict(lines),
        "tables": [file_name(name, more) for more in made.tables],
        "figure": figure,
        "beside": columns(made.beside),
        "words": made.words,
    }
    plain = json.dumps({"targets": targets}, indent=1, default=_plain, ensure_ascii=False)
    files.write_text(path, plain + "\n")
    files.write_text(settings.out / INDEX, page(json.loads(plain)["targets"]))


def file_name(target: str, more: str) -> str:
    """Return the name of one of a target's tables."""
    return f"{target}{'-' if more else ''}{more}.csv"


def page(targets: Mapping[str, Any]) -> str:
    """Return the index of the targets of OUT/settings.json as an HTML page."""
    known = sorted(targets.items(), key=lambda item: item[0].casefold())
    return template("advjax.reproduce", "index.html").render(
        targets=[(name, target, _rows(target["beside"])) for name, target in known],
        version=_version(),
    )


def _rows(table: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """Return the rows of columns as text; the first one has the headings."""
    cells = [[str(name).strip(), *map(shown, values)] for name, values in table.items()]
    return [list(row) for row in zip(*cells, strict=True)] if cells else [[DASH]]


def _plain(value: Any) -> Any:
    """Return what JSON does not know as what it knows."""
    return str(value) if isinstance(value, Path) else value.item()
