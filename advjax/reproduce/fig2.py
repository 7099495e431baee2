"""Figure 2: inversions of source, guide and adversarial from deeper and deeper layers.

Inversion as Mahendran and Vedaldi (2015) do it, `advjax.invert`, or with the jitter of their later
paper (2016). An adversarial's deep layers are to look like the guide's, while its pixels are the
source's. How much they do is measured by the correlation of inversions, and by the labels that a
network gives them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from advjax import solvers
from advjax.engine.invert import invert
from advjax.errors import AdvjaxError
from advjax.files import atomic_path
from advjax.networks.identity import network_key
from advjax.networks.network import Network
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.fig1 import LABELS
from advjax.reproduce.output import Made, columns, headed, percent, standard_error, with_errors
from advjax.reproduce.settings import Settings, trained_network
from advjax.reproduce.style import class_name, gallery
from advjax.transfers import transfer

NAMES = ("source", "guide", "adversarial")
STILL = 0.01  # an objective stands still when it is nearer than this to its last value, relatively
MEANS = ("like_source", "like_guide", *(f"loss_{name}" for name in NAMES))
SHARES = {
    "takes_source_label": "takes source's label %",
    "takes_guide_label": "takes guide's label %",
    "source_keeps_label": "source's own keeps it %",
    "guide_keeps_label": "guide's own keeps it %",
}
HEADINGS = {name: name.replace("_", " ") for name in MEANS} | SHARES


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at the last layer."""
    model, s = experiments.settings.model, experiments.settings
    if s.judge is not None:
        check_judge(experiments, experiments.net(model))
    return [Experiment(model, "feature-opt", experiments.layers(model)[-1], s.delta)]


def make(experiments: Experiments) -> Made:
    """Invert the first pairs from all layers but the first."""
    (experiment,) = needs(experiments)
    s, pairs = experiments.settings, experiments.pairs(experiment.pool)
    layers = experiments.layers(experiment.model)[1:] or experiments.layers(experiment.model)
    classes = experiments.net(experiment.model).classes
    results = experiments.column(experiment, *LABELS)
    pictures, captions, rows = [], [], []
    for made in sorted(experiments.adversarials(experiment, s.inverted)):
        i = made.index
        images = np.stack(
            [
                experiments.image(experiment, pairs.sources[i]),
                experiments.image(experiment, pairs.guides[i]),
                made.adversarial_uint8,
            ]
        )
        inversions = {layer: inverted(experiments, experiment, images, layer) for layer in layers}
        for k, name in enumerate(NAMES):
            pictures.append([images[k], *(inversions[layer][0][k] for layer in layers)])
            label = results[LABELS[k]][results["index"] == i][0]
            below = f"{name}\n{class_name(classes, label)}".strip()
            captions.append([below, *("" for _ in layers)])
        for layer, (seen, loss, still) in inversions.items():
            rows.append(
                {
                    "pair": i,
                    "layer": layer,
                    "like_source": _likeness(seen[2], seen[0]),
                    "like_guide": _likeness(seen[2], seen[1]),
                    **{f"loss_{name}": float(loss[k]) for k, name in enumerate(NAMES)},
                    **_labels(judge(experiments), images, seen),
                    "still": int(still.max()),
                }
            )
    beside = [_summary(layer, [row for row in rows if row["layer"] == layer]) for layer in layers]
    by = "the network itself" if s.judge is None else trained_network(s.judge).name
    return Made(
        {"": columns(rows)},
        headed(beside, HEADINGS),
        gallery(pictures, ("image", *layers), captions, width=1.4),
        f"{s.invert_evaluations:,} evaluations of {_solver(s)} for each inversion; still: after so "
        f"many (median of pairs) the objectives came no more than {STILL:.0%} lower. "
        f"jitter: {s.invert_jitter} pixels. like: "
        "correlation of the adversarial's inversion with that of the source, of the guide. labels "
        f"are by {by}: inversions that get the label of a photograph, first the adversarial's. "
        "The paper shows pictures, without numbers.",
    )


def check_judge(experiments: Experiments, net: Network) -> None:
    """Raise, before any attack, what would keep the judge from labelling a network's inversions."""
    name, other = experiments.settings.judge, judge(experiments)
    if other.output is None:
        raise AdvjaxError(f"judge is {name!r}, which names no classes; give a classifier")
    mine, its = net.input_shape[-1], other.input_shape[-1]
    if mine != its:
        raise AdvjaxError(
            f"judge is {name!r}, whose images have {its} channels and those of {net.name} {mine}; "
            "give a network for such images"
        )


def judge(experiments: Experiments) -> Network:
    """Return the network that labels inversions."""
    name = experiments.settings.judge
    return experiments.net(trained_network(name) if name else experiments.settings.model)


def _labels(net: Network, images: np.ndarray, seen: np.ndarray) -> dict[str, bool | None]:
    """Return which inversions (of source, guide and adversarial) get a photograph's label."""
    judged = transfer(net, seen, images, images[[1, 1, 1]])
    label, of = judged.label, judged.source_label
    if label is None or of is None:
        return dict.fromkeys(SHARES)
    return {
        "takes_source_label": bool(label[2] == of[0]),
        "takes_guide_label": bool(label[2] == of[1]),
        "source_keeps_label": bool(label[0] == of[0]),
        "guide_keeps_label": bool(label[1] == of[1]),
    }


def _summary(layer: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a layer's means and percentages over pairs, with standard errors, to be printed."""
    row: dict[str, Any] = {"layer": layer, "pairs": len(rows)}
    errors = {}
    for name in (*MEANS, *SHARES):
        values = [each[name] for each in rows]
        if None in values:
            row[name] = None
            continue
        row[name] = percent(values) if name in SHARES else float(np.mean(values))
        errors[name] = standard_error(np.multiply(values, 100.0 if name in SHARES else 1.0))
    row["still"] = int(np.median([each["still"] for each in rows]))
    return with_errors(row, errors)[1]


def inverted(
    experiments: Experiments, experiment: Experiment, images: np.ndarray, layer: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inversions (uint8) of images, losses, and evaluations until they stood still.

    They are kept in OUT/inversions.
    """
    s, net = experiments.settings, experiments.net(experiment.model)
    jitter, solver = s.invert_jitter, _solver(s)
    budget = s.invert_evaluations
    settings = [network_key(net), layer, solver, budget, jitter, s.seed, s.precision, STILL]
    digest = hashlib.sha256(json.dumps(settings).encode() + images.tobytes()).hexdigest()[:16]
    path = Path(s.out, "inversions", f"{layer.replace('/', '-')}-{digest}.safetensors")
    if not path.is_file():
        result = invert(
            net,
            images,
            layer=layer,
            jitter=jitter,
            solver=solvers.BY_NAME[solver](max_evaluations=budget),
            batch_size=len(images),
            seed=s.seed,
            precision=s.precision,
            trace=True,
        )
        still = np.array([_still(trace) for trace in np.asarray(result.trace)])
        arrays = {"image": result.image_uint8, "loss": result.loss, "still": still}
        with atomic_path(path) as temporary:
            save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, temporary)
    with safe_open(path, "numpy") as kept:
        image, loss, still = (kept.get_tensor(name) for name in ("image", "loss", "still"))
    return image, loss, still


def _solver(settings: Settings) -> str:
    """Return the inversions' solver: jitter needs one without a line search."""
    return "sign" if settings.invert_jitter else settings.solver


def _still(trace: np.ndarray) -> int:
    """Return the evaluation after which an objective came no more than STILL lower."""
    best = np.minimum.accumulate(trace[np.isfinite(trace)])
    return int(np.argmax(best <= (1 + STILL) * best[-1])) + 1


def _likeness(a: Any, b: Any) -> float:
    """Return Pearson's correlation of two images' pixels."""
    return float(np.corrcoef(np.ravel(a).astype(float), np.ravel(b).astype(float))[0, 1])
