"""Perceptual budgets: figures beside plain formulas, and what the 8-bit image keeps of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attacks.perceptual import farthest, lpips
from advjax.errors import AdvjaxError
from advjax.runs.rows import Item, result_row, table_of

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(0, 0.1, (256, 8)).astype(np.float32)
KERNEL = RNG.normal(0, 0.3, (3, 3, 1, 5)).astype(np.float32)


def function(params, images):
    matrix, kernel = params
    pixels = images / 255 - 0.5
    conv = jax.lax.conv_general_dilated(
        pixels, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return {"conv": jnp.tanh(conv), "top": jnp.tanh(pixels.reshape(len(images), -1) @ matrix)}


NET = advjax.Network(function, (16, 16, 1), (jnp.asarray(MATRIX), jnp.asarray(KERNEL)), layer="top")
SOURCES, GUIDES = RNG.integers(0, 256, (2, 3, 16, 16, 1), np.uint8)
BOTH = advjax.Perceptual(
    ssim=0.98, lpips=0.01, layers=("conv",), layer_weights=((1.0, 0.5, 0.0, 2.0, 1.0),)
)
FREE = {"delta": 80.0, "max_evaluations": 12}


def ssim64(x, y):
    """Wang et al. 2004, eq. 13, window by window, in float64."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (np.asarray(each, np.float64)[..., 0] for each in (x, y))
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            m, n = np.sum(window * a), np.sum(window * b)
            v, w = np.sum(window * (a - m) ** 2), np.sum(window * (b - n) ** 2)
            covariance = np.sum(window * (a - m) * (b - n))
            c, d = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            found.append((2 * m * n + c) * (2 * covariance + d) / ((m**2 + n**2 + c) * (v + w + d)))
    return np.mean(found)


def lpips64(a, s, weights):
    total = 0.0
    for row, other in zip(a.reshape(-1, a.shape[-1]), s.reshape(-1, s.shape[-1]), strict=True):
        total += weights @ (row / np.linalg.norm(row) - other / np.linalg.norm(other)) ** 2
    return total / a[..., 0].size


def attack(perceptual, **more):
    kind = advjax.FeatureOpt(perceptual=perceptual)
    return advjax.attack(NET, SOURCES, GUIDES, attack=kind, **FREE | more)


def test_the_penalty_against_formulas_and_its_gradient_against_finite_differences():
    budget = advjax.Perceptual(
        ssim=0.9, lpips=0.001, layers=("conv",), layer_weights=(RNG.uniform(size=5),)
    )
    weights = np.array(budget.layer_weights[0])
    at_source = np.asarray(NET(SOURCES[:1], "conv")["conv"])
    target = budget.target(SOURCES[0], {"conv": at_source})
    image = SOURCES[:1] + RNG.normal(0, 30, (1, 16, 16, 1))

    def penalty(x):
        x = jnp.asarray(x, jnp.float32)
        return budget.excess(budget.figures(x, function(NET.params, x), target))[0]

    def formula(x):
        pixels = x / 255 - 0.5
        padded = np.pad(pixels[0, ..., 0], ((0, 1), (0, 1)))
        conv = np.array([
            [np.einsum("ij,ijc->c", padded[i : i + 3, j : j + 3], np.float64(KERNEL)[:, :, 0])
             for j in range(0, 16, 2)] for i in range(0, 16, 2)
        ])  # fmt: skip
        distance = lpips64(np.tanh(conv), np.float64(at_source[0]), weights)
        return max(0.9 - ssim64(x[0], SOURCES[0]), 0) + max(distance - 0.001, 0)

    assert 0.05 < formula(image) < 2
    np.testing.assert_allclose(penalty(image), formula(image), rtol=1e-4)
    direction, step = RNG.normal(size=image.shape), 1e-4
    wanted = (formula(image + step * direction) - formula(image - step * direction)) / (2 * step)
    slope = np.sum(np.asarray(jax.grad(penalty)(image.astype(np.float32))) * direction)
    np.testing.assert_allclose(slope, wanted, rtol=1e-3)
    np.testing.assert_allclose(
        lpips({"conv": at_source}, {"conv": -at_source}, ("conv",)), 4, rtol=1e-5
    )


def figures(images):
    a, s = (np.asarray(NET(x, "conv")["conv"], np.float64) for x in (images, SOURCES))
    weights = np.array(BOTH.layer_weights[0])
    ssims = [ssim64(*each) for each in zip(images, SOURCES, strict=True)]
    return np.array(ssims), np.array([lpips64(*each, weights) for each in zip(a, s, strict=True)])


def test_every_8_bit_image_keeps_a_bound_that_none_kept_without():
    free, found = attack(None), attack(BOTH)
    ssims, distances = figures(free.adversarial_uint8)
    assert free.keeps_perceptual is None
    assert (ssims < 0.98).all()
    assert (distances > 0.01).all()
    ssims, distances = figures(found.adversarial_uint8)
    np.testing.assert_allclose(found.ssim_uint8, ssims, rtol=1e-4)
    np.testing.assert_allclose(found.lpips_uint8, distances, rtol=1e-4)
    assert found.keeps_perceptual.all()
    assert (ssims >= 0.98).all()
    assert (distances <= 0.01).all()
    assert np.isnan(found.objective).any()  # it is not of an image that was moved since
    assert (found.ratio_uint8 < 0.95).all()
    alone = attack(BOTH, batch_size=1)  # neither lanes nor neighbours matter
    np.testing.assert_allclose(alone.ratio_uint8, found.ratio_uint8, rtol=2e-2)
    for result in (found, alone):
        assert (np.abs(np.float64(result.adversarial) - SOURCES) <= 80).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": advjax.ScipyLBFGSB(12), "max_evaluations": None},
        {"solver": "mi-fgsm", "transforms": advjax.Transforms((advjax.transforms.Noise(2.0),))},
    ],
)
def test_any_solver_and_the_image_itself_where_the_network_sees_another(settings):
    found = attack(BOTH, **settings)
    ssims, distances = figures(found.adversarial_uint8)
    assert found.keeps_perceptual.all()
    assert (ssims >= 0.98).all()
    assert (distances <= 0.01).all()
    assert (found.ratio_uint8 < 0.98).all()


def test_a_penalty_alone_moves_nothing_and_says_what_misses_the_bound():
    found = attack(advjax.Perceptual(ssim=0.99, weight=0.01, hard=False))
    assert not found.keeps_perceptual.any()
    assert (found.ssim_uint8 < 0.99).all()
    assert np.isfinite(found.objective).all()


def test_a_pair_ends_at_a_distance_only_with_an_image_that_keeps_the_bound():
    budget, until = advjax.Perceptual(ssim=0.97, hard=False), advjax.Until(ratio=0.3)
    free = attack(None, until=until)
    assert (free.status == advjax.Status.TARGET).all()
    assert (figures(free.adversarial_uint8)[0] < 0.97).all()
    found = attack(budget, until=until, max_evaluations=30)
    assert (found.status == advjax.Status.TARGET).all()
    assert found.keeps_perceptual.all()
    assert (figures(found.adversarial_uint8)[0] >= 0.97).all()
    assert (found.ratio_uint8 <= 0.3).all()
    assert (found.evaluations > free.evaluations).all()


def test_an_image_goes_as_far_as_it_may():
    bounds = jnp.array([0.3, 0.7, 1.0, 0.0])
    parts = np.asarray(farthest(lambda parts: parts <= bounds, 4))
    assert (parts <= bounds).all()
    np.testing.assert_allclose(parts, bounds, atol=1e-3)
    np.testing.assert_array_equal(farthest(lambda parts: parts < 0, 2), [0, 0])


def test_rows_have_it_and_results_are_saved(tmp_path):
    found = attack(BOTH)
    entry = {"id": "a", "source": "s", "guide": "g", "label": None}
    item = Item(0, 0, entry, "top", 80.0, SOURCES[0])
    row = result_row(item, found[0], keep_float32=False, squared=False)
    assert row["keeps_perceptual"] is True
    np.testing.assert_allclose(row["ssim_uint8"], found.ssim_uint8[0], atol=1e-5)
    assert row["lpips_uint8"] == found[0].lpips_uint8
    assert row["cosine_uint8"] == found[0].cosine_uint8
    assert table_of([row])["keeps_perceptual"].to_pylist() == [True]
    again = advjax.AttackResult.load(found.save(tmp_path / "saved", sheets=False))
    np.testing.assert_array_equal(again.keeps_perceptual, found.keeps_perceptual)
    np.testing.assert_array_equal(again.ssim_uint8, found.ssim_uint8)
    assert again.to_dict()["keeps_perceptual"] == [True] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: advjax.Perceptual(), "give at least one bound"),
        (lambda: advjax.Perceptual(ssim=1.5), "ssim is 1.5"),
        (lambda: advjax.Perceptual(ssim=1.0), "the source alone keeps"),
        (lambda: advjax.Perceptual(lpips=0.1), "give both or none"),
        (lambda: advjax.Perceptual(ssim=0.9, weight=0), "weight is 0"),
        (
            lambda: advjax.Perceptual(lpips=0.1, layers=("conv",), layer_weights=(-1.0,)),
            "layer_weights is",
        ),
        (
            lambda: attack(advjax.Perceptual(lpips=0.1, layers=("conv",), layer_weights=((1.0,),))),
            "layer_weights has 1 numbers for 'conv', which has 5 channels",
        ),
        (lambda: attack(advjax.Perceptual(lpips=0.1, layers=("convolution",))), "did you mean"),
        (lambda: advjax.FeatureFgrad(perceptual=BOTH), "takes one step"),
        (lambda: advjax.FeatureOpt(perceptual=0.9), "perceptual is 0.9"),
    ],
)
def test_mistakes_get_one_clear_line(make, message):
    with pytest.raises(AdvjaxError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_small_images_have_no_ssim():
    net = advjax.Network(lambda images: {"mean": images.mean((1, 2))}, (8, 8, 1))
    images = SOURCES[:1, :8, :8]
    kind = advjax.FeatureOpt(perceptual=advjax.Perceptual(ssim=0.9))
    with pytest.raises(AdvjaxError, match="at least 11 x 11; those of network are 8 x 8"):
        advjax.attack(net, images, images, attack=kind)
