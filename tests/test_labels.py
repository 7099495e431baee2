import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advjax.errors import AdvjaxError
from advjax.metrics import leaves_label, takes_label, top_label

LABELS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=8)


@settings(deadline=None)
@given(LABELS)
def test_they_are_plain_comparisons(rows):
    label, source, guide = (np.array(part) for part in zip(*rows, strict=True))
    takes, leaves = takes_label(label, guide), leaves_label(label, source)
    for i, (of_a, of_s, of_g) in enumerate(rows):
        assert bool(takes[i]) == (of_a == of_g)
        assert bool(leaves[i]) == (of_a != of_s)
    # Whoever takes the label of a guide of another class has left the source's.
    assert (np.asarray(leaves)[np.asarray(takes) & (source != guide)]).all()


def test_top_label_is_the_largest_output_the_first_of_equals():
    outputs = np.array([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]], np.float32)
    np.testing.assert_array_equal(jax.jit(top_label)(outputs), [1, 0])


def test_mistakes_are_named():
    with pytest.raises(AdvjaxError, match="guide is None: the labels are missing; name"):
        takes_label(np.array([1]), None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(AdvjaxError, match="source has 3 labels for 2 images"):
        leaves_label(np.array([1, 2]), np.array([1, 2, 3]))
    with pytest.raises(AdvjaxError, match=r"label is float32\[1\]; give one class number"):
        takes_label(np.array([0.5]), np.array([1]))
    with pytest.raises(AdvjaxError, match=r"outputs has shape \(3,\); give"):
        top_label(np.zeros(3))
