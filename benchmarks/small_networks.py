"""The paper's failure cases (S7): how large must delta be on Caffe's small networks?

The trained LeNet and cifar10_full, layer ip1, pairs of different classes from mnist-test and
cifar10-test, the same ones at every delta. `--squeezenet` attacks the trained SqueezeNet instead,
at pool10 and fire9/concat, on photographs of imagenet-1000.

    python benchmarks/small_networks.py [--pairs 200] [--evaluations 300] [--deltas 5 10 25 ...]
    python benchmarks/small_networks.py --squeezenet [--pairs 8] [--evaluations 150]
"""

import argparse

import common
import numpy as np

import advjax
from advjax.data import list_images
from advjax.networks.network import Network

CASES = (
    ("lenet", "lenet_iter_10000", "mnist-test"),
    ("cifar10_full", "cifar10_full_iter_70000", "cifar10-test"),
)
SHARES = (0.1, 0.2, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--squeezenet", action="store_true")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--deltas", type=float, nargs="+")
    options = parser.parse_args()
    if options.squeezenet:
        squeezenet(options.pairs or 8, options.evaluations or 150, options.deltas or [10])
    else:
        deltas = options.deltas or [5, 10, 25, 50, 75, 100, 150]
        small_networks(options.pairs or 200, options.evaluations or 300, deltas)


def small_networks(count: int, evaluations: int, deltas: list[float]) -> None:
    rows, classes = [], []
    for name, weights, folder in CASES:
        net = load(name, weights)
        paths = pairs_of_different_classes(folder, count)
        true = [[int(net.classes.index(p.parent.name)) for p in column] for column in paths]
        images = [advjax.load_images(p, net.preprocessing, net.input_shape[-1]) for p in paths]
        for delta in deltas:
            result = attack(net, images, net.layer, delta, evaluations)
            rows.append(row(net, net.layer, delta, result))
            classes += by_class(net, delta, result, true)
    settings = {"pairs": count, "evaluations": evaluations}
    common.save("small-networks", rows, **settings, by_class=classes)
    common.table(classes)


def squeezenet(count: int, evaluations: int, deltas: list[float]) -> None:
    net = load("squeezenet", "squeezenet_v1.0")
    images, rows, ratios = common.pairs(net, count), [], {}
    for layer in ("pool10", "fire9/concat"):
        for delta in deltas:
            result = attack(net, images, layer, delta, evaluations, lanes=8)
            rows.append(row(net, layer, delta, result))
            ratios[f"{layer}, delta {delta:g}"] = [round(float(r), 4) for r in result.ratio]
    common.save("squeezenet", rows, pairs=count, evaluations=evaluations, ratios=ratios)


def load(name: str, weights: str) -> Network:
    return advjax.load(name, common.DATA / "caffemodels" / f"{weights}.caffemodel")


def pairs_of_different_classes(folder: str, count: int) -> tuple[list, list]:
    """Paths of sources and of guides."""
    images = list_images(common.DATA / folder)
    rng = np.random.default_rng(0)
    pairs = []
    while len(pairs) < count:
        a, b = rng.choice(len(images), 2, replace=False)
        if images[a].parent != images[b].parent:
            pairs.append((images[a], images[b]))
    sources, guides = zip(*pairs, strict=True)
    return list(sources), list(guides)


def attack(net, images, layer, delta, evaluations, lanes=16) -> advjax.AttackResult:
    solver = advjax.ProjectedLBFGS(max_evaluations=evaluations)
    return advjax.attack(net, *images, layer=layer, delta=delta, solver=solver, batch_size=lanes)


def row(net: Network, layer: str, delta: float, result: advjax.AttackResult) -> dict:
    return (
        {"network": net.name, "layer": layer, "delta": delta}
        | {"mean ratio": float(result.ratio.mean()), "median": float(np.median(result.ratio))}
        | {"least": float(result.ratio.min()), "largest": float(result.ratio.max())}
        | {f"under {share}": float((result.ratio < share).mean()) for share in SHARES}
        | {
            "guide's label": float((result.label == result.guide_label).mean()),
            "leaves source's": float((result.label != result.source_label).mean()),
            "evaluations": float(result.evaluations.mean()),
        }
    )


def by_class(net, delta, result, true) -> list[dict]:
    """The same by the true class, once of the source and once of the guide."""
    taken = result.label == result.guide_label
    found = []
    for index, name in enumerate(net.classes):
        line = {"network": net.name, "delta": delta, "class": name}
        for role, labels in zip(("source", "guide"), true, strict=True):
            mine = np.asarray(labels) == index
            line |= {
                f"pairs ({role})": int(mine.sum()),
                f"mean ratio ({role})": float(result.ratio[mine].mean()),
                f"guide's label ({role})": float(taken[mine].mean()),
            }
        found.append(line)
    return found


if __name__ == "__main__":
    main()
