"""Random transformations: their own mathematics, and that lanes and batches do not matter."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import advjax
from advjax import transforms
from advjax.errors import AdvjaxError

pytestmark = pytest.mark.device

KEY = jax.random.key(0)
RAMP = np.stack(np.meshgrid(np.arange(24), np.arange(20)) * 2, -1)[..., :3].astype(np.float32) * 8
BUILT_IN = (
    transforms.Crop(),
    transforms.Shrink(),
    transforms.Flip(),
    transforms.Shift(),
    transforms.Dim(),
    transforms.Noise(),
    transforms.Blur(),
    transforms.JPEG(),
)
NET = advjax.load("lenet", "orthonormal")
SOURCES, GUIDES = np.random.default_rng(0).integers(0, 256, (2, 4, 28, 28, 1), np.uint8)


@pytest.mark.parametrize("step", BUILT_IN, ids=lambda step: type(step).__name__)
def test_each_keeps_the_shape_and_the_range_and_has_a_gradient(step):
    image = jnp.asarray(RAMP + 20)
    found = step(KEY, image)
    assert found.shape == image.shape
    assert float(found.min()) >= -1e-3
    assert float(found.max()) <= 255.001
    np.testing.assert_array_equal(found, step(KEY, image))
    slope = jax.grad(lambda x: jnp.sum(step(KEY, x)))(image)
    assert np.isfinite(slope).all()
    assert np.abs(slope).sum() > 0
    if not isinstance(step, transforms.Blur):
        several = [step(jax.random.key(seed), image) for seed in range(5)]
        assert any((other != several[0]).any() for other in several)


def test_a_crop_is_a_window_resampled():
    """On a ramp, linear in both directions, linear resampling is exact."""
    window = transforms.Crop(0.25, 0.25, ratio=1)(KEY, jnp.asarray(RAMP))
    inner = np.asarray(window)[2:-2, 2:-2]
    down, along = np.diff(inner[..., 1], axis=0), np.diff(inner[..., 0], axis=1)
    np.testing.assert_allclose(down, 4, rtol=1e-3)
    np.testing.assert_allclose(along, 4, rtol=1e-3)
    assert RAMP.min() <= inner.min() <= inner.max() <= RAMP.max()
    whole = transforms.Crop(1, 1, ratio=1)(KEY, jnp.asarray(RAMP))
    np.testing.assert_allclose(whole, RAMP, atol=1e-3)


def test_shifts_and_flips_are_exact():
    shifted = np.asarray(transforms.Shift(3)(KEY, jnp.asarray(RAMP)))
    inner = shifted[4:-4, 4:-4] - RAMP[4:-4, 4:-4]
    assert len(np.unique(inner[..., 0])) == len(np.unique(inner[..., 1])) == 1
    assert abs(inner).max() <= 3 * 8
    np.testing.assert_array_equal(transforms.Flip(1.0)(KEY, jnp.asarray(RAMP)), RAMP[:, ::-1])


def test_a_blur_keeps_the_sum_and_has_its_variance():
    point = np.zeros((31, 31, 1), np.float32)
    point[15, 15] = 1
    found = np.asarray(transforms.Blur(2.0)(KEY, jnp.asarray(point)))[..., 0]
    assert found.sum() == pytest.approx(1, rel=1e-5)
    at = np.arange(31) - 15
    assert (found.sum(1) * at**2).sum() == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_near_to_that_of_a_codec(quality):
    random = np.random.default_rng(0).normal(0, 12, (20, 24, 3))
    image = np.clip(RAMP + 40 + random, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "jpeg", quality=quality, subsampling=0)
    codec = np.asarray(Image.open(stream), np.float32)
    ours = np.asarray(transforms.JPEG(quality, quality)(KEY, jnp.asarray(image, jnp.float32)))
    assert np.abs(ours - codec).mean() < min(1, 0.35 * np.abs(image - codec).mean())


def test_results_depend_on_seed_pair_and_evaluation_alone():
    settings = {
        "solver": advjax.SignMomentum(6),
        "transforms": advjax.Transforms((transforms.Crop(), transforms.Flip()), draws=2),
        "delta": 20.0,
    }
    images = zip(SOURCES, GUIDES, strict=True)
    pairs = [advjax.Pair(s, g, index=i) for i, (s, g) in enumerate(images)]
    first = list(advjax.attack_stream(NET, pairs, batch_size=2, **settings))
    other = list(advjax.attack_stream(NET, pairs[::-1], batch_size=2, **settings))[::-1]
    for one, two in zip(first, other, strict=True):
        np.testing.assert_array_equal(one.adversarial, two.adversarial)
    seeded = list(advjax.attack_stream(NET, pairs, batch_size=2, seed=1, **settings))
    assert (seeded[0].adversarial != first[0].adversarial).any()
    alone = list(advjax.attack_stream(NET, pairs[2:], batch_size=1, **settings))
    near = np.abs(alone[0].adversarial - first[2].adversarial) < 1e-3
    assert near.mean() > 0.9  # a sign may turn in the last bits of another batch


def linear(params, images):
    return {"out": images.reshape(len(images), -1) @ params}


def test_values_and_gradients_are_means_over_the_draws():
    """Of a linear network and dimmed images the objective is known for each draw."""
    params = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32) / 100
    net = advjax.Network(linear, (4, 4, 1), jnp.asarray(params))
    source = np.random.default_rng(2).integers(0, 256, (1, 4, 4, 1)).astype(np.uint8)
    guide = {"out": np.ones((1, 3), np.float32)}
    dim = advjax.Transforms(transforms.Dim(3), draws=64)
    found = advjax.attack(
        net, source, guide, solver=advjax.SignMomentum(1), trace=True, transforms=dim
    )
    flat = source.reshape(1, -1).astype(np.float64) @ params
    each = [((flat / 2**k - 1) ** 2).sum() for k in range(3)]
    assert min(each) < found.trace[0, 0] < max(each)
    shares = np.linalg.lstsq(np.array([each, [1e3] * 3]), [found.trace[0, 0], 1e3], rcond=None)
    assert shares[0].sum() == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(found.trace[0, 0], np.mean(each), rtol=0.35)


def test_the_answer_is_the_last_image_and_until_sees_the_image_itself():
    settings = {"delta": 60, "seed": 2, "attack": advjax.FeatureOpt(metric="cosine")}
    settings["transforms"] = advjax.Transforms(transforms.Crop(0.3), smooth_gradient=1.0)
    steps = [
        advjax.attack(NET, SOURCES, GUIDES, solver="mi-fgsm", max_evaluations=n, **settings)
        for n in (11, 12)
    ]
    assert (np.abs(steps[0].adversarial - steps[1].adversarial).max((1, 2, 3)) > 0).all()
    goal = float(np.median(steps[1].cosine_uint8)) - 0.05
    ended = advjax.attack(
        *(NET, SOURCES, GUIDES),
        solver="mi-fgsm",
        max_evaluations=12,
        until=advjax.Until(cosine=goal),
        **settings,
    )
    done = ended.status == advjax.Status.TARGET
    assert done.any()
    assert (ended.cosine_uint8[done] >= goal).all()


def test_guides_can_be_sets_of_crops():
    sets = transforms.drawn(transforms.Crop(), GUIDES, 3, seed=1)
    assert sets.shape == (4, 3, 28, 28, 1)
    assert (sets[:, 0] != sets[:, 1]).any()
    np.testing.assert_array_equal(sets, transforms.drawn(transforms.Crop(), GUIDES, 3, seed=1))


@pytest.mark.parametrize("solver", ["lbfgs", "scipy", "apgd"])
def test_solvers_that_compare_values_refuse_them(solver):
    with pytest.raises(AdvjaxError, match="compares one evaluation with another; take SignMom"):
        advjax.attack(NET, SOURCES, GUIDES, solver=solver, transforms=advjax.Transforms())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: advjax.Transforms(("crop",)), "a transformation is 'crop'"),
        (lambda: advjax.Transforms(draws=0), "draws is 0"),
        (lambda: advjax.Transforms(smooth_gradient=-1.0), "smooth_gradient is -1"),
        (lambda: transforms.Crop(0.0), "Crop"),
        (lambda: transforms.JPEG(0), "JPEG"),
        (lambda: transforms.Shrink(0.0), "Shrink.*minimum above 0"),
        (lambda: transforms.Flip(1.5), "Flip.*probability"),
        (lambda: transforms.Shift(0.5), "Shift.*whole number of pixels"),
        (lambda: transforms.Dim(0), "Dim.*copies"),
        (lambda: transforms.Noise(float("nan")), "Noise.*deviation"),
        (lambda: transforms.Blur(0.0), "Blur.*deviation above 0"),
        (
            lambda: advjax.attack(NET, SOURCES, GUIDES, transforms=transforms.Flip()),
            "give an advjax.Transforms",
        ),
    ],
)
def test_mistakes_get_one_clear_line(make, message):
    with pytest.raises(AdvjaxError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
