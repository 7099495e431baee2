"""Distance against evaluations: every solver against SciPy's L-BFGS-B, on photographs.

The same objective (compiled by JAX), the same box, history 10, the same evaluations. Traces are
kept in `--traces`, so that solvers can be run one at a time: what is there is not run again.

    python benchmarks/quality.py [--cases caffenet-fc7 ...] [--solvers ScipyLBFGSB ...] [--pairs 10]
    python benchmarks/quality.py --plot docs/quality.png     # from the traces alone

A trace is an .npz file: `ratios` [pairs, budget], the distance at each evaluation over the initial
one, NaN once a pair has ended; `cosines` [pairs], `bench.cosine_ratio` of the adversarials.
"""

import argparse
from pathlib import Path
from typing import Any

import common
import numpy as np

import advjax
from advjax import bench, solvers

SQUEEZENET = "caffemodels/squeezenet_v1.0.caffemodel"
CASES = {
    "caffenet-fc7": ("caffenet", "random", "fc7"),
    "caffenet-conv3": ("caffenet", "random", "conv3"),
    "orthonormal-fc7": ("caffenet", "orthonormal", "fc7"),
    "efficientnet-pool": ("efficientnet_lite0", None, "pool"),
    "squeezenet-pool10": ("squeezenet", SQUEEZENET, "pool10"),
    "squeezenet-fire9": ("squeezenet", SQUEEZENET, "fire9/concat"),
}
AT = (10, 25, 50, 100, 150, 500)
PEER = "ScipyLBFGSB"
STYLES = {  # Okabe and Ito's colours, which the colour-blind can tell apart; others' rules dashed
    PEER: ("#000000", "-"),
    "ProjectedLBFGS": ("#0072B2", "-"),
    "Smoothed": ("#56B4E9", "-"),
    "SmoothedLBFGS": ("#999999", "-"),
    "SignMomentum": ("#D55E00", "-"),
    "JaxoptLBFGSB": ("#E69F00", "-"),
    "sign-pgd": ("#CC79A7", "--"),
    "mi-fgsm": ("#E69F00", "--"),
    "m-attack": ("#0072B2", "--"),
    "adam": ("#009E73", "--"),
    "nightshade": ("#D55E00", "--"),
    "apgd": ("#000000", "--"),
}
FALLING = ("nightshade", "apgd")  # of the published rules, those whose steps depend on the budget


def contenders(budget: int) -> dict[str, Any]:
    """The solvers by name; those whose steps depend on the budget carry it in their name.

    "Smoothed" is `SignMomentum` with smoothed gradients, the default; "SmoothedLBFGS" is
    `ProjectedLBFGS` with smoothed gradients and without its line search.
    """
    ours = {
        PEER: solvers.ScipyLBFGSB(budget),
        "ProjectedLBFGS": solvers.ProjectedLBFGS(budget),
        f"SignMomentum-{budget}": solvers.SignMomentum(budget),
        f"Smoothed-{budget}": solvers.SignMomentum(budget),
        f"SmoothedLBFGS-{budget}": solvers.ProjectedLBFGS(budget, line_search=False),
        "JaxoptLBFGSB": solvers.JaxoptLBFGSB(budget),
    }
    published = {
        f"{name}-{budget}" if name in FALLING else name: rule(budget)
        for name, rule in solvers.PUBLISHED.items()
    }
    return ours | published


def split(name: str) -> tuple[str, int | None]:
    """The solver's name and the budget that it carries, if any."""
    family, _, budget = name.rpartition("-")
    return (family, int(budget)) if budget.isdigit() else (name, None)


def traces_of(traces: Path, case: str) -> dict[str, Any]:
    """The traces of a case by the names of the solvers."""
    return {f.stem.split(".")[1]: np.load(f) for f in sorted(traces.glob(f"{case}.*.npz"))}


def last(ratios: np.ndarray, at: int) -> np.ndarray:
    """The ratio at the last of the first `at` evaluations that each pair had."""
    count = (~np.isnan(ratios[:, :at])).sum(1, keepdims=True)  # a pair that has ended stays so
    return np.take_along_axis(ratios, count - 1, 1)[:, 0]


def rows_of(traces: Path) -> list[dict[str, Any]]:
    """One row for each case, solver and number of evaluations.

    Mean ratios of the best point so far, of the last one, and, at the end of a run alone, of the
    best one's cosine distance.
    """
    rows = []
    for case in CASES:
        found = traces_of(traces, case)
        best = {name: np.fmin.accumulate(run["ratios"], 1) for name, run in found.items()}
        peer = best.get(PEER)
        for name, run in found.items():
            end = run["ratios"].shape[1]
            for at in sorted({*AT, end}):
                if at > end or (split(name)[1] and at != end):
                    continue
                ours = best[name][:, at - 1]
                row = {
                    "case": case,
                    "solver": name,
                    "evaluations": at,
                    "pairs": len(ours),
                    "mean ratio": float(ours.mean()),
                    "mean ratio, last": float(last(run["ratios"], at).mean()),
                    "mean ratio, cosine": float(run["cosines"].mean()) if at == end else "",
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

    cases = [case for case in CASES if traces_of(traces, case)]
    figure, axes = plt.subplots(2, len(cases), figsize=(2.8 * len(cases), 5.4), squeeze=False)
    for (above, below), case in zip(axes.T, cases, strict=True):
        found = traces_of(traces, case)
        best = {name: np.fmin.accumulate(run["ratios"], 1) for name, run in found.items()}
        count = min(map(len, best.values()))  # the same pairs for every line
        at_150 = {}
        for name, ratios in best.items():
            family, budget = split(name)
            ratios = ratios[:count]
            mean = np.exp(np.log(ratios).mean(0))
            colour, dashes = STYLES[family]
            style = {"color": colour, "ls": dashes, "lw": 1.4, "label": family}
            above.plot(np.arange(1, len(mean) + 1), mean, **style)
            if ratios.shape[1] >= 150 and budget in (None, 150):
                at_150[family] = ratios[:, 149]
        for family, ratios in at_150.items():
            below.step(
                [1, *np.sort(ratios / np.min(list(at_150.values()), 0)), 9],
                [0, *(np.arange(1, count + 1) / count), 1],
                where="post",
                color=STYLES[family][0],
                ls=STYLES[family][1],
            )
        above.set(title=f"{case}, {count} pairs", xlabel="evaluations", xscale="log", yscale="log")
        above.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        above.yaxis.set_major_formatter(ScalarFormatter())
        above.yaxis.set_minor_formatter(NullFormatter())
        below.set(xlim=(1, 2.5), ylim=(0, 1.03), xlabel="times the best at 150")
    axes[0, 0].set_ylabel("distance ratio, geometric mean")
    axes[1, 0].set_ylabel("fraction of pairs")
    lines = {line.get_label(): line for ax in axes[0] for line in ax.lines}
    figure.legend(
        lines.values(), lines.keys(), loc="lower center", ncols=min(6, len(lines)), frameon=False
    )
    figure.tight_layout(rect=(0, 0.05 if len(lines) < 7 else 0.09, 1, 1))
    figure.savefig(path, dpi=110)
    print(f"written: {path}")


def main() -> None:
    """Runs what is not there yet, and makes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    default = [PEER, "ProjectedLBFGS", "SignMomentum", "Smoothed", *solvers.PUBLISHED]
    parser.add_argument("--solvers", nargs="+", choices=list(STYLES), default=default)
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 50, 100, 150, 500])
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
                family, falls = split(name)
                if family not in options.solvers:
                    continue
                if not falls and budget != max(options.budgets):
                    continue  # its trace is the same for every budget
                path = options.traces / f"{case}.{name}.npz"
                if path.is_file():
                    continue
                found = advjax.attack(
                    net,
                    sources,
                    guides,
                    layer=layer,
                    solver=solver,
                    smoothing="auto" if name.startswith("Smoothed") else None,
                    trace=True,
                    batch_size=5,
                )
                ratios = np.sqrt(found.trace) / found.initial_distance[:, None]
                ended = budget - ratios.shape[1]  # evaluations for which no pair was left
                ratios = np.pad(ratios, ((0, 0), (0, ended)), constant_values=np.nan)
                cosines = bench.cosine_ratio(net, layer, found.adversarial, sources, guides)
                np.savez(path, ratios=ratios, cosines=cosines)
                print(f"{path}: {found.ratio.mean():.4f}", flush=True)
    common.save("quality", rows_of(options.traces))


if __name__ == "__main__":
    main()
