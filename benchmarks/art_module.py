"""ART's FeatureAdversariesPyTorch and advjax on the same PyTorch module, trained, by CPU time.

ART attacks first, by steps of signs and by Adam; advjax then attacks the same pairs through
`Network.from_torch`, with the default solver: with as many gradients as ART had, and until each
pair has ART's own ratio. Compilation is not counted, and told. On one core:

    taskset -c 0 python benchmarks/art_module.py [--pairs 2] [--iterations 100]

It needs `pip install torch adversarial-robustness-toolbox` and real photographs (`common.pairs`).
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch
import torch_networks
from art.attacks.evasion import FeatureAdversariesPyTorch
from art.estimators.classification import PyTorchClassifier

import advjax

DELTA = 10.0


class Encoder(torch.nn.Module):
    """EfficientNet-Lite0 to its pooled features, of pixels [b, c, h, w] in 0..255."""

    def __init__(self, net: advjax.Network):
        super().__init__()
        self.features = torch_networks.efficientnet_lite0(net)
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # ART asks a model for its device

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.features(x.permute(0, 2, 3, 1))


def with_art(module: Any, sources: Any, guides: Any, **settings: Any) -> np.ndarray:
    pixels = [np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32) for x in (sources, guides)]
    shape = pixels[0].shape[1:]
    estimator = PyTorchClassifier(
        module, torch.nn.CrossEntropyLoss(), shape, 1000, clip_values=(0.0, 255.0)
    )
    # Its activations are those of a named layer; here the module's output is the layer itself.
    estimator.get_activations = lambda x, *_: estimator.model(x)
    attack = FeatureAdversariesPyTorch(
        estimator, DELTA, batch_size=len(sources), verbose=False, **settings
    )
    return attack.generate(*pixels).transpose(0, 2, 3, 1)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    return run(), time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained = advjax.load("efficientnet_lite0")
    sources, guides = common.pairs(trained, options.pairs)
    module = Encoder(trained).eval()
    net = advjax.Network.from_torch(module, trained.input_shape, layer="output")

    def distances(images: np.ndarray) -> np.ndarray:
        a, b = (np.asarray(net(x)["output"], np.float64) for x in (images, guides))
        return np.linalg.norm(a - b, axis=1)

    def ours(ratios: Any, budget: int) -> list[Any]:
        pairs = [
            advjax.Pair(source, guide, target_ratio=ratio)
            for source, guide, ratio in zip(sources, guides, ratios, strict=True)
        ]
        stream = advjax.attack_stream(
            net, pairs, delta=DELTA, max_evaluations=budget, batch_size=options.pairs
        )
        return list(stream)

    def changed(images: np.ndarray) -> float:
        return float(abs(images - sources.astype(np.float32)).max())

    peers = {
        "signs, step 1": {"step_size": 1.0},
        "Adam, rate 1": {"optimizer": torch.optim.Adam, "optimizer_kwargs": {"lr": 1.0}},
    }
    n = options.iterations
    rows = []
    _, cold = timed(lambda: ours([None] * options.pairs, n))
    equal, whole = timed(lambda: ours([None] * options.pairs, n))
    final = np.mean([pair.ratio for pair in equal])
    largest = max(
        float(abs(pair.adversarial_uint8.astype(np.float32) - sources[pair.index]).max())
        for pair in equal
    )
    for name, settings in peers.items():
        settings = settings | {"max_iter": n}
        found, seconds = timed(
            lambda settings=settings: with_art(module, sources, guides, **settings)
        )
        ratios = distances(found.clip(0, 255)) / distances(sources)
        limits = [min(float(ratio), 0.999) for ratio in ratios]
        ours(limits, n)  # compiled
        reached, mine = timed(lambda limits=limits: ours(limits, n))
        rows.append(
            {
                "ART": name,
                "gradients": n,
                "its ratio": float(ratios.mean()),
                "its s/pair": seconds / options.pairs,
                "its largest change": changed(found),
                "of its 8-bit file": changed(np.rint(found).clip(0, 255)),
                "our ratio": float(final),
                "our s/pair": whole / options.pairs,
                "of our 8-bit file": largest,
                "to its ratio: gradients": float(np.mean([pair.evaluations for pair in reached])),
                "reached": sum(pair.status == advjax.Status.TARGET for pair in reached),
                "to its ratio: s/pair": mine / options.pairs,
                "times faster": seconds / mine,
                "compile s": cold - whole,
            }
        )
    common.save("art-module-cpu", rows, pairs=options.pairs, delta=DELTA, clock="CPU time")


if __name__ == "__main__":
    main()
