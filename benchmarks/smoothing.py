"""The cost of a smoothed evaluation, relative distances, other attacks, a picture of the widths.

The cost is CPU time against an exact evaluation's, taken in turns, minimum and median over rounds.

    python benchmarks/smoothing.py [--cases squeezenet-pool10 ...] [--batch 4] [--rounds 7]
    python benchmarks/smoothing.py --relative [--cases squeezenet-pool10 ...]
    python benchmarks/smoothing.py --attacks [--cases squeezenet-pool10 ...] [--pairs 4]
    python benchmarks/smoothing.py --plot docs/smoothing.png
"""

import argparse
import time
from pathlib import Path

import common
import jax
import jax.numpy as jnp
import numpy as np
from quality import CASES

import advjax
from advjax.attacks.base import PairData
from advjax.networks.network import activations
from advjax.smoothing import smooth_kinks


def load(case: str) -> tuple[advjax.Network, str]:
    """Return the network and the layer of a case."""
    name, weights, layer = CASES[case]
    file = common.DATA / (weights or "")
    return advjax.load(name, file if weights and file.is_file() else weights), layer


def relative_distance(case: str) -> dict[str, object]:
    """Mean relative distance of the ten pairs that `quality.py` attacks."""
    net, layer = load(case)

    def features(image):
        return {layer: np.asarray(net(image[None], layer)[layer])}

    pairs = [
        PairData(source, features(source), features(guide), None)
        for source, guide in zip(*common.pairs(net, 10), strict=True)
    ]
    attack = advjax.FeatureOpt((layer,))
    mean = float(np.mean([attack.relative_distance(pair) for pair in pairs]))
    return {"case": case, "pairs": len(pairs), "relative distance": mean}


def cost(case: str, batch: int, rounds: int) -> dict[str, object]:
    """CPU seconds of an exact evaluation, and the ratio of a smoothed one to it."""
    net, layer = load(case)
    shape = (batch, *net.input_shape)
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    target = 0.9 * np.asarray(net(images, layer)[layer])
    widths = np.geomspace(0.5, 0.01, batch).astype(np.float32)

    def loss(images, params, widths):
        def features(images):
            return activations(net.function, True, params, images, (layer,))[layer]

        values = features(images) if widths is None else smooth_kinks(features)(widths, images)
        return jnp.sum((values - target) ** 2)

    evaluate = jax.jit(jax.value_and_grad(loss))
    kinds = {"exact": None, "smoothed": widths}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind, argument in kinds.items():
            begin = time.process_time()
            jax.block_until_ready(evaluate(images, net.params, argument))
            if turn:  # the first one compiles
                seconds[kind].append(time.process_time() - begin)
    exact, smoothed = seconds["exact"], seconds["smoothed"]
    return {
        "case": case,
        "exact, s": float(np.min(exact)),
        "ratio of minima": float(np.min(smoothed) / np.min(exact)),
        "ratio of medians": float(np.median(smoothed) / np.median(exact)),
    }


def other_attacks(case: str, count: int) -> list[dict[str, object]]:
    """What label-opt and inversion come to with exact and with smoothed gradients."""
    net, layer = load(case)
    sources, guides = (each[:count] for each in common.pairs(net, 10))
    widths = advjax.Smoothing().within(100)
    ways = {
        "ProjectedLBFGS, exact": (advjax.ProjectedLBFGS(100), None),
        "ProjectedLBFGS, smoothed": (advjax.ProjectedLBFGS(100), widths),
        "no line search, smoothed": (advjax.ProjectedLBFGS(100, line_search=False), widths),
        "SignMomentum, exact": (advjax.SignMomentum(100), None),
        "SignMomentum, smoothed": (advjax.SignMomentum(100), widths),
    }
    rows = []
    for name, (solver, smoothing) in ways.items():
        settings = {"solver": solver, "smoothing": smoothing, "batch_size": count}
        label = advjax.attack(net, sources, guides, attack=advjax.LabelOpt(attempts=4), **settings)
        change = np.float64(label.adversarial) - sources
        image = advjax.invert(net, sources, layer=layer, **settings)
        row = {
            "case": case,
            "pairs": count,
            "solver": name,
            "labels taken": int((label.label_uint8 == label.guide_label).sum()),
            "label-opt, rms change": float(np.sqrt((change**2).mean((1, 2, 3))).mean()),
            "inversion, loss": float(np.exp(np.log(image.loss).mean())),
            "inversion, objective": float(np.exp(np.log(image.objective).mean())),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def plot(path: Path) -> None:
    """Draw the derivative of a ReLU at four widths, and the width over the budget."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    smoothing = advjax.Smoothing()
    x = jnp.linspace(-4, 4, 801)[None]
    slope = jax.vmap(jax.grad(lambda width, x: smooth_kinks(jax.nn.relu)(width, x).sum(), 1))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    progress = jnp.linspace(0, 1, 4)
    mean = float(jnp.abs(x).mean())
    for at in progress:
        width = smoothing.width(at)
        ramp = slope(width[None], x[None])[0, 0]
        left.plot(x[0] / mean, ramp, label=f"{at:.0%} of the budget, c = {width:.2g}")
    left.set(xlabel="x / m", ylabel="derivative of max(x, 0)")
    figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")
    every = jnp.linspace(0, 1, 101)
    right.plot(100 * every, smoothing.width(every), color="black")
    right.set(xlabel="% of the budget", ylabel="width c", yscale="log")
    figure.savefig(path, dpi=110)
    print(f"written: {path}")


def main() -> None:
    """Measure the cost or the distances, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = ["squeezenet-pool10", "efficientnet-pool", "caffenet-fc7"]
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=cases)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--relative", action="store_true")
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.plot:
        plot(options.plot)
    elif options.relative:
        common.save("smoothing-relative", [relative_distance(case) for case in options.cases])
    elif options.attacks:
        rows = [row for case in options.cases for row in other_attacks(case, options.pairs)]
        common.save("smoothing-attacks", rows)
    else:
        rows = [cost(case, options.batch, options.rounds) for case in options.cases]
        common.save("smoothing-cost", rows)


if __name__ == "__main__":
    main()
