"""JAX as people set it: 64 bits, NaN checks, strict promotion, meshes, devices, transformations."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import advjax
from advjax import Network
from advjax.bank import build_bank
from advjax.data import write_png
from advjax.errors import AdvjaxError
from advjax.runs.pair_list import make_pair_list
from advjax.runs.pipeline import Job

SHAPE = (6, 6, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
SOURCES, GUIDES = IMAGES[:2], IMAGES[2:]
KERNEL = np.random.default_rng(1).standard_normal((108, 12)).astype(np.float32) / 500
DEVICES = jax.devices()


def function(params, images):
    x = images.reshape(len(images), 108).astype(params["kernel"].dtype) - 128
    hidden = jax.nn.relu(x @ params["kernel"])
    return {"hidden": hidden, "logits": hidden[:, :4]}


def network(**params):
    given = {"kernel": jnp.asarray(KERNEL)} | params
    return Network(function, SHAPE, given, layer="hidden", output="logits")


def run(net, attack="feature-opt", solver=None, **more):
    solvers = {"feature-opt": advjax.SignMomentum(5), "label-fgrad": None}
    solver = solvers.get(attack, advjax.ProjectedLBFGS(5)) if solver is None else solver
    return advjax.attack(net, SOURCES, GUIDES, attack=attack, solver=solver, trace=True, **more)


@contextlib.contextmanager
def a_mesh(axis_type):
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        yield


SETTINGS = {
    "x64": lambda: jax.enable_x64(True),
    "strict": lambda: jax.numpy_dtype_promotion("strict"),
    "nans": lambda: jax.debug_nans(True),
    "explicit mesh": lambda: a_mesh(AxisType.Explicit),
    "auto mesh": lambda: a_mesh(AxisType.Auto),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("attack", ["feature-opt", "feature-linear", "label-fgrad"])
def test_attacks_do_not_depend_on_the_callers_settings(setting, attack):
    expected = run(network(), attack)
    with SETTINGS[setting]():
        result = run(network(), attack)
    assert result.adversarial.dtype == result.trace.dtype == np.float32
    np.testing.assert_allclose(result.adversarial, expected.adversarial, atol=1e-3)
    np.testing.assert_allclose(result.distance, expected.distance, rtol=1e-4)
    assert np.isfinite(result.trace).all()


@pytest.mark.parametrize("setting", SETTINGS)
def test_inversion_transfer_and_scipy_do_not_either(setting):
    net, scipy = network(), advjax.ScipyLBFGSB(3)
    invert = {"solver": advjax.SignMomentum(3), "variation": 1.0, "jitter": 1}
    expected = advjax.invert(net, GUIDES, **invert)
    with SETTINGS[setting]():
        found = advjax.invert(net, GUIDES, **invert)
        moved = advjax.transfer(net, SOURCES, SOURCES, GUIDES)
        assert (run(net, solver=scipy).ratio < 1).all()
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-3)
    np.testing.assert_allclose(moved.ratio, 1)


def test_weights_of_64_bits():
    expected = run(network())
    with jax.enable_x64(True):
        net = network(kernel=jnp.asarray(KERNEL, jnp.float64))
        assert net.params["kernel"].dtype == np.float64
        result = run(net)
        assert net(SOURCES)["hidden"].dtype == np.float32
    assert result.adversarial.dtype == np.float32
    np.testing.assert_allclose(result.distance, expected.distance, rtol=1e-4)


def test_nan_is_still_found_where_it_is_made():
    net = Network(lambda images: {"x": jnp.log(images.mean((1, 2)) - 1000)}, SHAPE)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        net(SOURCES)


def test_metrics_with_nan_checks(tmp_path):
    for number in range(60):
        image = np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)
        write_png(tmp_path / "photos" / "cats" / f"{number:02}.png", image)
    net = Network(
        function,
        SHAPE,
        {"kernel": KERNEL},
        layer="hidden",
        preprocessing=advjax.Preprocessing(crop=6),
    )
    with jax.debug_nans(True):
        bank = build_bank(net, tmp_path / "photos", "hidden", tmp_path / "bank", progress=False)
        table = advjax.analyse(GUIDES, bank, net, SOURCES, GUIDES, guide_classes=["cats"] * 2).table
    assert np.isnan(table["pairwise_ratio"]).all()  # of sources without a class
    assert np.isfinite(table["delta_l"]).all()


# Devices.


def test_parameters_are_taken_from_where_they_are():
    expected = run(network())
    mesh = Mesh(np.array(DEVICES[:2]), ("x",), axis_types=(AxisType.Auto,))
    placements = {
        "another": DEVICES[2],
        "replicated": NamedSharding(mesh, P()),
        "split": NamedSharding(mesh, P(None, "x")),
    }
    for name, where in placements.items():
        net = network(kernel=jax.device_put(KERNEL, where))
        for devices in (None, DEVICES[1], DEVICES[1:3]):
            result = run(net, devices=devices)
            np.testing.assert_allclose(
                result.adversarial, expected.adversarial, atol=1e-3, err_msg=name
            )
        assert (run(net, solver=advjax.ScipyLBFGSB(2)).ratio < 1).all()


def test_lanes_are_where_the_parameters_are():
    net = network(kernel=jax.device_put(KERNEL, DEVICES[2]))
    plan = advjax.engine.make_plan(net, *advjax.engine.resolve(net))
    assert plan.devices == (DEVICES[2],)
    with jax.default_device(DEVICES[3]):
        net = Network(lambda images: function({"kernel": KERNEL}, images), SHAPE)
        plan = advjax.engine.make_plan(net, *advjax.engine.resolve(net))
    assert plan.devices == (DEVICES[3],)


def test_one_device_or_several():
    expected = run(network())
    for devices in (DEVICES[1], [DEVICES[1]], tuple(DEVICES[:2]), np.array(DEVICES[:2])):
        result = run(network(), devices=devices, batch_size=2)
        np.testing.assert_allclose(result.adversarial, expected.adversarial, atol=1e-3)
    for devices in ("gpu", [], ["cpu:0"], 1):
        with pytest.raises(AdvjaxError, match=r"devices is .*; give one of jax.devices\(\)"):
            run(network(), devices=devices)


# Numbers of NumPy.


def test_numbers_of_numpy(tmp_path):
    one = np.int64(1)
    expected = run(network(), batch_size=2)
    result = run(network(), batch_size=2 * one)
    np.testing.assert_array_equal(result.adversarial, expected.adversarial)
    solver = advjax.SignMomentum(max_evaluations=5 * one)
    job = Job(network(), batch_size=2 * one, shard_size=one, delta=np.float32(4), solver=solver)
    assert (type(job.batch_size), type(job.shard_size)) == (int, int)
    (tmp_path / "pairs.csv").write_text("source,guide\na.png,b.png\n")
    settings = job.settings(make_pair_list(str(tmp_path / "pairs.csv")))
    assert json.loads(json.dumps(settings)) == settings
    assert advjax.Preprocessing(crop=6 * one).crop == 6
    assert advjax.Inversion(jitter=one).jitter == 1
    shape = np.array(SHAPE)
    assert Network(function, shape).input_shape == SHAPE
    for size in (0, -1, 2.0, True, "2", None):
        with pytest.raises(AdvjaxError, match="batch_size is"):
            run(network(), batch_size=size)


# Inside JAX's transformations.


def test_a_network_inside_jit_grad_and_vmap():
    net, images = network(), jnp.asarray(IMAGES, jnp.float32)
    plain = net(images)["hidden"]
    np.testing.assert_allclose(jax.jit(net)(images)["hidden"], plain, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda x: net(x)["hidden"])(IMAGES), plain, rtol=1e-5)

    def energy(x):
        return (net(x, "hidden")["hidden"] ** 2).sum()

    gradient = jax.jit(jax.grad(energy))(images)
    active = np.asarray(plain) > 0
    expected = 2 * (np.asarray(plain) * active) @ KERNEL.T
    np.testing.assert_allclose(gradient.reshape(4, -1), expected, rtol=1e-3, atol=1e-5)
    each = jax.vmap(lambda x: net(x)["hidden"])(images[:, None])
    np.testing.assert_allclose(each[:, 0], plain, rtol=1e-5)
    unit = Network(lambda params, x: function(params, 255 * x), SHAPE, net.params, bounds=(0, 1))
    np.testing.assert_allclose(jax.jit(unit)(IMAGES)["logits"], plain[:, :4], rtol=1e-4, atol=1e-5)
    with pytest.raises(AdvjaxError, match="images has shape"):
        jax.jit(net)(images[0])
