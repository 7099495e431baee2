"""The attacks side by side: is it linearity (section 4.3), is it one step (S6), what is a label?

Mean ratio d(adversarial, guide) / d(source, guide); for feature-linear also the ratio that the
linear map promises; how often the guide's label is taken; the size of the perturbation.

    python benchmarks/attacks.py [--pairs 6] [--evaluations 60] [--cases 0 1 2] [--labels 20]
"""

import argparse
from typing import Any

import common
import numpy as np

import advjax

TRAINED = "caffemodels/squeezenet_v1.0.caffemodel"
CASES = (
    ("caffenet", "random", "fc7"),
    ("squeezenet", TRAINED, "pool10"),
    ("squeezenet", TRAINED, "fire4/concat"),
)


def load(name: str, weights: str) -> advjax.Network:
    return advjax.load(name, weights if weights == "random" else common.DATA / weights)


def sizes(result: advjax.AttackResult, sources: np.ndarray) -> np.ndarray:
    """Euclidean norms of the perturbations, in levels."""
    change = np.float64(result.adversarial) - np.float64(sources)
    return np.linalg.norm(change.reshape(len(change), -1), axis=1)


def row(case: tuple[str, ...], attack: str, result: Any, sources: np.ndarray) -> dict[str, Any]:
    name, weights, layer = case
    assert result.label is not None and result.objective is not None  # noqa: PT018
    promised = np.sqrt(result.objective) / result.initial_distance
    apart = result.source_label != result.guide_label
    taken = {
        key: f"{int((labels == result.guide_label)[apart].sum())}/{int(apart.sum())}"
        for key, labels in (("label", result.label), ("label, 8 bits", result.label_uint8))
    }
    return {
        "network": f"{name} {weights.split('/')[0]}",
        "layer": layer,
        "attack": attack,
        "pairs": len(sources),
        "evaluations": float(result.evaluations.mean()),
        "ratio": float(result.ratio.mean()),
        "linear ratio": float(promised.mean()) if attack == "feature-linear" else "",
        "ratios": " ".join(f"{r:.2f}" for r in result.ratio) if len(sources) < 11 else "",
        **taken,
        "L2": float(sizes(result, sources).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--cases", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--labels", type=int, default=20, help="pairs for the attacks on labels")
    parser.add_argument("--attempts", type=int, default=8)
    parser.add_argument("--name", default="attacks")
    options = parser.parse_args()
    solver = advjax.ProjectedLBFGS(options.evaluations)
    rows = []
    for case in (CASES[i] for i in options.cases):
        net = load(*case[:2])
        sources, guides = common.pairs(net, options.pairs)
        for attack in ("feature-opt", "feature-linear", "feature-fgrad"):
            result = advjax.attack(
                net,
                sources,
                guides,
                attack=attack,
                layer=case[2],
                solver=None if attack == "feature-fgrad" else solver,
                batch_size=6,
            )
            rows.append(row(case, attack, result, sources))
            common.table(rows)
    if options.labels:
        case = CASES[1]
        net = load(*case[:2])
        sources, guides = common.pairs(net, options.labels)
        found = {}
        for attack, settings in (
            ("feature-opt", {"solver": solver}),
            ("label-fgrad", {}),
            (advjax.LabelOpt(attempts=options.attempts), {"solver": solver}),
        ):
            result = advjax.attack(net, sources, guides, attack=attack, batch_size=10, **settings)
            name = attack if isinstance(attack, str) else attack.name
            found[name] = result
            rows.append(row(case, name, result, sources))
            common.table(rows)
        ours, theirs = (sizes(found[name], sources) for name in ("label-opt", "feature-opt"))
        taken = found["label-opt"].label == found["label-opt"].guide_label
        print(f"label-opt: label taken by {taken.sum()} of {len(taken)}, ", end="")
        print(f"smaller L2 than feature-opt's on {(ours < theirs)[taken].sum()}; ", end="")
        print(f"median share {np.median(ours / theirs):.3f}, largest {np.max(ours / theirs):.3f}")
    common.save(options.name, rows, pairs=options.pairs)


if __name__ == "__main__":
    main()
