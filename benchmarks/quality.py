"""Distance against evaluations: every solver against SciPy's L-BFGS-B, on photographs.

The same objective (compiled by JAX), the same box, history 10, the same evaluations. Traces are
kept in `--traces`, so that solvers can be run one at a time: what is there is not run again.

    python benchmarks/quality.py [--cases caffenet-fc7 ...] [--solvers ScipyLBFGSB ...] [--pairs 10]
    python benchmarks/quality.py --plot docs/quality.png     # from the traces alone
"""

import argparse
from pathlib import Path
from typing import Any

import common
import numpy as np
import optax

import advjax
from advjax import solvers

SQUEEZENET = "caffemodels/squeezenet_v1.0.caffemodel"
CASES = {
    "caffenet-fc7": ("caffenet", "random", "fc7"),
    "caffenet-conv3": ("caffenet", "random", "conv3"),
    "orthonormal-fc7": ("caffenet", "orthonormal", "fc7"),
    "efficientnet-pool": ("efficientnet_lite0", None, "pool"),
    "squeezenet-pool10": ("squeezenet", SQUEEZENET, "pool10"),
    "squeezenet-fire9": ("squeezenet", SQUEEZENET, "fire9/concat"),
}
AT = (25, 50, 100, 150, 500)
PEER = "ScipyLBFGSB"
COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart
    PEER: "#000000",
    "ProjectedLBFGS": "#0072B2",
    "Smoothed": "#56B4E9",
    "SmoothedLBFGS": "#999999",
    "SignMomentum": "#D55E00",
    "Adam": "#009E73",
    "SignPGD": "#CC79A7",
    "JaxoptLBFGSB": "#E69F00",
}


def contenders(budget: int) -> dict[str, Any]:
    """The solvers by name; those whose steps depend on the budget carry it in their name.

    "Smoothed" is `SignMomentum` with smoothed gradients, the default; "SmoothedLBFGS" likewise.
    """
    fall = optax.cosine_decay_schedule(2.0, budget)
    return {
        PEER: solvers.ScipyLBFGSB(budget),
        "ProjectedLBFGS": solvers.ProjectedLBFGS(budget),
        f"SignMomentum-{budget}": solvers.SignMomentum(budget),
        f"Smoothed-{budget}": solvers.SignMomentum(budget),
        f"SmoothedLBFGS-{budget}": solvers.ProjectedLBFGS(budget),
        f"Adam-{budget}": solvers.OptaxProjected(optax.adam(fall), budget),
        f"SignPGD-{budget}": solvers.OptaxProjected(
            # What ART's FeatureAdversariesPyTorch does, at a step of 1 level.
            optax.sign_sgd(1.0),
            budget,
        ),
        "JaxoptLBFGSB": solvers.JaxoptLBFGSB(budget),
    }


def rows_of(traces: Path) -> list[dict[str, Any]]:
    """One row for each case, solver and number of evaluations."""
    rows = []
    for case in CASES:
        found = {f.stem.split(".")[1]: np.load(f) for f in sorted(traces.glob(f"{case}.*.npy"))}
        peer = found.get(PEER)
        for name, ratios in found.items():
            budget = int(name.split("-")[1]) if "-" in name else ratios.shape[1]
            for at in AT:
                if at > ratios.shape[1] or ("-" in name and at != budget):
                    continue
                ours = ratios[:, at - 1]
                row = {
                    "case": case,
                    "solver": name,
                    "evaluations": at,
                    "pairs": len(ours),
                    "mean ratio": float(ours.mean()),
                    "against SciPy": "",
                    "no worse than 1 %": "",
                    "against SciPy's 500": "",
                }
                if peer is not None:
                    n = min(len(peer), len(ours))
                    if at <= peer.shape[1]:
                        theirs = peer[:n, at - 1]
                        row["against SciPy"] = _mean_quotient(ours[:n], theirs)
                        row["no worse than 1 %"] = f"{(ours[:n] <= 1.01 * theirs).sum()}/{n}"
                    if peer.shape[1] >= 500:
                        row["against SciPy's 500"] = _mean_quotient(ours[:n], peer[:n, 499])
                rows.append(row)
    return rows


def _mean_quotient(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{np.exp(np.log(ours / theirs).mean()):.3f}"


def plot(traces: Path, path: Path) -> None:
    """Mean distance against evaluations, and performance profiles at 150 evaluations, by case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    cases = [case for case in CASES if list(traces.glob(f"{case}.*.npy"))]
    figure, axes = plt.subplots(2, len(cases), figsize=(2.8 * len(cases), 5.4), squeeze=False)
    for (above, below), case in zip(axes.T, cases, strict=True):
        found = {f.stem.split(".")[1]: np.load(f) for f in sorted(traces.glob(f"{case}.*.npy"))}
        count = min(map(len, found.values()))  # the same pairs for every line
        at_150 = {}
        for name, ratios in found.items():
            family, _, budget = name.partition("-")
            ratios = ratios[:count]
            mean = np.exp(np.log(ratios).mean(0))
            style = {"color": COLOURS[family], "lw": 1.4, "label": family}
            above.plot(np.arange(1, len(mean) + 1), mean, **style)
            if ratios.shape[1] >= 150 and budget in ("", "150"):
                at_150[family] = ratios[:, 149]
        best = np.min(list(at_150.values()), 0)
        for family, ratios in at_150.items():
            below.step(
                [1, *np.sort(ratios / best), 9],
                [0, *(np.arange(1, count + 1) / count), 1],
                where="post",
                color=COLOURS[family],
            )
        above.set(title=f"{case}, {count} pairs", xlabel="evaluations", xscale="log", yscale="log")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        above.yaxis.set_major_formatter(ScalarFormatter())
        above.yaxis.set_minor_formatter(NullFormatter())
        below.set(xlim=(1, 2.5), ylim=(0, 1.03), xlabel="times the best at 150")
    axes[0, 0].set_ylabel("distance ratio, geometric mean")
    axes[1, 0].set_ylabel("share of pairs")
    lines = {line.get_label(): line for ax in axes[0] for line in ax.lines}
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncols=len(lines), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    print(f"written: {path}")


def main() -> None:
    """Runs what is not there yet, and makes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--solvers", nargs="+", default=[PEER, "ProjectedLBFGS", "SignMomentum", "Smoothed"]
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 150, 500])
    parser.add_argument("--traces", type=Path, default=Path("quality-traces"))
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.traces.mkdir(exist_ok=True)
    if options.plot:
        plot(options.traces, options.plot)
        return
    for case in options.cases:
        network, weights, layer = CASES[case]
        file = common.DATA / (weights or "")
        net = advjax.load(network, file if weights and file.is_file() else weights)
        # Drawn for ten pairs whatever the number, so that fewer are the first of them.
        sources, guides = (each[: options.pairs] for each in common.pairs(net, 10))
        for budget in sorted(options.budgets, reverse=True):
            for name, solver in contenders(budget).items():
                if name.split("-")[0] not in options.solvers:
                    continue
                if "-" not in name and budget != max(options.budgets):
                    continue  # its trace is the same for every budget
                path = options.traces / f"{case}.{name}.npy"
                if path.is_file():
                    continue
                found = advjax.attack(
                    net,
                    sources,
                    guides,
                    layer=layer,
                    solver=solver,
                    smoothing=advjax.Smoothing() if name.startswith("Smoothed") else None,
                    trace=True,
                    batch_size=5,
                )
                distances = np.sqrt(found.trace)
                trace = np.fmin.accumulate(distances, axis=1) / found.initial_distance[:, None]
                np.save(path, trace)
                print(f"{path}: {trace[:, -1].mean():.4f}", flush=True)
    common.save("quality", rows_of(options.traces))


if __name__ == "__main__":
    main()
