"""The bounds are those of real arithmetic: every claim is checked in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from advjax.attacks.box import check_delta, pixel_box, round_into
from advjax.errors import AdvjaxError

LEVELS = st.integers(0, 255)
FRACTIONS = st.floats(0, 255, width=32)
DELTAS = st.floats(2**-20, 300) | st.integers(1, 300).map(float)
UP, DOWN = np.float32(np.inf), np.float32(-np.inf)


def exact_box(pixel, delta):
    pixel, delta = Fraction(float(pixel)), Fraction(delta)
    return max(pixel - delta, Fraction(0)), min(pixel + delta, Fraction(255))


def check_bounds(source, delta):
    box = pixel_box(source, delta)
    for pixel, low, high in zip(source, box.lower, box.upper, strict=True):
        assert low.dtype == high.dtype == np.float32
        lower, upper = exact_box(pixel, delta)
        assert lower <= Fraction(float(low)) <= Fraction(float(pixel))
        assert Fraction(float(pixel)) <= Fraction(float(high)) <= upper
        # The tightest: one float32 further is outside.
        assert Fraction(float(np.nextafter(low, DOWN))) < lower
        assert high == 255 or Fraction(float(np.nextafter(high, UP))) > upper


@given(st.lists(LEVELS, min_size=1, max_size=8), DELTAS)
@example([100], 1 - 2**-53)  # source - delta is 99 in float64, which is outside
@example([100], 9.999999999999998)
@example([0, 1, 254, 255], 0.1)
@example([200], 1e300)
def test_bounds_around_whole_levels_are_exact(pixels, delta):
    check_bounds(np.array(pixels, np.uint8), delta)


@given(st.lists(FRACTIONS, min_size=1, max_size=8), DELTAS.filter(lambda d: d >= 0.5))
@example([float(np.float32(1e-30)), float(np.float32(254.99998))], 10.0)
@example([2.0**-149, 0.1], 0.5)
@example([100.5], 1 - 2**-53)
def test_bounds_around_fractions_are_exact(pixels, delta):
    check_bounds(np.array(pixels, np.float32), delta)


@given(LEVELS | FRACTIONS, DELTAS, st.floats(0, 1))
@example(100, 9.7, 1.0)
@example(0, 0.3, 1.0)
@example(254.75, 0.5, 1.0)
def test_rounding_gives_the_nearest_image_inside(pixel, delta, share):
    dtype = np.uint8 if isinstance(pixel, int) else np.float32
    source = np.array([pixel], dtype)
    assume(delta >= 0.5 or float(source[0]).is_integer())
    box = pixel_box(source, delta)
    image = np.clip(
        box.lower + np.float32(share) * (box.upper - box.lower), box.lower, box.upper
    ).astype(np.float32)
    rounded = round_into(image, box)
    assert rounded.dtype == np.uint8
    lower, upper = exact_box(source[0], delta)
    admissible = [level for level in range(256) if lower <= level <= upper]
    exact = Fraction(float(image[0]))
    assert int(rounded[0]) in admissible
    assert abs(int(rounded[0]) - exact) == min(abs(level - exact) for level in admissible)


def test_shapes_are_kept():
    source = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    box = pixel_box(source, 5.0)
    assert box.lower.shape == box.upper.shape == round_into(box.lower, box).shape == (2, 3, 4)


def test_a_box_that_may_hold_no_8_bit_image_is_refused():
    with pytest.raises(AdvjaxError, match=r"delta is 0\.25 and the source has fractions"):
        pixel_box(np.array([100.5], np.float32), 0.25)
    # Whole levels in float32 are as good as uint8.
    whole = np.array([7.0], np.float32)
    assert round_into(whole, pixel_box(whole, 0.25)).tolist() == [7]


@given(st.floats(min_value=0.5, allow_infinity=False) | st.integers(1, 10**300))
def test_any_finite_number_of_half_a_level_is_a_delta(delta):
    assert check_delta(delta) == float(delta)


@pytest.mark.parametrize(
    "delta", [0, 0.0, -0.0, -1, float("nan"), float("inf"), -float("inf"), "ten", 1j, 10**400]
)
def test_anything_else_is_not(delta):
    with pytest.raises(AdvjaxError, match="give a number of pixel levels above 0") as caught:
        check_delta(delta)
    assert str(caught.value).startswith("delta is ")
    assert "\n" not in str(caught.value)
