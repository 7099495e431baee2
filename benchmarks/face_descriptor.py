"""The face descriptor: its numbers against face-api's own, and how many levels a false match takes.

    npm install --prefix FOLDER @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0
    python benchmarks/face_descriptor.py --face-api FOLDER [--pairs 20] [--evaluations 100]

The photographs are scikit-image's: the astronaut's face, and the first faces of `lfw_subset`,
25 x 25 grey pixels, enlarged. Without --face-api the comparison is left out.
"""

import argparse
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

import common
import numpy as np
from PIL import Image
from skimage import data

import advjax

DELTAS = (1.0, 2.0, 4.0)
THRESHOLDS = (0.6, 0.3)  # dlib's, and half of it


def photographs(count: int) -> np.ndarray:
    """The astronaut's face and `count` others, [count + 1, 150, 150, 3] uint8."""
    small = np.round(255 * data.lfw_subset()[:count]).astype(np.uint8)
    large = [np.asarray(Image.fromarray(face).resize((150, 150))) for face in small]
    return np.stack([data.astronaut()[45:195, 155:305], *(np.stack([x] * 3, -1) for x in large)])


def face_api(folder: str, images: np.ndarray) -> np.ndarray:
    """The descriptors that face-api computes under node."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "images")
        path.write_bytes(images.tobytes())
        script = Path(__file__).with_name("face_api.js")
        words = ["node", str(script), folder, str(path)]
        out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return np.array(json.loads(out.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--face-api")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=100)
    options = parser.parse_args()
    net = advjax.load("face_descriptor")
    images = photographs(options.pairs)
    more = {}
    ours = np.asarray(net(images)["descriptor"])
    if options.face_api:
        error = np.abs(ours - face_api(options.face_api, images)).max()
        more = {"largest difference to face-api": float(error)}
        print(f"largest difference to face-api in {ours.size:,} numbers: {error:.1e}")
    before = np.linalg.norm(ours[1:] - ours[0], axis=1)
    apart = before > THRESHOLDS[0]
    rows = []
    for threshold, delta in itertools.product(THRESHOLDS, DELTAS):
        result = advjax.attack(
            net,
            np.repeat(images[:1], apart.sum(), 0),
            images[1:][apart],
            delta=delta,
            max_evaluations=options.evaluations,
            until=advjax.Until(distance=threshold),
            batch_size=8,
            progress=False,
        )
        found = result.status == advjax.Status.TARGET
        rows.append(
            {
                "threshold": threshold,
                "delta": delta,
                "pairs": int(apart.sum()),
                "matches": int(found.sum()),
                "evaluations, median": float(np.median(result.evaluations[found]))
                if found.any()
                else None,
                "distance before, median": float(np.median(before[apart])),
                "after": float(np.median(result.distance_uint8)),
            }
        )
    common.save("face-descriptor", rows, **more)


if __name__ == "__main__":
    main()
