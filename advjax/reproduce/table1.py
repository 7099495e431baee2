"""Table 1: common neighbours of adversarial and guide, and their ranks in the guide's class."""

import numpy as np

from advjax.display import mean
from advjax.reproduce import published
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, percent, standard_error, with_errors
from advjax.reproduce.settings import trained_network


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at each network's last layer."""
    s = experiments.settings
    models = dict.fromkeys((s.model, *map(trained_network, s.networks)))
    return [
        Experiment(model, "feature-opt", experiments.layers(model)[-1], s.delta) for model in models
    ]


def make(experiments: Experiments) -> Made:
    """Make a row for each network."""
    k, rows, beside = experiments.settings.protocol.neighbours, [], []
    for experiment in needs(experiments):
        analysis = experiments.measured(experiment)
        t, same = analysis.table, paper(experiment, k) or (None, None, None)
        first = analysis.summary["table_1"]
        taken = t.get("takes_guide_label", np.full(len(analysis), np.nan))  # no output layer
        row = {
            "network": experiment.model.name,
            "layer": experiment.layer,
            "pairs": len(analysis),
            "all_common": first["all_common"],
            "paper_all": same[0],
            "all_but_one_common": first["all_but_one_common"],
            "paper_all_but_one": same[1],
            "delta_rank_median": first["delta_rank_median"],
            "paper_delta_rank": same[2],
            "ratio": mean(t["ratio"]),
            "takes_guide_label": percent(taken),
        }
        errors = {
            "all_common": standard_error(100 * (t["common"] == k)),
            "all_but_one_common": standard_error(100 * (t["common"] >= k - 1)),
            "delta_rank_median": standard_error(t["delta_rank"], np.median),
            "ratio": standard_error(t["ratio"]),
            "takes_guide_label": standard_error(100 * taken),
        }
        kept, printed = with_errors(row, errors)
        rows.append(kept)
        beside.append(printed)
    headings = {
        "all_common": f"{k}-NN all equal %",
        "paper_all": "paper",
        "all_but_one_common": f"{k - 1} or more %",
        "paper_all_but_one": "paper ",
        "delta_rank_median": f"median delta r{k}",
        "paper_delta_rank": "paper  ",
        "ratio": "mean ratio",
        "takes_guide_label": "takes guide's label %",
    }
    caffenet, places = (published.TABLE_1[n] for n in ("caffenet", "places205_alexnet"))
    words = (
        f"The paper's trained CaffeNet: {', '.join(map(str, caffenet))}; Places205, its best: "
        f"{', '.join(map(str, places))}."
    )
    return Made({"": columns(rows)}, headed(beside, headings), words=words)


def paper(experiment: Experiment, neighbours: int) -> tuple[float, float, float] | None:
    """Return the published row of this experiment, or None."""
    if not experiment.model.trained or neighbours != 3 or experiment.delta != published.DELTA:
        return None
    return published.TABLE_1.get(experiment.model.network)
