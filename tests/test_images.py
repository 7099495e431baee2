import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from advjax.data import (
    Preprocessing,
    decode_image,
    imagenet_class_of,
    imagenet_classes,
    imagenet_synsets,
    list_images,
    load_images,
    prepare,
    read_image,
    write_png,
)
from advjax.data.preprocessing import MAX_PIXELS
from advjax.errors import AdvjaxError, ImageError, UnknownName

RNG = np.random.default_rng(0)
SMOOTH = cv2.GaussianBlur(RNG.integers(0, 256, (61, 83, 3), np.uint8), (0, 0), 3)
# Four flat quarters of 16 x 24: no two turns of it look alike, and JPEG keeps them.
QUARTERS = np.kron(
    np.array([[[200, 30, 40], [20, 180, 60]], [[30, 60, 190], [240, 230, 40]]], np.uint8),
    np.ones((16, 24, 1), np.uint8),
)


def encoded(array: np.ndarray | Image.Image, format: str, **options) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: np.ndarray, colour_type: int, key: tuple[int, ...] = ()) -> bytes:
    """A PNG of uint8 or uint16 [h, w, c]: what Pillow and OpenCV cannot write."""
    height, width = samples.shape[:2]
    bits = samples.itemsize * 8
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    transparency = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparency
    return start + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def on_white(colour: np.ndarray, alpha: np.ndarray, top: int) -> np.ndarray:
    colour, alpha = colour / top, alpha / top
    return np.rint((colour * alpha + 1 - alpha) * 255)


# What the file holds, and what is seen


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_is_read_exactly(format, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(encoded(SMOOTH, format))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, SMOOTH)
    np.testing.assert_array_equal(decode_image(path.read_bytes(), "bytes"), SMOOTH)


def test_jpeg_and_webp_are_near_what_opencv_reads():
    for format in ("JPEG", "WEBP"):
        data = encoded(SMOOTH, format)
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_allclose(decode_image(data, format).astype(int), theirs, atol=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey(channels):
    grey = SMOOTH[..., 0]
    image = decode_image(encoded(grey, "PNG"), "grey", channels)
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], channels, -1))


def test_luma_is_bt601():
    luma = decode_image(encoded(SMOOTH, "PNG"), "rgb", channels=1)
    assert luma.shape == (61, 83, 1)
    np.testing.assert_allclose(luma[..., 0], SMOOTH @ [0.299, 0.587, 0.114], atol=0.51)
    sixteen = decode_image(png(SMOOTH.astype(np.uint16) * 257, 2), "rgb16", channels=1)
    np.testing.assert_allclose(sixteen, luma.astype(int), atol=1)


def test_one_bit():
    bits = RNG.random((5, 9)) < 0.5
    image = decode_image(encoded(Image.fromarray(bits), "PNG"), "bits")
    np.testing.assert_array_equal(image[..., 0], bits * 255)


COLOUR, ALPHA = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))


def test_alpha_is_composited_on_white_for_every_colour_and_alpha():
    expected = on_white(COLOUR, ALPHA, 255)
    rgba = np.stack([COLOUR, COLOUR, 255 - COLOUR, ALPHA], -1)
    image = decode_image(encoded(rgba, "PNG"), "rgba")
    np.testing.assert_array_equal(image[..., 0], expected)
    np.testing.assert_array_equal(image[..., 2], on_white(255 - COLOUR, ALPHA, 255))
    grey_alpha = np.stack([COLOUR, ALPHA], -1)
    for channels in (1, 3):
        image = decode_image(encoded(Image.fromarray(grey_alpha), "PNG"), "la", channels)
        np.testing.assert_array_equal(image[..., -1], expected)


def test_palette():
    palette = Image.fromarray(QUARTERS).quantize(4)
    for format in ("PNG", "GIF"):
        np.testing.assert_array_equal(decode_image(encoded(palette, format), format), QUARTERS)


def test_palette_with_transparency():
    palette = Image.fromarray(QUARTERS).quantize(4)
    index = np.asarray(palette)
    alphas = bytes([0, 128, 255, 60])
    image = decode_image(encoded(palette, "PNG", transparency=alphas), "png")
    alpha = np.frombuffer(alphas, np.uint8)[index][..., None]
    np.testing.assert_array_equal(image, on_white(QUARTERS, alpha, 255))
    for format in ("PNG", "GIF"):  # one index is transparent
        image = decode_image(encoded(palette, format, transparency=int(index[0, 0])), format)
        white = (index == index[0, 0])[..., None]
        np.testing.assert_array_equal(image, np.where(white, 255, QUARTERS))


def test_a_key_colour_is_transparent():
    colour = QUARTERS[0, 0]
    clear = (colour == QUARTERS).all(-1, keepdims=True)
    key = tuple(int(c) for c in colour)
    image = decode_image(png(QUARTERS, 2, key), "rgb8")
    np.testing.assert_array_equal(image, np.where(clear, 255, QUARTERS))
    deep = tuple(257 * c for c in key)
    image = decode_image(png(QUARTERS.astype(np.uint16) * 257, 2, deep), "rgb16")
    np.testing.assert_array_equal(image, np.where(clear, 255, QUARTERS))
    grey = QUARTERS[..., :1]
    image = decode_image(png(grey.astype(np.uint16) * 257, 0, deep[:1]), "grey16", 1)
    np.testing.assert_array_equal(image, np.where(grey == key[0], 255, grey))


EVERY_16_BIT = np.arange(65536, dtype=np.uint16).reshape(256, 256)
DEEP = np.stack([EVERY_16_BIT, EVERY_16_BIT[::-1], EVERY_16_BIT.T], -1)


def tiff16(samples: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, **options)
    return stream.getvalue()


def opencv(extension: str, samples: np.ndarray) -> bytes:
    if samples.ndim == 3:
        samples = samples[..., [2, 1, 0, 3][: samples.shape[-1]]]
    return cv2.imencode(extension, np.ascontiguousarray(samples))[1].tobytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(opencv(".png", EVERY_16_BIT), id="png"),
        pytest.param(opencv(".tiff", EVERY_16_BIT), id="tiff-lzw"),
        pytest.param(tiff16(EVERY_16_BIT), id="tiff"),
        pytest.param(tiff16(EVERY_16_BIT, byteorder=">"), id="tiff-big-endian"),
        pytest.param(tiff16(65535 - EVERY_16_BIT, photometric="miniswhite"), id="tiff-white-is-0"),
        pytest.param(b"P5 256 256 65535 " + EVERY_16_BIT.astype(">u2").tobytes(), id="pgm"),
    ],
)
def test_16_bit_grey_is_rounded(data):
    image = decode_image(data, "deep", channels=1)
    np.testing.assert_array_equal(image[..., 0], np.rint(EVERY_16_BIT / 257))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(opencv(".png", DEEP), id="png"),
        pytest.param(opencv(".tiff", DEEP), id="tiff-lzw"),
        pytest.param(tiff16(DEEP, photometric="rgb"), id="tiff"),
        pytest.param(tiff16(DEEP, photometric="rgb", byteorder=">"), id="tiff-big-endian"),
        pytest.param(b"P6 256 256 65535 " + DEEP.astype(">u2").tobytes(), id="ppm"),
    ],
)
def test_16_bit_colour_is_rounded(data):
    np.testing.assert_array_equal(decode_image(data, "deep"), np.rint(DEEP / 257))


def test_16_bit_alpha():
    alpha = EVERY_16_BIT.T[::-1]
    expected = on_white(DEEP, alpha[..., None], 65535)
    rgba = np.dstack([DEEP, alpha])
    grey_alpha = png(np.dstack([EVERY_16_BIT, alpha]), 4)
    # Composited first and rounded to 8 bits after: a tie can fall either way.
    for data in (
        opencv(".png", rgba),
        tiff16(rgba, photometric="rgb", extrasamples=["unassalpha"]),
    ):
        image = decode_image(data, "rgba16")
        np.testing.assert_allclose(image, expected, atol=1)
        assert np.mean(image == expected) > 0.999
    image = decode_image(grey_alpha, "la16", channels=1)[..., 0]
    np.testing.assert_allclose(image, expected[..., 0], atol=1)
    assert np.mean(image == expected[..., 0]) > 0.999


def test_cmyk():
    cmyk = RNG.integers(0, 256, (16, 16, 4), np.uint8)
    inks = (255.0 - cmyk) / 255
    expected = 255 * inks[..., :3] * inks[..., 3:]
    image = decode_image(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"), "tiff")
    np.testing.assert_allclose(image, expected, atol=1)


def test_cmyk_jpeg_is_adobe_inverted():
    quarters = Image.fromarray(QUARTERS).convert("CMYK")
    data = encoded(quarters, "JPEG", quality=95)
    assert b"Adobe" in data
    image = decode_image(data, "jpeg").astype(int)
    np.testing.assert_allclose(image, QUARTERS, atol=4)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_allclose(image, theirs, atol=4)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_the_first_frame(format):
    frames = [Image.fromarray(np.roll(QUARTERS, 8 * i, 1)) for i in range(3)]
    lossless = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    np.testing.assert_array_equal(decode_image(data, format), QUARTERS)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_1x1(format, channels):
    image = decode_image(encoded(np.full((1, 1, 3), 120, np.uint8), format), "dot", channels)
    assert image.shape == (1, 1, channels)
    np.testing.assert_allclose(image, 120, atol=1)


# EXIF 2.32, tag 274: which side of the picture the stored row 0 and column 0 are.
ORIENTATIONS = {
    **{1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left")},
    **{5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")},
}


def stored_as(picture: np.ndarray, orientation: int) -> np.ndarray:
    row, column = ORIENTATIONS[orientation]
    stored = picture.swapaxes(0, 1) if row in ("left", "right") else picture
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    return np.ascontiguousarray(stored)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientations_all_stand_upright(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(stored_as(QUARTERS, orientation), format, exif=exif, **options.get(format, {}))
    image = decode_image(data, "turned")
    np.testing.assert_allclose(image.astype(int), QUARTERS, atol=3 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("compressed", [False, True])
def test_exif_orientation_of_16_bit_tiff(orientation, compressed):
    deep = stored_as(DEEP[:7, :5], orientation)
    image = Image.open(io.BytesIO(tiff16(deep, photometric="rgb")))
    tag = (274, 3, 1, orientation, True)
    data = tiff16(deep, photometric="rgb", extratags=[tag])
    if compressed:
        data = tiff16(deep, photometric="rgb", extratags=[tag], compression="zlib", predictor=True)
    assert image.size == (deep.shape[1], deep.shape[0])
    np.testing.assert_array_equal(decode_image(data, "turned"), np.rint(DEEP[:7, :5] / 257))


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_senseless_orientations_are_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(QUARTERS, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data, "png"), QUARTERS)


def test_broken_exif_neither_warns_nor_fails():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description, cut short"
    for length in range(6, len(exif.tobytes())):
        data = encoded(QUARTERS, "JPEG", exif=exif.tobytes()[:length], quality=95, subsampling=0)
        image = decode_image(data, "exif").astype(int)
        upright = [QUARTERS, stored_as(QUARTERS, 8)]  # 8 turns the way that 6 turns back
        assert any(u.shape == image.shape and np.abs(u - image).max() <= 3 for u in upright)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + rest
        for rest in (
            b"",
            b"\xff" * 40,
            b"MM\0*\0\0",
            b"II*\0\xff\xff\xff\x7f",
            b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 9,
            b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\xff\0\0\0\x99",
        )
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_parsed_means_upright(format, exif):
    lossless = {"lossless": True} if format == "WEBP" else {}
    image = decode_image(encoded(QUARTERS, format, exif=exif, **lossless), "exif")
    np.testing.assert_array_equal(
        image, decode_image(encoded(QUARTERS, format, **lossless), "plain")
    )


def text_chunk(kind: bytes, size: int) -> bytes:
    """A note, or a profile, of so many bytes when it is unpacked."""
    packed = zlib.compress(bytes(size))
    head = {b"tEXt": b"k\0", b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"p\0\0"}[kind]
    return chunk(kind, head + (b"a" * size if kind == b"tEXt" else packed))


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
def test_long_notes_and_profiles_do_no_harm(kind):
    data = encoded(QUARTERS, "PNG")
    data = data[:33] + text_chunk(kind, 3 << 20) + data[33:]  # after the header
    np.testing.assert_array_equal(decode_image(data, "noted.png"), QUARTERS)


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"quality": 100}, {"restart_marker_blocks": 2}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("left", [b"", b"\xff"])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_read(left, mode, options):
    image = np.asarray(Image.fromarray(SMOOTH).convert(mode))
    data = encoded(image, "JPEG", **options)
    assert data.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(
        decode_image(data[:-2] + left, "endless.jpg"), decode_image(data, "whole.jpg")
    )


# What cannot be read


def failure(call, *arguments) -> str:
    with pytest.raises(ImageError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tall(height: int, claimed: int) -> tuple[bytes, bytes]:
    """A TIFF's ImageLength entry (tag 257, LONG), true and false."""
    entry = struct.pack("<HHI", 257, 4, 1)
    return entry + struct.pack("<I", height), entry + struct.pack("<I", claimed)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"not an image\n" * 100, "is not a readable PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a readable PNG"),
        (bomb(20000, 20000), "more than"),
        (bomb(10000, 8000), "10000x8000, more than"),  # where Pillow itself only warns
        (bomb(100, 100), "truncated or damaged"),
        (tiff16(DEEP, photometric="rgb").replace(*tall(256, 40000), 1), "cover 256x256"),
        (tiff16(np.ones((4, 4), np.float32)), "32-bit"),
        (tiff16(np.ones((4, 4), np.uint32)), "32-bit"),
    ],
)
def test_bad_content(content, says, tmp_path):
    path = tmp_path / "new\nline.jpg"
    path.write_bytes(content)
    message = failure(read_image, path)
    assert says in message
    assert repr(str(path)) in message


def test_a_heic_photograph(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6  # seen turned to the right
    turned = pillow_heif.from_pillow(Image.fromarray(QUARTERS))
    turned.save(tmp_path / "a.heic", quality=100, chroma=444, exif=exif.tobytes())
    assert list_images(tmp_path) == [tmp_path / "a.heic"]
    content = (tmp_path / "a.heic").read_bytes()
    image = decode_image(content, "a.heic")
    assert image.shape == np.rot90(QUARTERS, -1).shape
    assert np.abs(image.astype(int) - np.rot90(QUARTERS, -1)).mean() < 4
    assert "get a whole copy" in failure(decode_image, content[: len(content) // 2], "a.heic")


def test_a_heic_photograph_without_its_package(monkeypatch):
    monkeypatch.setattr("advjax.data.images._reads_heic", False)
    said = failure(decode_image, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.heic")
    assert "pip install 'advjax[heif]'" in said


def test_missing_directory_pipe_and_bad_names(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "No such file" in failure(read_image, tmp_path / "none.png")
    assert "is a directory" in failure(read_image, tmp_path)
    assert "not a regular file" in failure(read_image, tmp_path / "pipe")
    assert "null" in failure(read_image, "a\0b.png")
    assert "cannot be opened" in failure(read_image, "x" * 5000)
    assert "channels is 4" in failure(decode_image, encoded(QUARTERS, "PNG"), "x", 4)


TRUNCATED = {
    "jpeg": encoded(SMOOTH, "JPEG"),
    "progressive jpeg": encoded(SMOOTH, "JPEG", progressive=True),
    "png": encoded(SMOOTH, "PNG"),
    "png16": opencv(".png", DEEP),
    "gif": encoded(SMOOTH, "GIF"),
    "webp": encoded(SMOOTH, "WEBP"),
    "tiff": encoded(SMOOTH, "TIFF"),
    "tiff lzw": encoded(SMOOTH, "TIFF", compression="tiff_lzw"),
    "bmp": encoded(SMOOTH, "BMP"),
    "ppm": encoded(SMOOTH, "PPM"),
}


@pytest.mark.parametrize("kind", TRUNCATED)
@pytest.mark.parametrize("percent", [*range(10, 100, 10), 99])
def test_truncated_files_are_refused(kind, percent):
    data = TRUNCATED[kind]
    decode_image(data, kind)
    failure(decode_image, data[: len(data) * percent // 100], kind)


def test_a_flipped_bit_in_a_png_is_an_error_or_changes_nothing():
    data = encoded(SMOOTH[:8, :8], "PNG")
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        try:
            image = decode_image(bytes(flipped), "flipped")
        except ImageError:
            continue
        np.testing.assert_array_equal(image, SMOOTH[:8, :8])


@given(st.sampled_from(["jpeg", "png16", "gif", "webp", "tiff", "bmp", "ppm"]), st.data())
@settings(max_examples=300, deadline=None)
def test_mutations_give_an_image_or_an_image_error(kind, draw):
    mutated = bytearray(TRUNCATED[kind])
    # Headers are where the parsing is.
    place = st.integers(0, 199) | st.integers(0, len(mutated) - 1)
    for at, value in draw.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=5)):
        mutated[at] = value
    try:
        image = decode_image(bytes(mutated), kind)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.shape[-1] == 3


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_jpeg_that_lacks_pixels_is_refused(options):
    data = encoded(SMOOTH, "JPEG", **options)
    scan = data.index(b"\xff\xda")
    for end in np.linspace(scan + 14, len(data) - 8, 60).astype(int):
        assert "truncated" in failure(decode_image, data[:end], "half.jpg")


OTHERS = {
    (ImageFile, "LOAD_TRUNCATED_IMAGES"): True,
    (Image, "MAX_IMAGE_PIXELS"): 10,
    (PngImagePlugin, "MAX_TEXT_CHUNK"): 10,
    (PngImagePlugin, "MAX_TEXT_MEMORY"): 10,
}


@pytest.fixture
def others(monkeypatch):
    """Settings of Pillow that other libraries make."""
    for (module, name), value in OTHERS.items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("kind", TRUNCATED)
def test_other_libraries_settings_of_pillow_do_not_matter(kind, others):
    data = TRUNCATED[kind]
    decode_image(data, kind)
    failure(decode_image, data[: len(data) // 2], kind)
    noted = encoded(QUARTERS, "PNG")
    decode_image(noted[:33] + text_chunk(b"zTXt", 1000) + noted[33:], "noted.png")
    assert all(getattr(*setting) == value for setting, value in OTHERS.items())


def test_threads_decode_side_by_side_and_restore_others_settings(others):
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(lambda _: decode_image(TRUNCATED["jpeg"], "jpeg"), range(200)):
            assert image.shape == SMOOTH.shape
    assert all(getattr(*setting) == value for setting, value in OTHERS.items())
    assert warnings.filters == filters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_while_images_are_decoded_decodes_too(tmp_path):
    """As loaders of data do; in a process of its own, which may hang."""
    (tmp_path / "a.jpg").write_bytes(TRUNCATED["jpeg"])
    script = """
import os, sys, threading, warnings
from PIL import ImageFile
from advjax.data.images import read_image
ImageFile.LOAD_TRUNCATED_IMAGES = True
filters = list(warnings.filters)
stop = threading.Event()
def work():
    while not stop.is_set():
        read_image(sys.argv[1])
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(60):
    child = os.fork()
    if not child:
        same = ImageFile.LOAD_TRUNCATED_IMAGES and warnings.filters == filters
        read_image(sys.argv[1])
        os._exit(0 if same and ImageFile.LOAD_TRUNCATED_IMAGES else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.jpg"], check=True, timeout=120)


# Resizing and cropping


@pytest.mark.parametrize("side", [30, 41, 61, 83, 122, 166, 256])
@pytest.mark.parametrize("image", [SMOOTH, RNG.integers(0, 256, (96, 60, 3), np.uint8)])
def test_warp_is_opencvs_inter_linear(side, image):
    ours = prepare(image, Preprocessing("warp", side, side)).astype(int)
    exact = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(ours, exact, atol=0.501)
    # On uint8 OpenCV rounds the weights to 11 bits and then some of the products down.
    theirs = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(ours, theirs, atol=1)


@pytest.mark.parametrize("method", ["bilinear_antialias", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_antialiased_methods_are_pillows(method, channels):
    image = SMOOTH[..., :channels]
    pillow = Image.fromarray(image.squeeze())
    theirs = pillow.resize((40, 40), getattr(Image.Resampling, method.split("_")[0].upper()))
    ours = prepare(image, Preprocessing("warp", 40, 40, method))
    np.testing.assert_array_equal(ours.squeeze(), theirs)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 255),
    st.sampled_from(["bilinear", "bilinear_antialias", "bicubic"]),
    st.sampled_from(["warp", "short_side"]),
)
@settings(deadline=None)
def test_constant_images_stay_constant(height, width, side, value, method, resize):
    image = np.full((height, width, 3), value, np.uint8)
    prepared = prepare(image, Preprocessing(resize, side, side, method))
    np.testing.assert_array_equal(prepared, np.full((side, side, 3), value))


def test_bilinear_keeps_a_ramp():
    ramp = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (9, 1))[..., None]  # pixel i holds 5 i
    warped = prepare(ramp, Preprocessing("warp", 100, 100))[50, :, 0]
    centres = (np.arange(100) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(warped, np.clip(5 * centres, 0, 245), atol=0.5)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (300, 300), (61, 1000)])
def test_short_side_keeps_the_aspect(height, width):
    """The longer side of torchvision's Resize(256) is int(256 * long / short)."""
    yy, xx = np.mgrid[:height, :width]
    image = np.stack([255 * yy / height, 255 * xx / width, 0 * xx], -1).astype(np.uint8)
    prepared = prepare(image, Preprocessing("short_side", 256, 224, "bicubic"))
    long = int(256 * max(height, width) / min(height, width))
    size = (256, long) if height > width else (long, 256)
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
    np.testing.assert_array_equal(prepared, resized[top : top + 224, left : left + 224])


def test_caffes_crop_begins_at_14():
    """(256 - 227) / 2 in Caffe's data transformer."""
    index = np.arange(256, dtype=np.uint8)
    image = np.stack(np.broadcast_arrays(index[:, None], index, np.uint8(0)), -1)
    np.testing.assert_array_equal(
        prepare(image, Preprocessing("warp", 256, 227))[[0, -1], [0, -1]],
        [[14, 14, 0], [240, 240, 0]],
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3]))
@settings(deadline=None)
def test_centre_crop(height, width, crop, channels):
    index = np.stack(np.mgrid[:height, :width, :1], -1)[:, :, 0].astype(np.uint8)  # (h, w, 3)
    image = index[..., :channels]
    if crop > min(height, width):
        assert f"{width}x{height}" in failure(prepare, image, Preprocessing(crop=crop))
        return
    cut = prepare(image, Preprocessing(crop=crop)).astype(int)
    assert cut.shape == (crop, crop, channels)
    # Consecutive pixels, margins alike but for one pixel, the odd one below and on the right.
    for axis, size in zip(range(min(channels, 2)), (height, width), strict=False):
        first = cut[0, 0, axis]
        assert 0 <= (size - crop - first) - first <= 1
        steps = np.arange(first, first + crop)
        lines = steps[:, None] if axis == 0 else steps
        np.testing.assert_array_equal(cut[..., axis], np.broadcast_to(lines, (crop, crop)))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5, 3)),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((1, 5, 5, 3), np.uint8),
    ],
)
def test_prepare_and_write_png_refuse_other_arrays(image, tmp_path):
    assert failure(prepare, image, Preprocessing(crop=1), "that one").startswith("that one ")
    failure(write_png, tmp_path / "a.png", image)
    assert list(tmp_path.iterdir()) == []


def test_prepare_refuses_to_blow_up_a_thread_of_pixels():
    thread = np.zeros((1, 100_000, 1), np.uint8)
    assert MAX_PIXELS < 100_000 * 224 * 224
    assert "100000x1" in failure(prepare, thread, Preprocessing("short_side", 224, 224))


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": "stretch"},
        {"interpolation": "cubic"},
        {"resize_to": 0},
        {"resize_to": 25.5},
        {"crop": -1},
        {"crop": True},
        {"resize_to": 200, "crop": 224},
    ],
)
def test_preprocessing_refuses_what_cannot_be(wrong):
    with pytest.raises(AdvjaxError, match=next(iter(wrong))):
        Preprocessing(**wrong)
    with pytest.raises(UnknownName, match="did you mean 'short_side'"):
        Preprocessing("shortside")


# Files


@pytest.mark.parametrize("channels", [1, 3])
def test_write_png_is_lossless(channels, tmp_path):
    image = RNG.integers(0, 256, (31, 17, channels), np.uint8)
    write_png(tmp_path / "new" / "a.PNG", image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.PNG", channels), image)
    theirs = cv2.imread(str(tmp_path / "new" / "a.PNG"), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(theirs, np.broadcast_to(image, (31, 17, 3)))


def test_write_png_fails_cleanly(tmp_path):
    assert ".png" in failure(write_png, tmp_path / "a.jpg", QUARTERS)
    (tmp_path / "file").write_text("")
    with pytest.raises(AdvjaxError, match="cannot write"):
        write_png(tmp_path / "file" / "a.png", QUARTERS)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(AdvjaxError, match="cannot write"):
        write_png(tmp_path / "taken.png", QUARTERS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


def test_list_images_and_load_images(tmp_path):
    for i, name in enumerate(["b/2.png", "b/10.png", "a.jpg", "b-c/1.PNG", ".hidden.png", "n.txt"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(np.full((40, 50, 3), 20 * i, np.uint8), "PNG"))
    paths = list_images(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == ["a.jpg", "b/10.png", "b/2.png", "b-c/1.PNG"]
    batch = load_images(paths, Preprocessing("warp", 32, 28))
    assert batch.shape == (4, 28, 28, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[:, 0, 0, 0], [40, 20, 0, 60])
    assert load_images(paths[:1], Preprocessing(crop=28), channels=1).shape == (1, 28, 28, 1)
    assert "empty" in failure(load_images, [], Preprocessing())
    message = failure(load_images, [*paths, tmp_path / "n.txt"], Preprocessing(crop=99))
    assert repr(str(paths[0])) in message


def test_list_images_says_what_is_wrong(tmp_path):
    assert "not a directory" in failure(list_images, tmp_path / "none")
    assert "holds no image" in failure(list_images, tmp_path)


# ImageNet's names


def test_imagenet_names_are_distinct_and_in_order():
    names, synsets = imagenet_classes(), imagenet_synsets()
    assert len(names) == len(set(names)) == len(synsets) == 1000
    assert list(synsets) == sorted(set(synsets))
    # Indices that anybody can look up.
    known = {1: "goldfish", 207: "golden retriever", 285: "Egyptian cat", 504: "coffee mug"}
    assert {i: names[i] for i in known} == known


def test_imagenet_names_are_those_of_the_photographs(shared):
    paths = list_images(shared / "imagenet-1000")
    renamed = {"crane (bird)": "crane", "crane (machine)": "crane", "tank suit": "maillot"}
    for index, path in enumerate(paths):
        name = imagenet_classes()[index]
        expected = f"{imagenet_synsets()[index]} {renamed.get(name, name)}"
        assert path.stem.replace("_", " ") == expected
        assert imagenet_class_of(path) == index


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("n01440764/n01443537_1.JPEG", 1),
        ("n01440764_tench/n00000000_1.JPEG", 0),
        ("n07920052/espresso.jpg", 967),
        ("n014407641/a.jpg", None),
        ("a/b.jpg", None),
        ("", None),
    ],
)
def test_class_of_a_path(path, index):
    assert imagenet_class_of(path) == index
    assert imagenet_class_of(Path(path)) == index


def test_real_photographs_are_read_as_opencv_reads_them(shared):
    for path in list_images(shared / "imagenet-1000")[::100]:
        theirs = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        # Two builds of libjpeg round the inverse DCT and the chroma differently.
        assert np.mean(np.abs(read_image(path).astype(int) - theirs)) < 1
