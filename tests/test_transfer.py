"""Transfer: what another network makes of the images, at its own size."""

import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax.errors import AdvjaxError, ImageError
from advjax.transfers import BLOCK, resized

RNG = np.random.default_rng(0)


def network(size, channels=3):
    def function(images):
        means = images.mean((1, 2)) / 255
        return {"means": means, "top": means * 3}

    return advjax.Network(function, (size, size, channels), layer="means", output="top")


def batch(count, size=8, channels=3):
    return RNG.integers(0, 256, (3, count, size, size, channels), dtype=np.uint8)


def test_at_the_same_size_nothing_is_resampled():
    adversarials, sources, guides = batch(5)
    found = advjax.transfer(network(8), adversarials, sources, guides)
    a, s, g = (x.mean((2, 3)) / 255 for x in (adversarials[None], sources[None], guides[None]))
    np.testing.assert_allclose(found.distance, np.linalg.norm(a[0] - g[0], axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        found.initial_distance, np.linalg.norm(s[0] - g[0], axis=1), rtol=1e-4
    )
    np.testing.assert_allclose(found.ratio, found.distance / found.initial_distance, rtol=1e-6)
    np.testing.assert_array_equal(found.label, a[0].argmax(1))
    np.testing.assert_array_equal(found.takes_label, a[0].argmax(1) == g[0].argmax(1))


def test_a_result_evaluated_in_its_own_network_is_itself():
    net = network(8)
    _, sources, guides = batch(4)
    result = advjax.attack(net, sources, guides, solver=advjax.ProjectedLBFGS(3))
    found = advjax.transfer(net, result.adversarial, sources, guides)
    np.testing.assert_allclose(found.ratio, result.ratio, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.source_label, result.source_label)
    np.testing.assert_array_equal(found.guide_label, result.guide_label)


def test_the_ratio_of_no_initial_distance():
    adversarials, sources, _ = batch(2)
    adversarials[1] = sources[1]
    found = advjax.transfer(network(8), adversarials, sources, sources)
    np.testing.assert_array_equal(found.ratio, [np.nan, 0])


@pytest.mark.parametrize("size", [5, 13])
def test_another_size_keeps_flat_images_and_what_is_equal(size):
    flat = np.broadcast_to(RNG.integers(0, 256, (3, 2, 1, 1, 3)), (3, 2, 8, 8, 3)).astype(np.uint8)
    found = advjax.transfer(network(size), *flat)
    expected = np.linalg.norm((np.float64(flat[0]) - flat[2])[:, 0, 0] / 255, axis=1)
    np.testing.assert_allclose(found.distance, expected, rtol=1e-4)
    _, sources, guides = batch(3)
    same = advjax.transfer(network(size), guides, sources, guides)
    assert (same.distance == 0).all()
    assert (same.ratio == 0).all()
    assert same.takes_label.all()


def test_halving_widens_the_filter_and_keeps_the_range():
    stripes = np.zeros((1, 8, 8, 1), np.float32)
    stripes[:, :, ::2] = 255
    half = np.asarray(resized(jnp.asarray(stripes), (4, 4, 1)))
    np.testing.assert_allclose(half[:, :, 1:-1], 127.5, atol=1)  # not 0 or 255: no aliasing
    assert half.min() >= 0
    assert half.max() <= 255


def test_more_pairs_than_a_block_are_the_same_pairs():
    images = batch(BLOCK + 3)
    net = network(8)
    whole = advjax.transfer(net, *images)
    part = advjax.transfer(net, *images[:, -3:])
    np.testing.assert_allclose(whole.distance[-3:], part.distance, rtol=1e-5)


def test_without_output_there_are_no_labels():
    net = advjax.Network(lambda i: {"means": i.mean((1, 2))}, (8, 8, 3))
    found = advjax.transfer(net, *batch(2))
    assert found.label is found.takes_label is None


def test_mistakes_get_one_clear_line():
    a, s, g = batch(3)
    for images, error, message in (
        ((a[:2], s, g), AdvjaxError, "the images have the shapes"),
        ((a[0], s[0], g[0]), AdvjaxError, "the images have the shapes"),
        ((a[..., :1], s[..., :1], g[..., :1]), AdvjaxError, "1 channels and network takes 3"),
        ((a[:0], s[:0], g[:0]), AdvjaxError, "sources is empty"),
        ((a + np.float32(1e3), s, g), ImageError, "adversarials has values from 1000"),
    ):
        with pytest.raises(error, match=message) as caught:
            advjax.transfer(network(8), *images)
        assert "\n" not in str(caught.value)
