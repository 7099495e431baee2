"""Figure 3: distances of adversarials to their guides and to their sources."""

from typing import Any

import numpy as np

from advjax.analysis import Analysis
from advjax.display import mean, median
from advjax.reproduce import published
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, plus_minus, standard_error
from advjax.reproduce.style import BLUE, GREEN, PAGE, RED, histogram, panels

RATIOS = {
    "ratio": "d(a, g) / d(s, g)",
    "nearest_ratio": "d(a, g) / mean nearest distance in g's class",
    "pairwise_ratio": "d(a, s) / mean distance in s's class",
}


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at the last layer."""
    model, s = experiments.settings.model, experiments.settings
    return [Experiment(model, "feature-opt", experiments.layers(model)[-1], s.delta)]


def make(experiments: Experiments) -> Made:
    """Make the three ratios of each pair, and their histograms."""
    (experiment,) = needs(experiments)
    analysis = experiments.measured(experiment)
    table = analysis.table
    paper = published.RATIO.get(experiment.layer) if experiment.published else None
    rows = []
    for name, what in RATIOS.items():
        rows.append(
            {
                "ratio": what,
                "layer": experiment.layer,
                "mean": plus_minus(mean(table[name]), standard_error(table[name])),
                "median": plus_minus(median(table[name]), standard_error(table[name], np.median)),
                "paper, mean": paper if name == "ratio" else None,
            }
        )
    kept = ("pair", "source_id", "guide_id", "source_class", "guide_class", *RATIOS)
    return Made({"": {name: table[name] for name in kept}}, rows, figure(analysis))


def figure(analysis: Analysis) -> Any:
    """Draw three histograms."""
    drawn, axes = panels(1, 3, PAGE, 1.9, sharey=True)
    for panel, (name, label), colour in zip(
        axes[0], RATIOS.items(), (BLUE, GREEN, RED), strict=True
    ):
        histogram(panel, analysis.table[name], label.replace(" / ", " /\n"), colour)
    axes[0, 0].set_ylabel("pairs (%)")
    return drawn
