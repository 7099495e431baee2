"""Keras models as networks, held against Keras itself."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import Network
from advjax.errors import AdvjaxError

if importlib.util.find_spec("keras") is None:
    pytest.skip("needs Keras", allow_module_level=True)

os.environ.setdefault("KERAS_BACKEND", "jax")
SHAPE = (10, 12, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def keras():
    keras = pytest.importorskip("keras")
    if keras.config.backend() != "jax":
        pytest.skip("Keras runs on another backend")
    return keras


@pytest.fixture(autouse=True)
def promoted():
    with jax.numpy_rank_promotion("allow"):  # Keras promotes
        yield


def scaled(pixels):
    return pixels / 127.5 - 1


@pytest.fixture
def small(keras):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, name="images")
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = y = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.Add(name="add")([x, y])
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.5)]
    x = keras.Sequential(head, name="head")(keras.layers.ReLU(name="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(5, name="classes")(x), name="small")
    rng = np.random.default_rng(0)
    model.set_weights(
        [rng.uniform(0.1, 1, w.shape) - 0.3 * (w.ndim > 1) for w in model.get_weights()]
    )
    return model


def test_layers_are_those_of_keras(keras, small):
    net = Network.from_keras(small, transform=scaled, layer="relu")
    assert (net.name, net.input_shape) == ("small", SHAPE)
    names = ["conv", "norm", "depthwise", "add", "relu", "head", "classes", "output"]
    assert list(net.layers) == names
    found = net(IMAGES, names)
    for name in names[:-1]:
        part = keras.Model(small.inputs[0], small.get_layer(name).output)
        expected = np.asarray(part(scaled(IMAGES.astype(np.float32)), training=False))
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["output"], found["classes"])


def test_the_network_keeps_its_weights(small):
    net = Network.from_keras(small, transform=scaled)
    before = np.asarray(net(IMAGES)["output"])
    small.set_weights([0 * w for w in small.get_weights()])
    np.testing.assert_array_equal(net(IMAGES)["output"], before)
    other = jax.tree.map(jnp.zeros_like, net.params)
    assert not np.any(net.function(other, IMAGES.astype(np.float32))["output"])


def test_a_class_with_a_call_has_its_result_alone(keras):
    class Model(keras.Model):
        def __init__(self):
            super().__init__(name="model")
            self.conv, self.drop = keras.layers.Conv2D(4, 3), keras.layers.Dropout(0.5)

        def call(self, x, training=False):
            x = self.conv(x)
            return {"features": x, "mean": self.drop(x, training=training).mean((1, 2))}

    model = Model()
    with pytest.raises(AdvjaxError, match=r"has no weights yet; call it once"):
        Network.from_keras(model, SHAPE)
    model(np.zeros((1, *SHAPE), np.float32))
    net = Network.from_keras(model, SHAPE)
    assert net.layers == {"features": (8, 10, 4), "mean": (4,)}
    assert net.without_layers == (model.conv.name,)
    with pytest.raises(AdvjaxError, match="does not say the size of its images; give input_shape"):
        Network.from_keras(model)


def test_a_sequential_model(keras):
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(2, 3, name="conv")])
    assert Network.from_keras(model).layers == {"conv": (8, 10, 2), "output": (8, 10, 2)}


def test_models_that_cannot_be_had(keras, small):
    with pytest.raises(AdvjaxError, match=r"model is a Conv2D; give a keras\.Model"):
        Network.from_keras(keras.layers.Conv2D(4, 3))
    with pytest.raises(AdvjaxError, match=r"small cannot be called on images \[7, 10, 12, 4\]"):
        Network.from_keras(small, (10, 12, 4))
    two = [keras.Input(SHAPE, name="a"), keras.Input(SHAPE, name="b")]
    with pytest.raises(AdvjaxError, match="has these inputs: a, b; one, the images, is needed"):
        Network.from_keras(keras.Model(two, keras.layers.Add()(two)))
    fixed = keras.Input(batch_shape=(2, *SHAPE))
    with pytest.raises(AdvjaxError, match="takes 2 images at a time"):
        Network.from_keras(keras.Model(fixed, keras.layers.ReLU()(fixed)))


def test_another_backend_is_named():
    code = (
        "import advjax\n"
        "try: advjax.Network.from_keras(None)\n"
        "except advjax.AdvjaxError as error: print(error)"
    )
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    assert "Keras runs on numpy; set the environment variable KERAS_BACKEND to jax" in told


def test_mobilenet(keras, monkeypatch):
    """Every layer and the input gradient are Keras' own, and an attack goes through them."""
    rng, shape = np.random.default_rng(0), (96, 96, 3)

    def drawn(self, shape, dtype=None):  # Keras compiles a program for each shape that it draws
        return rng.normal(size=shape, scale=np.prod(shape[:-1]) ** -0.5).astype(np.float32)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", drawn)
    model = keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, include_top=False)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):  # as after training
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    net = Network.from_keras(model, transform=scaled, layer="block_3_project_BN")
    names = [layer.name for layer in model.layers[1:]]
    assert list(net.layers) == [*names, "output"]

    images = rng.integers(0, 256, (2, *shape)).astype(np.float32)
    weights = rng.normal(size=(2, *net.layers["output"])).astype(np.float32)
    parts = keras.Model(model.inputs[0], [layer.output for layer in model.layers[1:]])
    variables = [
        [each.value for each in several]
        for several in (parts.trainable_variables, parts.non_trainable_variables)
    ]

    def ours(images):
        layers = net.function(net.params, images)
        return jnp.sum(layers["output"] * weights), [layers[name] for name in names]

    def theirs(images):
        layers, _ = parts.stateless_call(*variables, scaled(images), training=False)
        return jnp.sum(layers[-1] * weights), layers

    (found, gradient), (expected, check) = (
        (layers, slope)
        for each in (ours, theirs)
        for (_, layers), slope in [jax.jit(jax.value_and_grad(each, has_aux=True))(images)]
    )
    for value, right in zip([*found, gradient], [*expected, check], strict=True):
        assert np.linalg.norm(value - right) < 1e-5 * np.linalg.norm(right)

    result = advjax.attack(
        net,
        images[:1],
        images[1:],
        solver=advjax.SignMomentum(max_evaluations=10),
        batch_size=1,
        progress=False,
    )
    assert (result.ratio < 0.9).all()
    assert (abs(result.adversarial - images[:1]) <= 10).all()
