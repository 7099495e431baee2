"""An attack of a user's own, against `attacks/base.py` alone, does what built-in ones do."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.attacks.base import Attack
from advjax.report import write_report
from advjax.runs.driver import run
from advjax.runs.pair_list import make_pair_list
from advjax.runs.pipeline import Job

NET = advjax.load("lenet", "orthonormal")
SOURCES, GUIDES = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28, 1), np.uint8)
SOLVER = advjax.ProjectedLBFGS(max_evaluations=60)


@dataclasses.dataclass(frozen=True)
class Cosine(Attack):
    """minimise 1 - cos(phi(I), phi(guide))."""

    name = "cosine"

    def loss(self, activate, images, target):
        features = activate(images)
        return self.distance(features, target), features

    def distance(self, features, guide):
        (layer,) = self.layers
        a, g = (jnp.asarray(x[layer]).reshape(len(x[layer]), -1) for x in (features, guide))
        norms = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(g, axis=1)
        return 1 - jnp.sum(a * g, 1) / norms


def cosine_distance(images, guides):
    a, g = (np.asarray(NET(x)["ip1"], np.float64) for x in (images, guides))
    return 1 - np.sum(a * g, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(g, axis=1)


def test_it_minimises_its_own_distance_and_traces_its_objective():
    result = advjax.attack(
        NET, SOURCES, GUIDES, attack=Cosine(), delta=40, solver=SOLVER, trace=True
    )
    np.testing.assert_allclose(
        result.distance, cosine_distance(result.adversarial, GUIDES), rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(result.trace[:, 0], result.initial_distance, rtol=1e-3)
    np.testing.assert_allclose(result.objective, result.distance, rtol=1e-3, atol=1e-6)
    assert (result.ratio < 0.9).all()


def test_it_stops_at_a_target_ratio():
    result = advjax.attack(
        NET, SOURCES, GUIDES, attack=Cosine(), delta=60, solver=SOLVER, target_ratio=0.9
    )
    assert (result.status == advjax.Status.TARGET).all()
    assert (result.ratio <= 0.9 * (1 + 1e-4)).all()
    assert (result.evaluations < SOLVER.max_evaluations).all()


def test_an_attack_without_a_ratio_refuses_a_target_ratio():
    with pytest.raises(advjax.AdvjaxError, match=r"target_ratio is 0.5, and label-opt has no"):
        advjax.attack(NET, SOURCES, GUIDES, attack="label-opt", target_ratio=0.5)
    pair = advjax.Pair(SOURCES[0], GUIDES[0], target_ratio=0.5)
    with pytest.raises(advjax.AdvjaxError, match=r"target_ratio of pair 0 is 0\.5, and label-opt"):
        list(advjax.attack_stream(NET, [pair], attack="label-opt"))


@dataclasses.dataclass(frozen=True)
class Renamed(advjax.FeatureOpt):
    name = "renamed"


def test_an_attack_without_a_loss_cannot_be_made():
    class Empty(Attack):
        name = "empty"

    with pytest.raises(TypeError, match="loss"):
        Empty()  # pyright: ignore[reportAbstractUsage]


def test_runs_and_reports_take_it(tmp_path):
    names = [f"{kind}{i}.png" for kind in ("source", "guide") for i in range(3)]
    for name, image in zip(names, [*SOURCES, *GUIDES], strict=True):
        advjax.write_png(tmp_path / name, image)
    rows = [f"{s},{g}" for s, g in zip(names[:3], names[3:], strict=True)]
    (tmp_path / "pairs.csv").write_text("\n".join(["source,guide", *rows]) + "\n")
    settings = {"delta": 40.0, "solver": advjax.ProjectedLBFGS(10), "batch_size": 3, "trace": True}
    job = Job(NET, attack=Cosine(), **settings)
    pairs = make_pair_list(str(tmp_path / "pairs.csv"))
    outcome = run(job, pairs, tmp_path / "run", progress=False)
    assert outcome.whole
    assert outcome.failed == 0
    data = advjax.open_run(tmp_path / "run")
    assert data.settings["attack"]["name"] == "cosine"
    assert data.settings["attack"]["class"].endswith(":Cosine")
    result = advjax.attack(NET, SOURCES, GUIDES, attack=Cosine(), **settings)
    table = data.table(["ratio", "trace", "layer"]).to_pydict()
    np.testing.assert_allclose(table["ratio"], result.ratio, rtol=1e-3)
    np.testing.assert_allclose(table["trace"][0], result.trace[0], rtol=1e-3)
    assert table["layer"] == ["ip1"] * 3
    page = write_report(tmp_path / "run").read_text()
    assert "cosine" in page
    assert "objective against evaluations" in page
    run(Job(NET, attack=Renamed(), **settings), pairs, tmp_path / "squared", progress=False)
    page = write_report(tmp_path / "squared").read_text()
    assert "distance / initial distance against evaluations" in page

    other = Job(NET, attack=Cosine(weights=(2.0,)), **settings)
    with pytest.raises(advjax.AdvjaxError, match="holds a run with other settings"):
        run(other, pairs, tmp_path / "run", progress=False)


def test_runs_take_several_layers_and_settings_of_built_in_attacks():
    several = Job(NET, attack=advjax.FeatureOpt(("conv2", "ip1"), weights=(1.0, 2.0)))
    assert several.layer == "conv2+ip1"
    label = Job(NET, attack=advjax.LabelOpt(attempts=3, rounded=True))
    assert label.budget == 3 * 100
    with pytest.raises(advjax.AdvjaxError, match="layer is 'conv1', and attack has"):
        several.check("conv1")
