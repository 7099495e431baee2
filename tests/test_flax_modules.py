"""Flax as people write it: training flags, stacked layers, returns and mistakes of all kinds."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import advjax
from advjax import Network
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.flax_modules import without_layers

SHAPE = (8, 8, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
EVALUATION = {"train": False}


def unit(images):
    return images / 255


class Flagged(nnx.Module):
    """Batch normalisation and dropout whose mode comes with the call."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, train):
        x = self.norm(self.dense(x), use_running_average=not train)
        return self.dropout(x, deterministic=not train).mean((1, 2))


class Stateful(nnx.Module):
    """The same by the module's own mode."""

    def __init__(self, dropout=True):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if dropout else None

    def __call__(self, x):
        x = self.norm(x)
        return (x if self.dropout is None else self.dropout(x)).mean((1, 2))


class LinenFlagged(linen.Module):
    @linen.compact
    def __call__(self, x, train=True):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        return linen.Dropout(0.5, deterministic=not train)(x).mean((1, 2))


class LinenDropout(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return linen.Dropout(0.5, deterministic=not train)(linen.Dense(4)(x)).mean((1, 2))


def variables(module, *more):
    return module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), *more)


# Training flags.


def test_arguments_of_the_call():
    nnx_net = Network.from_nnx(Flagged(), SHAPE, transform=unit, call=EVALUATION)
    expected = Flagged()(unit(jnp.asarray(IMAGES, jnp.float32)), train=False)
    np.testing.assert_allclose(nnx_net(IMAGES)["output"], expected, rtol=1e-5, atol=1e-6)
    assert list(nnx_net.layers) == ["dense", "dropout", "norm", "output"]
    for module in (LinenFlagged(), LinenDropout()):
        given = variables(module, False)
        net = Network.from_linen(module, given, SHAPE, transform=unit, call=EVALUATION)
        expected = module.apply(given, unit(jnp.asarray(IMAGES, jnp.float32)), train=False)
        np.testing.assert_allclose(net(IMAGES)["output"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Network.from_nnx(Stateful(), SHAPE),
            r"training mode \(.*norm.*\): call mod",
        ),
        (
            lambda: Network.from_nnx(Stateful(dropout=False), SHAPE),
            r"mode \(norm\): call mod",
        ),
        (
            lambda: Network.from_nnx(nnx.Dropout(0.5), SHAPE),
            "training mode[?:] [Cc]all module",
        ),
        (lambda: Network.from_nnx(Flagged(), SHAPE, call={"train": True}), "in training mode"),
        (lambda: Network.from_nnx(Flagged(), SHAPE), "missing .* 'train'.*call={'train': False}"),
        (
            lambda: Network.from_linen(LinenFlagged(), variables(LinenFlagged(), False), SHAPE),
            "is it in training mode.*call={'train': False}",
        ),
        (
            lambda: Network.from_linen(
                LinenDropout(), variables(LinenDropout(), False), SHAPE, call={"train": True}
            ),
            "is it in training mode.*call={'train': False}",
        ),
        (
            lambda: Network.from_linen(LinenDropout(), variables(LinenDropout(), False), SHAPE),
            "missing .* 'train'.*call={'train': False}",
        ),
        (lambda: Network.from_nnx(Flagged(), SHAPE, call={"mode": 1}), "unexpected.*'mode'"),
        (lambda: Network.from_nnx(Flagged(), SHAPE, call="eval"), "call is 'eval'; give a dict"),
    ],
)
def test_training_mode_and_missing_flags_are_named_in_one_line(make, said):
    with pytest.raises(AdvjaxError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_module_in_evaluation_mode_is_no_mistake():
    module = Stateful()
    module.eval()
    assert Network.from_nnx(module, SHAPE).layers["norm"] == SHAPE


# Stacked layers.


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(3, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.norm(self.dense(x)))


class Stacked(nnx.Module):
    """Blocks whose weights are one array, called by one of NNX's transformations."""

    def __init__(self, by, count=2):
        rngs = nnx.Rngs(0)

        @nnx.split_rngs(splits=count)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def create(rngs):
            return Block(rngs)

        self.blocks, self.head, self.by = create(rngs), nnx.Linear(3, 4, rngs=rngs), by

    def __call__(self, x):
        if self.by == "scan":
            x = nnx.scan(lambda b, x: b(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(
                self.blocks, x
            )
        else:
            x = nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(self.blocks, x).mean(0)
        return self.head(x.mean((1, 2)))


class LinenStacked(linen.Module):
    @linen.compact
    def __call__(self, x):
        class Step(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                return x + linen.relu(linen.Dense(3)(x)), None

        stack = linen.scan(Step, {"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = stack(name="blocks")(x, None)
        return linen.Dense(4, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("kind", ["scan", "vmap", "linen"])
def test_stacked_layers_can_be_attacked_and_say_that_they_are_no_layers(kind):
    if kind == "linen":
        module = LinenStacked()
        net = Network.from_linen(module, variables(module), SHAPE, transform=unit)
    else:
        module = Stacked(kind)
        net = Network.from_nnx(module, SHAPE, transform=unit)
        expected = module(unit(jnp.asarray(IMAGES, jnp.float32)))
        np.testing.assert_allclose(net(IMAGES)["output"], expected, rtol=1e-4, atol=1e-5)
    assert list(net.layers) == ["head", "output"]
    assert net.without_layers == ("blocks",)
    result = advjax.attack(net, IMAGES[:1], IMAGES[1:2], solver=advjax.SignMomentum(3))
    assert result.ratio[0] < 1
    with pytest.raises(UnknownName, match="no layers come of blocks: in a scan or vmap"):
        net(IMAGES, "blocks/dense")


@pytest.mark.parametrize("transformation", [nnx.remat, nnx.jit])
def test_layers_inside_remat_and_jit_can_be_attacked(transformation):
    class Outer(nnx.Module):
        def __init__(self):
            self.block = Block(nnx.Rngs(0))

        def __call__(self, x):
            return transformation(lambda block, x: block(x))(self.block, x)

    net = Network.from_nnx(Outer(), SHAPE, transform=unit)
    assert {"block", "block/dense", "block/norm"} < set(net.layers)
    assert net.without_layers == ()
    one = {"layer": "block/norm", "solver": advjax.SignMomentum(3)}
    assert advjax.attack(net, IMAGES[:1], IMAGES[1:2], **one).ratio[0] < 1


def test_the_outermost_silent_parts_are_named():
    parts = ["a", "a/b", "a/c", "d", "d/e", "d/f"]
    assert without_layers(parts, ["d/e", "output"]) == ("a", "d/f")
    assert without_layers(parts, parts) == ()


# Returns and other mistakes.


class Returns(nnx.Module):
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: (x, x), "returned a tuple; give one that returns an array, or a dict"),
        (lambda x: [x], "returned a list"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: "x", "returned a str"),
        (lambda x: {"a": {"b": x}}, "layer 'a' of network is a dict; give one array"),
        (lambda x: {"a": [x, x]}, "layer 'a' of network is a list"),
        (lambda x: {"a": None}, "layer 'a' of network is a NoneType"),
        (lambda x: {0: x}, "a layer of network is called 0; give"),
        (lambda x: {}, "returned an empty dict"),
        (lambda x: x.mean(), r"layer 'output' of network has shape \(\)"),
    ],
)
def test_returns_that_are_no_activations(function, said):
    with pytest.raises(AdvjaxError, match=said) as caught:
        Network.from_nnx(Returns(function), SHAPE)
    assert "\n" not in str(caught.value)
    if "returned a " not in said:  # a dict's faults are those of plain functions, too
        plain = function if "output" not in said else (lambda x: {"output": function(x)})
        with pytest.raises(AdvjaxError, match=said):
            Network(plain, SHAPE)(IMAGES)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Network.from_nnx(Block(nnx.Rngs(0)), (3, 8, 8)),
            r"cannot be called on images \[.*, 3, 8, 8\].*give \(height, width, channels\), the ch",
        ),
        (
            lambda: Network.from_linen(linen.Dense(2), variables(linen.Dense(2)), (3, 8, 8)),
            r"ScopeParamShapeError.*\(3, 8, 8\): give \(height, width, channels\)",
        ),
        (
            lambda: Network.from_linen(linen.Dense(2), variables(linen.Dense(2))["params"], SHAPE),
            r"give all its variables, as {'params': \.\.\.}",
        ),
        (lambda: Network.from_nnx(Block, SHAPE), "module is a class Block; give a Flax NNX module"),
        (lambda: Network.from_nnx(linen.Dense(2), SHAPE), "module is a Dense; give a Flax NNX"),
        (
            lambda: Network.from_linen(Block(nnx.Rngs(0)), {}, SHAPE),
            "module is a Block; give a Flax Linen module",
        ),
        (
            lambda: Network.from_nnx(Returns(lambda x: x @ jnp.ones((5, 5))), SHAPE),
            r"cannot be called on images .* \(TypeError: ",
        ),
    ],
)
def test_modules_that_cannot_be_called(make, said):
    with pytest.raises(AdvjaxError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
