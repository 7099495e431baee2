"""Figure 5: the distance ratio reached within delta, by layer; and the linear hypothesis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advjax.reproduce import published
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, plus_minus, standard_error
from advjax.reproduce.style import BLACK, COLUMN, CYCLE, GREY, MARKERS, panels

ATTACKS = ("feature-opt", "feature-linear")


def needs(experiments: Experiments) -> list[Experiment]:
    """Return each attack at each layer within each delta."""
    model = experiments.settings.model
    return [
        Experiment(model, attack, layer, delta)
        for attack in ATTACKS
        for layer in experiments.layers(model)[::-1]
        for delta in experiments.settings.deltas
    ]


def make(experiments: Experiments) -> Made:
    """Make the mean ratios."""
    rows, budgets = [], experiments.budgets(needs(experiments))
    for experiment in needs(experiments):
        results = experiments.column(experiment, "ratio", "ratio_uint8", "max_change")
        ratio = results["ratio"]
        rows.append(
            {
                "attack": experiment.attack,
                "layer": experiment.layer,
                "delta": experiment.delta,
                "pairs": len(ratio),
                "evaluations": budgets[experiment.attack],
                "ratio": float(ratio.mean()),
                "ratio_error": standard_error(ratio),
                "ratio_uint8": float(results["ratio_uint8"].mean()),
                "paper": paper(experiment),
            }
        )
    return Made({"": columns(rows)}, beside(rows), figure(rows))


def paper(experiment: Experiment) -> float | None:
    """Return the published mean ratio of this experiment, or None."""
    known = {"feature-opt": published.RATIO, "feature-linear": published.LINEAR_RATIO}
    return known[experiment.attack].get(experiment.layer) if experiment.published else None


def beside(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each attack and layer, with a column for each delta."""
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = results.setdefault(
            (row["attack"], row["layer"]),
            {name: row[name] for name in ("attack", "layer", "evaluations")},
        )
        line[f"delta {row['delta']:g}"] = plus_minus(row["ratio"], row["ratio_error"])
        line["paper, delta 10"] = line.pop("paper, delta 10", None) or row["paper"]
    return list(results.values())


def figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw a line for each layer, dashed and pale for the linear attack."""
    drawn, axes = panels(1, 1, COLUMN, 2.5)
    axes = axes[0, 0]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    for attack, line in zip(ATTACKS, ("-", ":"), strict=True):
        for i, layer in enumerate(layers):
            mine = [row for row in rows if (row["attack"], row["layer"]) == (attack, layer)]
            at = [row["delta"] for row in mine]
            ratio = np.array([row["ratio"] for row in mine])
            error = np.array([row["ratio_error"] or 0.0 for row in mine])
            colour = CYCLE[i % len(CYCLE)]
            axes.plot(
                at,
                ratio,
                linestyle=line,
                marker=MARKERS[i % len(MARKERS)],
                color=colour,
                markerfacecolor=colour if attack == ATTACKS[0] else "white",
                label=layer if attack == ATTACKS[0] else None,
            )
            axes.fill_between(at, ratio - error, ratio + error, color=colour, alpha=0.15, lw=0)
    for attack, line in zip(ATTACKS, ("-", ":"), strict=True):
        axes.plot([], [], color=GREY, linestyle=line, label=attack)
    axes.fill_between([], [], color=GREY, alpha=0.3, lw=0, label="± standard error")
    axes.axhline(1, color=BLACK, linewidth=0.4, linestyle="--", label="the source")
    axes.set_xlabel("δ (levels of 255)")
    axes.set_ylabel("mean d(a, g) / d(s, g)")
    axes.set_xticks(sorted({row["delta"] for row in rows}))
    axes.set_ylim(0, None)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return drawn
