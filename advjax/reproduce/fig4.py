"""Figure 4: adversarials as inliers of the manifold around their guides.

For PPCA of a guide's nearest neighbours: L(x) - L(g) against Omega(x, g), of the adversarials and
of near and far neighbours, at a convolutional layer and at the last one.
"""

from typing import Any

import numpy as np

from advjax.display import median
from advjax.reproduce.experiments import TRAIN, VALIDATION, Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, standard_error, with_errors
from advjax.reproduce.style import BLUE, GREY, ORANGE, PAGE, RED, panels

POINTS = {"far": (GREY, "."), "near": (BLUE, "."), "adversarial": (RED, "x")}


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at both layers, with guides of the training images and of others."""
    model, s = experiments.settings.model, experiments.settings
    pools = [TRAIN] if s.validation is None else [TRAIN, VALIDATION]
    layers = dict.fromkeys((experiments.layers(model)[-1], experiments.inner(model)))
    return [
        Experiment(model, "feature-opt", layer, s.delta, pool) for layer in layers for pool in pools
    ]


def make(experiments: Experiments) -> Made:
    """Make all points, their medians, and a panel for each layer and kind of guides."""
    tables, rows, beside = {}, [], []
    for experiment in needs(experiments):
        tables[experiment.layer, experiment.pool] = table = points(experiments, experiment)
        for name in reversed(POINTS):
            mine = table["set"] == name
            pair = table["pair"][mine]  # neighbours of one guide depend on each other
            row = {
                "layer": experiment.layer,
                "guides": experiment.pool,
                "points": name,
                "number": int(mine.sum()),
            }
            errors = {}
            for quantity in ("delta_l", "omega"):
                values = table[quantity][mine]
                row[quantity] = median(values)
                errors[quantity] = standard_error(values, np.median, pair)
            kept, printed = with_errors(row, errors)
            rows.append(kept)
            beside.append(printed)
    parts = [
        {"layer": np.full(len(t["pair"]), layer, object)}
        | {"guides": np.full(len(t["pair"]), pool, object)}
        | t
        for (layer, pool), t in tables.items()
    ]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Made(
        {"": whole, "medians": columns(rows)},
        headed(beside, {"delta_l": "median delta L", "omega": "median Omega"}),
        figure(tables),
        "The paper shows clouds of points, without numbers.",
    )


def points(experiments: Experiments, experiment: Experiment) -> dict[str, np.ndarray]:
    """Return every adversarial and every neighbour: pair, set, id, delta_l, omega."""
    measured = experiments.measured(experiment)
    table, others = measured.table, measured.neighbours
    count = len(table["pair"])
    own = {
        "pair": table["pair"],
        "set": np.full(count, "adversarial", object),
        "id": np.full(count, "", object),
        "delta_l": table["delta_l"],
        "omega": table["omega"],
    }
    return {name: np.concatenate([own[name], others[name]]) for name in own}


def figure(tables: dict[tuple[str, str], dict[str, np.ndarray]]) -> Any:
    """Draw Omega against delta L."""
    layers = list(dict.fromkeys(layer for layer, _ in tables))
    pools = list(dict.fromkeys(pool for _, pool in tables))
    drawn, axes = panels(
        len(pools),
        len(layers),
        PAGE if len(layers) > 1 else PAGE / 2,
        1.9 * len(pools) + 0.3,
        sharex="col",
        sharey="col",
    )
    for (layer, pool), table in tables.items():
        panel = axes[pools.index(pool), layers.index(layer)]
        scatter(panel, table)
        panel.set_title(f"{layer}, {pool} guides", loc="left")
        panel.set_ylabel("Ω(x, g), a cosine" if layer == layers[0] else "")
        if pool != pools[-1]:
            panel.set_xlabel("")
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(POINTS) + 1
    )
    return drawn


def scatter(panel: Any, table: dict[str, np.ndarray], looks: Any = None) -> None:
    """Draw the points by set; the guide itself would be at (0, 1)."""
    for name, (colour, marker) in (looks or POINTS).items():
        mine = table["set"] == name
        panel.plot(
            table["delta_l"][mine],
            table["omega"][mine],
            linestyle="",
            marker=marker,
            color=colour,
            markersize=4 if marker == "." else 3.5,
            alpha=0.7,
            markeredgewidth=0.8,
            label=name,
        )
    panel.axvline(0, color=ORANGE, linewidth=0.6, label="L(g)")
    panel.set_xlabel("L(x) - L(g) (nats)")
    panel.set_ylabel("Ω(x, g), a cosine")
    panel.set_ylim(None, 1.02)
    panel.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
