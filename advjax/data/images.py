"""Image files in and out: decoding, resizing and cropping on the host, lossless PNG.

Everything here is RGB (or grey), `uint8` in 0..255, `[height, width, channels]`. Channel order,
mean and scale belong to the network.
"""

import dataclasses
import io
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from advjax.errors import AdvjaxError, ImageError, UnknownName
from advjax.files import atomic_path

# Few formats on purpose: each further plugin is more code that parses untrusted bytes (and EPS
# would start Ghostscript). JPEG includes MPO, what phones make by appending a second view.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".mpo", ".gif", ".webp", ".tif", ".tiff"),
    *(".bmp", ".ppm", ".pgm", ".pbm"),
)

# Larger images are refused before a pixel is decoded, so that a small file cannot ask for more than
# some 2 GB of memory; Pillow itself only warns up to 179 million.
MAX_PIXELS = 2**26

# `warnings.catch_warnings` changes the whole process, so that two threads inside it at once could
# leave each other's filters behind.
_one_at_a_time = threading.Lock()


def read_image(path: str | os.PathLike[str], channels: int = 3) -> UInt8[np.ndarray, "h w c"]:
    """Reads an image file as it is meant to be seen.

    The EXIF orientation is applied. 16-bit samples become `round(value / 257)` (PNG, TIFF, PPM).
    Transparency is composited on white. CMYK is converted without a colour profile, and a JPEG's
    CMYK is taken as inverted, as Adobe writes it and other readers assume. Of an animation the
    first frame is taken. Embedded colour profiles are ignored, as they were when networks were
    trained.

    A file cut short before its last pixel is an error, even where some rows can still be decoded;
    a PNG must also match its checksums. Damage inside the other formats cannot always be noticed.

    Args:
        path: A PNG, JPEG, GIF, WebP, TIFF, BMP or PPM file.
        channels: 3 for RGB, 1 for luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B).

    Returns:
        The image, 0..255.

    Raises:
        ImageError: The file is missing, no image, truncated, damaged or larger than `MAX_PIXELS`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> write_png(path, np.full((2, 3, 3), [255, 0, 0], np.uint8))
        >>> read_image(path).shape, read_image(path, channels=1)[0, 0]
        ((2, 3, 3), array([76], dtype=uint8))
    """
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # Asked before opening: opening a pipe would wait for its writer.
            what = "a directory" if os.path.isdir(path) else "not a regular file"
            raise ImageError(f"image {name!r} is {what}; give an image file")
        with open(path, "rb") as stream:
            return _decode(stream, name, channels)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"image {name!r} cannot be opened ({reason}); check the path") from error


def decode_image(data: bytes, name: str, channels: int = 3) -> UInt8[np.ndarray, "h w c"]:
    """Decodes the bytes of an image file; `read_image` says how.

    Args:
        data: The whole file.
        name: What error messages call it.
        channels: 3 for RGB, 1 for luma.

    Returns:
        The image, 0..255.

    Raises:
        ImageError: As in `read_image`.

    Example:
        >>> decode_image(b"P6 1 1 255 abc", "tiny.ppm")
        array([[[97, 98, 99]]], dtype=uint8)
    """
    return _decode(io.BytesIO(data), name, channels)


def _decode(stream: BinaryIO, name: str, channels: int) -> UInt8[np.ndarray, "h w c"]:
    if channels not in (1, 3):
        raise ImageError(f"channels is {channels!r}; use 3 for RGB or 1 for grey")
    if stream.seek(0, io.SEEK_END) == 0:
        raise ImageError(f"image {name!r} is empty (0 bytes); get a whole copy of it")
    try:
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open(stream)
            if image.format == "PNG":
                image.verify()  # checksums and the end marker; nothing can be loaded after it
                image = _open(stream)
            samples, top = _load(stream, image)
            orientation = image.getexif().get(0x0112, 1)
    except ImageError as error:
        raise ImageError(f"image {name!r} {error}") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"image {name!r} is not a readable PNG, JPEG, GIF, WebP, TIFF, BMP or PPM file: "
            "convert it to one of them, or get a whole copy if it was cut short"
        ) from None
    except Exception as error:  # Pillow's readers raise whatever their parsing trips over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"image {name!r} is truncated or damaged ({reason}); get a whole copy of it"
        ) from error
    if samples.shape[-1] in (2, 4):
        samples = _on_white(samples, top)
    if channels == 1 and samples.shape[-1] == 3:
        samples = _luma(samples)
    if top != 255:
        samples = _eight_bits(samples, top)
    samples = np.broadcast_to(samples, (*samples.shape[:2], channels))
    return np.ascontiguousarray(_upright(samples, orientation))


def _open(stream: BinaryIO) -> ImageFile.ImageFile:
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {MAX_PIXELS} pixels; make it smaller") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"is {size}, more than {MAX_PIXELS} pixels; make it smaller")
    return image


def _load(stream: BinaryIO, image: ImageFile.ImageFile) -> tuple[np.ndarray, int]:
    """Decodes grey, grey + alpha, RGB or RGBA samples [h, w, 1..4], and the value of white."""
    rawmode = _rawmode(image)
    if rawmode == "LA;16B":  # Pillow keeps the high bytes; four plain bytes a pixel keep both
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        image.load()
        return np.asarray(image).view(">u2"), 65535
    if image.format == "TIFF" and image.tile:
        # Pillow leaves black what the strips do not cover.
        corners = [tile.extents[2:] for tile in image.tile if tile.extents]
        right, bottom = np.max(corners, axis=0)
        if right * bottom < image.width * image.height:
            raise ValueError(f"its strips cover {right}x{bottom} pixels")
    if rawmode.partition(";")[0] in ("RGB", "RGBA", "RGBX") and rawmode[-4:-1] == ";16":
        return _load_deep_colour(stream, image, rawmode)
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _grey16(image)
    if image.mode in ("I", "F"):
        raise ImageError("has 32-bit samples, whose white is not known; save it with 8 or 16 bits")
    # Not converted straight to L or RGB: that would drop the transparency of a palette or key.
    grey = "L" if image.mode in ("1", "L") else "RGB"
    mode = "RGBA" if image.has_transparency_data else grey
    samples = np.asarray(image if image.mode == mode else image.convert(mode))
    return np.atleast_3d(samples), 255


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the file packs its samples, in Pillow's words ("RGB;16B"), or "" if that is not said."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _grey16(image: ImageFile.ImageFile) -> tuple[np.ndarray, int]:
    samples = np.asarray(image).astype(np.uint16)[..., None]  # (h, w, 1)
    tags = getattr(image, "tag_v2", {})
    top = 2 ** int(np.max(tags.get(258, 16))) - 1  # BitsPerSample: 12 or 16
    if tags.get(262) == 0:  # PhotometricInterpretation: WhiteIsZero
        samples = top - samples
    key = image.info.get("transparency")
    if key is not None:
        samples = np.concatenate([samples, np.where(samples == key, 0, top)], -1)
    return samples, top


def _load_deep_colour(
    stream: BinaryIO, image: ImageFile.ImageFile, rawmode: str
) -> tuple[np.ndarray, int]:
    """Loads 16-bit RGB or RGBA with both bytes.

    Pillow keeps the high bytes alone; told the other byte order, it keeps the low ones.
    """
    little = rawmode[-1] == "L" or (rawmode[-1] == "N" and sys.byteorder == "little")
    image.load()
    other = _open(stream)
    swapped = rawmode[:-1] + ("B" if little else "L")
    other.tile = [
        tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
        for tile in other.tile
    ]
    other.load()
    samples = np.asarray(image).astype(np.uint16)
    samples <<= 8
    samples |= np.asarray(other)
    key = image.info.get("transparency")
    if key is not None and samples.shape[-1] == 3:
        alpha = np.where((samples == key).all(-1, keepdims=True), 0, 65535)
        samples = np.concatenate([samples, alpha], -1)
    return samples, 65535


def _on_white(samples: np.ndarray, top: int) -> np.ndarray:
    """Composites [..., colours + alpha] on white: round((c a + top (top - a)) / top)."""
    # Wide enough to the last unit: 255 * 255 + 127 < 2**16 and 65535 * 65535 + 32767 < 2**32.
    wide = samples.astype(np.uint16 if top == 255 else np.uint32)
    colour, alpha = wide[..., :-1], wide[..., -1:]
    blend = (colour * alpha + top * (top - alpha) + top // 2) // top
    return blend.astype(np.uint8 if top == 255 else np.uint16)


def _luma(samples: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma [h, w, 1], in Pillow's fixed point: the weights sum to 2**16."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    luma = (samples.astype(np.uint32) @ weights + 2**15) >> 16
    return luma.astype(samples.dtype)[..., None]


def _eight_bits(samples: np.ndarray, top: int) -> np.ndarray:
    """Scales 0..top to 0..255, rounded."""
    wide = samples.astype(np.uint32)
    wide *= 255
    wide += top // 2
    wide //= top
    return wide.astype(np.uint8)


def _upright(image: np.ndarray, orientation: object) -> np.ndarray:
    """Turns the image as EXIF's orientation (1 to 8) says; anything else means 1."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


Resize = Literal["warp", "short_side"]
Interpolation = Literal["bilinear", "bilinear_antialias", "bicubic"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the pixels that a network sees, in RGB 0..255.

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
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise AdvjaxError(f"{name} is {value!r}; give a number of pixels, 1 or more")
        if self.resize_to is not None and self.crop > self.resize_to:
            raise AdvjaxError(
                f"crop is {self.crop}, larger than resize_to {self.resize_to}; make it smaller"
            )


def prepare(
    image: UInt8[np.ndarray, "h w c"], preprocessing: Preprocessing, name: str = "image"
) -> UInt8[np.ndarray, "crop crop c"]:
    """Resizes an image and cuts its centre.

    Args:
        image: 0..255, one or three channels.
        preprocessing: What to do; see there.
        name: What error messages call the image.

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
    image = _checked(image, name)
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
    """Interpolates between pixel centres, the border repeated: `cv2.INTER_LINEAR` within a level.

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


def load_images(
    paths: Iterable[str | os.PathLike[str]], preprocessing: Preprocessing, channels: int = 3
) -> UInt8[np.ndarray, "n crop crop c"]:
    """Reads and prepares image files.

    Args:
        paths: The files, in the order wanted.
        preprocessing: What to do with each.
        channels: 3 for RGB, 1 for luma.

    Returns:
        The batch, 0..255.

    Raises:
        ImageError: No paths, or the first file that cannot be read or prepared.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "black.png"
        >>> write_png(path, np.zeros((300, 400, 3), np.uint8))
        >>> load_images([path, path], Preprocessing("warp", 227, 227)).shape
        (2, 227, 227, 3)
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    batch = [
        prepare(read_image(path, channels), preprocessing, f"image {os.fspath(path)!r}")
        for path in paths
    ]
    if not batch:
        raise ImageError("paths is empty; give one image file or more")
    return np.stack(batch)


def write_png(path: str | os.PathLike[str], image: UInt8[np.ndarray, "h w c"]) -> None:
    """Writes an image as PNG, losslessly and atomically.

    Args:
        path: The file; its name must end in ".png".
        image: 0..255, `uint8`, one or three channels. Floats are refused: only the caller knows
            which rounding keeps the box.

    Raises:
        ImageError: Another dtype or shape, or a name that promises another format.
        AdvjaxError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "dot.png"
        >>> write_png(path, np.array([[[1, 2, 3]]], np.uint8))
        >>> read_image(path)
        array([[[1, 2, 3]]], dtype=uint8)
    """
    image = _checked(image, "image")
    if Path(path).suffix.lower() != ".png":
        raise ImageError(f"path {os.fspath(path)!r} does not end in .png; name a PNG file")
    with atomic_path(path) as temporary:
        flat = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(np.ascontiguousarray(flat)).save(temporary, format="PNG")


def _checked(image: np.ndarray, name: str) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise ImageError(f"{name} is {image.dtype}; give uint8 in 0..255 (round floats yourself)")
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.size == 0:
        shape = list(image.shape)
        raise ImageError(f"{name} has shape {shape}; give [height, width, 3] or [height, width, 1]")
    return image


def list_images(folder: str | os.PathLike[str]) -> Sequence[Path]:
    """Lists the image files under a folder, by extension, sorted by path.

    Subfolders are searched, links to folders are not followed, hidden files are left out.

    Args:
        folder: Where to look.

    Returns:
        The paths, each beginning with `folder`.

    Raises:
        ImageError: No such folder, or no image in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_png(folder / "cats" / "a.png", np.zeros((1, 1, 3), np.uint8))
        >>> [path.relative_to(folder).as_posix() for path in list_images(folder)]
        ['cats/a.png']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"folder {str(folder)!r} is not a directory; give a folder of images")
    found = [
        Path(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS
    ]
    if not found:
        known = " ".join(EXTENSIONS)
        raise ImageError(f"folder {str(folder)!r} holds no image; known extensions: {known}")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)
