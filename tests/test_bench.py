import json

import numpy as np
import pytest

import advjax
from advjax import bench
from advjax.cli import main
from advjax.errors import AdvjaxError
from advjax.solvers import PUBLISHED, ScipyLBFGSB, SignMomentum


@pytest.fixture(scope="module")
def net():
    return advjax.load("lenet", "random")


def test_drawn_images_are_reproducible_and_have_the_spectrum_of_photographs():
    images = bench.photographs(16, (128, 96, 3), seed=3)
    np.testing.assert_array_equal(images, bench.photographs(16, (128, 96, 3), seed=3))
    assert not np.array_equal(images[0], images[1])
    power = np.abs(np.fft.fft2(images.astype(float), axes=(1, 2))) ** 2
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(96)[None, :])
    between = (frequency > 0.03) & (frequency < 0.3)
    slope, _ = np.polyfit(np.log(frequency[between]), np.log(power.mean((0, 3))[between]), 1)
    assert slope == pytest.approx(-2, abs=0.15)  # white noise has 0
    assert images.std() > 30


def test_a_step_takes_as_long_as_its_parts(net):
    times = bench.step_times(net, advjax.ProjectedLBFGS(), 2, steps=2, rounds=1)
    assert times.evaluation > 0
    assert times.step > 0
    assert times.solver_fraction == 1 - times.evaluation / times.step


def test_the_active_fraction_counts_every_lane(net):
    # 3 pairs of 4 evaluations in 2 lanes: the second lane idles for the last 4 of 8 steps.
    found = bench.throughput(net, 3, 2, solver=advjax.ProjectedLBFGS(4))
    assert found.evaluations == 4
    assert found.active_fraction == pytest.approx(12 / 16)
    assert found.pairs_per_second > 0
    assert 0 < found.ratio < 1


def test_solvers_are_compared_on_the_same_pairs_at_equal_gradients(net):
    solvers = {
        "smoothed": (SignMomentum(6), advjax.Smoothing()),
        "adam": (PUBLISHED["adam"](6), None),
        "scipy": (ScipyLBFGSB(6), None),
    }
    rows = bench.compare_solvers(net, solvers, 3, batch_size=2)
    assert [row.name for row in rows] == list(solvers)
    images = bench.photographs(6, net.input_shape)
    for row, (solver, smoothing) in zip(rows, solvers.values(), strict=True):
        result = advjax.attack(
            net, images[:3], images[3:], solver=solver, smoothing=smoothing, batch_size=2
        )
        assert row.ratio == pytest.approx(result.ratio.mean(), rel=1e-5)
        assert row.evaluations == 6
        assert row.seconds > 0
        assert 0 < row.cosine_ratio < 1


def test_the_cosine_ratio_is_the_plain_formula_from_the_source_to_the_guide(net):
    source, guide, other = bench.photographs(9, net.input_shape).reshape(3, 3, *net.input_shape)
    ratio = bench.cosine_ratio(net, "ip1", other, source, guide)
    a, s, g = (np.asarray(net(x, "ip1")["ip1"], float) for x in (other, source, guide))
    cosine = lambda x, y: (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))  # noqa: E731
    np.testing.assert_allclose(ratio, (1 - cosine(a, g)) / (1 - cosine(s, g)), rtol=1e-6)
    np.testing.assert_allclose(bench.cosine_ratio(net, "ip1", source, source, guide), 1)
    np.testing.assert_allclose(bench.cosine_ratio(net, "ip1", guide, source, guide), 0)
    np.testing.assert_array_equal(bench.cosine_ratio(net, "ip1", other, guide, guide), 0)


def test_solvers_with_other_budgets_or_no_pairs_are_refused(net):
    solvers = {"a": (SignMomentum(3), None), "b": (SignMomentum(4), None)}
    with pytest.raises(AdvjaxError, match=r"budgets \{'a': 3, 'b': 4\}; give"):
        bench.compare_solvers(net, solvers, 1)
    with pytest.raises(AdvjaxError, match="pairs is 0; give 1 or more"):
        bench.compare_solvers(net, {}, 0)


def test_ceilings_are_those_of_a_computer():
    assert 1e8 < bench.matrix_ceiling(128, rounds=1) < 1e16
    assert 1e8 < bench.memory_ceiling(1 << 16, rounds=1) < 1e14


@pytest.mark.parametrize("name", ["batch", "steps", "rounds"])
def test_wrong_numbers_are_named(net, name):
    with pytest.raises(AdvjaxError, match=f"{name} is 0; give 1 or more"):
        bench.step_times(net, advjax.ProjectedLBFGS(), **{"batch": 1, name: 0})


def test_the_command_prints_and_writes_its_figures(tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["bench", "--network", "lenet", "--pairs", "3", "--batch-size", "2"]
    assert main([*arguments, "--max-evaluations", "3", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    said = capsys.readouterr().out
    for name, value in record["figures"].items():
        assert f"{name.replace('_', ' '):24} {value:.4g}" in said
    assert record["settings"]["network"] == "lenet"
    assert record["machine"]["versions"]["jax"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--solver", "scipy"], "solver is 'scipy', which has no lanes"),
        (["--pairs", "0", "--network", "lenet"], "pairs is 0; give 1 or more"),
        (["--network", "lenet", "--precision", "half"], "precision 'half' is not known"),
    ],
)
def test_mistakes_at_the_command_line_are_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_solvers_are_compared_at_the_command_line(tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = ["bench", "--network", "lenet", "--pairs", "2", "--max-evaluations", "4"]
    assert main([*words, "--solvers", "sign", "apgd", "scipy", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert [row["name"] for row in figures] == ["sign", "apgd", "scipy"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == [f"{row['ratio']:.4f}" for row in figures]
