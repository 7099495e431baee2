"""Inversion: its priors against loops and differences, its loss, and what it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attacks.base import PairData
from advjax.attacks.inversion import (
    ALPHA_WEIGHT,
    RMS,
    Inversion,
    alpha_norm,
    published_variation,
    shifted,
    total_variation,
)
from advjax.errors import AdvjaxError, ImageError, UnknownName

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
SHAPE = (6, 6, 2)
W = jnp.asarray(RNG.normal(0, 0.01, (72, 60)), jnp.float32)


def function(images):
    x = (images - 128).reshape(len(images), -1) @ W
    return {"first": x, "second": jnp.tanh(x[:, :20])}


NET = advjax.Network(function, SHAPE, name="dense")


def alpha_by_loops(image, alpha, grey):
    return np.mean([abs((float(v) - grey) / RMS) ** alpha for v in image.reshape(-1)])


def variation_by_loops(image, beta):
    image, total = np.float64(image) / RMS, 0.0
    h, w, c = image.shape
    for i in range(h):
        for j in range(w):
            for k in range(c):
                dx = image[i, j + 1, k] - image[i, j, k] if j + 1 < w else 0
                dy = image[i + 1, j, k] - image[i, j, k] if i + 1 < h else 0
                total += (dx**2 + dy**2) ** (beta / 2)
    return total / (h * w * c)


@pytest.mark.parametrize(("alpha", "grey"), [(6.0, 127.5), (2.0, 0.0), (3.0, 100.0)])
def test_alpha_norm_is_the_plain_sum(alpha, grey):
    expected = [alpha_by_loops(image, alpha, grey) for image in IMAGES]
    np.testing.assert_allclose(alpha_norm(jnp.asarray(IMAGES), alpha, grey), expected, rtol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 3.0])
def test_total_variation_is_the_plain_sum(beta):
    expected = [variation_by_loops(image, beta) for image in IMAGES]
    np.testing.assert_allclose(total_variation(jnp.asarray(IMAGES), beta), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ours", "oracle"),
    [
        (lambda x: alpha_norm(x, 6.0), lambda x: alpha_by_loops(x, 6.0, 127.5)),
        (lambda x: total_variation(x, 1.5), lambda x: variation_by_loops(x, 1.5)),
        (lambda x: total_variation(x, 2.0), lambda x: variation_by_loops(x, 2.0)),
    ],
)
def test_gradients_of_the_priors_are_finite_differences(ours, oracle):
    image = IMAGES[0, :3, :3]
    gradient = np.asarray(jax.grad(lambda x: ours(x[None])[0])(jnp.asarray(image)))
    for place in np.ndindex(image.shape):
        step = np.zeros(image.shape)
        step[place] = 0.01
        slope = (oracle(np.float64(image) + step) - oracle(np.float64(image) - step)) / 0.02
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-3, atol=1e-6)


def test_a_flat_image_has_no_variation_and_a_gradient_of_zero():
    flat = jnp.full((1, 4, 4, 3), 77.0)
    for beta in (1.0, 1.5, 2.0):
        value, gradient = jax.value_and_grad(lambda x, b=beta: total_variation(x, b)[0])(flat)
        assert value == 0
        assert (gradient == 0).all()


def test_the_weights_are_the_published_ones():
    """The authors' objective at 227x227x3: x / 27098 in 2.16e8 |x|_6^6 and in v sum (dx^2+dy^2)."""
    image = RNG.uniform(0, 255, (227, 227, 3))
    x = (image - 127.5) / 27098
    dx, dy = np.diff(x, axis=1, append=x[:, -1:]), np.diff(x, axis=0, append=x[-1:])
    ours = jnp.asarray(image[None], jnp.float32)
    np.testing.assert_allclose(ALPHA_WEIGHT * alpha_norm(ours)[0], 2.16e8 * np.sum(x**6), rtol=1e-3)
    np.testing.assert_allclose(total_variation(ours)[0], np.sum(dx**2 + dy**2), rtol=1e-3)


def test_the_loss_is_normalised_and_the_priors_are_added():
    spec = Inversion(("first", "second"), (2.0, 0.5), alpha_weight=0.3, variation=0.7)
    images = RNG.uniform(0, 255, (3, *SHAPE)).astype(np.float32)
    guide = {k: np.asarray(v) for k, v in function(jnp.asarray(images[:1])).items()}
    target = spec.target(PairData(images[0], guide, guide, None))
    values, found = spec.loss(function, jnp.asarray(images), target)
    expected = 0.3 * alpha_norm(images) + 0.7 * total_variation(images)
    for layer, w in (("first", 2.0), ("second", 0.5)):
        error = np.sum((np.float64(found[layer]) - guide[layer]) ** 2, 1)
        expected += w * error / np.sum(np.float64(guide[layer]) ** 2)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    loss = values - 0.3 * alpha_norm(images) - 0.7 * total_variation(images)
    np.testing.assert_allclose(spec.distance(found, guide) ** 2, loss, rtol=1e-3, atol=1e-5)


def test_without_priors_an_invertible_layer_gives_the_image_back():
    net = advjax.Network(lambda i: {"all": (i / 255 + 1) ** 2}, SHAPE)
    images = RNG.uniform(20, 235, (3, *SHAPE)).astype(np.float32)
    settings = {"variation": 0.0, "alpha_weight": 0.0, "solver": advjax.ProjectedLBFGS(200)}
    result = advjax.invert(net, images, batch_size=2, **settings)
    np.testing.assert_allclose(result.image, images, atol=0.5)
    assert (result.loss < 1e-5).all()
    by_activations = advjax.invert(net, {"all": (images / 255 + 1) ** 2}, batch_size=2, **settings)
    np.testing.assert_allclose(by_activations.image, images, atol=0.5)


def test_loss_and_objective_are_those_of_the_images_returned():
    images = RNG.integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    solver = advjax.ProjectedLBFGS(30)
    result = advjax.invert(NET, images, layer="first", solver=solver, trace=True, variation=0.05)
    phi = np.asarray(NET(images, "first")["first"], np.float64)
    for found, loss in ((result.image, result.loss), (result.image_uint8, result.loss_uint8)):
        error = np.sum((np.asarray(NET(found, "first")["first"], np.float64) - phi) ** 2, 1)
        np.testing.assert_allclose(loss, error / np.sum(phi**2, 1), rtol=1e-3)
    priors = ALPHA_WEIGHT * alpha_norm(result.image) + 0.05 * total_variation(result.image)
    np.testing.assert_allclose(result.objective, result.loss + priors, rtol=1e-3)
    np.testing.assert_allclose(np.nanmin(result.trace, 1), result.objective, rtol=1e-3)
    assert (result.image >= 0).all()
    assert (result.image <= 255).all()


def test_variation_smooths():
    images = RNG.integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    solver = advjax.ProjectedLBFGS(40)
    rough, smooth = (
        advjax.invert(NET, images, layer="first", variation=v, solver=solver) for v in (1e-4, 1.0)
    )
    assert (total_variation(smooth.image) < 0.5 * total_variation(rough.image)).all()
    assert (rough.loss < smooth.loss).all()


def test_results_do_not_depend_on_the_batch_and_start_from_the_seed():
    images = RNG.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    settings = {"layer": "first", "solver": advjax.ProjectedLBFGS(10), "batch_size": 2}
    all_five = advjax.invert(NET, images, **settings)
    first = advjax.invert(NET, images[:3], **settings)
    np.testing.assert_array_equal(first.image, all_five.image[:3])
    other = advjax.invert(NET, images[:3], seed=1, **settings)
    assert (other.image != first.image).any()


def test_jitter_moves_by_whole_pixels_within_the_bound():
    images = jnp.asarray(RNG.uniform(0, 255, (40, 7, 6, 2)), jnp.float32)
    moved = np.asarray(shifted(images, 2))
    seen = set()
    for image, there in zip(np.asarray(images), moved, strict=True):
        wide = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        fits = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(wide[i : i + 7, j : j + 6], there)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 12  # of 25 places, in 40 draws
    np.testing.assert_array_equal(shifted(images, 2), moved)


def test_jitter_descends_and_is_reproducible():
    net = advjax.Network(lambda i: {"sum": i[:, ::2, ::2].reshape(len(i), -1) / 255}, SHAPE)
    images = np.broadcast_to(RNG.uniform(50, 200, (2, 1, 1, 2)), (2, *SHAPE)).astype(np.float32)
    solver = advjax.SignMomentum(max_evaluations=60)
    settings = {"jitter": 1, "variation": 0.1, "alpha_weight": 0.0}
    once, again = (advjax.invert(net, images, solver=solver, **settings) for _ in range(2))
    first = advjax.SignMomentum(max_evaluations=1)
    begin = advjax.invert(net, images, solver=first, **settings)
    np.testing.assert_array_equal(once.image, again.image)
    assert (once.loss < 0.2 * begin.loss).all()


def test_published_variation_grows_with_depth():
    names = [f"layer{i}" for i in range(20)]
    found = [published_variation([name], names) for name in names]
    assert found == [0.5] * 6 + [5.0] * 6 + [50.0] * 8
    assert published_variation(["layer2", "layer19"], names) == 50.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"variation": -1.0}, AdvjaxError, "variation is -1"),
        ({"beta": 0.5}, AdvjaxError, "beta is 0.5"),
        ({"alpha": float("nan")}, AdvjaxError, "alpha is nan"),
        ({"jitter": 1.5}, AdvjaxError, "jitter is 1.5"),
        ({"layer": "frist"}, UnknownName, "did you mean 'first'"),
        ({"target_ratio": 0.5}, AdvjaxError, "inversion has no ratio"),
    ],
)
def test_mistakes_get_one_clear_line(settings, error, message):
    with pytest.raises(error, match=message) as caught:
        advjax.invert(NET, np.zeros((1, *SHAPE), np.uint8), **settings)
    assert "\n" not in str(caught.value)


def test_activations_that_do_not_fit():
    with pytest.raises(AdvjaxError, match=r"guide of pair 0 is float64\[59\] in layer 'first'"):
        advjax.invert(NET, {"first": np.zeros((2, 59))}, layer="first")
    with pytest.raises(AdvjaxError, match="has no layer 'second'"):
        advjax.invert(NET, {"first": np.zeros((2, 60))}, layer="second")
    with pytest.raises(AdvjaxError, match="not finite"):
        advjax.invert(NET, {"first": np.full((2, 60), np.nan)}, layer="first")
    with pytest.raises(ImageError, match=r"targets has shape \(2, 4, 5, 3\)"):
        advjax.invert(NET, IMAGES)
    with pytest.raises(AdvjaxError, match="targets is empty"):
        advjax.invert(NET, np.zeros((0, *SHAPE), np.uint8))
