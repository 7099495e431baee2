"""Stopping on what is saved: no status says more than the 8-bit image keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.errors import AdvjaxError

NET = advjax.load("lenet", "orthonormal")
SOURCES, GUIDES = np.random.default_rng(0).integers(0, 256, (2, 4, 28, 28, 1), np.uint8)
COSINE = advjax.FeatureOpt(metric="cosine")
SIGN = advjax.SignMomentum(60)


def activations(images):
    return np.asarray(NET(images, "ip1")["ip1"], np.float64)


def cosines(images):
    a, g = activations(images), activations(GUIDES)
    return np.sum(a * g, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(g, axis=1)


def attack(**more):
    return advjax.attack(NET, SOURCES, GUIDES, **{"delta": 40, "solver": SIGN} | more)


def test_a_cosine_is_that_of_the_file():
    goal = float(np.median(attack(attack=COSINE).cosine_uint8)) - 0.02
    found = attack(attack=COSINE, until=advjax.Until(cosine=goal))
    done = found.status == advjax.Status.TARGET
    assert done.any()
    assert (found.cosine_uint8[done] >= goal).all()
    np.testing.assert_allclose(cosines(found.adversarial_uint8), found.cosine_uint8, atol=1e-5)
    assert (found.cosine_uint8[~done] < goal).all()
    assert (found.evaluations[done] < 60).all()


def test_a_distance_ends_any_metric_and_any_solver():
    free = attack(attack=COSINE)
    a, g = activations(free.adversarial_uint8), activations(GUIDES)
    goal = float(np.median(np.linalg.norm(a - g, axis=1)))
    for solver in (SIGN, advjax.ProjectedLBFGS(60), advjax.ScipyLBFGSB(60)):
        found = attack(solver=solver, until=advjax.Until(distance=goal))
        done = found.status == advjax.Status.TARGET
        assert done.any()
        np.testing.assert_array_equal(done, found.distance_uint8 <= np.float32(goal))


class Coarse:
    """A network whose figures jump where pixels are a half: rounding always leaves the goal."""

    def __call__(self, images):
        past = (jnp.abs(images - jnp.rint(images)) < 1e-3).astype(jnp.float32)
        return {"top": jnp.stack([images.mean((1, 2, 3)), 1e4 * past.mean((1, 2, 3))], 1)}


def test_what_rounding_undoes_is_no_success():
    net = advjax.Network(Coarse(), (4, 4, 1), output="top")
    source = np.full((1, 4, 4, 1), 100.0, np.float32)
    guide = {"top": np.array([[104.4, 0.0]])}
    settings = {"solver": "lbfgs", "max_evaluations": 30, "delta": 8}
    found = advjax.attack(net, source, guide, until=advjax.Until(distance=5.0), **settings)
    assert found.distance[0] < 5 < found.distance_uint8[0]
    assert found.status[0] not in (advjax.Status.TARGET, advjax.Status.LABEL)


def test_a_figure_that_differs_when_measured_again_lets_the_pair_go_on(monkeypatch):
    from advjax.engine.stream import Stream

    refused, holds = [], Stream.holds

    def strict(stream, answer):
        refused.append(answer.evaluations)
        return len(refused) > 2 and holds(stream, answer)

    pair = [(SOURCES[0], GUIDES[0])]
    settings = {"delta": 40, "solver": SIGN, "until": advjax.Until(ratio=0.8)}
    (plain,) = advjax.attack_stream(NET, pair, **settings)
    monkeypatch.setattr(Stream, "holds", strict)
    (later,) = advjax.attack_stream(NET, pair, **settings)
    assert refused[0] == plain.evaluations
    assert refused == sorted(set(refused))
    assert later.evaluations == refused[-1] > plain.evaluations
    assert later.status == advjax.Status.TARGET
    assert later.ratio_uint8 <= 0.8
    monkeypatch.setattr(Stream, "holds", lambda *args: False)
    (never,) = advjax.attack_stream(NET, pair, **settings)
    assert never.status == advjax.Status.MAX_EVALUATIONS
    assert never.evaluations == 60


def test_the_old_arguments_are_a_part_of_it():
    for old, new in (
        ({"target_ratio": 0.7}, advjax.Until(ratio=0.7)),
        ({"until_label": True}, advjax.Until(label=True)),
    ):
        one, other = attack(**old), attack(until=new)
        np.testing.assert_array_equal(one.adversarial, other.adversarial)
        np.testing.assert_array_equal(one.status, other.status)
        assert (one.status != advjax.Status.MAX_EVALUATIONS).any()
    taken = other.status == advjax.Status.LABEL
    np.testing.assert_array_equal(taken, other.label_uint8 == other.guide_label)


def test_pairs_of_an_iterator_need_the_streams_ratio_beside_their_own():
    pairs = [advjax.Pair(SOURCES[0], GUIDES[0], 40.0, target_ratio=0.8)]
    (listed,) = advjax.attack_stream(NET, pairs, solver=SIGN)
    (with_both,) = advjax.attack_stream(NET, iter(pairs), solver=SIGN, target_ratio=0.1)
    assert listed.status == with_both.status == advjax.Status.TARGET
    assert listed.evaluations == with_both.evaluations
    with pytest.raises(AdvjaxError, match="has a target_ratio, which the stream was not prepared"):
        list(advjax.attack_stream(NET, iter(pairs), solver=SIGN))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"until": 0.5}, r"until is 0.5; give advjax.Until"),
        ({"until": advjax.Until(ratio=0.5), "target_ratio": 0.4}, "until has the ratio 0.5"),
        (
            {"until": advjax.Until(cosine=0.5), "layer": ("conv1", "ip1")},
            "has the layers conv1, ip1",
        ),
        ({"until": advjax.Until(cosine=0.5), "attack": "label-opt"}, "label-opt has no distance"),
    ],
)
def test_mistakes_get_one_clear_line(settings, message):
    with pytest.raises(AdvjaxError, match=message) as caught:
        advjax.attack(NET, SOURCES, GUIDES, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [{"cosine": 1.0}, {"distance": 0.0}, {"ratio": 1.0}])
def test_numbers_that_no_image_can_have(bad):
    with pytest.raises(AdvjaxError, match=next(iter(bad))):
        advjax.Until(**bad)
