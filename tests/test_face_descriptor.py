import numpy as np
import pytest
from tfjs_writer import write_model

import advjax
from advjax.checkpoints import cached, load_catalogue
from advjax.errors import WeightsError
from advjax.networks import conversion, face_descriptor, zoo

SHAPE = (150, 150, 3)
RNG = np.random.default_rng(0)


def convolve(x, kernel, stride, padding):
    """Cross-correlate one image [h, w, c] window by window."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))
    return np.einsum("hwcij,ijco->hwo", windows[::stride, ::stride], kernel, optimize=True)


def face_api(image, state):
    """Compute the layers as face-api's FaceRecognitionNet does, in float64 and by its file."""

    def layer(x, name, stride, padding):
        y = convolve(x, state[f"{name}/conv/filters"], stride, padding) + state[f"{name}/conv/bias"]
        return y * state[f"{name}/scale/weights"] + state[f"{name}/scale/biases"]

    x = (image - np.array([122.782, 117.001, 104.298])) / 255
    out = {"data": x}
    x = out["conv32_down"] = np.maximum(layer(x, "conv32_down", 2, 0), 0)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))[::2, ::2]
    x = out["pool"] = windows.max((-1, -2))
    names = [name.removesuffix("/conv1/scale/weights") for name in state]
    for name in (name for name in names if f"{name}/conv1/scale/weights" in state):
        down = "_down" in name
        y = np.maximum(layer(x, f"{name}/conv1", 2 if down else 1, 0 if down else 1), 0)
        y = layer(y, f"{name}/conv2", 1, 1)
        if down:
            side, channels = len(x) // 2, x.shape[-1]
            x = x[: 2 * side, : 2 * side].reshape(side, 2, side, 2, channels).mean((1, 3))
            if y.shape[-1] != channels:
                x = np.concatenate([x, np.zeros_like(x)], -1)
            if len(y) != side:
                y = np.concatenate([y, np.zeros_like(y[:1])], 0)
                y = np.concatenate([y, np.zeros_like(y[:, :1])], 1)
        x = out[name] = np.maximum(x + y, 0)
    x = out["mean"] = x.mean((0, 1))
    return out | {"descriptor": x @ state["fc"]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A file as the package has it, of random numbers, and what its tensors are."""
    module = zoo.architecture("face_descriptor").build(None)
    arrays = {}
    for name, layer in module.layers.items():
        shape = layer.kernel.shape
        kernel = RNG.normal(size=shape, scale=np.prod(shape[:-1]) ** -0.5)
        if name == "descriptor":
            arrays["fc"] = kernel
            continue
        arrays[f"{name}/conv/filters"] = kernel
        arrays[f"{name}/conv/bias"] = RNG.normal(size=shape[-1], scale=0.1)
        arrays[f"{name}/scale/weights"] = RNG.uniform(0.2, 1.2, shape[-1])
        arrays[f"{name}/scale/biases"] = RNG.normal(size=shape[-1], scale=0.1)
    path = tmp_path_factory.mktemp("face") / "face-api.tgz"
    manifest = load_catalogue()["face_descriptor"].member
    state = write_model(
        path, arrays, lambda name: "float32" if "conv64" in name else "uint8", manifest
    )
    return path, state


def test_every_layer_is_that_of_face_api(archive):
    path, state = archive
    net = advjax.load("face_descriptor", path)
    image = RNG.integers(0, 256, SHAPE, np.uint8)
    found = net(image[None], tuple(net.layers))
    expected = face_api(image, state)
    assert list(expected) == list(net.layers)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name][0], value, rtol=0, atol=2e-6 * abs(value).max())


def test_a_converted_file_is_the_same(archive, tmp_path):
    path, _ = archive
    zoo.convert("face_descriptor", path, tmp_path / "face.safetensors")
    original, converted = (
        conversion.parameters(advjax.load("face_descriptor", file).params["module"])
        for file in (path, tmp_path / "face.safetensors")
    )
    assert original.keys() == converted.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(array, converted[name])


def test_a_tensor_that_is_missing(archive):
    _, state = archive
    lacking = {name: array for name, array in state.items() if name != "conv128_1/conv2/conv/bias"}
    with pytest.raises(WeightsError, match=r"conv128_1/conv2/conv/bias.*@vladmandic/face-api"):
        face_descriptor.fold(lacking)


def test_the_trained_weights_give_what_face_api_gives():
    """The numbers are `computeFaceDescriptor`'s of face-api 1.7.15 under node."""
    if cached("face_descriptor") is None:
        pytest.skip("the weights are not here: advjax weights fetch face_descriptor")
    net = advjax.load("face_descriptor")
    row, column, channel = np.mgrid[:150, :150, :3]
    image = ((7 * row + 3 * column * (channel + 1)) % 256).astype(np.uint8)
    (descriptor,) = np.asarray(net(image[None], "descriptor")["descriptor"])
    expected = [-0.054461, 0.105009, 0.014499, -0.033508, -0.033976, -0.067512, -0.074897, 0.019323]
    np.testing.assert_allclose(descriptor[: len(expected)], expected, atol=5e-6)
