"""Figure S3: one signed step of delta along the gradient, towards the guide's label or features."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.style import BLUE, COLUMN, RED, panels
from advjax.reproduce.table_s2 import HEADINGS, LABELS, labels
from advjax.reproduce.tables import Made, columns, headed

ATTACKS = {"feature-fgrad": RED, "label-fgrad": BLUE}


def cells(lab: Lab) -> list[Cell]:
    """feature-fgrad at each layer; label-fgrad, which has none, measured at the last."""
    subject, s = lab.settings.subject, lab.settings
    layers = lab.layers(subject)[::-1]
    return [
        *(Cell(subject, "feature-fgrad", layer, s.delta) for layer in layers),
        Cell(subject, "label-fgrad", layers[0], s.delta),
    ]


def make(lab: Lab) -> Made:
    """Ratios of each pair; their means and extremes."""
    rows, pairs, shown = [], [], {}
    last = cells(lab)[-1].layer
    for cell in cells(lab):
        found = lab.column(cell, "ratio", "max_change", *LABELS)
        ratio = found["ratio"]
        rows.append(
            {
                "attack": cell.attack,
                "layer": cell.layer,
                "pairs": len(ratio),
                "ratio": float(ratio.mean()),
                "least": float(ratio.min()),
                "most": float(ratio.max()),
                **labels(found),
                "max_change": float(found["max_change"].max()),
            }
        )
        if cell.layer == last:
            shown[cell.attack] = ratio
        for i, value in zip(found["index"], ratio, strict=True):
            row = {"attack": cell.attack, "layer": cell.layer, "pair": int(i), "ratio": value}
            pairs.append(row)
    words = "The paper's own numbers of this figure are not among those kept here."
    return Made(
        {"": columns(pairs), "summary": columns(rows)},
        headed(rows, HEADINGS),
        figure(shown, last),
        words,
    )


def figure(shown: Mapping[str, Any], layer: str) -> Any:
    """Histograms of the ratio at the last layer."""
    drawn, axes = panels(1, 1, COLUMN, 2.0)
    panel = axes[0, 0]
    most = max(1.0, *(float(np.max(ratio)) for ratio in shown.values()))
    edges = np.linspace(0, most, 31).tolist()
    for attack, ratio in shown.items():
        share = np.full(len(ratio), 100 / len(ratio))
        panel.hist(ratio, edges, weights=share, color=ATTACKS[attack], alpha=0.6, label=attack)
    panel.axvline(1, color="black", linewidth=0.4)
    panel.set_xlabel(f"d(a, g) / d(s, g) at {layer}")
    panel.set_ylabel("pairs (%)")
    panel.legend(loc="upper left")
    return drawn
