"""Table S2: the attack on networks that nobody has trained."""

from typing import Any

import numpy as np

from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.settings import DRAWN, Subject
from advjax.reproduce.tables import Made, columns, headed, percent


def cells(lab: Lab) -> list[Cell]:
    """feature-opt at each layer, with random and with orthonormal weights."""
    s = lab.settings
    subjects = [Subject(s.network, weights) for weights in DRAWN]
    return [
        Cell(subject, "feature-opt", layer, s.delta)
        for subject in subjects
        for layer in lab.layers(subject)[::-1]
    ]


def make(lab: Lab) -> Made:
    """Mean ratios and labels."""
    rows = []
    for cell in cells(lab):
        found = lab.column(cell, "ratio", *LABELS)
        rows.append(
            {
                "weights": cell.subject.weights,
                "layer": cell.layer,
                "pairs": len(found["ratio"]),
                "ratio": float(found["ratio"].mean()),
                "least": float(found["ratio"].min()),
                "most": float(found["ratio"].max()),
                **labels(found),
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


def labels(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the network says: of the pairs that it tells apart, who takes and who leaves a label."""
    apart = found["source_label"] != found["guide_label"]
    took = found["adversarial_label"] == found["guide_label"]
    left = found["adversarial_label"] != found["source_label"]
    return {
        "labels_differ": int(apart.sum()),
        "takes_guide_label": percent(took[apart]) if apart.any() else None,
        "leaves_source_label": percent(left[apart]) if apart.any() else None,
    }
