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
from advjax.errors import WeightsError
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
    model = changed(conversion.to_caffe(build("lenet"), "lenet"), ip2=None)
    message = load_error(model, tmp_path)
    assert "-ip2.kernel (500, 10)" in message
    assert "-ip2.bias (10,)" in message
    assert "+" not in message


def test_an_unexpected_layer_is_named_with_its_shape(tmp_path):
    model = conversion.to_caffe(build("lenet"), "lenet")
    extra = CaffeLayer("aux/fc", "InnerProduct", blobs=(np.ones((3, 4)), np.ones(3)))
    message = load_error(model._replace(layers=(*model.layers, extra)), tmp_path)
    assert "+aux/fc.0 (3, 4)" in message
    assert "+aux/fc.1 (3,)" in message


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
    state = conversion.with_parameters(abstract, arrays, "test")
    for name, value in conversion.parameters(state).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, np.float32(arrays[name]))
