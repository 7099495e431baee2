"""Figure 2: what one sees of a source, a guide and an adversarial from deeper and deeper layers.

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

import advjax
from advjax import solvers
from advjax.files import atomic_path
from advjax.networks.identity import network_key
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.style import gallery
from advjax.reproduce.tables import Made, columns, headed

NAMES = ("source", "guide", "adversarial")


def cells(lab: Lab) -> list[Cell]:
    """feature-opt at the last layer."""
    subject, s = lab.settings.subject, lab.settings
    return [Cell(subject, "feature-opt", lab.layers(subject)[-1], s.delta)]


def make(lab: Lab) -> Made:
    """Inversions of the first pairs from all layers but the first."""
    (cell,) = cells(lab)
    s, pairs = lab.settings, lab.pairs(cell.pool)
    layers = lab.layers(cell.subject)[1:] or lab.layers(cell.subject)
    pictures, captions, rows = [], [], []
    for made in sorted(lab.adversarials(cell, s.inverted)):
        i = made.index
        images = np.stack(
            [
                lab.image(cell, pairs.sources[i]),
                lab.image(cell, pairs.guides[i]),
                made.adversarial_uint8,
            ]
        )
        found = {layer: inverted(lab, cell, images, layer) for layer in layers}
        for k, name in enumerate(NAMES):
            pictures.append([images[k], *(found[layer][0][k] for layer in layers)])
            captions.append([name, *("" for _ in layers)])
        for layer, (seen, loss) in found.items():
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
        gallery(pictures, ("image", *layers), captions, most=1.4),
        "like: correlation of the adversarial's inversion with that of the source, of the guide. "
        "The paper shows pictures, without numbers.",
    )


def inverted(lab: Lab, cell: Cell, images: np.ndarray, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8) from the activations of images, and their losses; kept in OUT/inversions."""
    s, net = lab.settings, lab.net(cell.subject)
    settings = [network_key(net), layer, s.solver, s.invert_evaluations, s.seed, s.precision]
    digest = hashlib.sha256(json.dumps(settings).encode() + images.tobytes()).hexdigest()[:16]
    path = Path(s.out, "inversions", f"{layer.replace('/', '-')}-{digest}.safetensors")
    if not path.is_file():
        result = advjax.invert(
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
    """Pearson's correlation of two images' pixels."""
    return float(np.corrcoef(np.ravel(a).astype(float), np.ravel(b).astype(float))[0, 1])
