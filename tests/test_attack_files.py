import dataclasses
import hashlib
import importlib.metadata
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import load_file

import advjax
from advjax.attack_files import attack_files
from advjax.errors import AdvjaxError, ImageError, UnknownName
from advjax.solvers.optax_projected import OptaxProjected

RNG = np.random.default_rng(0)
FILES = ["adversarial.png", "adversarial.safetensors", "result.json", "sheet.png"]
SHORT = advjax.ProjectedLBFGS(max_evaluations=4)
# Four flat quarters: no two turns of it look alike.
PICTURE = np.kron(
    np.array([[[200, 30, 40], [20, 180, 60]], [[30, 60, 190], [240, 230, 40]]], np.uint8),
    np.ones((8, 8, 1), np.uint8),
)
WHITE = np.full_like(PICTURE, 255)


def features(params, images):
    x = (images / 255).reshape(len(images), -1) @ params
    return {"fc": x, "prob": jax.nn.softmax(jnp.tanh(x[:, :4]))}


NET = advjax.Network(
    features,
    (16, 16, 3),
    jnp.asarray(RNG.normal(size=(768, 6)), jnp.float32),
    name="tiny",
    layer="fc",
    output="prob",
    preprocessing=advjax.Preprocessing("warp", 16, 16),
)


def save(path, array, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


@pytest.fixture
def guide(tmp_path):
    return save(tmp_path / "guide.png", RNG.integers(0, 256, (16, 16, 3), np.uint8))


def whole(out):
    """result.json of a complete folder; NaN is no JSON."""

    def refuse(constant):
        raise AssertionError(constant)

    assert sorted(os.listdir(out)) == FILES
    return json.loads((out / "result.json").read_text(), parse_constant=refuse)


def check_box(out, expected, delta):
    """Exactly, as real numbers; and the PNG is the float image rounded inside the box."""
    png = np.asarray(Image.open(out / "adversarial.png"))
    exact = load_file(out / "adversarial.safetensors")["adversarial"]
    assert png.shape == exact.shape == expected.shape
    assert exact.dtype == np.float32
    for image in (png.astype(np.float64), exact.astype(np.float64)):
        assert np.abs(image - expected).max() <= delta
        assert image.min() >= 0
        assert image.max() <= 255
    low, high = np.maximum(expected - delta, 0), np.minimum(expected + delta, 255)
    np.testing.assert_array_equal(png, np.clip(np.rint(exact), np.ceil(low), np.floor(high)))
    return png, exact


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def rgba():
    alpha = np.zeros((16, 16, 1), np.uint8)
    alpha[:8] = 255
    return np.concatenate([PICTURE, alpha], -1), np.where(alpha == 255, PICTURE, WHITE)


def test_the_files_and_the_figures_agree(tmp_path, guide):
    source = save(tmp_path / "source.png", PICTURE)
    out = tmp_path / "deep" / "out"
    record = attack_files(
        NET, source, guide, out, delta=9.7, solver=SHORT, seed=3, settings={"more": "said"}
    )
    assert json.loads(json.dumps(record)) == whole(out)
    png, exact = check_box(out, PICTURE, 9.7)
    images = np.stack([PICTURE, np.asarray(Image.open(guide))]).astype(np.float32)
    images = np.concatenate([images, exact[None], png[None].astype(np.float32)])
    found = {k: np.asarray(v, np.float64) for k, v in NET(images, ["fc", "prob"]).items()}
    distance = np.linalg.norm(found["fc"] - found["fc"][1], axis=1)
    figures = record["figures"]

    def near(value):
        return pytest.approx(value, rel=1e-4)

    assert figures["initial_distance"] == near(distance[0])
    assert figures["distance"] == near(distance[2])
    assert figures["distance_uint8"] == near(distance[3])
    assert figures["ratio"] == near(distance[2] / distance[0])
    assert figures["ratio_uint8"] == near(distance[3] / distance[0])
    assert figures["ratio"] < 1
    assert figures["evaluations"] == len(figures["trace"]) == 4
    assert figures["trace"][0] == near(distance[0])
    assert min(figures["trace"]) == near(distance[2])
    assert figures["status"] == "MAX_EVALUATIONS"
    assert figures["seconds"] > 0
    for name, row in (("source", 0), ("guide", 1), ("adversarial", 3)):
        probabilities = found["prob"][row]
        best = np.argsort(-probabilities)[:3]
        assert [label for label, _ in record["labels"][name]] == [f"class {i}" for i in best]
        shown = [share for _, share in record["labels"][name]]
        np.testing.assert_allclose(shown, probabilities[best], rtol=1e-4)
    settings = whole(out)["settings"]
    for name, path in (("source", source), ("guide", guide)):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert settings[name] == {"name": path.name, "sha256": sha256}
    assert settings["solver"] == {"name": "ProjectedLBFGS"} | json.loads(
        json.dumps(dataclasses.asdict(SHORT))
    )
    said = {"network": "tiny", "layer": "fc", "delta": 9.7, "start": "source", "seed": 3}
    assert said.items() <= settings.items()
    assert settings["more"] == "said"
    assert record["versions"]["jax"] == importlib.metadata.version("jax")
    with Image.open(out / "sheet.png") as sheet:
        sheet.load()
        assert sheet.size[0] > 1000


# 16-bit grey of level v is stored as 257 v; CMYK without black is the complement.
@pytest.mark.parametrize(
    ("name", "image", "options", "expected"),
    [
        ("dot.png", np.full((1, 1, 3), [9, 99, 199], np.uint8), {}, WHITE * 0 + [9, 99, 199]),
        ("grey.png", PICTURE[..., 0], {}, PICTURE[..., :1].repeat(3, -1)),
        ("rgba.png", rgba()[0], {}, rgba()[1]),
        ("deep.png", PICTURE[..., 1].astype(np.uint16) * 257, {}, PICTURE[..., 1:2].repeat(3, -1)),
        ("cmyk.tif", Image.fromarray(255 - PICTURE).convert("RGB"), {}, PICTURE),
        (
            "moving.png",
            PICTURE,
            {"save_all": True, "append_images": [Image.fromarray(WHITE)]},
            PICTURE,
        ),
        ("turned.png", np.rot90(PICTURE).copy(), {"exif": exif(6)}, PICTURE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_image_works(name, image, options, expected, tmp_path, guide):
    if name == "cmyk.tif":
        planes = [*image.split(), Image.new("L", image.size)]
        image = Image.merge("CMYK", planes)
    source = save(tmp_path / name, image, **options)
    attack_files(NET, source, guide, tmp_path / "out", delta=2.0, solver=SHORT)
    whole(tmp_path / "out")
    png, _ = check_box(tmp_path / "out", expected, 2.0)
    assert (png != expected).any()


def test_source_and_guide_the_same(guide, tmp_path):
    record = attack_files(NET, guide, guide, tmp_path / "out", solver=SHORT)
    assert whole(tmp_path / "out")["figures"] == record["figures"]
    assert record["figures"]["distance"] == record["figures"]["ratio"] == 0
    check_box(tmp_path / "out", np.asarray(Image.open(guide)), 0)


def test_a_network_without_classes_has_no_labels(guide, tmp_path):
    plain = dataclasses.replace(NET, output=None)
    record = attack_files(plain, guide, guide, tmp_path / "out", solver=SHORT)
    assert whole(tmp_path / "out")["labels"] is record["labels"] is None


def test_any_solver_can_be_noted(guide, tmp_path):
    solver = OptaxProjected(optax.adam(1.0), max_evaluations=2)  # has functions as fields
    source = save(tmp_path / "source.png", PICTURE)
    attack_files(NET, source, guide, tmp_path / "out", solver=solver, settings={"path": tmp_path})
    settings = whole(tmp_path / "out")["settings"]
    assert settings["solver"]["name"] == "OptaxProjected"
    assert settings["solver"]["max_evaluations"] == 2
    assert settings["path"] == str(tmp_path)


def test_names_that_are_not_text(guide, tmp_path):
    source = save(tmp_path / os.fsdecode(b"\xff $x^{ \n.png"), PICTURE, format="PNG")
    attack_files(NET, source, guide, tmp_path / os.fsdecode(b"out\xff"), solver=SHORT)
    record = whole(tmp_path / os.fsdecode(b"out\xff"))
    assert record["settings"]["source"]["name"] == source.name


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"source": "nowhere.png"}, ImageError, r"nowhere\.png' cannot be opened"),
        ({"guide": "."}, ImageError, "is a directory"),
        ({"delta": 0.0}, AdvjaxError, "delta is 0"),
        ({"delta": float("nan")}, AdvjaxError, "delta is nan"),
        ({"layer": "fd"}, UnknownName, "did you mean 'fc'"),
        ({"start": "soarce"}, UnknownName, "did you mean 'source'"),
        ({"start": "random", "seed": -1}, AdvjaxError, "seed is -1"),
        ({"solver": advjax.ScipyLBFGSB(0)}, AdvjaxError, "max_evaluations is 0"),
        ({"out": "guide.png"}, AdvjaxError, r"out '.*guide\.png' cannot be written .*choose"),
        ({"out": "guide.png/below/it"}, AdvjaxError, "out .* cannot be written .*; choose"),
        ({"out": "/proc/advjax"}, AdvjaxError, "out .* cannot be written .*; choose"),
        ({"out": "n" * 300}, AdvjaxError, "out .* cannot be written .*; choose"),
        ({"out": "a\0b"}, AdvjaxError, "out .* cannot be written .*; choose"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(change, error, says, guide, tmp_path):
    arguments = {"source": guide, "guide": guide, "out": "out", "solver": SHORT} | change
    for name in ("source", "guide", "out"):
        arguments[name] = tmp_path / arguments[name]
    before = tree(tmp_path)
    with pytest.raises(error, match=says) as caught:
        attack_files(NET, **arguments)
    assert len(str(caught.value).splitlines()) == 1
    assert tree(tmp_path) == before


def test_activations_that_overflow(guide, tmp_path):
    source = save(tmp_path / "source.png", PICTURE)
    huge = dataclasses.replace(NET, params=NET.params * 1e30)
    with pytest.raises(AdvjaxError, match=r"layer 'fc' of tiny overflows .*; give other weights"):
        attack_files(huge, source, guide, tmp_path / "out", solver=SHORT)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_half_way_is_not_taken_for_the_one_before(guide, tmp_path):
    source = save(tmp_path / "source.png", PICTURE)
    out = tmp_path / "out"
    attack_files(NET, source, guide, out, solver=SHORT)
    first = whole(out)
    attack_files(NET, source, guide, out, solver=SHORT, delta=3.0)  # the folder may be used again
    assert whole(out)["settings"]["delta"] == 3.0 != first["settings"]["delta"]
    (out / "sheet.png").unlink()
    (out / "sheet.png").mkdir()
    with pytest.raises(AdvjaxError, match=r"cannot write '.*sheet\.png'"):
        attack_files(NET, source, guide, out, solver=SHORT)
    assert sorted(os.listdir(out)) == ["adversarial.png", "adversarial.safetensors", "sheet.png"]
