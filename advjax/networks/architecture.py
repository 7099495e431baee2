"""The row of a network in the zoo, known before it has weights: module, pixels, file formats."""

import dataclasses
from collections.abc import Callable

from flax import nnx

from advjax.data.images import Preprocessing
from advjax.networks.layers import Generator


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of the zoo.

    Attributes:
        build: Makes the module with Caffe's random weights. The module takes transformed images
            (channel order, mean, scale done) and returns every blob of the deploy network; its
            parameters are in `module.layers`, keyed by Caffe's layer names.
        input_shape: (height, width, channels).
        layer: The layer that the paper attacks, or the one that plays its part.
        output: The layer with the class probabilities; None of a network that names no classes.
        classes: The number of classes, likewise.
        vocabulary: The source of the classes' names: "imagenet", "cifar10", "digits", or
            None where only the weights' own list has them.
        order: "BGR", "RGB" or "grey": the channels that the weights expect.
        mean: One number per channel, in `order`, in pixels.
        scale: The factor on the centred pixels.
        preprocessing: The steps from a file to an input image.
        file_name: The name of a layer in a `.caffemodel`, where it differs from the blob's.
    """

    build: Callable[[Generator], nnx.Module]
    input_shape: tuple[int, int, int]
    layer: str
    classes: int | None
    preprocessing: Preprocessing
    output: str | None = "prob"
    vocabulary: str | None = "imagenet"
    order: str = "BGR"
    mean: tuple[float, ...] = (104.00698793, 116.66876762, 122.67891434)
    scale: float = 1.0
    file_name: Callable[[str], str] = str
