import dataclasses
import itertools
import os
import subprocess
import sys

import cv2
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import list_images, load_images, read_image
from advjax.data.images import Preprocessing
from advjax.display import magnification
from advjax.errors import AdvjaxError, ImageError
from advjax.sheet import Sheet, draw_sheet

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)  # Okabe and Ito (2008)


def flat(red: int, green: int, blue: int, side: int = 224) -> np.ndarray:
    return np.full((side, side, 3), (red, green, blue), np.uint8)


LABELS = (
    [("tabby", 0.62), ("Egyptian cat", 0.21), ("tiger cat", 0.12)],
    [("espresso", 0.97), ("cup", 0.02), ("coffee mug", 0.004)],
    [("espresso", 0.91), ("tabby", 0.05), ("eggnog", 0.01)],
)
SHEET = Sheet(
    source=flat(200, 30, 40),
    guide=flat(20, 180, 60),
    adversarial=flat(210, 30, 34),
    delta=10.0,
    initial_distance=20.0,
    distance=2.5,
    network="net",
    layer="fc7",
    labels=LABELS,
    trace=np.geomspace(20.0, 2.5, 40),
    names=("cat.jpg", "coffee.jpg"),
)


def drawn(path, sheet: Sheet) -> np.ndarray:
    path.parent.mkdir(exist_ok=True)
    draw_sheet(path, sheet)
    assert os.listdir(path.parent) == [path.name]
    return read_image(path)


def where(image: np.ndarray, colour: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((image == np.array(colour, np.uint8)).all(-1))


def test_four_pictures_in_order_with_the_difference_about_grey(tmp_path):
    image = drawn(tmp_path / "sheet.png", SHEET)
    assert image.shape[1] == 1920
    # +10, 0 and -6 levels, 12 times, about 127.5; an even number of halves rounds to 248 and 128.
    centres = []
    for colour in ((200, 30, 40), (20, 180, 60), (210, 30, 34), (248, 128, 56)):
        rows, columns = where(image, colour)
        assert rows.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a full square
        assert np.ptp(rows) == np.ptp(columns) > 280
        centres.append(columns.mean())
    np.testing.assert_allclose(np.diff(centres), centres[1] - centres[0], atol=1)
    assert centres[1] > centres[0]


def test_labels_of_source_and_guide_keep_their_colour_under_the_adversarial(tmp_path):
    """Bars as wide as the probability: blue for the source's class, orange for the guide's."""
    bare = dataclasses.replace(SHEET, trace=None)
    image = drawn(tmp_path / "sheet.png", bare)
    below = where(image, (200, 30, 40))[0].max() + 1
    for colour, (own, others) in {BLUE: (0.62, 0.05), ORANGE: (0.97, 0.91)}.items():
        widths = []
        for square in ((200, 30, 40), (20, 180, 60), (210, 30, 34)):
            columns = where(image, square)[1]
            strip = image[below:, columns.min() : columns.max() + 1]
            found = where(strip, colour)[1]
            widths.append((np.ptp(found) + 1) / strip.shape[1] if found.size else 0)
        expected = [own, 0, others] if colour == BLUE else [0, own, others]
        np.testing.assert_allclose(widths, expected, atol=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": None},
        {"trace": None},
        {"labels": None, "trace": None, "names": ("", ""), "network": "", "layer": ""},
        {"labels": ([("a", 1.0)], [], [("b", 0.0), ("a", 0.5)])},
        {"labels": ([], [], [])},
        {"trace": [20.0]},
        {"trace": []},
        {"trace": [np.nan, np.nan]},
        {"trace": [20.0, np.inf, 30.0, np.nan, 2.5, np.nan]},
        {"trace": np.geomspace(20.0, 1e-6, 500), "distance": 1e-6},
        {"trace": np.linspace(1e6, 9e5, 9), "initial_distance": 1e6, "distance": 9e5},
        {"trace": [0.0, 0.0], "initial_distance": 0.0, "distance": 0.0},
        {"delta": 300.0},
        {"delta": 0.01},
    ],
    ids=lambda change: "-".join(change),
)
def test_parts_can_be_missing_or_extreme(change, tmp_path):
    image = drawn(tmp_path / "sheet.png", dataclasses.replace(SHEET, **change))
    assert where(image, (20, 180, 60))[0].size > 280**2


def test_the_sheet_is_narrower_without_a_trace(tmp_path):
    sheet = dataclasses.replace(SHEET, trace=None)
    assert drawn(tmp_path / "sheet.png", sheet).shape[1] < 1500


@pytest.mark.parametrize("side", [28, 32])
def test_small_images_keep_their_pixels(side, tmp_path):
    """Red and blue squares, enlarged: smoothing would make purple ones."""
    squares = np.indices((side, side)).sum(0) % 2 == 0
    image = np.where(squares[..., None], flat(255, 0, 0, side), flat(0, 0, 255, side))
    sheet = dataclasses.replace(SHEET, source=image, guide=image, adversarial=image)
    picture = drawn(tmp_path / "sheet.png", sheet).astype(int)
    assert where(picture, (255, 0, 0))[0].size > 3 * 280**2 / 2
    assert not np.any((picture[..., 1] == 0) & (picture[..., 0] > 0) & (picture[..., 2] > 60))


def test_grey_and_float_images(tmp_path):
    grey = np.full((28, 28, 1), 77.0, np.float32)
    sheet = dataclasses.replace(SHEET, source=grey, guide=grey, adversarial=grey + 10)
    picture = drawn(tmp_path / "sheet.png", sheet)
    assert where(picture, (77, 77, 77))[0].size > 2 * 280**2
    assert where(picture, (87, 87, 87))[0].size > 280**2


def test_long_and_odd_names_stay_in_their_column(tmp_path):
    odd = [("W" * 300, 0.9), ("$\\frac{1}{$_^\n\t{", 0.3), ("咖啡\x07", 0.1)]
    names = ("n00000000_" * 40, "$x$\n咖啡.jpg")
    sheet = dataclasses.replace(SHEET, labels=(odd, odd, odd), names=names, network="x" * 400)
    image = drawn(tmp_path / "sheet.png", sheet)
    squares = [where(image, c)[1] for c in ((200, 30, 40), (20, 180, 60), (210, 30, 34))]
    top = where(image, (200, 30, 40))[0].min()
    for left, right in itertools.pairwise(squares):
        gap = image[top - 40 :, left.max() + 3 : right.min() - 3]
        assert gap.shape[1] > 20
        assert np.all(gap == 255)
    assert np.all(image[:, -50:] == 255)


def test_the_users_style_neither_shows_nor_changes(tmp_path):
    draw_sheet(tmp_path / "plain.png", SHEET)
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        draw_sheet(tmp_path / "styled.png", SHEET)
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_no_pyplot_and_matplotlib_only_to_draw(tmp_path):
    code = """
import sys, numpy as np
from advjax.sheet import Sheet, draw_sheet
assert "matplotlib" not in sys.modules
grey = np.zeros((8, 8, 1))
draw_sheet(sys.argv[1], Sheet(grey, grey, grey, 10.0, 1.0, 0.5))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sheet.png")], check=True)


@given(st.floats(1e-3, 127.5))
def test_magnification_fills_the_range_and_never_leaves_it(delta):
    k = magnification(delta)
    assert k * delta <= 127.5 < (k + 1) * delta


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"guide": flat(0, 0, 0, 223)}, ImageError, r"guide has shape \[223, 223, 3\]"),
        ({"source": np.zeros((9, 9))}, ImageError, r"source has shape \[9, 9\]"),
        ({"adversarial": np.full((224, 224, 3), np.nan)}, ImageError, "adversarial holds NaN"),
        ({"labels": LABELS[:2]}, AdvjaxError, "labels has 2 lists"),
        ({"delta": 0.0}, AdvjaxError, "delta is 0.0"),
        ({"delta": float("nan")}, AdvjaxError, "delta is nan"),
        ({"distance": float("inf")}, AdvjaxError, "^distance is inf"),
        ({"initial_distance": -1.0}, AdvjaxError, "initial_distance is -1.0"),
    ],
)
def test_mistakes_are_named_and_write_nothing(change, error, says, tmp_path):
    with pytest.raises(error, match=says):
        draw_sheet(tmp_path / "sheet.png", dataclasses.replace(SHEET, **change))
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_of_photographs_is_small_enough_to_send(shared, tmp_path):
    paths = list_images(shared / "imagenet-1000")[281:283]
    source, guide = load_images(paths, Preprocessing("short_side", 256, 224, "bicubic"))
    noise = np.random.default_rng(0).uniform(-10, 10, source.shape)
    sheet = dataclasses.replace(
        SHEET, source=source, guide=guide, adversarial=np.clip(source + noise, 0, 255)
    )
    draw_sheet(tmp_path / "sheet.png", sheet)
    assert (tmp_path / "sheet.png").stat().st_size < 1.5e6
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] == 1920


def test_without_a_bound_the_largest_change_is_magnified(tmp_path):
    unbounded = dataclasses.replace(SHEET, delta=None, trace=None, verdict="Taken", attack="one")
    image = drawn(tmp_path / "sheet.png", unbounded)
    # Its changes are +10, 0 and -6: the same as under a bound of 10.
    colours = (128 + 120, 128, 128 - 72)
    assert len(where(image, colours)[0]) > 1000


def test_what_is_not_the_distance_is_marked_with_its_own_ends(tmp_path):
    own = {"trace": np.array([9.0, 3.0, 4.0]), "trace_title": "By another map"}
    given = dataclasses.replace(SHEET, **own)
    same = dataclasses.replace(given, initial_distance=9.0, distance=3.0, trace_title=None)
    one = drawn(tmp_path / "a" / "sheet.png", given)
    other = drawn(tmp_path / "b" / "sheet.png", same)
    # The plots below their titles agree, although the distances do not.
    top, left = one.shape[0] // 3, 3 * one.shape[1] // 4
    np.testing.assert_array_equal(one[top:, left:], other[top:, left:])
