"""Figure 3: how close adversarials are to their guides, and how far from their sources."""

from typing import Any

from advjax.analysis import Analysis
from advjax.reproduce import published
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.style import BLUE, GREEN, PAGE, RED, histogram, panels
from advjax.reproduce.tables import Made, mean, median

RATIOS = {
    "ratio": "d(a, g) / d(s, g)",
    "nearest_ratio": "d(a, g) / mean nearest distance in g's class",
    "pairwise_ratio": "d(a, s) / mean distance in s's class",
}


def cells(lab: Lab) -> list[Cell]:
    """feature-opt at the last layer."""
    subject, s = lab.settings.subject, lab.settings
    return [Cell(subject, "feature-opt", lab.layers(subject)[-1], s.delta)]


def make(lab: Lab) -> Made:
    """The three ratios of each pair, and their histograms."""
    (cell,) = cells(lab)
    found = lab.measured(cell)
    table = found.table
    paper = published.RATIO.get(cell.layer) if cell.published else None
    rows = []
    for name, what in RATIOS.items():
        rows.append(
            {
                "ratio": what,
                "layer": cell.layer,
                "mean": mean(table[name]),
                "median": median(table[name]),
                "paper, mean": paper if name == "ratio" else None,
            }
        )
    kept = ("pair", "source_id", "guide_id", "source_class", "guide_class", *RATIOS)
    return Made({"": {name: table[name] for name in kept}}, rows, figure(found))


def figure(found: Analysis) -> Any:
    """Three histograms."""
    drawn, axes = panels(1, 3, PAGE, 1.9, sharey=True)
    for panel, (name, label), colour in zip(
        axes[0], RATIOS.items(), (BLUE, GREEN, RED), strict=True
    ):
        histogram(panel, found.table[name], label.replace(" / ", " /\n"), colour)
    axes[0, 0].set_ylabel("pairs (%)")
    return drawn
