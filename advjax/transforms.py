"""Random transformations of the image at each evaluation, so that a result survives others.

A transformation is a function of a key and one image [h, w, c] in levels, 0..255, to an image of
the same shape: pure, differentiable, and of any parameters that can be hashed. A function of your
own is one. Resampling is linear with a filter that widens when shrinking.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from advjax.errors import AdvjaxError, whole

Transform = Callable[[Array, Float[Array, "h w c"]], Float[Array, "h w c"]]


@dataclasses.dataclass(frozen=True)
class Transforms:
    """What the network sees at each evaluation in place of the image.

    Each evaluation draws `draws` times and has the mean of values and gradients. The keys are made
    of the stream's seed, the pair's index and the evaluation's number: neither lanes nor neighbours
    matter.

    Attributes:
        steps: Transformations, applied one after the other.
        draws: Images that an evaluation is the mean of.
        smooth_gradient: Standard deviation, in pixels, of the Gaussian that the gradient is
            filtered with (Dong et al., CVPR 2019, TI-FGSM); 0: none.

    Raises:
        AdvjaxError: Something that is no function, or a number out of range.

    Example:
        >>> Transforms((Crop(0.5), Flip()), draws=4).draws
        4
    """

    steps: tuple[Transform, ...] = ()
    draws: int = 1
    smooth_gradient: float = 0.0

    def __post_init__(self):
        steps = self.steps
        object.__setattr__(self, "steps", (steps,) if callable(steps) else tuple(steps))
        for step in self.steps:
            if not callable(step):
                raise AdvjaxError(f"a transformation is {step!r}; give functions of (key, image)")
        if whole(self.draws, 1) is None:
            raise AdvjaxError(f"draws is {self.draws!r}; give a whole number, 1 or more")
        if not 0 <= self.smooth_gradient < float("inf"):
            raise AdvjaxError(f"smooth_gradient is {self.smooth_gradient}; give 0 or more pixels")

    def described(self) -> dict[str, Any]:
        """Return what it is as plain values, for records; functions by their names."""
        steps = [
            f"{s.__module__}:{s.__qualname__}" if hasattr(s, "__qualname__") else repr(s)
            for s in self.steps
        ]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"steps": steps}

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Transform an image."""
        for number, step in enumerate(self.steps):
            image = step(jax.random.fold_in(key, number), image)
        return image

    def filtered(self, gradient: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Filter the gradient of an image by the Gaussian."""
        if not self.smooth_gradient:
            return gradient
        return blurred(gradient, self.smooth_gradient, "constant")


def drawn(
    steps: Transform | Sequence[Transform], images: Any, count: int, seed: int = 0
) -> Float[np.ndarray, "n count h w c"]:
    """Draw `count` transformations of each image, as a set of guides (M-Attack's target crops).

    Args:
        steps: A transformation, or several.
        images: [n, h, w, c], 0..255.
        count: Of each image.
        seed: Of the draws.

    Example:
        >>> drawn(Flip(), np.zeros((2, 4, 4, 3)), 3).shape
        (2, 3, 4, 4, 3)
    """
    images = jnp.asarray(images, jnp.float32)
    apply = Transforms(steps)  # pyright: ignore[reportArgumentType]
    keys = jax.random.split(jax.random.key(seed), len(images) * count)
    both = keys, jnp.repeat(images, count, 0)
    found = np.asarray(jax.lax.map(lambda each: apply(*each), both))
    return np.clip(found, 0, 255).reshape(len(images), count, *images.shape[1:])


def _require(fits: bool, transform: Any, what: str) -> None:
    if not fits:
        raise AdvjaxError(f"{transform}; give {what}")


@dataclasses.dataclass(frozen=True)
class Crop:
    """A window with this fraction of the area, or more, and up to `ratio` wider or higher, resized.

    Attributes:
        minimum: The least fraction of the area.
        maximum: The largest.
        ratio: The largest aspect of the window, over the image's; 1: none.
    """

    minimum: float = 0.5
    maximum: float = 1.0
    ratio: float = 4 / 3

    def __post_init__(self):
        fits = 0 < self.minimum <= self.maximum <= 1 and 1 <= self.ratio < np.inf
        _require(fits, self, "0 < minimum <= maximum <= 1 and a ratio of 1 or more")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return a window, resized to the whole."""
        area, aspect, place = jax.random.split(key, 3)
        area = jax.random.uniform(area, (), minval=self.minimum, maxval=self.maximum)
        stretch = jnp.exp(jax.random.uniform(aspect, (), minval=-1, maxval=1) * np.log(self.ratio))
        sides = jnp.minimum(jnp.sqrt(area) * jnp.stack([stretch**-0.5, stretch**0.5]), 1)
        shape = jnp.array(image.shape[:2], jnp.float32)
        origin = jax.random.uniform(place, (2,)) * (1 - sides) * shape
        return resampled(image, 1 / sides, -origin / sides)


@dataclasses.dataclass(frozen=True)
class Shrink:
    """The image at a fraction of its size, at a random place on black (Xie et al., CVPR 2019, DI).

    Attributes:
        minimum: The least fraction of a side.
        probability: That the image is shrunk at all.
    """

    minimum: float = 0.9
    probability: float = 0.5

    def __post_init__(self):
        fits = 0 < self.minimum <= 1 and 0 <= self.probability <= 1
        _require(fits, self, "a minimum above 0 and at most 1, and a probability in 0..1")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image, smaller."""
        side, place, chance = jax.random.split(key, 3)
        side = jax.random.uniform(side, (), minval=self.minimum, maxval=1.0)
        shape = jnp.array(image.shape[:2], jnp.float32)
        origin = jax.random.uniform(place, (2,)) * (1 - side) * shape
        small = resampled(image, jnp.stack([side, side]), origin)
        return jnp.where(jax.random.bernoulli(chance, self.probability), small, image)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Left and right exchanged, with this probability."""

    probability: float = 0.5

    def __post_init__(self):
        _require(0 <= self.probability <= 1, self, "a probability in 0..1")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image or its mirror image."""
        return jnp.where(jax.random.bernoulli(key, self.probability), image[:, ::-1], image)


@dataclasses.dataclass(frozen=True)
class Shift:
    """Moved by up to so many whole pixels both ways, the border repeated."""

    pixels: int = 4

    def __post_init__(self):
        _require(whole(self.pixels, 0) is not None, self, "a whole number of pixels, 0 or more")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image, moved."""
        by = jax.random.randint(key, (2,), -self.pixels, self.pixels + 1)
        h, w, _ = image.shape
        rows, columns = (jnp.clip(jnp.arange(n) + by[i], 0, n - 1) for i, n in ((0, h), (1, w)))
        return image[rows][:, columns]


@dataclasses.dataclass(frozen=True)
class Dim:
    """Divided by 1, 2, 4, ..., one of `copies` (Lin et al., ICLR 2020, SI)."""

    copies: int = 5

    def __post_init__(self):
        _require(whole(self.copies, 1) is not None, self, "a whole number of copies, 1 or more")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image, darker."""
        return image * 0.5 ** jax.random.randint(key, (), 0, self.copies).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise of this standard deviation in levels, cut at 0 and 255."""

    deviation: float = 4.0

    def __post_init__(self):
        _require(0 <= self.deviation < np.inf, self, "a deviation of 0 or more levels")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image with noise."""
        return cut(image + self.deviation * jax.random.normal(key, image.shape))


@dataclasses.dataclass(frozen=True)
class Blur:
    """A Gaussian filter of this standard deviation in pixels; the border is repeated."""

    deviation: float = 1.0

    def __post_init__(self):
        _require(0 < self.deviation < np.inf, self, "a deviation above 0 pixels")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image, blurred; nothing is drawn."""
        return blurred(image, self.deviation, "edge")


@dataclasses.dataclass(frozen=True)
class JPEG:
    """JPEG's loss at a quality drawn between the two, differentiable.

    Colours with 8 x 8 blocks of the discrete cosine transform and the standard's tables of
    quantisation, without subsampling of the colours. The derivative of rounding is taken as 1.
    """

    minimum: int = 75
    maximum: int = 95

    def __post_init__(self):
        fits = 1 <= self.minimum <= self.maximum <= 100
        _require(fits, self, "qualities 1 <= minimum <= maximum <= 100")

    def __call__(self, key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the image as a JPEG file would keep it, but for the rounding of pixels."""
        quality = jax.random.randint(key, (), self.minimum, self.maximum + 1).astype(jnp.float32)
        return compressed(image, quality)


def resampled(
    image: Float[Array, "h w c"], scale: Float[Array, "2"], origin: Float[Array, "2"]
) -> Float[Array, "h w c"]:
    """Scale an image and move its corner to `origin`; what is outside of it is black."""
    return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, origin, "linear")


def blurred(image: Float[Array, "h w c"], deviation: float, mode: str) -> Float[Array, "h w c"]:
    """Filter by a Gaussian, cut at three standard deviations."""
    radius = max(1, int(np.ceil(3 * deviation)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    weights = (kernel / kernel.sum()).astype(np.float32).tolist()
    for axis in (0, 1):
        pads = [(0, 0)] * 3
        pads[axis] = (radius, radius)
        wide, size = jnp.pad(image, pads, mode), image.shape[axis]
        parts = [jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(len(weights))]
        image = sum((k * part for k, part in zip(weights, parts, strict=True)), jnp.zeros(()))
    return image


# ITU-T T.81, annex K.1.
LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], np.float32)  # fmt: skip
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# JFIF's Y, Cb and Cr.
COLOURS = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
COSINES = np.array(
    [[np.cos((2 * x + 1) * u * np.pi / 16) / 2 for x in range(8)] for u in range(8)], np.float32
)
COSINES[0] *= np.float32(0.5**0.5)


def compressed(image: Float[Array, "h w c"], quality: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Return what JPEG keeps of an image at this quality of the IJG's scale."""
    h, w, c = image.shape
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    tables = np.stack([LUMINANCE, CHROMINANCE, CHROMINANCE] if c == 3 else [LUMINANCE] * c)
    tables = jnp.clip(jnp.floor((tables * scale + 50) / 100), 1, 255)[:, None, None]
    matrix = COLOURS if c == 3 else np.eye(c, dtype=np.float32)
    planes = rounded(jnp.einsum("hwc,dc->dhw", image, matrix))
    middle = np.array([128, 0, 0] if c == 3 else [128] * c, np.float32)[:, None, None]
    planes = jnp.pad(planes - middle, ((0, 0), (0, -h % 8), (0, -w % 8)), "edge")
    rows, columns = planes.shape[1] // 8, planes.shape[2] // 8
    blocks = planes.reshape(c, rows, 8, columns, 8).transpose(0, 1, 3, 2, 4)
    waves = jnp.einsum("ux,crkxy,vy->crkuv", COSINES, blocks, COSINES) / tables
    waves = rounded(waves) * tables
    blocks = jnp.einsum("ux,crkuv,vy->crkxy", COSINES, waves, COSINES)
    planes = blocks.transpose(0, 1, 3, 2, 4).reshape(planes.shape)[:, :h, :w] + middle
    return cut(jnp.einsum("dhw,cd->hwc", planes, np.linalg.inv(matrix)))


def cut(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cut at 0 and 255.

    Not by jnp.clip, whose gradient is lost where the values, computed anew, round otherwise.
    """
    return jnp.where(values < 0, 0, jnp.where(values > 255, 255, values))


def rounded(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Round; the derivative is taken as 1."""
    return values + jax.lax.stop_gradient(jnp.round(values) - values)
