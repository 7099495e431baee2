"""Table 1: common neighbours of adversarial and guide, and their ranks in the guide's class."""

from advjax.display import mean
from advjax.reproduce import published
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns, headed, percent
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
    k, rows = experiments.settings.protocol.neighbours, []
    for experiment in needs(experiments):
        analysis = experiments.measured(experiment)
        first, same = analysis.summary["table_1"], paper(experiment, k) or (None, None, None)
        rows.append(
            {
                "network": experiment.model.name,
                "layer": experiment.layer,
                "pairs": len(analysis),
                "all_common": first["all_common"],
                "paper_all": same[0],
                "all_but_one_common": first["all_but_one_common"],
                "paper_all_but_one": same[1],
                "delta_rank_median": first["delta_rank_median"],
                "paper_delta_rank": same[2],
                "ratio": mean(analysis.table["ratio"]),
                "takes_guide_label": percent(analysis.table["takes_guide_label"]),
            }
        )
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
    return Made({"": columns(rows)}, headed(rows, headings), words=words)


def paper(experiment: Experiment, neighbours: int) -> tuple[float, float, float] | None:
    """Return the published row of this experiment, or None."""
    if not experiment.model.trained or neighbours != 3 or experiment.delta != published.DELTA:
        return None
    return published.TABLE_1.get(experiment.model.network)
