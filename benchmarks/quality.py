"""Distance against evaluations: ProjectedLBFGS and the other solvers against SciPy's L-BFGS-B.

The same objective (compiled by JAX), the same box, history 10, the same evaluations.

    python benchmarks/quality.py [--pairs 10] [--at 50 150]
"""

import argparse

import common
import numpy as np

import advjax

CASES = (
    ("caffenet", "random", "fc7"),
    ("squeezenet", "caffemodels/squeezenet_v1.0.caffemodel", "pool10"),
    ("squeezenet", "caffemodels/squeezenet_v1.0.caffemodel", "fire9/concat"),
)


def best_by_evaluation(result: advjax.AttackResult, at: list[int]) -> np.ndarray:
    """[pairs, len(at)]: the least ratio seen up to those evaluations."""
    least = np.fmin.accumulate(result.trace, axis=1) / result.initial_distance[:, None]
    return least[:, [min(n, least.shape[1]) - 1 for n in at]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--at", type=int, nargs="+", default=[50, 150])
    parser.add_argument("--cases", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    most = max(options.at)
    rows = []
    for name, weights, layer in (CASES[i] for i in options.cases):
        path = weights if weights == "random" else common.DATA / weights
        net = advjax.load(name, path)
        sources, guides = common.pairs(net, options.pairs)
        found = {}
        for solver in (
            advjax.ScipyLBFGSB(most),
            advjax.ProjectedLBFGS(most),
            advjax.SignMomentum(max_evaluations=most),
        ):
            result = advjax.attack(
                net, sources, guides, layer=layer, solver=solver, trace=True, batch_size=5
            )
            found[type(solver).__name__] = best_by_evaluation(result, options.at)
        peer = found["ScipyLBFGSB"]
        for solver, ratios in found.items():
            for column, evaluations in enumerate(options.at):
                ours, theirs = ratios[:, column], peer[:, column]
                rows.append(
                    {
                        "network": f"{name} {weights.split('/')[0]}",
                        "layer": layer,
                        "solver": solver,
                        "evaluations": evaluations,
                        "mean ratio": float(ours.mean()),
                        "against SciPy": float(np.exp(np.log(ours / theirs).mean())),
                        "no worse than 1 %": f"{int((ours <= 1.01 * theirs).sum())}/{len(ours)}",
                    }
                )
        common.table(rows)
    common.save("quality", rows, pairs=options.pairs)


if __name__ == "__main__":
    main()
