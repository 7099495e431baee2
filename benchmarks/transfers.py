"""Transfer of feature adversaries: one surrogate or two, with crops and without, and what survives.

EfficientNet-Lite0, or Lite0 and Lite1 as an ensemble, are attacked at 260 x 260; Lite2 is the
target, which no attack sees. Each result is then measured as it is and after JPEG and resizing.

    python benchmarks/transfers.py [--pairs 20] [--evaluations 20] [--delta 16]
"""

import argparse
import time

import common
import numpy as np

import advjax
from advjax import transforms

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def main() -> None:
    """Attack, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--delta", type=float, default=16.0)
    options = parser.parse_args()
    lite0, lite1, lite2 = (advjax.load(name) for name in NAMES)
    members = {"one": {"lite0": lite0}, "two": {"lite0": lite0, "lite1": lite1}}
    crops = advjax.Transforms(transforms.Crop(0.5))
    sources, guides = common.pairs(lite2, options.pairs)
    rows = []
    for surrogate, nets in members.items():
        net = advjax.ensemble(nets, input_shape=lite2.input_shape)
        for drawn in (None, crops):
            begin = time.perf_counter()
            result = advjax.attack(
                net,
                sources,
                guides,
                attack=advjax.FeatureOpt(metric="cosine"),
                solver="mi-fgsm",
                max_evaluations=options.evaluations,
                delta=options.delta,
                transforms=drawn,
                batch_size=4,
                progress=False,
            )
            seconds = time.perf_counter() - begin
            images = result.adversarial_uint8
            found = advjax.transfer(
                {"lite0": lite0, "lite2": lite2}, advjax.survivors(images), sources, guides
            )
            for i, name in enumerate(found.surrogates):
                row = {"attacked": " + ".join(nets), "crops": drawn is not None, "image": name}
                for j, target in enumerate(found.targets):
                    row[f"{target} ratio"] = float(np.median(found.ratio[i, j]))
                    row[f"{target} cosine"] = float(np.median(found.cosine[i, j]))
                    row[f"{target} label"] = float(found.takes_label[i, j].mean())
                rows.append(row)
            print(f"{surrogate}, crops {drawn is not None}: {seconds:.0f} s", flush=True)
            common.save("transfers", rows, options=vars(options))


if __name__ == "__main__":
    main()
