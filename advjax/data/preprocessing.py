"""From an image to the square of pixels that a network sees, on the host."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from advjax.errors import AdvjaxError, ImageError, UnknownName, whole

# Larger images are refused before a pixel is decoded, so that a small file cannot ask for more than
# some 2 GB of memory; Pillow itself only warns up to 179 million.
MAX_PIXELS = 2**26

Resize = Literal["warp", "short_side"]
Interpolation = Literal["bilinear", "bilinear_antialias", "bicubic"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The steps from an image file to the pixels that a network takes, in RGB 0..255.

    Which choice matches which tool:

    * Caffe's `convert_imageset --resize_height 256 --resize_width 256` and a test-time crop of
      227: `Preprocessing("warp", 256, 227)`. Its resize is OpenCV's `INTER_LINEAR`.
    * Sabour et al.'s code for the paper, a straight resize to the network's input:
      `Preprocessing("warp", 227, 227)`.
    * torchvision's and timm's evaluation (EfficientNet-Lite0 among them):
      `Preprocessing("short_side", 256, 224, "bicubic")`; torchvision's own networks mostly take
      `"bilinear_antialias"`.
    * Images that have the network's size already (MNIST, CIFAR-10): `Preprocessing(crop=28)`.

    Attributes:
        resize: "warp" resizes to a square whatever the aspect; "short_side" keeps the aspect and
            brings the shorter side to `resize_to`, the longer one rounded down as torchvision does.
        resize_to: The side in pixels; None leaves the image as large as it is.
        crop: The side of the square cut from the centre; an odd margin is rounded down, as in
            Caffe (torchvision, which rounds to even, may begin one pixel later).
        interpolation: "bilinear" reads the 2x2 nearest pixels however far the image shrinks
            (`cv2.INTER_LINEAR`); "bilinear_antialias" and "bicubic" are Pillow's, which widen the
            kernel when shrinking.

    Raises:
        AdvjaxError: A name or size that cannot be.

    Example:
        >>> caffe = Preprocessing("warp", 256, 227)
        >>> prepare(np.zeros((375, 500, 3), np.uint8), caffe).shape
        (227, 227, 3)
    """

    resize: Resize = "warp"
    resize_to: int | None = None
    crop: int = 224
    interpolation: Interpolation = "bilinear"

    def __post_init__(self):
        for name, known in (
            ("resize", Resize.__args__),
            ("interpolation", Interpolation.__args__),
        ):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        for name in ("resize_to", "crop"):
            value = getattr(self, name)
            if name == "resize_to" and value is None:
                continue
            pixels = whole(value, 1)
            if pixels is None:
                raise AdvjaxError(f"{name} is {value!r}; give a number of pixels, 1 or more")
            object.__setattr__(self, name, pixels)
        if self.resize_to is not None and self.crop > self.resize_to:
            raise AdvjaxError(
                f"crop is {self.crop}, larger than resize_to {self.resize_to}; make it smaller"
            )


def prepare(
    image: UInt8[np.ndarray, "h w c"], preprocessing: Preprocessing, name: str = "image"
) -> UInt8[np.ndarray, "crop crop c"]:
    """Resize an image and cut out its centre.

    Args:
        image: 0..255, one or three channels.
        preprocessing: The steps; see there.
        name: The image's name in error messages.

    Returns:
        The square, 0..255.

    Raises:
        ImageError: Wrong shape or dtype, or an image smaller than the crop that is not resized.

    Example:
        >>> ramp = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
        >>> prepare(ramp, Preprocessing(crop=2))[..., 0]
        array([[ 5,  6],
               [ 9, 10]], dtype=uint8)
    """
    image = check_pixels(image, name)
    height, width = image.shape[:2]
    if preprocessing.resize_to is not None:
        side, short = preprocessing.resize_to, min(height, width)
        if preprocessing.resize == "warp":
            height = width = side
        else:
            height, width = side * height // short, side * width // short
        if height * width > MAX_PIXELS:
            shape = f"{image.shape[1]}x{image.shape[0]}"
            raise ImageError(
                f"{name} is {shape}: resized it would have more than {MAX_PIXELS} pixels; "
                'crop it, or use resize="warp"'
            )
        image = _resized(image, height, width, preprocessing.interpolation)
    crop = preprocessing.crop
    if min(height, width) < crop:
        raise ImageError(
            f"{name} is {width}x{height}, smaller than the crop {crop}; "
            f"give resize_to={crop} or more, or a larger image"
        )
    top, left = (height - crop) // 2, (width - crop) // 2
    return np.ascontiguousarray(image[top : top + crop, left : left + crop])


def _resized(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    if interpolation == "bilinear":
        return _bilinear(image, height, width)
    method = {"bilinear_antialias": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    flat = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(flat).resize((width, height), method[interpolation])
    return np.atleast_3d(np.asarray(resized))


def _bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate between pixel centres, the border repeated: `cv2.INTER_LINEAR` within a level.

    OpenCV, on uint8, rounds the weights to 11 bits; here they are float32.
    """

    def taps(size: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(count) + 0.5) * (size / count) - 0.5, 0, size - 1)
        low = at.astype(np.int64)
        return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)

    top, bottom, down = taps(image.shape[0], height)
    left, right, along = taps(image.shape[1], width)
    down, along = down[:, None, None], along[:, None]
    rows = image[top] * (1 - down) + image[bottom] * down  # (height, w, c)
    mixed = rows[:, left] * (1 - along) + rows[:, right] * along  # (height, width, c)
    return np.floor(mixed + 0.5).astype(np.uint8)


def check_pixels(image: np.ndarray, name: str) -> UInt8[np.ndarray, "h w c"]:
    """Return `image` if it is uint8, [h, w, 1] or [h, w, 3].

    Raises:
        ImageError: It is not; the message calls it `name`.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ImageError(f"{name} is {image.dtype}; give uint8 in 0..255 (round floats yourself)")
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.size == 0:
        shape = list(image.shape)
        raise ImageError(f"{name} has shape {shape}; give [height, width, 3] or [height, width, 1]")
    return image
