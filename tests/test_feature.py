import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attacks.feature import FeatureOpt
from advjax.errors import AdvjaxError

RNG = np.random.default_rng(0)
SHAPES = {"conv": (3, 4, 5, 2), "fc": (3, 7)}
FOUND = {k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
TARGET = {k: RNG.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}


def norms(layer):
    """|| phi(I) - phi(guide) || of each row, by definition."""
    pairs = zip(FOUND[layer], TARGET[layer], strict=True)
    return np.array([np.linalg.norm((a - b).ravel().astype(np.float64)) for a, b in pairs])


@pytest.mark.parametrize("layer", SHAPES)
def test_distance_is_the_euclidean_norm_of_each_row(layer):
    found = FeatureOpt((layer,)).distance(FOUND, TARGET)
    np.testing.assert_allclose(found, norms(layer), rtol=1e-6)


@pytest.mark.parametrize("weights", [None, (0.25, 4.0)])
def test_several_layers_add_up(weights):
    spec = FeatureOpt(("conv", "fc"), weights)
    first, second = weights or (1.0, 1.0)
    expected = first * norms("conv") ** 2 + second * norms("fc") ** 2
    loss, found = spec.loss(lambda images: FOUND, jnp.zeros((3, 2, 2, 3)), TARGET)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(spec.distance(FOUND, TARGET), np.sqrt(expected), rtol=1e-6)
    assert found is FOUND


def test_one_target_for_many_images():
    spec = FeatureOpt(("conv",))
    one = {"conv": TARGET["conv"][:1]}
    expected = [np.linalg.norm((row - one["conv"][0]).ravel()) for row in FOUND["conv"]]
    np.testing.assert_allclose(spec.distance(FOUND, one), expected, rtol=1e-6)


def test_gradient_of_the_loss():
    """d/dI || A I - t ||^2 = 2 A' (A I - t), row by row."""
    matrix = jnp.asarray(RNG.normal(size=(12, 5)), jnp.float32)
    images = jnp.asarray(RNG.normal(size=(3, 2, 2, 3)), jnp.float32)
    target = {"fc": jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)}

    def total(images):
        loss, _ = FeatureOpt(("fc",), (3.0,)).loss(
            lambda i: {"fc": i.reshape(3, -1) @ matrix}, images, target
        )
        return loss.sum()

    found = jax.grad(total)(images).reshape(3, -1)
    expected = 6 * (images.reshape(3, -1) @ matrix - target["fc"]) @ matrix.T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_loss_has_a_gradient_at_the_guide_itself():
    """Of the distance it would be NaN: a source equal to the guide must not poison the batch."""
    spec = FeatureOpt(("fc",))

    def total(images):
        return spec.loss(lambda i: {"fc": i}, images, {"fc": jnp.ones((2, 3))})[0].sum()

    assert jax.grad(total)(jnp.ones((2, 3))).tolist() == np.zeros((2, 3)).tolist()


@pytest.mark.parametrize(
    "weights",
    [(), (1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, np.nan), (1.0, np.inf)],
)
def test_weights_that_cannot_be(weights):
    with pytest.raises(AdvjaxError, match=r"weights is \(.*give one number above 0") as caught:
        FeatureOpt(("conv", "fc"), weights)
    assert "\n" not in str(caught.value)


def test_without_layers_the_networks_default_layer_is_taken():
    net = advjax.load("lenet", "orthonormal")
    assert FeatureOpt().for_network(net).layers == net.check_layers(None)
    with pytest.raises(AdvjaxError, match="weights"):
        FeatureOpt(weights=(1.0, 2.0)).for_network(net)
