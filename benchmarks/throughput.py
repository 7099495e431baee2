"""Seconds per pair to the ratio that a peer reaches, against that peer.

The peer attacks first; advjax then attacks the same pairs, each until it has the peer's own ratio
(or 500 evaluations). Compile time is not counted; `compile s` tells it. SciPy's
OpenBLAS must be the machine's own (unset OPENBLAS_CORETYPE where it is set).

    python benchmarks/throughput.py [--pairs 8] [--network caffenet] [--weights random]
        [--peers art scipy-torch scipy-jax jaxopt] [--budgets 20 50 150]

`--weights ""` takes those that come with a network's package. Gradients are those of the solver's
default: smoothed with SignMomentum, exact with ProjectedLBFGS.
"""

import argparse
import time
from pathlib import Path

import common
import numpy as np
import torch
import torch_networks

import advjax
from advjax.attacks.box import pixel_box
from advjax.engine.stream import INITIAL
from advjax.solvers import Box, JaxoptLBFGSB

DELTA = 10.0


def distances(net, images, guides):
    a, g = (np.asarray(net(x)[net.layer], np.float64).reshape(len(x), -1) for x in (images, guides))
    return np.linalg.norm(a - g, axis=1)


def art(net, forward, sources, guides, iterations):
    """ART's FeatureAdversariesPyTorch: PGD by signs; the step has no default, 1 level is usual."""
    from art.attacks.evasion import FeatureAdversariesPyTorch
    from art.estimators.classification import PyTorchClassifier

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return forward(x.permute(0, 2, 3, 1))

    nchw = [
        np.ascontiguousarray(x.astype(np.float32).transpose(0, 3, 1, 2)) for x in (sources, guides)
    ]
    estimator = PyTorchClassifier(
        Model(), torch.nn.CrossEntropyLoss(), nchw[0].shape[1:], 1000, clip_values=(0.0, 255.0)
    )
    # Its activations are those of a named layer; here the model's output is the layer itself.
    estimator.get_activations = lambda x, *_: estimator.model(x)
    attack = FeatureAdversariesPyTorch(
        estimator, DELTA, max_iter=iterations, step_size=1.0, batch_size=8, verbose=False
    )
    begin = time.perf_counter()
    found = attack.generate(*nchw)
    return found.transpose(0, 2, 3, 1), time.perf_counter() - begin


def scipy_with_torch(net, forward, sources, guides, evaluations):
    """SciPy's L-BFGS-B, one pair after the other, with PyTorch's gradient."""
    images, begin = [], time.perf_counter()
    for source, guide in zip(sources, guides, strict=True):
        with torch.no_grad():
            target, first = (
                forward(torch.tensor(image[None].astype(np.float32))) for image in (guide, source)
            )
        # As our engine does: SciPy's tolerances are absolute and would else end it at once.
        scale = INITIAL / ((first - target) ** 2).sum().item()

        def value_and_gradient(x, target=target, shape=source.shape, scale=scale):
            point = torch.tensor(x.reshape(1, *shape)).requires_grad_()
            value = scale * ((forward(point) - target) ** 2).sum()
            return value.item(), torch.autograd.grad(value, point)[0].numpy().ravel()

        bounds = Box(*(b.ravel() for b in pixel_box(source, DELTA)))
        solver = advjax.ScipyLBFGSB(max_evaluations=evaluations)
        found = solver.minimize(value_and_gradient, source.astype(np.float32).ravel(), bounds)
        images.append(found.x.reshape(source.shape))
    return np.stack(images), time.perf_counter() - begin


def scipy_with_jax(net, sources, guides, evaluations):
    """SciPy's L-BFGS-B, one pair after the other, with our compiled gradient."""
    solver = advjax.ScipyLBFGSB(max_evaluations=evaluations)
    warm = advjax.ScipyLBFGSB(max_evaluations=2)
    advjax.attack(net, sources[:1], guides[:1], solver=warm, delta=DELTA)
    begin = time.perf_counter()
    found = advjax.attack(net, sources, guides, solver=solver, delta=DELTA)
    return found.adversarial, time.perf_counter() - begin


def jaxopt_vmapped(net, sources, guides, evaluations):
    """Jaxopt's LBFGSB, vmapped and jitted by our engine; the first run, not counted, compiles."""
    solver = JaxoptLBFGSB(max_evaluations=evaluations)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        found = advjax.attack(net, sources, guides, solver=solver, delta=DELTA)
        seconds.append(time.perf_counter() - begin)
    return found.adversarial, seconds[-1]


def ours(net, sources, guides, ratios, solver, batch):
    def run(limit):
        pairs = [
            advjax.Pair(s, g, target_ratio=min(r, 0.999))
            for s, g, r in zip(sources, guides, ratios, strict=True)
        ]
        begin = time.perf_counter()
        stream = advjax.attack_stream(net, pairs, solver=limit, delta=DELTA, batch_size=batch)
        return list(stream), time.perf_counter() - begin

    _, cold = run(solver)
    results, warm = run(solver)
    return results, warm, cold - warm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--scipy-pairs", type=int, default=3)
    parser.add_argument("--jaxopt-pairs", type=int, default=4)
    parser.add_argument("--jaxopt-evaluations", type=int, default=12)
    parser.add_argument("--peers", nargs="+", default=["art", "scipy-torch", "scipy-jax", "jaxopt"])
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 50, 150])
    parser.add_argument("--network", default="caffenet")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--evaluations", type=int, default=500)
    options = parser.parse_args()
    advjax.keep_freed_memory()  # for the peers, too
    net = advjax.load(options.network, options.weights or None)
    forward = getattr(torch_networks, options.network)(net)
    sources, guides = common.pairs(net, options.pairs)
    few = options.scipy_pairs
    j = options.jaxopt_pairs
    peers = {
        "art": (
            f"ART sign PGD, {options.iterations} iterations",
            lambda: art(net, forward, sources, guides, options.iterations),
            options.pairs,
        ),
        "scipy-torch": (
            f"SciPy L-BFGS-B, {options.evaluations} evaluations, PyTorch's gradient",
            lambda: scipy_with_torch(
                net, forward, sources[:few], guides[:few], options.evaluations
            ),
            few,
        ),
        "scipy-jax": (
            f"SciPy L-BFGS-B, {options.evaluations} evaluations, JAX's gradient",
            lambda: scipy_with_jax(net, sources[:few], guides[:few], options.evaluations),
            few,
        ),
        "jaxopt": (
            f"jaxopt LBFGSB vmapped, {options.jaxopt_evaluations} evaluations",
            lambda: jaxopt_vmapped(net, sources[:j], guides[:j], options.jaxopt_evaluations),
            j,
        ),
    }
    solvers = {
        "ProjectedLBFGS": advjax.ProjectedLBFGS(),
        **{f"SignMomentum({n})": advjax.SignMomentum(max_evaluations=n) for n in options.budgets},
    }
    rows = []
    for peer, run, count in (peers[name] for name in options.peers):
        found, seconds = run()
        s, g = sources[:count], guides[:count]
        ratios = distances(net, found.astype(np.float32).clip(0, 255), g) / distances(net, s, g)
        for name, solver in solvers.items():
            results, mine, compiling = ours(net, s, g, ratios, solver, min(8, count))
            rows.append(
                {
                    "peer": peer,
                    "its ratio": float(ratios.mean()),
                    "its s/pair": seconds / count,
                    "solver": name,
                    "our ratio": float(np.mean([r.ratio for r in results])),
                    "evaluations": float(np.mean([r.evaluations for r in results])),
                    "reached": sum(r.status == advjax.Status.TARGET for r in results) / count,
                    "our s/pair": mine / count,
                    "times faster": seconds / mine,
                    "compile s": compiling,
                }
            )
            common.table(rows[-1:])
    weights = Path(options.weights).stem or "trained"
    common.save(f"throughput-{options.network}-{weights}", rows, pairs=options.pairs)


if __name__ == "__main__":
    main()
