"""Table S2: the attack on networks that nobody has trained."""

from typing import Any

import numpy as np

from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, percent, standard_error, with_errors
from advjax.reproduce.settings import DRAWN, TrainedNetwork


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at each layer, with random and with orthonormal weights."""
    s = experiments.settings
    models = [TrainedNetwork(s.model.network, weights) for weights in DRAWN]
    return [
        Experiment(model, "feature-opt", layer, s.delta)
        for model in models
        for layer in experiments.layers(model)[::-1]
    ]


def make(experiments: Experiments) -> Made:
    """Make the mean ratios and labels."""
    rows, beside = [], []
    for experiment in needs(experiments):
        results = experiments.column(experiment, "ratio", *LABELS)
        of = {"weights": experiment.model.weights, "layer": experiment.layer}
        row, errors = ratio_and_labels(results)
        kept, printed = with_errors(of | {"pairs": len(results["ratio"])} | row, errors)
        rows.append(kept)
        beside.append(printed | {"paper": None})
    words = (
        "takes and leaves: of the pairs whose source and guide differ in label. The paper's own "
        "numbers of this table are not among those kept here."
    )
    return Made({"": columns(rows)}, headed(beside, HEADINGS), words=words)


LABELS = ("source_label", "guide_label", "adversarial_label")
HEADINGS = {
    "ratio": "mean ratio",
    "labels_differ": "labels differ",
    "takes_guide_label": "takes guide's label %",
    "leaves_source_label": "leaves source's label %",
    "mean_change": "mean change",
    "max_change": "max change",
}


def ratio_and_labels(results: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the ratio and percentages that take and leave a label, and their standard errors.

    The percentages are of the pairs whose source and guide differ in label.
    """
    ratio = results["ratio"]
    named = results["source_label"] >= 0  # NaN where the network has no output layer
    apart = named & (results["source_label"] != results["guide_label"])
    took = results["adversarial_label"] == results["guide_label"]
    left = results["adversarial_label"] != results["source_label"]
    row: dict[str, Any] = {
        "ratio": float(ratio.mean()),
        "minimum": float(ratio.min()),
        "maximum": float(ratio.max()),
        "labels_differ": int(apart.sum()),
    }
    errors = {"ratio": standard_error(ratio)}
    for name, values in (("takes_guide_label", took), ("leaves_source_label", left)):
        row[name] = percent(values[apart]) if apart.any() else None
        errors[name] = standard_error(100 * values[apart])
    return row, errors
