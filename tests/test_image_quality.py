import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from advjax.data import list_images, read_image
from advjax.errors import AdvjaxError
from advjax.metrics import max_change, mean_change, psnr, ssim

SEEDS = st.integers(0, 2**32 - 1)


def pair(seed, shape=(2, 40, 30, 3), delta=10.0):
    """An image with structure, and another within delta of it."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=shape), 1), 2)
    low, high = smooth.min((1, 2, 3), keepdims=True), smooth.max((1, 2, 3), keepdims=True)
    x = 255 * (smooth - low) / (high - low)
    y = np.clip(x + rng.uniform(-delta, delta, shape), 0, 255)
    return x.astype(np.float32), y.astype(np.float32)


def oracle(x, y):
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        structural_similarity(
            i.astype(np.float64), j.astype(np.float64), data_range=255, channel_axis=-1, **settings
        )
        for i, j in zip(x, y, strict=True)
    ]


@pytest.mark.parametrize("delta", [0.01, 1, 10, 100])
@pytest.mark.parametrize("shape", [(2, 40, 30, 3), (2, 11, 11, 3), (2, 28, 28, 1)])
def test_ssim_is_scikit_images(delta, shape):
    x, y = pair(0, shape, delta)
    np.testing.assert_allclose(jax.jit(ssim)(x, y), oracle(x, y), atol=1e-5)


def test_ssim_of_real_photographs_as_uint8(shared):
    files = list_images(shared / "imagenette" / "val")[::200]
    x = np.stack([read_image(file) for file in files])
    noise = np.random.default_rng(0).integers(-10, 11, x.shape)
    y = np.clip(x + noise, 0, 255).astype(np.uint8)
    expected = oracle(x, y)
    assert 0.4 < min(expected) < max(expected) < 0.99
    np.testing.assert_allclose(ssim(x, y), expected, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 128.0, 255.0])
def test_ssim_of_a_flat_image_keeps_its_digits(level):
    # The variances are differences of numbers up to 255^2.
    x = np.full((1, 32, 32, 3), level, np.float32)
    y = np.abs(x - np.random.default_rng(0).integers(0, 2, x.shape)).astype(np.float32)
    np.testing.assert_allclose(ssim(x, y), oracle(x, y), atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(SEEDS)
def test_ssim_is_symmetric_and_1_for_the_same_alone(seed):
    x, y = pair(seed)
    np.testing.assert_allclose(ssim(x, y), ssim(y, x), atol=1e-6)
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)
    assert (np.asarray(ssim(x, y)) < 1).all()


@pytest.mark.parametrize("delta", [0.01, 1, 10, 100])
def test_the_others_against_float64(delta):
    x, y = pair(1, delta=delta)
    far = np.abs(x.astype(np.float64) - y)
    np.testing.assert_allclose(jax.jit(max_change)(x, y), far.max((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(mean_change)(x, y), far.mean((1, 2, 3)), rtol=1e-5)
    expected = [
        peak_signal_noise_ratio(i.astype(np.float64), j.astype(np.float64), data_range=255)
        for i, j in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(psnr)(x, y), expected, atol=1e-4)


@pytest.mark.parametrize("measure", [max_change, mean_change, psnr, ssim])
def test_uint8_counts_as_the_same_numbers_in_float32(measure):
    x, y = (np.rint(part).astype(np.uint8) for part in pair(2))
    found = measure(x, y)
    np.testing.assert_allclose(found, measure(x.astype(np.float32), y.astype(np.float32)))
    np.testing.assert_allclose(found, measure(y, x), rtol=1e-6)  # no wrapping around


def test_equal_images():
    x, _ = pair(3)
    assert np.isposinf(psnr(x, x)).all()
    assert (np.asarray(max_change(x, x)) == 0).all()
    assert (np.asarray(mean_change(x, x)) == 0).all()


def test_mistakes_are_named():
    with pytest.raises(AdvjaxError, match="needs images of at least 11 x 11"):
        ssim(np.zeros((1, 10, 30, 3)), np.zeros((1, 10, 30, 3)))
    for measure in (max_change, mean_change, psnr, ssim):
        with pytest.raises(AdvjaxError, match=r"shapes \(1, 20, 20, 3\) and \(20, 20, 3\); give"):
            measure(np.zeros((1, 20, 20, 3)), np.zeros((20, 20, 3)))
