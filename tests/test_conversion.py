import numpy as np
import pytest
from caffe_writers import write_caffemodel
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import advjax
from advjax.checkpoints.caffemodel import (
    CaffeLayer,
    CaffeModel,
    read_caffemodel,
)
from advjax.cli.app import main
from advjax.errors import AdvjaxWarning, UnknownName, WeightsError
from advjax.networks import conversion, zoo

SMALL = ("lenet", "cifar10_full", "cifar10_quick", "squeezenet")


def build(name, seed=0):
    """The module with every parameter drawn, biases too."""
    module = zoo.architecture(name).build(np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    for layer in module.layers.values():
        layer.bias[...] = rng.standard_normal(layer.bias.shape, np.float32)
    return module


def arrays_of(module):
    return {
        name: np.asarray(value) for name, value in conversion.parameters(nnx.state(module)).items()
    }


@pytest.mark.parametrize("format", ["V1", "V2"])
@pytest.mark.parametrize("name", SMALL)
def test_round_trip_through_a_caffemodel(name, format, tmp_path):
    module = build(name)
    path = tmp_path / "net.caffemodel"
    write_caffemodel(path, conversion.to_caffe(module, name), format=format)
    row = zoo.architecture(name)
    found = conversion.from_caffe(
        nnx.eval_shape(lambda: row.build(None)), read_caffemodel(path), row.file_name
    )
    expected = arrays_of(module)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)


def test_caffe_flattens_channel_by_channel():
    """Row (i c h w) of Caffe's inner product is the weight of channel c at (h, w)."""
    h, w, c = 4, 4, 50
    kernel = np.arange(500 * c * h * w, dtype=np.float32).reshape(500, c, h, w)
    layer = CaffeLayer("ip1", "InnerProduct", blobs=(kernel.reshape(500, -1), np.zeros(500)))
    found = conversion.from_caffe(build("lenet"), CaffeModel("", "V2", (layer,)))["ip1.kernel"]
    ours = found.reshape(h, w, c, 500)
    assert ours[1, 2, 3, 4] == kernel[4, 3, 1, 2]
    np.testing.assert_array_equal(ours, kernel.transpose(2, 3, 1, 0))


def test_caffe_keeps_kernels_as_out_in_height_width():
    model = conversion.to_caffe(build("cifar10_quick"), "quick")
    shapes = {layer.name: [blob.shape for blob in layer.blobs] for layer in model.layers}
    assert shapes == {
        "conv1": [(32, 3, 5, 5), (32,)],
        "conv2": [(32, 32, 5, 5), (32,)],
        "conv3": [(64, 32, 5, 5), (64,)],
        "ip1": [(64, 1024), (64,)],
        "ip2": [(10, 64), (10,)],
    }
    assert {layer.type for layer in model.layers} == {"Convolution", "InnerProduct"}


def changed(model, **blobs):
    """The model with other blobs in these layers; None takes the layer out."""
    layers = [layer._replace(blobs=blobs.get(layer.name, layer.blobs)) for layer in model.layers]
    return model._replace(layers=tuple(layer for layer in layers if layer.blobs is not None))


def load_error(model, tmp_path, name="lenet"):
    path = tmp_path / "wrong.caffemodel"
    write_caffemodel(path, model)
    with pytest.raises(WeightsError) as error:
        advjax.load(name, path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_missing_layer_is_named_with_its_shape(tmp_path):
    model = changed(conversion.to_caffe(build("lenet"), "lenet"), ip1=None)
    message = load_error(model, tmp_path)
    assert "-ip1.kernel (800, 500)" in message
    assert "-ip1.bias (500,)" in message
    assert "+" not in message


def saved(model, tmp_path):
    path = tmp_path / "net.caffemodel"
    write_caffemodel(path, model)
    return path


def test_layers_that_the_network_lacks_are_left_out_and_named(tmp_path):
    model = conversion.to_caffe(build("lenet"), "lenet")
    extra = [
        CaffeLayer(f"loss{i}/fc", "InnerProduct", blobs=(np.ones((3, 4)), np.ones(3)))
        for i in (1, 2)
    ]
    plain = advjax.load("lenet", saved(model, tmp_path))
    path = saved(model._replace(layers=(*model.layers, *extra)), tmp_path)
    with pytest.warns(AdvjaxWarning, match=r"does not have: loss1/fc, loss2/fc$") as caught:
        net = advjax.load("lenet", path)
    assert len(caught) == 1
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), np.uint8)
    assert net.layers == plain.layers
    np.testing.assert_array_equal(net(image, "prob")["prob"], plain(image, "prob")["prob"])
    with pytest.warns(AdvjaxWarning, match="loss1/fc, loss2/fc"):
        arrays = zoo.convert("lenet", path, tmp_path / "net.safetensors")
    assert arrays.keys() == arrays_of(build("lenet")).keys()


@pytest.mark.parametrize("fine_tuned", ["ip2", "ip2_mine"])
def test_a_last_layer_of_another_size_leaves_those_below(fine_tuned, tmp_path):
    """A network that was fine-tuned for other classes, its last layer renamed or not."""
    model = conversion.to_caffe(build("lenet"), "lenet")
    plain = advjax.load("lenet", saved(model, tmp_path))
    last = CaffeLayer(fine_tuned, "InnerProduct", blobs=(np.ones((3, 500)), np.ones(3)))
    path = saved(model._replace(layers=(*model.layers[:-1], last)), tmp_path)
    with pytest.warns(AdvjaxWarning, match="left out the layers ip2, prob"):
        net = advjax.load("lenet", path)
    assert list(net.layers) == list(plain.layers)[:-2]
    assert net.layer == plain.layer
    assert (net.output, net.classes) == (None, None)
    below = advjax.load("lenet", path, layers_up_to="ip1")  # asked for: nothing to say
    assert list(below.layers)[-1] == "ip1"
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), np.uint8)
    for each in (net, below):
        np.testing.assert_array_equal(each(image, "ip1")["ip1"], plain(image, "ip1")["ip1"])
    result = advjax.attack(net, image, 255 - image, solver=advjax.SignMomentum(max_evaluations=2))
    assert np.isfinite(result.ratio).all()
    with pytest.raises(WeightsError, match="ip2"):
        advjax.load("lenet", path, layers_up_to="ip2")
    with pytest.raises(UnknownName, match="did you mean 'ip1'"):
        advjax.load("lenet", path, layers_up_to="ip11")
    with pytest.raises(WeightsError, match="ip2"):  # a file of the whole network cannot be made
        zoo.convert("lenet", path, tmp_path / "net.safetensors")


def test_layers_up_to_with_weights_that_fit(tmp_path):
    net = advjax.load("lenet", "random", layers_up_to="pool1")
    assert list(net.layers) == ["data", "conv1", "pool1"]
    assert net.layer == "pool1"


def test_a_layer_with_a_blob_too_many_or_too_few(tmp_path):
    model = conversion.to_caffe(build("lenet"), "lenet")
    kernel, bias = model.layers[0].blobs
    message = load_error(changed(model, conv1=(kernel, bias, bias)), tmp_path)
    assert "+conv1.2 (20,)" in message
    assert "-conv1.bias (20,)" in load_error(changed(model, conv1=(kernel,)), tmp_path)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [((20, 2, 5, 5), "conv1"), ((500, 799), "ip1"), ((1, 1, 500, 800), "ip1"), ((20,), "conv1")],
)
def test_a_wrong_shape_is_told_beside_the_right_one(shape, layer, tmp_path):
    model = conversion.to_caffe(build("lenet"), "lenet")
    bias = {layer.name: layer.blobs[1] for layer in model.layers}[layer]
    message = load_error(changed(model, **{layer: (np.ones(shape), bias)}), tmp_path)
    assert f"{layer}.kernel" in message
    assert "is needed" in message


def test_another_networks_weights(tmp_path):
    message = load_error(conversion.to_caffe(build("cifar10_quick"), "quick"), tmp_path)
    assert "unexpected +conv3" in message
    assert "conv1.kernel (5, 5, 3, 32) where (5, 5, 1, 20) is needed" in message


@settings(max_examples=30, deadline=None)
@given(
    shape=st.one_of(
        st.tuples(*(st.integers(1, 4),) * 2, *(st.integers(1, 9),) * 2),
        st.tuples(*(st.integers(1, 40),) * 2),
    ),
    seed=st.integers(0, 99),
)
def test_orthonormal_kernels_have_singular_values_of_one(shape, seed):
    kernel = np.random.default_rng(seed).standard_normal(shape, np.float32)
    bias = np.arange(shape[-1])
    found = conversion.orthonormal({"layer.kernel": kernel, "layer.bias": bias})
    assert found["layer.bias"] is bias
    assert found["layer.kernel"].shape == shape
    assert found["layer.kernel"].dtype == np.float32
    matrix = found["layer.kernel"].reshape(-1, shape[-1])  # (inputs of a unit, units)
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular, 1, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 60), columns=st.integers(1, 60), seed=st.integers(0, 99))
def test_orthonormal_is_the_q_of_householders_qr(rows, columns, seed):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    found = conversion.orthonormal({"a.kernel": matrix})["a.kernel"]
    tall = matrix.T if rows < columns else matrix
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    np.testing.assert_allclose(found, q.T if rows < columns else q, atol=1e-6)


@pytest.mark.parametrize("matrix", [np.zeros((5, 3)), np.ones((4, 4)), np.vander([1, 1.001, 2])])
def test_a_singular_kernel_becomes_orthonormal_too(matrix):
    found = conversion.orthonormal({"a.kernel": matrix})["a.kernel"].astype(np.float64)
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-6)


def test_orthonormal_keeps_what_is_orthonormal():
    """A rotation has nothing but singular vectors; what QR alone would do is turn some about."""
    matrix = conversion.orthonormal({"a.kernel": np.random.default_rng(0).normal(size=(12, 5))})
    again = conversion.orthonormal(matrix)
    np.testing.assert_allclose(again["a.kernel"], matrix["a.kernel"], atol=1e-6)


def test_count():
    assert conversion.count({"a": np.zeros((2, 3)), "b": np.zeros(4)}) == 10


def test_with_parameters_gives_float32_in_the_right_places():
    module = build("lenet")
    arrays = {name: np.float64(value) + 1 for name, value in arrays_of(module).items()}
    abstract = nnx.state(nnx.eval_shape(lambda: zoo.architecture("lenet").build(None)))
    state = conversion.with_parameters(abstract, arrays)
    for name, value in conversion.parameters(state).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, np.float32(arrays[name]))


def test_at_the_command_line_what_is_left_out_is_one_line(tmp_path, capsys):
    model = conversion.to_caffe(build("lenet"), "lenet")
    extra = CaffeLayer("loss1/fc", "InnerProduct", blobs=(np.ones((3, 4)), np.ones(3)))
    path = saved(model._replace(layers=(*model.layers, extra)), tmp_path)
    out = tmp_path / "net.safetensors"
    assert main(["weights", "convert", str(path), "--network", "lenet", "--out", str(out)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("advjax: ")
    assert line.endswith("left out what the network does not have: loss1/fc")
