"""The paper's analysis of every attack, on trained SqueezeNet and photographs.

Sources are photographs of imagenet-1000, guides those of imagenette/train, which is the bank too.
The adversarials are kept in --work, so that the command given again goes on where it stopped.

    python benchmarks/paper_table.py --work DIR [--attacks NAME ...] [--layers NAME ...]
"""

import argparse
import time
from pathlib import Path

import common
import numpy as np

import advjax
from advjax import bank as banks
from advjax.data import imagenet_class_of, list_images

WEIGHTS = "caffemodels/squeezenet_v1.0.caffemodel"
LATE, CONVOLUTIONAL = "pool10", "fire5/concat"
ACTIVE = ("conv1", "fire3/concat", "fire5/concat", "fire7/concat", "fire9/concat", "pool10")
DELTA = 10.0
LABEL_OPT = {"attempts": 5}
# Evaluations of the network and its gradient for each pair; label-opt's for each c that it tries.
EVALUATIONS = {
    (LATE, "feature-opt"): 80,
    (CONVOLUTIONAL, "feature-opt"): 50,
    (LATE, "feature-fgrad"): 1,
    (CONVOLUTIONAL, "feature-fgrad"): 1,
    (LATE, "label-fgrad"): 1,
    (LATE, "label-opt"): 15,
    (LATE, "feature-linear"): 25,
    (CONVOLUTIONAL, "feature-linear"): 25,
}
ON_LABELS = ("label-opt", "label-fgrad")  # attacks without a layer: run once, measured at both


def choose(net: advjax.Network, bank: banks.Bank, count: int) -> tuple[list, list, list]:
    """Sources, their classes in the bank where it has them, and the guides' ids.

    Guides are spread over the classes, and are of those that the network classifies rightly. A
    third of the sources are of the bank's classes (so that distances within the class are known).
    """
    rng = np.random.default_rng(0)
    numbers = [imagenet_class_of(name) for name in bank.classes]
    said = bank.features(LATE).argmax(1)
    right = np.flatnonzero(said == np.array(numbers)[bank.labels])
    photographs = list_images(common.DATA / "imagenet-1000")
    inside = [p for p in photographs if imagenet_class_of(p) in numbers]
    outside = [p for p in photographs if imagenet_class_of(p) not in numbers]
    third = min(count // 3, len(inside))
    sources = [inside[i] for i in rng.permutation(len(inside))[:third]]
    sources += [outside[i] for i in rng.permutation(len(outside))[: count - third]]
    classes, guides = [], []
    for i, source in enumerate(sources):
        number = imagenet_class_of(source)
        classes.append(bank.classes[numbers.index(number)] if number in numbers else None)
        label = i % len(numbers)
        if bank.classes[label] == classes[-1]:
            label = (label + 1) % len(numbers)
        guides.append(bank.ids[rng.choice(right[bank.labels[right] == label])])
    return sources, classes, guides


def adversarials(net, sources, guides, layer: str, name: str, work: Path) -> tuple:
    """What the attack made of the pairs, as kept in `work`, and the seconds that it took."""
    file = work / f"{layer.replace('/', '-')}-{name}-{len(sources)}.npz"
    if not file.is_file():
        evaluations = EVALUATIONS[layer, name]
        attack = advjax.LabelOpt(**LABEL_OPT) if name == "label-opt" else name
        begin = time.perf_counter()
        result = advjax.attack(
            net,
            sources,
            guides,
            attack=attack,
            layer=layer,
            delta=DELTA,
            solver=None if evaluations == 1 else advjax.ProjectedLBFGS(evaluations),
            batch_size=10,
            progress=True,
        )
        seconds = time.perf_counter() - begin
        kept = {name: getattr(result, name) for name in ("adversarial", "adversarial_uint8")}
        np.savez(file.with_suffix(".part.npz"), seconds=seconds, **kept)
        file.with_suffix(".part.npz").rename(file)
    found = np.load(file)
    made = [
        advjax.Adversarial(i, *pair)
        for i, pair in enumerate(zip(found["adversarial"], found["adversarial_uint8"], strict=True))
    ]
    return made, float(found["seconds"])


def row(layer: str, name: str, found: advjax.Analysis) -> dict:
    """The columns of the paper's tables; near and far neighbours have rows of their own."""
    s = found.summary
    columns, first = s["columns"], s["table_1"]
    return {
        "layer": layer,
        "points": name,
        "ratio": columns["ratio"]["mean"],
        "ratio uint8": columns["ratio_uint8"]["mean"],
        "to nearest": columns["nearest_ratio"]["mean"],
        "to pairwise": columns["pairwise_ratio"]["mean"],
        "3NN = 3 %": first["all_common"],
        "3NN >= 2 %": first["all_but_one_common"],
        "delta r3": first["delta_rank_median"],
        "delta L": columns["delta_l"]["median"],
        "Omega": columns["omega"]["median"],
        "takes label %": 100 * s["labels"]["takes_guide_label"],
        "max change": columns["max_change"]["most"],
        "SSIM": columns["ssim"]["mean"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=30)
    names = list(dict.fromkeys(name for _, name in EVALUATIONS))
    parser.add_argument("--attacks", nargs="+", choices=names, default=names)
    layers = (LATE, CONVOLUTIONAL)
    parser.add_argument("--layers", nargs="+", choices=layers, default=layers)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    net = advjax.load("squeezenet", common.DATA / WEIGHTS)
    folder = common.DATA / "imagenette" / "train"
    bank = banks.build_bank(net, folder, (LATE, CONVOLUTIONAL), options.work / "bank")
    paths, classes, guide_ids = choose(net, bank, options.pairs)
    sources = advjax.load_images(paths, net.preprocessing)
    guides = advjax.load_images([folder / id for id in guide_ids], net.preprocessing)
    rows, others, active, seconds, summaries = [], [], [], {}, {}
    for layer, name in EVALUATIONS:
        at_layers = layers if name in ON_LABELS else (layer,)
        at_layers = [at for at in at_layers if at in options.layers]
        if name not in options.attacks or not at_layers:
            continue
        made, seconds[f"{name} {layer}"] = adversarials(
            net, sources, guides, layer, name, options.work
        )
        for at in at_layers:
            found = advjax.analyse(
                made,
                bank,
                net,
                sources,
                guides,
                layer=at,
                guide_ids=guide_ids,
                source_classes=classes,
                sparsity_layers=ACTIVE,
                batch_size=15,
            )
            rows.append(row(at, name, found))
            common.table(rows[-1:])
            summaries[f"{name} {at}"] = found.summary
            if name in ("feature-opt", "label-opt") and at == layer:
                for each, counted in found.summary["table_2"].items():
                    active.append({"attack": f"{name} {layer}", "at": each, **counted})
            if name == "feature-opt":
                n = found.neighbours
                for which in ("near", "far"):
                    mine = n["set"] == which
                    values = {"delta L": n["delta_l"][mine], "Omega": n["omega"][mine]}
                    medians = {key: float(np.median(value)) for key, value in values.items()}
                    others.append({"layer": at, "points": which, **medians})
    common.table(others)
    common.table(active)
    common.save(
        "paper_table",
        sorted(rows, key=lambda row: row["layer"] == CONVOLUTIONAL),
        neighbours=others,
        active=active,
        pairs=options.pairs,
        evaluations={f"{name} {layer}": e for (layer, name), e in EVALUATIONS.items()},
        seconds=seconds,
        summaries=summaries,
    )


if __name__ == "__main__":
    main()
