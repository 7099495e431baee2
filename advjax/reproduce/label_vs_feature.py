"""Label adversaries beside feature adversaries: ranks and the manifold around the guide."""

from typing import Any

import numpy as np

from advjax.display import mean, median
from advjax.reproduce import fig4
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, percent, standard_error, with_errors
from advjax.reproduce.style import BLUE, GREY, PAGE, RED, panels

ATTACKS = ("feature-opt", "label-opt")
LOOKS = {"near": (GREY, "."), "label-opt": (BLUE, "+"), "feature-opt": (RED, "x")}
HEADINGS = {
    "delta_rank": "median delta r",
    "delta_l": "median delta L",
    "omega": "median Omega",
    "ratio": "mean ratio",
    "mean_change": "mean change",
    "all_common": "all neighbours in common %",
    "takes_guide_label": "takes guide's label %",
}
KEPT = ("pair", "delta_rank", "rank_adversarial", "common", "delta_l", "omega", "ratio")


def needs(experiments: Experiments) -> list[Experiment]:
    """Return both attacks; label-opt is measured at the last layer, too."""
    model, s = experiments.settings.model, experiments.settings
    return [Experiment(model, attack, experiments.layers(model)[-1], s.delta) for attack in ATTACKS]


def make(experiments: Experiments) -> Made:
    """Make the ranks, likelihoods and angles of each pair under both attacks."""
    analyses = {
        experiment.attack: experiments.measured(experiment) for experiment in needs(experiments)
    }
    rows, beside, parts = [], [], []
    k, budgets = experiments.settings.protocol.neighbours, experiments.budgets(needs(experiments))
    for attack, measured in analyses.items():
        t = measured.table
        row = {"attack": attack, "layer": measured.layer, "evaluations": budgets[attack]}
        errors = {}
        for name in ("delta_rank", "delta_l", "omega"):
            row[name] = median(t[name])
            errors[name] = standard_error(t[name], np.median)
        for name in ("ratio", "mean_change"):
            row[name] = mean(t[name])
            errors[name] = standard_error(t[name])
        for name, values in (
            ("all_common", t["common"] == k),
            ("takes_guide_label", t["takes_guide_label"]),
        ):
            row[name] = percent(values)
            errors[name] = standard_error(100 * np.asarray(values))
        kept, printed = with_errors(row, errors)
        rows.append(kept)
        beside.append(printed)
        parts.append(
            {"attack": np.full(len(measured), attack, object)} | {name: t[name] for name in KEPT}
        )
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Made(
        {"": table, "medians": columns(rows)},
        headed(beside, HEADINGS),
        figure(analyses),
        "The paper shows histograms and clouds of points, without numbers, but for feature-opt's "
        "median delta r of Table 1.",
    )


def figure(analyses: dict[str, Any]) -> Any:
    """Draw histograms of delta r, and the manifold."""
    drawn, axes = panels(1, 2, PAGE, 2.3)
    left, right = axes[0]
    ranks = {attack: measured.table["delta_rank"] for attack, measured in analyses.items()}
    every = np.concatenate(list(ranks.values()))
    edges = np.linspace(min(-5.0, every.min()), max(5.0, every.max()), 25).tolist()
    for attack, values in ranks.items():
        weights = np.full(len(values), 100 / len(values))
        left.hist(values, edges, weights=weights, color=LOOKS[attack][0], alpha=0.6, label=attack)
    left.set_xlabel("r(a) - r(g), percentiles")
    left.set_ylabel("pairs (%)")
    left.legend()
    points: dict[str, list[Any]] = {"set": [], "delta_l": [], "omega": []}
    for attack, measured in analyses.items():
        sets = [(attack, measured.table, slice(None))]
        if attack == ATTACKS[0]:
            others = measured.neighbours
            sets.append(("near", others, others["set"] == "near"))
        for name, t, mine in sets:
            values = t["delta_l"][mine]
            points["set"].append(np.full(len(values), name, object))
            points["delta_l"].append(values)
            points["omega"].append(t["omega"][mine])
    fig4.scatter(right, {n: np.concatenate(v) for n, v in points.items()}, LOOKS)
    right.legend()
    return drawn
