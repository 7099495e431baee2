"""Figure 2: inversions of source, guide and adversarial from deeper and deeper layers.

Inversion as Mahendran and Vedaldi (2015) do it, `advjax.invert`. An adversarial's deep layers are
to look like the guide's, while its pixels are the source's.
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
from advjax.files import atomic_path
from advjax.networks.identity import network_key
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.fig1 import LABELS
from advjax.reproduce.output import Made, columns, headed
from advjax.reproduce.style import class_name, gallery

NAMES = ("source", "guide", "adversarial")


def needs(experiments: Experiments) -> list[Experiment]:
    """Return feature-opt at the last layer."""
    model, s = experiments.settings.model, experiments.settings
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
        for layer, (seen, loss) in inversions.items():
            rows.append(
                {
                    "pair": i,
                    "layer": layer,
                    "like_source": _likeness(seen[2], seen[0]),
                    "like_guide": _likeness(seen[2], seen[1]),
                    **{f"loss_{name}": float(loss[k]) for k, name in enumerate(NAMES)},
                }
            )
    return Made(
        {"": columns(rows)},
        headed(rows, {name: name.replace("_", " ") for name in rows[0]}),
        gallery(pictures, ("image", *layers), captions, width=1.4),
        f"{s.invert_evaluations:,} evaluations of {s.solver} for each inversion. "
        "like: correlation of the adversarial's inversion with that of the source, of the guide. "
        "The paper shows pictures, without numbers.",
    )


def inverted(
    experiments: Experiments, experiment: Experiment, images: np.ndarray, layer: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return inversions (uint8) of images and their losses; they are kept in OUT/inversions."""
    s, net = experiments.settings, experiments.net(experiment.model)
    settings = [network_key(net), layer, s.solver, s.invert_evaluations, s.seed, s.precision]
    digest = hashlib.sha256(json.dumps(settings).encode() + images.tobytes()).hexdigest()[:16]
    path = Path(s.out, "inversions", f"{layer.replace('/', '-')}-{digest}.safetensors")
    if not path.is_file():
        result = invert(
            net,
            images,
            layer=layer,
            solver=solvers.BY_NAME[s.solver](max_evaluations=s.invert_evaluations),
            batch_size=len(images),
            seed=s.seed,
            precision=s.precision,
        )
        arrays = {"image": result.image_uint8, "loss": result.loss}
        with atomic_path(path) as temporary:
            save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, temporary)
    with safe_open(path, "numpy") as kept:
        return kept.get_tensor("image"), kept.get_tensor("loss")


def _likeness(a: Any, b: Any) -> float:
    """Return Pearson's correlation of two images' pixels."""
    return float(np.corrcoef(np.ravel(a).astype(float), np.ravel(b).astype(float))[0, 1])
