"""Figure 1: sources, guides, adversarials of several layers, and their differences."""

from typing import Any

from advjax.display import TIMES, difference, magnification
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns
from advjax.reproduce.style import class_name, gallery

LABELS = ("source_label", "guide_label", "adversarial_uint8_label")


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at all layers but the first, deep to shallow."""
    model, s = experiments.settings.model, experiments.settings
    layers = experiments.layers(model)
    return [
        Experiment(model, "feature-opt", each, s.delta) for each in (layers[1:] or layers)[::-1]
    ]


def make(experiments: Experiments) -> Made:
    """Show the first pairs as pictures, with their figures."""
    s, chosen = experiments.settings, needs(experiments)
    pairs, count = experiments.pairs(chosen[0].pool), min(s.rows, s.pairs)
    made = {
        experiment: {a.index: a for a in experiments.adversarials(experiment, count)}
        for experiment in chosen
    }
    k = magnification(s.delta)
    classes = experiments.net(chosen[0].model).classes
    pictures, captions, rows = [], [], []
    for i in range(count):
        source = experiments.image(chosen[0], pairs.sources[i])
        shown: list[Any] = [source, experiments.image(chosen[0], pairs.guides[i])]
        below: list[str] = ["", ""]
        for experiment in chosen:
            results = experiments.column(experiment, "ratio", "ssim", *LABELS)
            here = results["index"] == i
            if i not in made[experiment]:
                shown += [None, None]
                below += ["", ""]
                continue
            rounded = made[experiment][i].adversarial_uint8
            shown += [rounded, difference(rounded, source, k)]
            ratio, ssim = float(results["ratio"][here][0]), float(results["ssim"][here][0])
            of_source, of_guide, of_adversarial = (
                class_name(classes, results[name][here][0]) for name in LABELS
            )
            below[:2] = of_source, of_guide
            below += [f"ratio {ratio:.2f}\n{of_adversarial}".strip(), ""]
            rows.append({"pair": i, "layer": experiment.layer, "ratio": ratio, "ssim": ssim})
            rows[-1] |= {"source": pairs.sources[i], "guide": pairs.guides[i]}
        pictures.append(shown)
        captions.append(below)
    names = ["source", "guide"]
    for experiment in chosen:
        names += [experiment.layer, f"difference {TIMES} {k}"]
    beside = [{n: row[n] for n in ("pair", "layer", "ratio", "ssim")} for row in rows]
    return Made(
        {"": columns(rows)},
        beside,
        gallery(pictures, names, captions),
        "Below the pictures: their classes. The paper shows pictures, without numbers.",
    )
