import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import advjax
from advjax.bank import BankError, build_bank, open_bank
from advjax.data import Preprocessing, list_images, write_png
from advjax.errors import AdvjaxError, ImageError, UnknownName
from advjax.metrics import knn_blocks
from advjax.networks.network import Network

ROWS = 23  # images; no multiple of the batch sizes used


def function(params, images):
    mean = images.mean((1, 2))  # (b, 3)
    return {
        "mean": mean,
        "conv/out": images[:, ::2, ::2] * params["scale"],
        "top": mean @ params["w"],
    }


def network(**changes):
    params = {"scale": np.float32(2), "w": np.arange(12, dtype=np.float32).reshape(3, 4)}
    fields = {"params": params, "name": "tiny", "preprocessing": Preprocessing(crop=6)} | changes
    return Network(function, (6, 6, 3), **fields)


@pytest.fixture
def photos(tmp_path):
    """ROWS images in two folders by class."""
    rng = np.random.default_rng(0)
    for i in range(ROWS):
        name = f"{'cats' if i % 3 else 'dogs'}/{i:02}.png"
        write_png(tmp_path / "photos" / name, rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    return tmp_path / "photos"


def build(net, photos, out, layers=("mean", "conv/out"), **settings):
    return build_bank(net, photos, layers, out, **({"batch_size": 4, "progress": False} | settings))


def contents(out):
    """All that a reader sees, and when it was written."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(out): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_rows_are_the_networks_activations_of_the_files(photos, tmp_path):
    net = network()
    bank = build(net, photos, tmp_path / "bank")
    assert len(bank) == ROWS
    path = str(tmp_path / "bank")
    assert repr(bank) == f"Bank({path!r}: {ROWS} images at ['mean', 'conv/out'] of {net.name})"
    assert bank.layers == {"mean": (3,), "conv/out": (3, 3, 3)}
    assert bank.classes == ("cats", "dogs")
    for row, path in enumerate(list_images(photos)):
        expected = net(net.read(path)[None], ("mean", "conv/out"))
        assert bank.ids[row] == path.relative_to(photos).as_posix()
        assert bank.classes[bank.labels[row]] == path.parent.name
        assert bank.row(bank.ids[row]) == row
        for layer, values in expected.items():
            np.testing.assert_allclose(bank.features(layer)[row], values.ravel(), rtol=1e-6)
    assert bank.row("cats/none.png") == -1
    np.testing.assert_array_equal(bank.rows("dogs"), np.flatnonzero(bank.labels == 1))
    np.testing.assert_array_equal(bank.rows("cats"), bank.rows(0))


def test_the_safetensors_library_reads_them(photos, tmp_path):
    bank = build(network(), photos, tmp_path / "bank")
    for layer, name in (("mean", "mean"), ("conv/out", "conv%2Fout")):
        tensors = load_file(bank.path / "features" / f"{name}.safetensors")
        assert list(tensors) == [layer]
        np.testing.assert_array_equal(tensors[layer], bank.features(layer))


def test_features_are_memory_mapped_and_read_only(photos, tmp_path):
    features = build(network(), photos, tmp_path / "bank").features("mean")
    assert isinstance(features, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1


def test_any_batch_size_gives_the_same(photos, tmp_path):
    whole = build(network(), photos, tmp_path / "whole", batch_size=64).features("conv/out")
    for size in (1, 5, 23):
        bank = build(network(), photos, tmp_path / str(size), batch_size=size)
        np.testing.assert_allclose(bank.features("conv/out"), whole, rtol=1e-6)


def test_nothing_is_computed_twice(photos, tmp_path):
    bank = build(network(), photos, tmp_path / "bank")
    before = contents(bank.path)
    again = build(network(), photos, tmp_path / "bank", layers="mean")
    assert contents(bank.path) == before
    assert again.layers == bank.layers
    more = build(network(), photos, tmp_path / "bank", layers=("top", "mean"))
    assert set(more.layers) == {"mean", "conv/out", "top"}
    features = {name: value for name, value in before.items() if name.suffix == ".safetensors"}
    assert features.items() <= contents(bank.path).items()
    expected = more.features("mean")[3] @ function_w()
    np.testing.assert_allclose(more.features("top")[3], expected, rtol=1e-6)


def function_w():
    return np.arange(12, dtype=np.float32).reshape(3, 4)


def test_reading_needs_no_images_and_no_network(photos, tmp_path):
    values = np.array(build(network(), photos, tmp_path / "bank").features("mean"))
    shutil.rmtree(photos)
    np.testing.assert_array_equal(open_bank(tmp_path / "bank").features("mean"), values)


@pytest.fixture
def interrupted(photos, tmp_path):
    """A bank of which some batches are done: a file in the middle is damaged, size and all kept."""
    bad = list_images(photos)[14]
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))
    with pytest.raises(ImageError, match=bad.name):
        build(network(), photos, tmp_path / "bank")
    bad.write_bytes(good)
    return tmp_path / "bank"


def test_an_interrupted_bank_is_not_opened_and_is_gone_on_with(interrupted, photos, tmp_path):
    with pytest.raises(BankError, match=r"is unfinished \(12 images done\); run build_bank with"):
        open_bank(interrupted)
    # What is done is not done again: a mark in it survives.
    file = interrupted / "features" / "mean.safetensors"
    with open(file, "r+b") as stream:
        stream.seek(-12, os.SEEK_END)
        stream.write(np.full(3, 77, "<f4").tobytes())
    bank = build(network(), photos, interrupted)
    expected = np.array(build(network(), photos, tmp_path / "other").features("mean"))
    expected[11] = 77
    np.testing.assert_array_equal(bank.features("mean"), expected)
    assert not (interrupted / "progress.json").exists()


@pytest.mark.parametrize(
    "damage", ["rows are gone", "rows too many", "file is gone", "other layers"]
)
def test_going_on_after_more_than_an_interruption(interrupted, photos, tmp_path, damage):
    file, layers = interrupted / "features" / "mean.safetensors", ("mean", "conv/out")
    if damage == "rows are gone":
        os.truncate(file, file.stat().st_size - 4)
    elif damage == "rows too many":  # written, but not noted
        with open(file, "ab") as stream:
            stream.write(bytes(range(100)))
    elif damage == "file is gone":
        file.unlink()
    else:
        layers = ("mean", "top")
    bank = build(network(), photos, interrupted, layers=layers)
    other = build(network(), photos, tmp_path / "other", layers=layers)
    for layer in layers:
        np.testing.assert_array_equal(bank.features(layer), other.features(layer))


def test_an_interrupted_further_layer_leaves_the_bank_as_it_was(photos, tmp_path):
    bank = build(network(), photos, tmp_path / "bank")
    bad = list_images(photos)[14]
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))
    with pytest.raises(ImageError):
        build(network(), photos, tmp_path / "bank", layers="top")
    assert open_bank(bank.path, network()).layers == bank.layers
    bad.write_bytes(good)
    assert "top" in build(network(), photos, tmp_path / "bank", layers="top").layers


KILLED = """
import sys, time, jax, numpy as np
import advjax.bank.build
from advjax.data import Preprocessing
from advjax.networks.network import Network

def slow(images):
    jax.debug.callback(lambda: time.sleep(0.1))
    return {"mean": images.mean((1, 2))}

advjax.bank.build.NOTED = 0
net = Network(slow, (6, 6, 3), name="slow", preprocessing=Preprocessing(crop=6))
advjax.bank.build_bank(net, sys.argv[1], "mean", sys.argv[2], batch_size=1, progress=False)
"""


def test_killed_at_any_moment_it_is_unfinished_or_whole(photos, tmp_path):
    out, command = tmp_path / "bank", [sys.executable, "-c", KILLED, photos, tmp_path / "bank"]
    noted, rng, done = out / "progress.json", np.random.default_rng(), [0]
    while not (out / "manifest.json").exists():
        with subprocess.Popen(command) as process:
            while process.poll() is None and not (noted.exists() and _done(noted) > done[-1]):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4))
            process.kill()
        if not (out / "manifest.json").exists():
            done.append(_done(noted))
            with pytest.raises(BankError, match=f"is unfinished .{done[-1]} images done"):
                open_bank(out)
    assert len(done) > 2
    assert done == sorted(done)
    expected = build(network(), photos, tmp_path / "other").features("mean")
    np.testing.assert_allclose(open_bank(out).features("mean"), expected, rtol=1e-6)


def _done(noted):
    return json.loads(noted.read_text())["done"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {"scale": np.float32(2), "w": np.zeros((3, 4))}}, "is of other weights; build"),
        ({"name": "huge"}, "is of network 'tiny', not 'huge'"),
        ({"preprocessing": Preprocessing("warp", 8, 6)}, "is of preprocessing {"),
    ],
)
def test_a_bank_of_another_network_is_refused(photos, tmp_path, change, message):
    build(network(), photos, tmp_path / "bank")
    before = contents(tmp_path / "bank")
    for use in (
        lambda net: open_bank(tmp_path / "bank", net),
        lambda net: build(net, photos, tmp_path / "bank"),
    ):
        with pytest.raises(BankError, match=message) as error:
            use(network(**change))
        assert "\n" not in str(error.value)
    assert contents(tmp_path / "bank") == before


def test_an_unfinished_bank_of_another_network_is_refused_too(interrupted, photos):
    with pytest.raises(BankError, match="is of network 'tiny', not 'huge'"):
        build(network(name="huge"), photos, interrupted)


def test_other_images_are_refused(photos, tmp_path):
    build(network(), photos, tmp_path / "bank")
    write_png(photos / "cats" / "more.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(BankError, match="is of other image files; build another"):
        build(network(), photos, tmp_path / "bank")


def test_a_layer_that_is_not_there(photos, tmp_path):
    bank = build(network(), photos, tmp_path / "bank")
    with pytest.raises(UnknownName, match="'conv/ou' is not known; did you mean 'conv/out'"):
        bank.features("conv/ou")
    with pytest.raises(UnknownName, match="layer of tiny 'fc7' is not known"):
        build(network(), photos, tmp_path / "bank", layers="fc7")


def test_a_class_that_is_not_there(photos, tmp_path):
    bank = build(network(), photos, tmp_path / "bank")
    with pytest.raises(UnknownName, match="'cat' is not known; did you mean 'cats'"):
        bank.rows("cat")
    with pytest.raises(BankError, match="label is 2; the bank has classes 0 to 1"):
        bank.rows(2)


def test_lists_of_files_have_the_labels_they_are_given(photos, tmp_path):
    files = list_images(photos)[:5]
    bank = build(network(), files, tmp_path / "plain")
    assert bank.ids == tuple(path.as_posix() for path in files)
    assert (bank.labels == -1).all()
    with pytest.raises(BankError, match="has no labels: its images were not in folders by class"):
        bank.rows(0)
    bank = build(network(), files, tmp_path / "named", labels=["b", "a", None, "b", "a"])
    assert bank.classes == ("a", "b")
    np.testing.assert_array_equal(bank.labels, [1, 0, -1, 1, 0])


@pytest.mark.parametrize(
    "damage",
    [
        "manifest",
        "images",
        "fewer",
        "layer cut",
        "layer gone",
        "other shape",
        "other tensor",
        "other dtype",
        "garbage",
        "format",
    ],
)
def test_a_damaged_bank_is_refused(photos, tmp_path, damage):
    out = build(network(), photos, tmp_path / "bank").path
    manifest, layer = (
        json.loads((out / "manifest.json").read_text()),
        out / "features" / "mean.safetensors",
    )
    if damage == "manifest":
        (out / "manifest.json").write_text('{"format": 2')
    elif damage == "images":
        (out / "images.json").write_text('{"ids": 3}')
    elif damage == "fewer":
        (out / "images.json").write_text('{"ids": ["a"], "labels": [0], "classes": ["b"]}')
    elif damage == "layer cut":
        os.truncate(layer, layer.stat().st_size - 1)
    elif damage == "layer gone":
        layer.unlink()
    elif damage == "other shape":
        save_file({"mean": np.zeros((ROWS, 4), np.float32)}, layer)
    elif damage == "other tensor":
        save_file({"men": np.zeros((ROWS, 3), np.float32)}, layer)
    elif damage == "other dtype":
        save_file({"mean": np.zeros((ROWS, 3), np.int32)}, layer)
    elif damage == "garbage":
        layer.write_bytes(bytes(range(1, 256)) * 9)
    else:
        (out / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    message = (
        "format 99, but this version reads 2" if damage == "format" else "is damaged .* delete"
    )
    for use in (lambda: open_bank(out), lambda: build(network(), photos, out)):
        with pytest.raises(BankError, match=message) as error:
            use()
        assert "\n" not in str(error.value)


def test_places_that_are_no_bank(photos, tmp_path):
    with pytest.raises(BankError, match="is no feature bank; make one with build_bank"):
        open_bank(tmp_path / "nowhere")
    with pytest.raises(BankError, match="is not empty and holds no bank; name a new folder"):
        build(network(), photos, photos)
    (tmp_path / "file").write_text("")
    with pytest.raises(AdvjaxError, match=r"cannot write .*file"):
        build(network(), photos, tmp_path / "file")


def test_two_at_once_are_refused(photos, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "bank"
    out.mkdir()
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BankError, match="another process is building the bank"):
            build(network(), photos, out)
    assert len(build(network(), photos, out)) == ROWS


def test_a_full_disk_is_one_line(photos, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / "bank" / "features").mkdir(parents=True)
    (tmp_path / "bank" / "progress.json").write_text("{}")
    (tmp_path / "bank" / "features" / "mean.safetensors").symlink_to("/dev/full")
    with pytest.raises(AdvjaxError, match=r"cannot write .*mean.safetensors.* make room") as error:
        build(network(), photos, tmp_path / "bank", layers="mean")
    assert "\n" not in str(error.value)


def test_nan_is_named(photos, tmp_path):
    net = network(params={"scale": np.float32(2), "w": np.full((3, 4), np.nan)})
    with pytest.raises(AdvjaxError, match=r"tiny gives NaN .* at top for image .*cats/01.png"):
        build(net, photos, tmp_path / "bank", layers="top")


def test_mistakes_are_named(photos, tmp_path):
    files = list_images(photos)
    for arguments, message in (
        ({"batch_size": 0}, "batch_size is 0; give"),
        ({"labels": ["a"]}, "labels has 1 names for 23 images"),
        ({"photos": []}, "images is empty"),
        ({"photos": [files[0], files[0]]}, "images names .* 2 times"),
        ({"photos": [tmp_path / "none.png"]}, "none.png' cannot be opened"),
        ({"net": network(preprocessing=None)}, "has no preprocessing"),
    ):
        given = {"net": network(), "photos": photos, "out": tmp_path / "bank"} | arguments
        with pytest.raises(AdvjaxError, match=message):
            build(**given)


@pytest.mark.slow
def test_neighbours_in_a_bank_of_digits_are_mostly_the_same_digit(shared, tmp_path):
    weights = shared / "caffemodels" / "lenet_iter_10000.caffemodel"
    net = advjax.load("lenet", weights=weights)
    bank = build_bank(net, shared / "mnist-test", ("ip1", "pool2"), tmp_path / "bank")
    assert bank.classes == tuple("0123456789")
    for layer in bank.layers:
        features = bank.features(layer)
        own = np.arange(len(bank))[:, None]
        found = knn_blocks(features, features, 3, exclude=own, memory=2**20)
        assert (bank.labels[found.indices] == bank.labels[:, None]).mean() > 0.7
