import numpy as np
import pytest

from advjax.display import infinite, mean, median, quantile


@pytest.mark.parametrize(
    ("values", "expected", "left_out"),
    [
        ([1.0, 3.0], 2.0, 0),
        ([1.0, np.inf, np.nan, 3.0], 2.0, 1),
        ([-np.inf, np.inf, 5.0], 5.0, 2),
        ([np.inf], np.nan, 1),
        ([], np.nan, 0),
    ],
)
def test_means_are_of_the_finite_values_and_the_others_are_counted(values, expected, left_out):
    np.testing.assert_equal(mean(values), expected)
    assert infinite(values) == left_out


def test_quantiles_with_infinite_values_are_values_that_are_there():
    assert quantile([1.0, 2.0, np.inf, np.nan], 1) == np.inf
    assert quantile([1.0, 2.0, np.inf, np.inf], 0.4) == 2.0
    assert median([1.0, np.inf]) == 1.0
