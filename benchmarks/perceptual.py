"""How near the guide with a floor on SSIM, beside a smaller box that looks as like the source.

The box of 10 levels with and without floors, and boxes whose images have about the same SSIM.

    python benchmarks/perceptual.py [--network efficientnet_lite0] [--pairs 8] [--evaluations 50]
"""

import argparse

import common
import numpy as np

import advjax

CASES = ((10.0, None), (10.0, 0.9), (10.0, 0.95), (5.0, None), (4.0, None))  # delta, SSIM


def main() -> None:
    """Attack, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=50)
    options = parser.parse_args()
    net = advjax.load(options.network)
    sources, guides = common.pairs(net, options.pairs)
    rows = []
    for delta, floor in CASES:
        budget = None if floor is None else advjax.Perceptual(ssim=floor)
        result = advjax.attack(
            net,
            sources,
            guides,
            attack=advjax.FeatureOpt(perceptual=budget),
            delta=delta,
            max_evaluations=options.evaluations,
            batch_size=4,
            progress=False,
        )
        ssim = np.asarray(advjax.metrics.ssim(result.adversarial_uint8, sources))
        kept = result.keeps_perceptual
        rows.append(
            {
                "delta": delta,
                "least SSIM": floor,
                "median ratio": float(np.median(result.ratio_uint8)),
                "mean ratio": float(np.mean(result.ratio_uint8)),
                "median SSIM": float(np.median(ssim)),
                "smallest SSIM": float(ssim.min()),
                "keep it": None if kept is None else int(kept.sum()),
                "moved": int(np.isnan(result.objective).sum()),
                "ratios": result.ratio_uint8.tolist(),
                "SSIMs": ssim.tolist(),
            }
        )
        shown = [{k: v for k, v in row.items() if not isinstance(v, list)} for row in rows]
        common.table(shown)
    common.save("perceptual", rows, options=vars(options))


if __name__ == "__main__":
    main()
