"""Attacks on labels against closed forms: linear classifiers, for which the optimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import advjax
from advjax.attacks.label import LabelOpt, cross_entropy, next_c
from advjax.errors import AdvjaxError, UnknownName

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(0)
W = RNG.normal(0, 1, (16, 2)).astype(np.float32)


def logits(images):
    return {"top": ((images - 128) / 64).reshape(len(images), -1) @ W}


def probabilities(images):
    return {"top": jax.nn.softmax(logits(images)["top"])}


NET = advjax.Network(logits, SHAPE, output="top", name="linear")


def labelled(count, seed=1):
    """Grey images (far from 0 and 255), and the label that each does not have."""
    images = np.random.default_rng(seed).uniform(110, 140, (count, *SHAPE)).astype(np.float32)
    return images, 1 - np.asarray(NET(images, "top")["top"]).argmax(1)


def to_the_boundary(images):
    """The Euclidean distance of each to the plane where both classes are equally likely."""
    w = np.float64(W[:, 1] - W[:, 0]) / 64
    return np.abs((np.float64(images) - 128).reshape(len(images), -1) @ w) / np.linalg.norm(w)


def sizes(result, sources):
    change = np.float64(result.adversarial) - np.float64(sources)
    return np.linalg.norm(change.reshape(len(change), -1), axis=1)


def test_cross_entropy_of_logits_and_of_probabilities():
    z = RNG.normal(0, 5, (6, 7)).astype(np.float32)
    labels = np.array([0, 6, 3, 3, 1, 2])
    expected = -log_softmax(np.float64(z), axis=1)[np.arange(6), labels]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(z), jnp.asarray(labels)), expected, 1e-5)
    p = jax.nn.softmax(z)
    np.testing.assert_allclose(cross_entropy(p, jnp.asarray(labels)), expected, 1e-4)


def test_a_probability_of_zero_poisons_nothing():
    p = jnp.array([[0.0, 1.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda p: cross_entropy(p, jnp.array([0]))[0])(p)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("function", [logits, probabilities])
@pytest.mark.parametrize("solver", [None, advjax.ScipyLBFGSB(100)])
def test_label_opt_finds_the_smallest_perturbation_of_a_linear_classifier(function, solver):
    net = advjax.Network(function, SHAPE, output="top")
    sources, labels = labelled(5)
    attack = advjax.LabelOpt(attempts=14)
    result = advjax.attack(net, sources, labels=labels, attack=attack, solver=solver, batch_size=2)
    np.testing.assert_array_equal(result.label, labels)
    expected = to_the_boundary(sources)
    found = sizes(result, sources)
    assert (found >= expected * (1 - 1e-5)).all()
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_more_attempts_come_nearer():
    sources, labels = labelled(4)
    found = [
        sizes(
            advjax.attack(NET, sources, labels=labels, attack=advjax.LabelOpt(attempts=n)), sources
        )
        for n in (4, 8, 12)
    ]
    assert (found[1] <= found[0] * (1 + 1e-6)).all()
    assert (found[2] <= found[1] * (1 + 1e-6)).all()
    assert (found[2] < found[0]).any()


def test_the_first_c_hardly_matters():
    sources, labels = labelled(4)
    for c in (1e-3, 1e3):
        attack = advjax.LabelOpt(c=c, attempts=16)
        result = advjax.attack(NET, sources, labels=labels, attack=attack)
        np.testing.assert_allclose(sizes(result, sources), to_the_boundary(sources), rtol=0.02)


def test_results_do_not_depend_on_order_or_neighbours():
    sources, labels = labelled(7)
    settings = {"attack": "label-opt", "batch_size": 3}
    together = advjax.attack(NET, sources, labels=labels, **settings)
    order = [3, 6, 0, 2, 5, 1, 4]
    shuffled = advjax.attack(NET, sources[order], labels=labels[order], **settings)
    np.testing.assert_array_equal(shuffled.adversarial, together.adversarial[order])
    np.testing.assert_array_equal(shuffled.evaluations, together.evaluations[order])
    pair = advjax.Pair(sources[2], None, label=int(labels[2]))
    (alone,) = advjax.attack_stream(NET, iter([pair]), **settings)
    np.testing.assert_array_equal(alone.adversarial, together.adversarial[2])


def test_the_guides_label_is_taken_when_none_is_given():
    sources, labels = labelled(4)
    guides = labelled(40, seed=2)[0]
    of = np.argmax(NET(guides, "top")["top"], 1)
    guides = np.stack([guides[of == label][0] for label in labels])
    result = advjax.attack(NET, sources, guides, attack="label-opt")
    np.testing.assert_array_equal(result.label, labels)
    np.testing.assert_array_equal(result.guide_label, labels)
    distances = [np.asarray(NET(x, "top")["top"], np.float64) for x in (result.adversarial, guides)]
    np.testing.assert_allclose(
        result.distance, np.linalg.norm(np.subtract(*distances), axis=1), rtol=1e-4
    )


def test_a_source_with_the_label_is_its_own_answer():
    sources, labels = labelled(3)
    labels[1] = 1 - labels[1]
    result = advjax.attack(NET, sources, labels=labels, attack="label-opt")
    np.testing.assert_array_equal(result.adversarial[1], sources[1])
    assert result.evaluations[1] == 1
    assert (sizes(result, sources)[[0, 2]] > 0).all()


def test_a_label_out_of_reach_leaves_the_others_alone():
    """A class that no image has: what the least c gave is returned, and its label says so."""
    w = np.concatenate([W, W.mean(1, keepdims=True)], 1)
    three = advjax.Network(
        lambda i: {"top": ((i - 128) / 64).reshape(len(i), -1) @ w}, SHAPE, output="top"
    )
    sources, labels = labelled(3)
    result = advjax.attack(three, sources, labels=[2, labels[1], labels[2]], attack="label-opt")
    assert result.label[0] != 2
    np.testing.assert_array_equal(result.label[1:], labels[1:])


def test_rounded_takes_the_label_in_8_bits():
    sources, labels = labelled(6)
    sources = np.rint(sources)
    result = advjax.attack(NET, sources, labels=labels, attack=advjax.LabelOpt(rounded=True))
    np.testing.assert_array_equal(result.label_uint8, labels)
    np.testing.assert_array_equal(result.label, labels)


def test_the_whole_box_holds_exactly():
    sources = np.random.default_rng(3).integers(0, 2, (4, *SHAPE)).astype(np.uint8) * 255
    labels = 1 - np.argmax(NET(sources, "top")["top"], 1)
    result = advjax.attack(NET, sources, labels=labels, attack="label-opt")
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 255
    np.testing.assert_array_equal(result.label, labels)


def test_trace_and_evaluations_count_every_attempt():
    sources, labels = labelled(3)
    attack = advjax.LabelOpt(attempts=3)
    result = advjax.attack(NET, sources, labels=labels, attack=attack, trace=True)
    np.testing.assert_array_equal(np.isfinite(result.trace).sum(1), result.evaluations)
    assert (result.evaluations > 3).all()


def test_search_closes_in_by_halves_in_the_logarithm():
    """Whatever the answer: c taken below, missed above, the gap at most a decade, then halved."""
    for answer in (3e-4, 0.7, 55.0):
        tried, taken = [], []
        for _ in range(12):
            tried.append(next_c(1.0, taken))
            taken.append(tried[-1] <= answer)
        below = max(c for c in tried if c <= answer)
        above = min(c for c in tried if c > answer)
        assert above / below < 10 ** (1 / 16)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": 2}, AdvjaxError, "label of pair 0 is 2; linear has the classes 0 to 1"),
        ({"labels": -1}, AdvjaxError, "label of pair 0 is -1"),
        ({"labels": 1.5}, AdvjaxError, "label of pair 0 is 1.5"),
        ({"labels": [0, 1, 0]}, AdvjaxError, "labels has 3 values for 2 pairs"),
        ({}, AdvjaxError, "pair 0 has no label"),
        ({"labels": 1, "attack": "feature-opt"}, AdvjaxError, "guide of pair 0 is None"),
        ({"labels": 1, "target_ratio": 0.5}, AdvjaxError, "target_ratio is 0.5"),
        ({"labels": 1, "attack": "label-hop"}, UnknownName, "did you mean 'label-opt'"),
        ({"labels": 1, "attack": 3}, AdvjaxError, "attack is 3"),
        ({"labels": 1, "attack": LabelOpt(output="tip")}, UnknownName, "did you mean 'top'"),
        ({"labels": 1, "attack": LabelOpt(("top",)), "layer": "top"}, AdvjaxError, "one of them"),
    ],
)
def test_mistakes_get_one_clear_line(settings, error, message):
    with pytest.raises(error, match=message) as caught:
        advjax.attack(NET, labelled(2)[0], **({"attack": "label-opt"} | settings))
    assert "\n" not in str(caught.value)


def test_networks_without_a_usable_output():
    none = advjax.Network(logits, SHAPE, name="bare")
    with pytest.raises(AdvjaxError, match="label-opt needs an output layer, and bare names none"):
        advjax.attack(none, labelled(1)[0], labels=0, attack="label-opt")
    flat = advjax.Network(lambda i: {"map": i}, SHAPE, output="map")
    with pytest.raises(AdvjaxError, match=r"output 'map' has shape \(4, 4, 1\)"):
        advjax.attack(flat, labelled(1)[0], labels=0, attack="label-fgrad")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"c": 0.0}, "c is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"layers": ("a",), "weights": (0.0,)}, "weights"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(AdvjaxError, match=message):
        LabelOpt(**settings)
