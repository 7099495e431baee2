"""Image files in and out: whatever Pillow decodes, as it is meant to be seen; lossless PNG.

Everything here is RGB (or grey), `uint8` in 0..255, `[height, width, channels]`. Channel order,
mean and scale belong to the network.
"""

import importlib
import importlib.util
import io
import os
import stat
import sys
import threading
import urllib.parse
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from advjax.data.preprocessing import MAX_PIXELS, Preprocessing, check_pixels, prepare
from advjax.errors import ImageError
from advjax.files import atomic_path

# Few formats on purpose: each further plugin is more code that parses untrusted bytes (and EPS
# would start Ghostscript). JPEG includes MPO, what phones make by appending a second view.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")  # and HEIF, where a plugin is
EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".mpo", ".gif", ".webp", ".tif", ".tiff"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".heic", ".heif"),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # after "ftyp"

# Folders that file managers, archives and network drives put beside the user's own.
_NOT_THE_USERS = {
    *("@eaDir", "#recycle", "#snapshot", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"),
    "lost+found",
}

# All of Pillow's plugins now: a process that is forked while a thread imports one waits for ever.
Image.init()
_reads_heic = importlib.util.find_spec("pillow_heif") is not None
if _reads_heic:
    importlib.import_module("pillow_heif").register_heif_opener()

# Pillow's settings while it decodes for us, whatever other libraries have made of them: half of a
# photograph is an error, sizes are checked here, and long notes inside a file do no harm.
_SETTINGS: tuple[tuple[Any, str, Any], ...] = (
    (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    (Image, "MAX_IMAGE_PIXELS", None),
    (PngImagePlugin, "MAX_TEXT_CHUNK", 2**26),
    (PngImagePlugin, "MAX_TEXT_MEMORY", 2**28),
)


class _Ours:
    """Pillow's settings, and silence for its warnings, while any thread decodes.

    Both are of the whole process. The first thread in sets them, the last one out restores what was
    there. A process that is forked meanwhile has not got those threads, and restores it at once.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(
                before=self._lock.acquire,  # held for moments: a fork finds no half-made change
                after_in_parent=self._lock.release,
                after_in_child=self._after_fork,
            )

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._before = [getattr(module, name) for module, name, _ in _SETTINGS]
            for module, name, value in _SETTINGS:
                setattr(module, name, value)
            self._warnings = warnings.catch_warnings()
            self._warnings.__enter__()
            warnings.simplefilter("ignore")

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()

    def _restore(self) -> None:
        self._warnings.__exit__(None, None, None)
        for (module, name, _), value in zip(_SETTINGS, self._before, strict=True):
            setattr(module, name, value)

    def _after_fork(self) -> None:
        if self._inside:
            self._restore()
        self._inside = 0
        self._lock.release()


_ours = _Ours()


def read_image(path: str | os.PathLike[str], channels: int = 3) -> UInt8[np.ndarray, "h w c"]:
    """Read an image file as it is meant to be seen.

    The EXIF orientation is applied. 16-bit samples become `round(value / 257)` (PNG, TIFF, PPM).
    Transparency is composited on white. CMYK is converted without a colour profile, and a JPEG's
    CMYK is taken as inverted, as Adobe writes it and other readers assume. Of an animation the
    first frame is taken. Embedded colour profiles are ignored, as they were when networks were
    trained.

    A file cut short before its last pixel is an error, even where some rows can still be decoded,
    whatever Pillow's settings are; a PNG must also match its checksums. A JPEG may lack its end
    marker, and EXIF that cannot be parsed is as none. Damage inside the other formats cannot always
    be noticed.

    Args:
        path: A PNG, JPEG, GIF, WebP, TIFF, BMP or PPM file; HEIC too with the package pillow-heif.
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
    """Decode the bytes of an image file; `read_image` says how.

    Args:
        data: The whole file.
        name: Its name in error messages.
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
        with _ours:
            image = _open(stream)
            if image.format == "PNG":
                image.verify()  # checksums and the end marker; nothing can be loaded after it
                image = _open(stream)
            try:
                samples, top = _load(stream, image)
            except OSError:
                whole = _load_without_end(stream, image.format)
                if whole is None:
                    raise
                samples, top = whole
            orientation = _orientation(image)
    except ImageError as error:
        raise ImageError(f"image {name!r} {error}") from None
    except UnidentifiedImageError:
        if not _reads_heic and _is_heic(stream):
            raise ImageError(
                f"image {name!r} is a HEIC photograph, which the package pillow-heif reads: "
                "pip install 'advjax[heif]', or convert it to JPEG"
            ) from None
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
    image = Image.open(stream, formats=("HEIF",) if _reads_heic and _is_heic(stream) else FORMATS)
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"is {size}, more than {MAX_PIXELS} pixels; make it smaller")
    return image


def _is_heic(stream: BinaryIO) -> bool:
    stream.seek(4)
    start = stream.read(8)
    stream.seek(0)
    return start[:4] == b"ftyp" and start[4:] in _HEIC


def _load(stream: BinaryIO, image: ImageFile.ImageFile) -> tuple[np.ndarray, int]:
    """Decode grey, grey + alpha, RGB or RGBA samples [h, w, 1..4], and the value of white."""
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


def _orientation(image: Image.Image) -> object:
    """Return EXIF's orientation; 1 where it cannot be parsed, as its absence would mean."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # whatever Pillow's parser trips over
        return 1


def _load_without_end(stream: BinaryIO, format: str | None) -> tuple[np.ndarray, int] | None:
    """Decode a JPEG that lacks its end marker alone; return None for any other file.

    Where all pixels are there, what follows them does not matter: with the marker, and with noise
    before the marker, the image is the same. Where some are missing, noise takes their place. A
    progressive JPEG, or one with a scan for each channel, may lack a whole scan and is refused.
    """
    stream.seek(0)
    content = stream.read().rstrip(b"\xff") if format in ("JPEG", "MPO") else b""
    if not content or not _has_one_scan(content):
        return None
    noise = bytes(np.random.default_rng(0).integers(0, 255, 1024, np.uint8))
    ends = [io.BytesIO(content + end + b"\xff\xd9") for end in (b"", noise)]
    (samples, top), (other, _) = (_load(end, _open(end)) for end in ends)
    return (samples, top) if np.array_equal(samples, other) else None


def _has_one_scan(jpeg: bytes) -> bool:
    """Return True for a sequential JPEG whose first scan has all components."""
    at, components = 2, 0
    while at + 10 <= len(jpeg) and jpeg[at] == 0xFF:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1):
            components = jpeg[at + 9]
        elif marker == 0xDA:
            return 0 < components == jpeg[at + 4]
        at += 2 + length
    return False


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name for the packing of the samples ("RGB;16B"), or "" if unknown."""
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
    """Load 16-bit RGB or RGBA with both bytes.

    Pillow keeps the high bytes alone. With the other byte order it keeps the low ones.
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
    """Composite [..., colours + alpha] on white: round((c a + top (top - a)) / top)."""
    # Wide enough to the last unit: 255 * 255 + 127 < 2**16 and 65535 * 65535 + 32767 < 2**32.
    wide = samples.astype(np.uint16 if top == 255 else np.uint32)
    colour, alpha = wide[..., :-1], wide[..., -1:]
    blend = (colour * alpha + top * (top - alpha) + top // 2) // top
    return blend.astype(np.uint8 if top == 255 else np.uint16)


def _luma(samples: np.ndarray) -> np.ndarray:
    """Return ITU-R BT.601 luma [h, w, 1], in Pillow's fixed point: the weights sum to 2**16."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    luma = (samples.astype(np.uint32) @ weights + 2**15) >> 16
    return luma.astype(samples.dtype)[..., None]


def _eight_bits(samples: np.ndarray, top: int) -> np.ndarray:
    """Scale 0..top to 0..255, rounded."""
    wide = samples.astype(np.uint32)
    wide *= 255
    wide += top // 2
    wide //= top
    return wide.astype(np.uint8)


def _upright(image: np.ndarray, orientation: object) -> np.ndarray:
    """Turn the image as EXIF's orientation (1 to 8) says; anything else means 1."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def load_images(
    paths: Iterable[str | os.PathLike[str]], preprocessing: Preprocessing, channels: int = 3
) -> UInt8[np.ndarray, "n crop crop c"]:
    """Read and prepare image files.

    Args:
        paths: The files, in the order wanted.
        preprocessing: The steps for each image.
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
    """Write an image as PNG, losslessly and atomically.

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
    image = check_pixels(image, "image")
    if Path(path).suffix.lower() != ".png":
        raise ImageError(f"path {os.fspath(path)!r} does not end in .png; name a PNG file")
    with atomic_path(path) as temporary:
        flat = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(np.ascontiguousarray(flat)).save(temporary, format="PNG")


def list_images(folder: str | os.PathLike[str]) -> Sequence[Path]:
    """List the image files under a folder, by extension, sorted by path.

    Subfolders are searched, linked ones too, save links to a folder around them. Hidden files and
    folders are left out, and those that file managers and servers make (`@eaDir`, `__MACOSX`).

    Args:
        folder: The folder; its subfolders are searched, too.

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
    paths = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in _NOT_THE_USERS
            and not _leads_back(folder, Path(where, name))
        ]
        paths += [
            Path(where, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS
        ]
    if not paths:
        known = " ".join(EXTENSIONS)
        raise ImageError(f"folder {str(folder)!r} holds no image; known extensions: {known}")
    return sorted(paths, key=lambda path: path.relative_to(folder).parts)


def _leads_back(top: Path, path: Path) -> bool:
    """Return True for a link to a folder that it is in, on the way from `top`."""
    if not path.is_symlink():
        return False
    target = os.path.realpath(path)
    way = [path.parent]
    while way[-1] != top:
        way.append(way[-1].parent)
    return any(Path(os.path.realpath(each)).is_relative_to(target) for each in way)


_BYTES = "bytes:"  # what a name begins with that is percent-encoded, not being UTF-8


def name_of(path: str | os.PathLike[str]) -> str:
    """Return a file's path as text for tables; `path_of` gives it back.

    It is the path itself as UTF-8, with "/" between folders, whatever the locale is. A path that is
    not UTF-8, as old archives and discs have them, is percent-encoded after "bytes:".

    Example:
        >>> name_of("cats/a.png"), name_of(os.fsdecode(bytes([99, 233, 47, 97])))
        ('cats/a.png', 'bytes:c%E9/a')
    """
    content = os.fsencode(Path(path).as_posix())
    try:
        name = content.decode()
    except UnicodeDecodeError:
        return _BYTES + urllib.parse.quote_from_bytes(content)
    return f"./{name}" if name.startswith(_BYTES) else name


def path_of(name: str) -> str:
    """Return the path that `name_of` made a name of; any other name is a path itself.

    Example:
        >>> os.fsencode(path_of("bytes:c%E9/a"))[1]
        233
    """
    if name.startswith(_BYTES):
        return os.fsdecode(urllib.parse.unquote_to_bytes(name.removeprefix(_BYTES)))
    return os.fsdecode(name.encode(errors="surrogateescape"))
