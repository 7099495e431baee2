"""A network of bfloat16 or float16: every figure is that of float64 sums of its own activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import advjax
from advjax import Network
from advjax.attacks.label import cross_entropy
from advjax.bank import build_bank
from advjax.data import write_png
from advjax.errors import AdvjaxError

SHAPE = (6, 6, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
SOURCES, GUIDES = IMAGES[:3], IMAGES[3:]
QUICK = advjax.SignMomentum(max_evaluations=6)


class Encoder(nnx.Module):
    def __init__(self, dtype):
        kinds = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        self.conv = nnx.Conv(3, 64, (3, 3), **kinds)
        self.head = nnx.Linear(64, 5, **kinds)

    def __call__(self, images):
        x = nnx.relu(self.conv((images - 128) / 64))
        logits = self.head(x.mean((1, 2)))
        return {"conv": x, "logits": logits, "prob": nnx.softmax(logits)}


def network(dtype):
    module = Encoder(dtype)
    assert module(jnp.asarray(IMAGES, jnp.float32))["conv"].dtype == dtype
    return Network.from_nnx(
        module,
        SHAPE,
        layer="conv",
        output="prob",
        preprocessing=advjax.Preprocessing(crop=SHAPE[0]),
    )


@pytest.fixture(scope="module")
def net():
    return network(jnp.bfloat16)


def features(net, images, layer="conv"):
    """Return the activations of the module itself, in its own precision, as float64."""
    own = jax.jit(net.function)(net.params, jnp.asarray(images, jnp.float32))[layer]
    assert own.dtype.itemsize == 2
    return np.asarray(own).astype(np.float64).reshape(len(images), -1)


def distances(net, images, guides):
    return np.linalg.norm(features(net, images) - features(net, guides), axis=1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_network_gives_its_own_activations_as_float32(dtype):
    net = network(dtype)
    found = net(IMAGES, ("conv", "prob"))
    for layer, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(
            np.float64(values).reshape(len(IMAGES), -1), features(net, IMAGES, layer)
        )


@pytest.mark.parametrize(
    ("dtype", "attack"),
    [
        (jnp.bfloat16, "feature-opt"),
        (jnp.float16, "feature-opt"),
        (jnp.bfloat16, "feature-linear"),
        (jnp.bfloat16, "feature-fgrad"),
        (jnp.bfloat16, "label-opt"),
        (jnp.bfloat16, "label-fgrad"),
    ],
)
def test_an_attack_reports_the_distances_of_its_images(dtype, attack):
    net = network(dtype)
    solver = None if attack.endswith("fgrad") else advjax.ProjectedLBFGS(6)
    result = advjax.attack(net, SOURCES, GUIDES, attack=attack, solver=solver)
    assert result.adversarial.dtype == np.float32
    for name, images in (
        ("initial_distance", SOURCES),
        ("distance", result.adversarial),
        ("distance_uint8", result.adversarial_uint8),
    ):
        expected = distances(net, images, GUIDES)
        np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(result.label, features(net, result.adversarial, "prob").argmax(1))


def test_the_objective_is_a_sum_of_float32(net):
    result = advjax.attack(net, SOURCES, GUIDES, solver=QUICK, trace=True)
    np.testing.assert_allclose(result.trace[:, 0], result.initial_distance**2, rtol=2e-2)
    # In 16 bits neighbours are 2^-8 or 2^-11 apart, and most numbers are not there.
    assert (result.trace != np.asarray(jnp.asarray(result.trace, jnp.bfloat16))).any()
    assert (result.ratio < 0.97).all()


def test_an_inversion_reports_the_loss_of_its_image(net):
    result = advjax.invert(net, GUIDES, solver=QUICK)
    size = np.linalg.norm(features(net, GUIDES), axis=1)
    expected = (distances(net, result.image, GUIDES) / size) ** 2
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)


def test_transfer_measures_distances_of_the_activations(net):
    moved = advjax.transfer(net, IMAGES[2:5], SOURCES, GUIDES)
    np.testing.assert_allclose(moved.distance, distances(net, IMAGES[2:5], GUIDES), rtol=1e-5)
    np.testing.assert_allclose(moved.initial_distance, distances(net, SOURCES, GUIDES), rtol=1e-5)


def test_a_bank_and_its_metrics_are_those_of_the_activations(net, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (60, *SHAPE), np.uint8)
    for number, image in enumerate(images):
        write_png(tmp_path / "photos" / "cats" / f"{number:02}.png", image)
    bank = build_bank(net, tmp_path / "photos", "conv", tmp_path / "bank", progress=False)
    kept = bank.features("conv")
    np.testing.assert_array_equal(np.float64(kept), features(net, images))
    protocol = advjax.Protocol(within="bank")
    table = advjax.analyse(
        IMAGES[2:5],
        bank,
        net,
        SOURCES,
        GUIDES,
        guide_classes=["cats"] * 3,
        source_classes=["cats"] * 3,
        protocol=protocol,
    ).table
    end, begin = distances(net, IMAGES[2:5], GUIDES), distances(net, SOURCES, GUIDES)
    np.testing.assert_allclose(table["distance"], end, rtol=1e-5)
    np.testing.assert_allclose(table["ratio"], end / begin, rtol=1e-5)
    apart = np.linalg.norm(features(net, images)[:, None] - features(net, images)[None], axis=-1)
    nearest = (apart + 1e9 * np.eye(60)).min(1).mean()
    np.testing.assert_allclose(table["nearest_ratio"], end / nearest, rtol=1e-4)
    active = (features(net, IMAGES[2:5]) != 0).mean(1)
    np.testing.assert_allclose(
        table["active_change[conv]"], active - (features(net, SOURCES) != 0).mean(1), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_images_and_guides_of_half_precision(net, dtype):
    # The levels of these images are numbers of 8 binary digits: nothing is rounded.
    expected = advjax.attack(net, SOURCES, GUIDES, solver=QUICK)
    sources, guides = jnp.asarray(SOURCES, dtype), np.asarray(jnp.asarray(GUIDES, dtype))
    result = advjax.attack(net, sources, guides, solver=QUICK)
    np.testing.assert_array_equal(result.adversarial, expected.adversarial)
    given = {"conv": jnp.asarray(net(GUIDES)["conv"], dtype)}
    result = advjax.attack(net, sources, given, solver=QUICK)
    np.testing.assert_allclose(result.distance, expected.distance, rtol=2e-2)
    np.testing.assert_allclose(
        result.distance,
        np.linalg.norm(
            features(net, result.adversarial)
            - np.asarray(given["conv"]).astype(np.float64).reshape(3, -1),
            axis=1,
        ),
        rtol=1e-5,
    )
    moved = advjax.transfer(net, sources, sources, guides)
    np.testing.assert_allclose(moved.ratio, 1)


def test_a_softmax_of_bfloat16_is_taken_for_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (50, 1000)).astype(np.float32)
    half = jnp.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.bfloat16)), jnp.float32)
    labels = jnp.asarray(logits.argmax(1))
    expected = cross_entropy(jnp.asarray(logits), labels)
    np.testing.assert_allclose(cross_entropy(half, labels), expected, rtol=0.02, atol=0.02)


def test_complex_activations_are_refused():
    net = Network(lambda x: {"spectrum": jnp.fft.fft2(x, axes=(1, 2))}, SHAPE)
    with pytest.raises(AdvjaxError, match="'spectrum' of network is complex64; give real numbers"):
        net(IMAGES)
