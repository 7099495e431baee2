"""The paper's failure cases (S7): how large must delta be on Caffe's small networks?

Pairs of different classes from mnist-test and cifar10-test, the trained LeNet and cifar10_full,
layer ip1, 500 evaluations.

    python benchmarks/small_networks.py [--pairs 100] [--deltas 5 10 25 50 100]
"""

import argparse

import common
import numpy as np

import advjax
from advjax.data import list_images

CASES = (
    ("lenet", "lenet_iter_10000", "mnist-test"),
    ("cifar10_full", "cifar10_full_iter_70000", "cifar10-test"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--deltas", type=float, nargs="+", default=[5, 10, 25, 50, 100])
    options = parser.parse_args()
    rows = []
    for name, weights, folder in CASES:
        net = advjax.load(name, common.DATA / "caffemodels" / f"{weights}.caffemodel")
        photographs = list_images(common.DATA / folder)
        rng = np.random.default_rng(0)
        pairs = []
        while len(pairs) < options.pairs:
            a, b = rng.choice(len(photographs), 2, replace=False)
            if photographs[a].parent != photographs[b].parent:
                pairs.append((photographs[a], photographs[b]))
        images = [
            advjax.load_images(column, net.preprocessing, net.input_shape[-1])
            for column in zip(*pairs, strict=True)
        ]
        for delta in options.deltas:
            result = advjax.attack(net, *images, delta=delta, batch_size=50)
            rows.append(
                {
                    "network": name,
                    "layer": net.layer,
                    "delta": delta,
                    "mean ratio": float(result.ratio.mean()),
                    "least": float(result.ratio.min()),
                    "largest": float(result.ratio.max()),
                    "guide's label": float((result.label == result.guide_label).mean()),
                    "evaluations": float(result.evaluations.mean()),
                }
            )
    common.save("small-networks", rows, pairs=options.pairs)


if __name__ == "__main__":
    main()
