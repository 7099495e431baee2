"""Table S2: the attack on networks that nobody has trained."""

from typing import Any

import numpy as np

from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, percent
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
    rows = []
    for experiment in needs(experiments):
        results = experiments.column(experiment, "ratio", *LABELS)
        rows.append(
            {
                "weights": experiment.model.weights,
                "layer": experiment.layer,
                "pairs": len(results["ratio"]),
                "ratio": float(results["ratio"].mean()),
                "minimum": float(results["ratio"].min()),
                "maximum": float(results["ratio"].max()),
                **labels(results),
            }
        )
    words = (
        "takes and leaves: of the pairs whose source and guide differ in label. The paper's own "
        "numbers of this table are not among those kept here."
    )
    beside = [row | {"paper": None} for row in rows]
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


def labels(results: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return percentages that take and leave a label, of pairs whose labels differ."""
    named = results["source_label"] >= 0  # NaN where the network has no output layer
    apart = named & (results["source_label"] != results["guide_label"])
    took = results["adversarial_label"] == results["guide_label"]
    left = results["adversarial_label"] != results["source_label"]
    return {
        "labels_differ": int(apart.sum()),
        "takes_guide_label": percent(took[apart]) if apart.any() else None,
        "leaves_source_label": percent(left[apart]) if apart.any() else None,
    }
