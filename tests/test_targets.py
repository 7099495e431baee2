"""Guides that are not one image, and every attack's promises on every solver."""

import jax
import numpy as np
import optax
import pytest

import advjax
from advjax.errors import AdvjaxError, ImageError
from advjax.solvers import OptaxProjected

SHAPE = (5, 5, 3)
RNG = np.random.default_rng(0)
W = RNG.normal(0, 0.01, (75, 30)).astype(np.float32)
V = RNG.normal(0, 0.3, (30, 4)).astype(np.float32)
SHORT = advjax.ProjectedLBFGS(max_evaluations=15)


def function(images):
    hidden = jax.nn.softplus((images - 128).reshape(len(images), -1) @ W)
    return {"hidden": hidden, "top": hidden @ V}


NET = advjax.Network(function, SHAPE, layer="hidden", output="top")


@pytest.fixture(scope="module")
def images():
    return RNG.integers(0, 256, (2, 5, *SHAPE), dtype=np.uint8)


def activations(images, layer="hidden"):
    return np.asarray(NET(images, layer)[layer])


def test_activations_as_guide_give_what_the_guide_gives(images):
    sources, guides = images
    by_image = advjax.attack(NET, sources, guides, solver=SHORT)
    by_activations = advjax.attack(
        NET, sources, {"hidden": activations(guides)}, layer="hidden", solver=SHORT
    )
    np.testing.assert_allclose(by_activations.distance, by_image.distance, rtol=1e-3)
    np.testing.assert_allclose(by_activations.ratio, by_image.ratio, rtol=1e-3)
    assert by_activations.guide_label is None
    with_output = {"hidden": activations(guides), "top": activations(guides, "top")}
    labelled = advjax.attack(NET, sources, with_output, layer="hidden", solver=SHORT)
    np.testing.assert_array_equal(labelled.guide_label, by_image.guide_label)


def test_several_guides_are_averaged_in_the_layer(images):
    sources, guides = images
    sets = np.stack([guides, guides[::-1], sources[::-1]], 1)
    result = advjax.attack(NET, sources, sets, solver=SHORT)
    means = np.stack([activations(each).mean(0) for each in sets])
    distance = np.linalg.norm(activations(result.adversarial) - means, axis=1)
    np.testing.assert_allclose(result.distance, distance, rtol=1e-4)
    initial = np.linalg.norm(activations(sources) - means, axis=1)
    np.testing.assert_allclose(result.initial_distance, initial, rtol=1e-4)
    of = np.argmax(activations(sets[0], "top"), 1)
    assert np.sum(of == result.guide_label[0]) == np.bincount(of).max()


def test_a_set_of_one_is_that_guide(images):
    sources, guides = images
    one = advjax.attack(NET, sources, guides, solver=SHORT)
    sets = advjax.attack(NET, sources, guides[:, None], solver=SHORT)
    np.testing.assert_array_equal(sets.adversarial, one.adversarial)


def test_a_set_larger_than_a_block_and_a_list_of_images(images):
    sources, guides = images
    many = [*guides, *sources, *guides[:3]]
    (result,) = advjax.attack_stream(NET, [(sources[0], many)], solver=SHORT)
    mean = activations(np.stack(many)).mean(0)
    found = np.linalg.norm(activations(result.adversarial[None])[0] - mean)
    np.testing.assert_allclose(result.distance, found, rtol=1e-4)


SOLVERS = [
    advjax.ProjectedLBFGS(8),
    advjax.SignMomentum(max_evaluations=8),
    OptaxProjected(optax.adam(2.0), max_evaluations=8),
    advjax.ScipyLBFGSB(8),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("attack", ["feature-linear", "label-opt"])
def test_every_solver_runs_every_attack_in_its_box(images, attack, solver):
    sources, guides = images[:, :2]
    spec = advjax.LabelOpt(attempts=3) if attack == "label-opt" else attack
    result = advjax.attack(NET, sources, guides, attack=spec, solver=solver, delta=3.7)
    bound = 255 if attack == "label-opt" else 3.7
    for adversarial in (result.adversarial, result.adversarial_uint8):
        assert np.abs(adversarial.astype(np.float64) - sources).max() <= bound
        assert adversarial.min() >= 0
        assert adversarial.max() <= 255
    assert np.isfinite(result.objective).all()
    assert (result.evaluations > 0).all()


@pytest.mark.parametrize("attack", ["feature-linear", "feature-fgrad", "label-opt"])
def test_results_do_not_depend_on_order_or_lane(images, attack):
    pairs = list(zip(*images, strict=True))
    settings = {"attack": attack, "batch_size": 2}
    if attack != "feature-fgrad":
        settings["solver"] = SHORT
    first = list(advjax.attack_stream(NET, pairs, **settings))
    order = [3, 0, 4, 2, 1]
    second = list(advjax.attack_stream(NET, [pairs[i] for i in order], **settings))
    for place, index in enumerate(order):
        np.testing.assert_array_equal(second[place].adversarial, first[index].adversarial)
        assert second[place].evaluations == first[index].evaluations


def test_stopping_rules_hold_for_the_linear_attack(images):
    sources, guides = images
    result = advjax.attack(
        NET, sources, guides, attack="feature-linear", delta=60, target_ratio=0.6, trace=True
    )
    assert (result.status == advjax.Status.TARGET).any()
    done = result.status == advjax.Status.TARGET
    assert (result.ratio_uint8[done] <= 0.6).all()
    stopped = advjax.attack(
        NET, sources, guides, attack="feature-linear", delta=100, until_label=True
    )
    taken = stopped.status == advjax.Status.LABEL
    assert taken.any()
    np.testing.assert_array_equal(stopped.label_uint8[taken], stopped.guide_label[taken])


def test_until_label_aims_at_the_pairs_own_label(images):
    sources, guides = images
    label = int(np.argmax(activations(guides, "top"), 1)[0])
    pair = advjax.Pair(sources[0], {"hidden": activations(guides)[0]}, 100.0, label=label)
    (result,) = advjax.attack_stream(NET, [pair], until_label=True)
    assert result.label == label


@pytest.mark.parametrize(
    ("guide", "settings", "error", "message"),
    [
        ({"hidden": np.zeros(29)}, {}, AdvjaxError, r"guide of pair 0 is float64\[29\] in layer"),
        ({"hiden": np.zeros(30)}, {}, AdvjaxError, "did you mean 'hidden'"),
        ({"top": np.zeros(4)}, {}, AdvjaxError, "guide of pair 0 has no layer 'hidden'"),
        ({"hidden": np.full(30, np.inf)}, {}, AdvjaxError, "not finite"),
        ([], {}, AdvjaxError, "guide of pair 0 has no images"),
        (np.zeros((2, 5, 5, 1)), {}, ImageError, "guide of pair 0 has shape"),
        (None, {}, AdvjaxError, "guide of pair 0 is None, and feature-opt needs one"),
        ({"hidden": np.zeros(30)}, {"until_label": True}, AdvjaxError, "no label to stop at"),
        ({"hidden": np.zeros(30)}, {"attack": "label-opt"}, AdvjaxError, "pair 0 has no label"),
    ],
)
def test_guides_that_cannot_be(images, guide, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        list(advjax.attack_stream(NET, [(images[0, 0], guide)], solver=SHORT, **settings))
    assert "\n" not in str(caught.value)


def test_batches_of_guides_that_cannot_be(images):
    with pytest.raises(AdvjaxError, match="sources has 5 images and guides has 4"):
        advjax.attack(NET, images[0], {"hidden": np.zeros((4, 30))})
    with pytest.raises(AdvjaxError, match="layers of different lengths"):
        advjax.attack(NET, images[0], {"hidden": np.zeros((4, 30)), "top": np.zeros((5, 4))})
