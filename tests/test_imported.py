"""Networks of the user's own on the command line: FILE.py:FUNCTION and MODULE:FUNCTION."""

import json
import sys

import numpy as np
import pytest

import advjax
from advjax import cli
from advjax.cli.options import AttackOptions
from advjax.data import write_png
from advjax.errors import AdvjaxError
from advjax.networks.identity import weights_hash
from advjax.networks.imported import import_network, is_imported, short_name
from advjax.networks.options import NetworkOptions

NETS = """
import jax.numpy as jnp
import numpy as np

import advjax
from helper import seed


def function(params, images):  # of images in 0..1
    hidden = jnp.tanh((images - 0.5).reshape(len(images), -1) @ params)
    return {"hidden": hidden, "logits": hidden[:, :4]}


def tiny():
    params = np.random.default_rng(seed).normal(0, 0.1, (432, 9)).astype(np.float32)
    return advjax.Network(
        function,
        (12, 12, 3),
        jnp.asarray(params),
        layer="hidden",
        output="logits",
        preprocessing=advjax.Preprocessing(crop=12),
        bounds=(0, 1),
    )


def named():
    import dataclasses

    return dataclasses.replace(tiny(), name="mine")


def other():
    import dataclasses

    return dataclasses.replace(tiny(), params=2 * tiny().params)


def nothing():
    return None


def broken():
    raise OSError("no weights\\nare here")


def needs(argument):
    return argument


def matching():
    return advjax.FeatureOpt(metric="cosine", perceptual=advjax.Perceptual(ssim=0.5))


def noisy():
    return advjax.Transforms(advjax.transforms.Noise(0.5))


def noisier():
    return advjax.Transforms(advjax.transforms.Noise(5.0))


value = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("imported")
    (at / "nets").mkdir()
    (at / "nets" / "my_nets.py").write_text(NETS)
    (at / "nets" / "helper.py").write_text("seed = 0\n")
    (at / "modules_of_mine.py").write_text(
        "from advjax import load\ndef net():\n    return load('lenet', 'random')\n"
    )
    (at / "syntax.py").write_text("def net(:\n")
    rng = np.random.default_rng(0)
    for number in range(30):
        image = rng.integers(0, 256, (12, 12, 3), np.uint8)
        write_png(at / "photos" / "abc"[number % 3] / f"{number:02}.png", image)
    return at


@pytest.fixture(autouse=True)
def elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def run(capsys):
    def run(*words):
        status = cli.main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


TINY = ("--network", "nets/my_nets.py:tiny", "--max-evaluations", 4)
METRICS = ("--near", 6, "--reference", 5, "--far", 7, 9, "--components", 3, "--within", "bank")


def test_a_run_of_an_own_network_and_its_metrics_and_report(run, tmp_path):
    out = tmp_path / "run"
    words = ("run", "photos", "--pairing", "random", "--count", 3, "--delta", 20, "--out", out)
    words += ("--attack", "nets/my_nets.py:matching", "--transforms")
    words, others = (*words, "nets/my_nets.py:noisy"), (*words, "nets/my_nets.py:noisier")
    status, said, err = run(*words, *TINY)
    assert status == 0, err
    settings = advjax.open_run(out).settings
    assert settings["attack"]["metric"] == "cosine"
    assert settings["attack"]["perceptual"]["ssim"] == 0.5
    assert settings["transforms"]["steps"] == ["Noise(deviation=0.5)"]
    net = import_network("nets/my_nets.py:tiny")
    assert (settings["network"], settings["weights"]) == ("tiny", weights_hash(net))
    table = advjax.open_run(out).table().to_pydict()
    assert all(5 < change <= 20 for change in table["max_change"])
    assert all(ratio < 1 for ratio in table["ratio"])
    assert table["keeps_perceptual"] == [True] * 3
    np.testing.assert_allclose(table["cosine_uint8"], table["cosine"], atol=0.05)
    # The same command again goes on; other parameters do not.
    status, said, _ = run(*words, *TINY)
    assert (status, said.splitlines()[0]) == (0, f"finished already: 3 pairs in {out}")
    status, _, err = run(*others, *TINY)
    assert status == 2
    assert "['Noise(deviation=0.5)'] there, ['Noise(deviation=5.0)'] here" in err
    status, _, err = run(*words, "--network", "nets/my_nets.py:other", "--max-evaluations", 4)
    assert status == 2
    assert len(err.splitlines()) == 1

    metrics = ("metrics", out, "--bank-images", "photos", *METRICS, "--out", tmp_path / "m.csv")
    status, said, err = run(*metrics, "--network", "nets/my_nets.py:tiny")
    assert status == 0, err
    assert "left out" not in said
    status, _, err = run(*metrics)
    assert status == 2
    assert "which is not advjax's own; name the function that returns it with --network" in err
    status, _, err = run(*metrics, "--network", "nets/my_nets.py:other")
    assert "those of 'nets/my_nets.py:other' are others" in err

    assert run("report", out)[0] == 0
    assert "tiny" in (out / "report.html").read_text()


def test_an_attack_on_an_own_network_and_its_metrics(run, tmp_path):
    out = tmp_path / "attack"
    pair = ("photos/a/00.png", "photos/b/01.png")
    status, _, err = run("attack", *pair, *TINY, "--out", out, "--delta", 5)
    assert status == 0, err
    settings = json.loads((out / "result.json").read_text())["settings"]
    assert (settings["network"], settings["name"]) == ("nets/my_nets.py:tiny", "tiny")
    assert settings["parameters"] == weights_hash(import_network("nets/my_nets.py:tiny"))
    metrics = ("metrics", out, "--bank-images", "photos", *METRICS, "--out", tmp_path / "m.csv")
    status, _, err = run(*metrics)
    assert status == 2
    assert "a network of your own; name it with --network" in err
    assert run(*metrics, "--network", "nets/my_nets.py:tiny")[0] == 0
    settings["parameters"] = "0" * 64
    (out / "result.json").write_text(json.dumps({"settings": settings}))
    status, _, err = run(*metrics, "--network", "nets/my_nets.py:tiny")
    assert "were made with parameters of SHA-256 000000000000..." in err


def test_reproductions_of_an_own_network(run, tmp_path):
    out = tmp_path / "paper"
    words = ("reproduce", "tableS1", "fig5", "--out", out, "--network", "nets/my_nets.py:tiny")
    more = ("--pairs", 2, "--max-evaluations", 2, "--deltas", 10, "--batch-size", 2)
    status, _, err = run(*words, *more, "--images", "photos")
    assert status == 0, err
    assert (out / "runs" / "my_nets-tiny").is_dir()
    assert "hidden" in "".join(path.read_text() for path in out.glob("*S1*.csv"))
    status, _, err = run(
        "reproduce",
        "tableS2",
        "--out",
        out,
        "--network",
        "nets/my_nets.py:tiny",
        *more,
        *("--images", "photos"),
    )
    assert status == 2
    assert "weights is 'random', and 'nets/my_nets.py:tiny' returns a whole network" in err


def test_the_layers_of_an_own_network(run):
    status, said, _ = run("networks", "nets/my_nets.py:tiny", "--json")
    assert (status, json.loads(said)) == (0, {"hidden": [9], "logits": [4]})


def test_a_module_is_found_in_the_working_directory():
    net = import_network("modules_of_mine:net")
    assert net.name == "lenet"
    assert NetworkOptions("modules_of_mine:net").load(0).name == "lenet"


def test_names():
    assert import_network("nets/my_nets.py:tiny").name == "tiny"
    assert import_network("nets/my_nets.py:named").name == "mine"
    assert [is_imported(name) for name in ("lenet", None, "a:b")] == [False, False, True]
    assert short_name("x/y.py:f") == "y-f"
    # What commands do is in levels of 255.
    assert NetworkOptions("nets/my_nets.py:tiny").load(0).bounds == (0, 255)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nets/none.py:f", "'nets/none.py', which is no file; give FILE.py:FUNCTION"),
        ("no_module_of_this_name:f", "cannot be imported .ModuleNotFoundError"),
        ("syntax.py:net", "cannot be imported .SyntaxError"),
        ("nets/my_nets.py:tine", "function of 'nets/my_nets.py' 'tine' is not known; did you mean"),
        ("nets/my_nets.py:nothing", "returned a NoneType; return an advjax.Network"),
        ("nets/my_nets.py:broken", "cannot be made .OSError: no weights are here"),
        ("nets/my_nets.py:needs", "cannot be made .TypeError: needs.. missing 1 required"),
        ("nets/my_nets.py:value", "cannot be made .TypeError"),
        (":tiny", "cannot be imported"),
        ("nets/my_nets.py:", "function of 'nets/my_nets.py' '' is not known"),
    ],
)
def test_mistakes_are_one_line(name, said, run, tmp_path):
    with pytest.raises(AdvjaxError, match=said) as caught:
        import_network(name)
    assert "\n" not in str(caught.value)
    status, out, err = run("attack", "a.png", "b.png", "--network", name, "--out", tmp_path / "o")
    assert (status, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attack": "nets/my_nets.py:tiny"}, "returned a Network; return an advjax.Attack"),
        ({"attack": "nets/my_nets.py:value"}, "attack .* cannot be made .TypeError"),
        ({"transforms": "nets/my_nets.py:matching"}, "returned a FeatureOpt; return an advjax.Tr"),
        ({"transforms": "noisy"}, "transforms is 'noisy'; give FILE.py:FUNCTION"),
        ({"attack": "nets/my_nets.py:matching", "metric": "cosine"}, "returns a whole attack"),
        ({"attack": "nets/my_nets.py:matching", "ssim": 0.9}, "has a perceptual budget"),
        ({"attack": "feature-fgrad", "ssim": 0.9}, "takes one step"),
    ],
)
def test_attacks_and_transformations_that_are_none(options, said):
    with pytest.raises(AdvjaxError, match=said) as caught:
        AttackOptions(**options).settings()
    assert "\n" not in str(caught.value)


def test_the_least_ssim_stands_beside_any_attack():
    attack = AttackOptions("feature-away", metric="cosine", ssim=0.9).settings()["attack"]
    budget = advjax.Perceptual(ssim=0.9)
    assert attack == advjax.FeatureAway(metric="cosine", perceptual=budget)


def test_an_own_network_brings_its_weights(tmp_path):
    options = NetworkOptions("nets/my_nets.py:tiny", weights="w.safetensors")
    with pytest.raises(AdvjaxError, match=r"weights is 'w.safetensors', and .* a whole network"):
        options.load(0)
    with pytest.raises(AdvjaxError, match="resize is 'True', and"):
        NetworkOptions("nets/my_nets.py:tiny", resize=True).load(0)
