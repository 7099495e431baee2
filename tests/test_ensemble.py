"""Ensembles: the members' own activations and gradients, at their own sizes; the matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.errors import AdvjaxError, UnknownName

RNG = np.random.default_rng(0)


def network(size, seed, bounds=(0, 255)):
    matrix = np.random.default_rng(seed).normal(size=(size * size, 4)).astype(np.float32)

    def function(params, images):
        out = jnp.tanh(images.reshape(len(images), -1) / bounds[1] @ params / size)
        return {"out": out, "classes": 3 * out}

    return advjax.Network(
        function, (size, size, 1), jnp.asarray(matrix), layer="out", output="classes", bounds=bounds
    )


A, B = network(8, 0), network(6, 1, (0, 1))
BOTH = advjax.ensemble({"a": A, "b": B})
SOURCES, GUIDES = RNG.integers(0, 256, (2, 3, 8, 8, 1), dtype=np.uint8)


def shrunk(images):
    return np.asarray(jax.image.resize(images.astype(np.float32), (len(images), 6, 6, 1), "linear"))


def test_each_member_sees_the_image_at_its_own_size():
    found = BOTH(SOURCES, ("a/out", "b/out"))
    np.testing.assert_allclose(found["a/out"], A(SOURCES)["out"], rtol=1e-5)
    np.testing.assert_allclose(found["b/out"], B(shrunk(SOURCES) / 255)["out"], rtol=1e-5)
    assert BOTH.check_layers(None) == ("a/out", "b/out")
    assert list(BOTH.layers) == ["a/out", "a/classes", "b/out", "b/classes", "output"]


def test_its_output_is_the_mean_of_probabilities():
    logits = A(SOURCES, "classes")["classes"], B(shrunk(SOURCES) / 255, "classes")["classes"]
    mean = np.mean([jax.nn.softmax(each) for each in logits], 0)
    np.testing.assert_allclose(BOTH(SOURCES, "output")["output"], mean, rtol=1e-5)
    other = advjax.Network(lambda x: {"out": x.mean((1, 2))}, (8, 8, 1), output="out")
    assert advjax.ensemble({"a": A, "c": other}).output is None


def test_an_attack_comes_near_in_every_member_and_says_how_near():
    attack = advjax.FeatureOpt(metric="cosine")
    found = advjax.attack(BOTH, SOURCES, GUIDES, attack=attack, delta=40, max_evaluations=60)
    for i, (net, size) in enumerate(((A, np.float32), (B, shrunk))):
        images = [size(x) / (255 if net is B else 1) for x in (found.adversarial, SOURCES, GUIDES)]
        adversarial, source, guide = (np.asarray(net(x)["out"], np.float64) for x in images)

        def angle(x, guide=guide):
            norms = np.linalg.norm(x, axis=1) * np.linalg.norm(guide, axis=1)
            return 1 - np.sum(x * guide, 1) / norms

        own = angle(adversarial) / angle(source)
        np.testing.assert_allclose(found.layer_ratios[:, i], own, rtol=1e-2)
        assert (own < 0.9).all()
    weighed = advjax.attack(
        *(BOTH, SOURCES, GUIDES), attack=attack, delta=40, max_evaluations=60, layer_weights=(9, 1)
    )
    assert weighed.layer_ratios[:, 0].mean() < found.layer_ratios[:, 0].mean()


def test_layer_ratios_are_saved(tmp_path):
    found = advjax.attack(BOTH, SOURCES, GUIDES, max_evaluations=2)
    found.save(tmp_path / "pairs")
    kept = advjax.AttackResult.load(tmp_path / "pairs")
    np.testing.assert_allclose(kept.layer_ratios, found.layer_ratios)


def test_a_matrix_is_every_result_in_every_network():
    results = {"sources": SOURCES, "guides": GUIDES}
    found = advjax.transfer({"a": A, "b": B.in_levels}, results, SOURCES, GUIDES)
    assert found.surrogates == ("sources", "guides")
    assert found.targets == ("a", "b")
    np.testing.assert_allclose(found.ratio[0], 1, rtol=1e-6)
    np.testing.assert_allclose(found.ratio[1], 0, atol=1e-6)
    np.testing.assert_allclose(found.cosine[1], 1, rtol=1e-5)
    assert found.takes_label[1].all()
    single = advjax.transfer(B.in_levels, SOURCES, SOURCES, GUIDES)
    np.testing.assert_array_equal(found.cosine[0, 1], single.cosine)
    a, g = (np.asarray(B(shrunk(x) / 255)["out"], np.float64) for x in (SOURCES, GUIDES))
    cosine = np.sum(a * g, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(single.initial_cosine, cosine, rtol=1e-4)
    assert repr(found).splitlines()[0].split() == ["a", "b"]


def test_survivors_are_near_and_not_the_same():
    smooth = np.broadcast_to(np.arange(0, 240, 10)[:, None, None], (2, 24, 24, 3)).astype(np.uint8)
    found = advjax.survivors(smooth)
    np.testing.assert_array_equal(found["file"], smooth)
    for name in ("jpeg", "resize", "both"):
        assert found[name].shape == smooth.shape
        change = np.abs(found[name].astype(int) - smooth)
        assert change.max() > 0
        assert change.mean() < 5
    assert advjax.survivors(SOURCES)["jpeg"].shape == SOURCES.shape


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: advjax.ensemble({}), AdvjaxError, "networks is no dict"),
        (lambda: advjax.ensemble({"a/b": A}), AdvjaxError, "a member is called 'a/b'"),
        (lambda: advjax.ensemble({"a": A}, (8, 8, 3)), AdvjaxError, "3 channels and a takes 1"),
        (lambda: advjax.transfer({"a": A}, SOURCES, SOURCES, GUIDES), AdvjaxError, "adversarials"),
        (
            lambda: advjax.transfer({"a": A}, {"x": SOURCES}, SOURCES, GUIDES, layer={"b": "out"}),
            UnknownName,
            "network of layer",
        ),
        (lambda: advjax.survivors(SOURCES[0]), AdvjaxError, "images is uint8"),
    ],
)
def test_mistakes_get_one_clear_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
