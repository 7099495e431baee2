"""S7: networks whose images must be changed visibly, and Flickr Style, whose fc7 resists."""

from collections.abc import Mapping, Sequence
from typing import Any

from advjax.display import mean
from advjax.errors import AdvjaxError
from advjax.reproduce.experiments import Experiment, Experiments, failure_pools
from advjax.reproduce.output import Made, columns, headed, with_errors
from advjax.reproduce.settings import TrainedNetwork
from advjax.reproduce.style import CYCLE, MARKERS, PAGE, panels
from advjax.reproduce.table_s2 import HEADINGS, LABELS, ratio_and_labels

WANTED = (
    "failures is not given; name the networks as NETWORK=WEIGHTS=FOLDER: lenet with MNIST, "
    "cifar10_full and cifar10_quick with CIFAR-10, flickr_style with Flickr Style"
)


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at each network's last layer, of Flickr Style also at its output."""
    models = failure_pools(experiments.settings)
    if not models:
        raise AdvjaxError(WANTED)
    return [
        Experiment(model, "feature-opt", layer, delta, pool)
        for model, pool in models
        for layer in layers(experiments, model)
        for delta in experiments.settings.failure_deltas
    ]


def layers(experiments: Experiments, model: TrainedNetwork) -> tuple[str, ...]:
    """Return the layers at which a network is attacked."""
    if model.network == "flickr_style":
        return ("fc7", "fc8_flickr")
    return experiments.net(model).check_layers(None)


def make(experiments: Experiments) -> Made:
    """Make a row for each network, layer and delta."""
    rows, beside = [], []
    for experiment in needs(experiments):
        results = experiments.column(experiment, "ratio", "mean_change", "psnr", *LABELS)
        of = {"network": experiment.model.name, "layer": experiment.layer}
        of |= {"delta": experiment.delta, "pairs": len(results["ratio"])}
        row, errors = ratio_and_labels(results)
        row["mean_change"] = float(results["mean_change"].mean())
        row["psnr"] = mean(results["psnr"])
        kept, printed = with_errors(of | row, errors)
        rows.append(kept)
        beside.append(printed)
    words = "The paper reports these as failures; its own numbers are not among those kept here."
    return Made({"": columns(rows)}, headed(beside, HEADINGS), figure(rows), words)


def figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the ratio, and the percentage that takes the guide's label, against delta."""
    drawn, axes = panels(1, 2, PAGE, 2.3, sharex=True)
    lines = list(dict.fromkeys((row["network"], row["layer"]) for row in rows))
    for i, line in enumerate(lines):
        mine = [row for row in rows if (row["network"], row["layer"]) == line]
        look: dict[str, Any] = {
            "color": CYCLE[i % len(CYCLE)],
            "marker": MARKERS[i % len(MARKERS)],
            "label": f"{line[0].split('-')[0]}, {line[1]}",
        }
        at = [row["delta"] for row in mine]
        axes[0, 0].plot(at, [row["ratio"] for row in mine], **look)
        axes[0, 1].plot(at, [row["takes_guide_label"] for row in mine], **look)
    for panel, label in zip(
        axes[0], ("mean d(a, g) / d(s, g)", "takes g's label (%)"), strict=True
    ):
        panel.set_xlabel("δ (levels of 255)")
        panel.set_ylabel(label)
        panel.set_ylim(0, None)
    axes[0, 0].legend()
    return drawn
