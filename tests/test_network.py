import functools
import gc
import sys
import weakref

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import advjax
from advjax import Network
from advjax.errors import AdvjaxError, ImageError, UnknownName
from advjax.networks.network import activations

SHAPE = (8, 6, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


def features(params, images):
    """A network as anybody might write it."""
    x = images / 255
    hidden = jnp.tanh(x.reshape(len(x), 8 * 6 * 3) @ params["first"])
    scores = hidden @ params["second"]
    return {"pixels": x, "hidden": hidden, "scores": scores}


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "first": jnp.asarray(rng.normal(size=(8 * 6 * 3, 7)), jnp.float32),
        "second": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32),
    }


@pytest.fixture
def net():
    return Network(features, SHAPE, params(), name="toy", layer="hidden", output="scores")


# Calls.


def test_layers_are_in_the_order_of_the_function(net):
    assert list(net.layers.items()) == [("pixels", SHAPE), ("hidden", (7,)), ("scores", (4,))]


def test_one_layer_several_or_the_networks_own(net):
    everything = features(net.params, jnp.asarray(IMAGES, jnp.float32))
    for asked, names in [
        (None, ["hidden"]),
        ("scores", ["scores"]),
        (("scores", "pixels"), ["scores", "pixels"]),
        (["hidden"], ["hidden"]),
    ]:
        found = net(IMAGES, asked)
        assert list(found) == names
        for name in names:
            np.testing.assert_allclose(found[name], everything[name], rtol=1e-5, atol=1e-6)


def test_without_a_layer_of_its_own_the_last_one_counts():
    assert list(Network(features, SHAPE, params())(IMAGES)) == ["scores"]


def test_uint8_and_float32_pixels_are_the_same(net):
    for images in (IMAGES.astype(np.float32), IMAGES.astype(np.float64), jnp.asarray(IMAGES)):
        np.testing.assert_array_equal(net(images)["hidden"], net(IMAGES)["hidden"])


def test_a_batch_equals_its_images_one_by_one(net):
    together = net(IMAGES)["hidden"]
    for n in range(len(IMAGES)):
        np.testing.assert_allclose(net(IMAGES[n : n + 1])["hidden"][0], together[n], rtol=1e-5)


def test_an_empty_batch_has_empty_activations(net):
    assert net(IMAGES[:0])["hidden"].shape == (0, 7)
    for name in ("lenet", "squeezenet"):
        net = advjax.load(name, "random")
        found = net(np.zeros((0, *net.input_shape), np.uint8), tuple(net.layers))
        assert {name: value.shape[1:] for name, value in found.items()} == net.layers


def test_a_function_without_params():
    net = Network(lambda images: {"mean": images.mean((1, 2))}, SHAPE)
    np.testing.assert_allclose(net(IMAGES)["mean"], IMAGES.mean((1, 2)), rtol=1e-6)


def test_activations_are_differentiable_in_the_pixels(net):
    def energy(images):
        return (activations(features, True, net.params, images, ("hidden",))["hidden"] ** 2).sum()

    x = jnp.asarray(IMAGES[:1], jnp.float32)
    gradient = jax.grad(energy)(x)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    slope = (energy(x + 0.5 * direction) - energy(x - 0.5 * direction)) / 1.0
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-2)


def test_products_are_in_full_precision():
    """What is measured is not rounded as a GPU does by default, to TensorFloat-32's 10 bits."""
    seen = []

    def function(images):
        seen.append(jax.config.jax_default_matmul_precision)
        return {"mean": images.mean((1, 2))}

    Network(function, SHAPE)(IMAGES)
    assert seen[-1] == "highest"


def test_a_network_that_is_called_can_be_forgotten():
    """Compiled programs hold no weights: a sweep over networks would fill the memory."""
    net = advjax.load("lenet", "random")
    net(np.zeros((1, 28, 28, 1), np.uint8))
    kernel = weakref.ref(jax.tree.leaves(net.params)[0])
    del net
    gc.collect()
    assert kernel() is None


def test_work_above_the_deepest_layer_is_not_done(monkeypatch):
    """conv1 is 105 of the 724 million multiplications that CaffeNet does to fc7.

    They are counted in the form for a GPU: on a CPU some of them are saved (Winograd).
    """
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    net = advjax.load("caffenet", "random")
    images = jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32)
    run = jax.jit(activations, static_argnums=(0, 1, 4))

    def flops(*layers):
        program = run.lower(net.function, True, net.params, images, layers).compile()
        return program.cost_analysis()["flops"]

    deep = flops("fc7")
    assert deep > 2 * 700e6
    assert flops("pool1") < 0.2 * deep
    assert flops("pool1", "fc7") < 1.01 * deep


# What users get wrong.


@pytest.mark.parametrize("asked", ["hiden", ("pixels", "hiden")])
def test_an_unknown_layer_offers_the_nearest_name(net, asked):
    with pytest.raises(UnknownName) as error:
        net(IMAGES, asked)
    message = str(error.value)
    assert message.startswith("layer of toy 'hiden' is not known; did you mean 'hidden'?")
    assert "pixels, hidden, scores" in message


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES[0], "shape (8, 6, 3)"),
        (IMAGES[..., :1], "shape (3, 8, 6, 1)"),
        (IMAGES.transpose(0, 3, 1, 2), "shape (3, 3, 8, 6)"),
        (np.float32(3), "shape ()"),
        ("cat.png", "shape ()"),
        (IMAGES.astype(np.float32) + 100, "values from 100 to 355"),
        (IMAGES.astype(np.int32) - 1, "values from -1 to"),
        (np.full((1, *SHAPE), np.nan), "values from nan"),
        (np.full((1, *SHAPE), np.inf), "to inf"),
        (jnp.full((1, *SHAPE), jnp.nan), "values from nan"),
        (IMAGES > 7, "dtype bool"),
        (IMAGES.astype(np.complex64), "dtype complex64"),
        (IMAGES.astype(object), "dtype object"),
        (IMAGES.astype("datetime64[s]"), "dtype datetime64[s]"),
        ([IMAGES[0], IMAGES[0][:, :2]], "differ in shape"),
    ],
)
def test_images_that_cannot_be_used(net, images, told):
    for call in (net, lambda images: net.check_images(images, "sources")):
        with pytest.raises(ImageError) as error:
            call(images)
        assert told in str(error.value)
        assert "\n" not in str(error.value)
    assert str(error.value).startswith("sources ")


def test_the_message_on_a_shape_says_the_right_one(net):
    with pytest.raises(ImageError, match=r"images has shape .* toy takes \[b, 8, 6, 3\]"):
        net(IMAGES[0])


def test_values_beside_the_range_by_less_than_float32_sees_are_inside(net):
    net(np.full((1, *SHAPE), 255 + 1e-9))
    with pytest.raises(ImageError):
        net(np.full((1, *SHAPE), 255.01))


@pytest.mark.parametrize(
    "shape", [(8, 6), (8, 6, 0), (8, -6, 3), (8, 6.0, 3), (1, 8, 6, 3), ("a",) * 3]
)
def test_an_input_shape_that_is_none(shape):
    with pytest.raises(AdvjaxError, match="input_shape is"):
        Network(features, shape, params())


def test_an_input_shape_may_be_a_list():
    assert Network(features, [8, 6, 3], params())(IMAGES)["scores"].shape == (3, 4)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda images: images.mean((1, 2)), "give a dict"),
        (lambda images: (images, {}), "returned tuple"),
        (lambda images: {"mean": images.mean()}, "layer 'mean' of toy has shape ()"),
        (lambda images: {"first": images[:1]}, "layer 'first' of toy has shape (1, 8, 6, 3)"),
    ],
)
def test_a_function_that_gives_no_activations(function, told):
    with pytest.raises(AdvjaxError, match="activations") as error:
        Network(function, SHAPE, name="toy")(IMAGES)
    assert told in str(error.value)


def test_a_file_needs_preprocessing(net, tmp_path):
    with pytest.raises(ImageError, match="toy has no preprocessing"):
        net.read(tmp_path / "cat.png")


def test_a_file_becomes_an_input(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    advjax.write_png(tmp_path / "noise.png", image)
    net = Network(features, (6, 6, 3), preprocessing=advjax.Preprocessing(crop=6))
    np.testing.assert_array_equal(net.read(tmp_path / "noise.png"), image[12:18, 7:13])


# Flax modules: a small residual network in both of Flax's interfaces.


class LinenBlock(flax.linen.Module):
    width: int
    stride: int

    @flax.linen.compact
    def __call__(self, x):
        linen = flax.linen

        def norm(name):
            return linen.BatchNorm(use_running_average=True, name=name)

        strides = (self.stride, self.stride)
        y = linen.Conv(self.width, (3, 3), strides, use_bias=False, name="conv1")(x)
        y = linen.relu(norm("norm1")(y))
        y = norm("norm2")(linen.Conv(self.width, (3, 3), use_bias=False, name="conv2")(y))
        if x.shape != y.shape:
            x = linen.Conv(self.width, (1, 1), strides, name="shortcut")(x)
        return linen.relu(x + y)


class LinenResNet(flax.linen.Module):
    as_dict: bool = False

    @flax.linen.compact
    def __call__(self, images):
        out = {}
        x = (images - 120) / 60
        x = out["stem"] = flax.linen.Conv(8, (3, 3), name="stem")(x)
        for n, (width, stride) in enumerate([(8, 1), (16, 2), (16, 1)]):
            x = out[f"block{n}"] = LinenBlock(width, stride, name=f"block{n}")(x)
        x = out["pool"] = x.mean((1, 2))
        x = out["logits"] = flax.linen.Dense(5, name="head")(x)
        return out if self.as_dict else x


class NNXBlock(nnx.Module):
    def __init__(self, inputs, width, stride, rngs):
        strides = (stride, stride)
        self.conv1 = nnx.Conv(inputs, width, (3, 3), strides, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, rngs=rngs)
        if stride > 1 or inputs != width:
            self.shortcut = nnx.Conv(inputs, width, (1, 1), strides, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (self.shortcut(x) if x.shape != y.shape else x))


class NNXResNet(nnx.Module):
    def __init__(self, rngs, as_dict=False):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        widths = [(8, 8, 1), (8, 16, 2), (16, 16, 1)]
        self.blocks = nnx.List([NNXBlock(*sizes, rngs) for sizes in widths])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(16, 5, rngs=rngs)
        self.as_dict = as_dict

    def __call__(self, images):
        out = {}
        x = (images - 120) / 60
        x = out["stem"] = self.stem(x)
        for n, block in enumerate(self.blocks):
            x = out[f"block{n}"] = block(x)
        x = out["pool"] = self.dropout(x.mean((1, 2)))
        x = out["logits"] = self.head(x)
        return out if self.as_dict else x


BLOCKS = {"block0": (8, 6, 8), "block1": (4, 3, 16), "block2": (4, 3, 16)}
WHOLE = {"stem": (8, 6, 8)} | BLOCKS | {"pool": (16,), "logits": (5,)}


@functools.cache
def linen_network(as_dict=False):
    module = LinenResNet(as_dict)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)

    def draw(leaf):  # biases, gains, means and variances of a trained network are not 0 and 1
        if len(leaf.shape) == 1:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        std = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(std * rng.normal(size=leaf.shape), jnp.float32)

    variables = jax.tree.map(draw, shapes)
    return module, variables, Network.from_linen(module, variables, SHAPE, name="linen")


@functools.cache
def nnx_network(as_dict=False):
    module = NNXResNet(nnx.Rngs(0), as_dict)
    module.eval()
    return module, Network.from_nnx(module, SHAPE, name="nnx")


def test_layers_of_a_linen_module_are_those_of_its_parts_in_order():
    module, variables, net = linen_network()
    names = list(net.layers)
    assert names[0] == "stem"
    assert names[-1] == "output"
    parts = ["conv1", "norm1", "conv2", "norm2"]
    assert names[1:12] == [
        *(f"block0/{part}" for part in parts),
        "block0",
        *(f"block1/{part}" for part in [*parts, "shortcut"]),
        "block1",
    ]
    assert {name: net.layers[name] for name in BLOCKS} == BLOCKS
    np.testing.assert_allclose(
        net(IMAGES)["output"], module.apply(variables, jnp.asarray(IMAGES, jnp.float32)), rtol=1e-4
    )


def test_layers_of_an_nnx_module_are_those_of_its_parts():
    net = nnx_network()[1]
    assert net.layers["blocks/1/shortcut"] == net.layers["blocks/1"] == (4, 3, 16)
    assert net.layers["stem"] == (8, 6, 8)
    assert net.layers["head"] == net.layers["output"] == (5,)
    said = nnx_network(as_dict=True)[1](IMAGES, tuple(WHOLE))  # the same weights
    found = net(IMAGES, ("stem", "blocks/0", "blocks/1", "blocks/2", "head", "output"))
    for name, layer in zip(("stem", *BLOCKS, "logits", "logits"), found, strict=True):
        np.testing.assert_allclose(found[layer], said[name], rtol=1e-4, atol=1e-5)


def test_a_module_that_returns_a_dict_names_its_own_layers():
    for net in (linen_network(as_dict=True)[2], nnx_network(as_dict=True)[1]):
        assert list(net.layers.items()) == list(WHOLE.items())


def test_evaluation_changes_no_statistics():
    for net in (linen_network()[-1], nnx_network()[-1]):
        first = net(IMAGES)["output"]
        net(255 - IMAGES)
        np.testing.assert_array_equal(net(IMAGES)["output"], first)


def test_a_network_keeps_the_weights_it_was_made_with():
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    net = Network.from_nnx(module, SHAPE)
    first = net(IMAGES)["output"]
    module.kernel[...] = jnp.zeros((3, 2))  # as training would
    np.testing.assert_array_equal(net(IMAGES)["output"], first)


def test_pixels_are_transformed_for_a_module_that_takes_something_else():
    def centred(images):
        return (images - 120) / 60

    dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    linen = flax.linen.Dense(2)
    variables = {"params": {"kernel": dense.kernel[...], "bias": dense.bias[...]}}
    expected = dense((jnp.asarray(IMAGES, jnp.float32) - 120) / 60)
    for net in (
        Network.from_nnx(dense, SHAPE, transform=centred),
        Network.from_linen(linen, variables, SHAPE, transform=centred),
    ):
        np.testing.assert_allclose(net(IMAGES)["output"], expected, rtol=1e-5, atol=1e-5)


def test_a_pytorch_module_needs_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    with pytest.raises(AdvjaxError, match=r"pip install 'advjax\[torch\]'"):
        Network.from_torch(object(), SHAPE)


def test_what_a_linen_module_sows_is_a_layer():
    class Sowing(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, images):
            self.sow("intermediates", "half", images / 2)
            return images.mean((1, 2))

    net = Network.from_linen(Sowing(), {}, SHAPE)
    assert net.layers == {"half": SHAPE, "output": (3,)}
    np.testing.assert_array_equal(net(IMAGES, "half")["half"], IMAGES / np.float32(2))


def test_of_a_module_called_twice_the_last_call_counts():
    class Twice(nnx.Module):
        def __init__(self):
            self.scale = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.scale(self.scale(x / 255)).mean((1, 2))

    module = Twice()
    net = Network.from_nnx(module, SHAPE)
    x = jnp.asarray(IMAGES, jnp.float32) / 255
    np.testing.assert_allclose(
        net(IMAGES, "scale")["scale"], module.scale(module.scale(x)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "layer"), [(linen_network, "block2"), (nnx_network, "blocks/2/norm2")]
)
def test_gradients_of_an_inner_layer_reach_the_pixels(make, layer):
    net = make()[-1]

    def energy(images):
        found = activations(net.function, True, net.params, images, (layer,))
        return (found[layer] ** 2).sum()

    gradient = jax.grad(energy)(jnp.asarray(IMAGES, jnp.float32))
    assert np.isfinite(gradient).all()
    assert (abs(np.asarray(gradient)).max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("make", "layer"),
    [(linen_network, "block2"), (lambda: nnx_network(as_dict=True), "pool")],
    ids=["linen", "nnx"],
)
def test_an_attack_on_a_module(make, layer):
    result = advjax.attack(
        make()[-1],
        IMAGES[:2],
        IMAGES[1:],
        layer=layer,
        delta=20.0,
        solver=advjax.ProjectedLBFGS(max_evaluations=15, gtol=0.0),
        progress=False,
    )
    assert (result.ratio < 0.9).all()
    assert (abs(result.adversarial - IMAGES[:2].astype(np.float32)) <= 20).all()


def test_the_repr_is_one_short_line():
    params = {"kernel": np.ones((1000, 300)), "bias": np.float32(1)}

    def function(params, images):
        return {"mean": images.mean((1, 2)), "top": images[:, :2].mean((1, 2))}

    net = Network(function, SHAPE, params, name="tiny", layer="top")
    assert repr(net) == (
        "Network('tiny', input_shape=(8, 6, 3), 2 layers, default layer 'top', 300,001 parameters)"
    )
    long = Network(function, SHAPE, params, name="x" * 500 + "\n", layer="y" * 500)
    assert len(repr(long)) < 200
    assert "\n" not in repr(long)
    broken = Network(lambda images: 1 / 0, SHAPE)
    assert "unknown layers, default layer None, 0 parameters" in repr(broken)
