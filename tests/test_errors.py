import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.errors import AdvjaxError, ImageError, UnknownName, WeightsError

LAYERS = ["data", "conv1", "norm1", "pool5", "fc6", "relu6", "fc7"]


@pytest.mark.parametrize("kind", [ImageError, WeightsError, UnknownName])
def test_every_error_is_a_value_error_of_ours(kind):
    assert issubclass(kind, AdvjaxError)
    assert issubclass(kind, ValueError)


@given(st.sampled_from([name for name in LAYERS if len(name) > 3]), st.data())
def test_one_slip_of_the_finger_is_recognised(name, data):
    at = data.draw(st.integers(0, len(name) - 2))
    slip = data.draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],  # a letter left out
                name[:at] + name[at] + name[at:],  # typed twice
                name[:at] + name[at + 1] + name[at] + name[at + 2 :],  # two exchanged
                name.upper(),
                name.title(),
                f" {name}",
            ]
        )
    )
    assert f"did you mean {name!r}?" in str(UnknownName("layer", slip, LAYERS))


@pytest.mark.parametrize(("given", "near"), [("FC7", "fc7"), ("Pool5", "pool5"), ("fc77", "fc7")])
def test_case_plays_no_part(given, near):
    assert f"did you mean {near!r}?" in str(UnknownName("layer", given, LAYERS))


def test_names_are_offered_as_they_are_written():
    assert "did you mean 'Status'?" in str(UnknownName("name", "staus", ["Status", "Box"]))


def test_nothing_like_it():
    text = str(UnknownName("layer", "zzzzzz", LAYERS))
    assert text == (
        "layer 'zzzzzz' is not known (known: data, conv1, norm1, pool5, fc6, relu6, fc7)"
    )


@given(st.text() | st.integers() | st.none())
def test_always_one_line_with_the_value(name):
    text = str(UnknownName("layer", name, iter(LAYERS)))
    assert len(text.splitlines()) == 1
    assert text.startswith(f"layer {name!r} is not known")
    assert all(known in text for known in LAYERS)
