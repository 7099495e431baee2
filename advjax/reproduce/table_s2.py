"""Table S2: the attack on networks that nobody has trained."""

from typing import Any

import numpy as np

from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.settings import DRAWN, Subject
from advjax.reproduce.tables import Made, columns, percent


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
                "mean ratio": float(found["ratio"].mean()),
                "least": float(found["ratio"].min()),
                "most": float(found["ratio"].max()),
                **labels(found),
                "paper": None,
            }
        )
    words = (
        "takes and leaves: of the pairs whose source and guide differ in label. The paper's own "
        "numbers of this table are not in our notes."
    )
    return Made({"": columns(rows)}, rows, words=words)


LABELS = ("source_label", "guide_label", "adversarial_label")


def labels(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the network says: of the pairs that it tells apart, who takes and who leaves a label."""
    apart = found["source_label"] != found["guide_label"]
    took = found["adversarial_label"] == found["guide_label"]
    left = found["adversarial_label"] != found["source_label"]
    return {
        "labels differ": int(apart.sum()),
        "takes guide's label %": percent(took[apart]) if apart.any() else None,
        "leaves source's label %": percent(left[apart]) if apart.any() else None,
    }
