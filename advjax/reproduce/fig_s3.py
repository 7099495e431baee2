"""Figure S3: one signed step of delta along the gradient, towards the guide's label or features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, with_errors
from advjax.reproduce.style import BLUE, COLUMN, RED, panels
from advjax.reproduce.table_s2 import HEADINGS, LABELS, ratio_and_labels

ATTACKS = {"feature-fgrad": RED, "label-fgrad": BLUE}


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-fgrad at each layer, and label-fgrad, measured at the last one."""
    model, s = experiments.settings.model, experiments.settings
    layers = experiments.layers(model)[::-1]
    return [
        *(Experiment(model, "feature-fgrad", layer, s.delta) for layer in layers),
        Experiment(model, "label-fgrad", layers[0], s.delta),
    ]


def make(experiments: Experiments) -> Made:
    """Make the ratios of each pair, their means and extremes."""
    rows, beside, pairs, shown = [], [], [], {}
    last = needs(experiments)[-1].layer
    for experiment in needs(experiments):
        results = experiments.column(experiment, "ratio", "max_change", *LABELS)
        ratio = results["ratio"]
        of = {"attack": experiment.attack, "layer": experiment.layer, "pairs": len(ratio)}
        row, errors = ratio_and_labels(results)
        row["max_change"] = float(results["max_change"].max())
        kept, printed = with_errors(of | row, errors)
        rows.append(kept)
        beside.append(printed)
        if experiment.layer == last:
            shown[experiment.attack] = ratio
        for i, value in zip(results["index"], ratio, strict=True):
            row = {
                "attack": experiment.attack,
                "layer": experiment.layer,
                "pair": int(i),
                "ratio": value,
            }
            pairs.append(row)
    words = "The paper's own numbers of this figure are not among those kept here."
    return Made(
        {"": columns(pairs), "summary": columns(rows)},
        headed(beside, HEADINGS),
        figure(shown, last),
        words,
    )


def figure(shown: Mapping[str, Any], layer: str) -> Any:
    """Draw histograms of the ratio at the last layer."""
    drawn, axes = panels(1, 1, COLUMN, 2.0)
    panel = axes[0, 0]
    maximum = max(1.0, *(float(np.max(ratio)) for ratio in shown.values()))
    edges = np.linspace(0, maximum, 31).tolist()
    for attack, ratio in shown.items():
        weights = np.full(len(ratio), 100 / len(ratio))
        panel.hist(ratio, edges, weights=weights, color=ATTACKS[attack], alpha=0.6, label=attack)
    panel.axvline(1, color="black", linewidth=0.4, linestyle="--", label="the source")
    panel.set_xlabel(f"d(a, g) / d(s, g) at {layer}")
    panel.set_ylabel("pairs (%)")
    panel.legend(loc="upper left")
    return drawn
