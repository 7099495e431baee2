"""Images from activations: two photographs reconstructed from early and late layers.

Writes a sheet for each network (the photographs, then a row for each layer) and the losses.

    python benchmarks/inversion.py [--evaluations 100] [--cases 0 1 2] [--out DIR]
"""

import argparse
from pathlib import Path

import common
import numpy as np

import advjax

CASES = (
    (
        "squeezenet",
        "caffemodels/squeezenet_v1.0.caffemodel",
        ("conv1", "fire2/concat", "fire3/concat", "fire4/concat", "fire9/concat"),
    ),
    ("caffenet", "orthonormal", ("conv1", "conv2", "conv3")),
    ("caffenet", "random", ("conv1", "conv2", "conv3")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variation", type=float)
    parser.add_argument("--out", type=Path, default=Path("inversions"))
    options = parser.parse_args()
    solver = advjax.ProjectedLBFGS(options.evaluations)
    rows = []
    for name, weights, layers in (CASES[i] for i in options.cases):
        own = weights in ("random", "orthonormal")
        net = advjax.load(name, weights if own else common.DATA / weights)
        images, _ = common.pairs(net, options.images)
        sheet = [np.concatenate(images, 1)]
        for layer in layers:
            result = advjax.invert(
                net,
                images,
                layer=layer,
                solver=solver,
                batch_size=options.images,
                variation=options.variation,
            )
            sheet.append(np.concatenate(result.image_uint8, 1))
            priors = result.objective - result.loss
            rows.append(
                {
                    "network": f"{name} {weights.split('/')[0]}",
                    "layer": layer,
                    "evaluations": float(result.evaluations.mean()),
                    "loss": float(result.loss.mean()),
                    "loss, 8 bits": float(result.loss_uint8.mean()),
                    "priors": float(priors.mean()),
                    # Grey and contrast are lost in many layers; what is left is the picture.
                    "correlation": float(
                        np.mean(
                            [
                                np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]
                                for a, b in zip(images, result.image, strict=True)
                            ]
                        )
                    ),
                }
            )
            common.table(rows)
            kind = weights if own else "trained"
            advjax.write_png(options.out / f"{name}-{kind}.png", np.concatenate(sheet))
    common.save("inversion", rows, images=options.images)


if __name__ == "__main__":
    main()
