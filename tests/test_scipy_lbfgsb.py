import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from advjax.errors import AdvjaxError
from advjax.solvers import Box, ScipyLBFGSB, Status


def rosenbrock(x):
    return rosen(x.astype(np.float64)), rosen_der(x.astype(np.float64))


X0 = np.full(6, -1.0)
BOX = Box(np.full(6, -2.0), np.full(6, 0.7))


def test_it_is_scipys_own_answer():
    ours = ScipyLBFGSB().minimize(rosenbrock, X0, BOX)
    theirs = scipy_minimize(rosenbrock, X0, jac=True, method="L-BFGS-B", bounds=[(-2.0, 0.7)] * 6)
    assert ours.value == theirs.fun
    np.testing.assert_array_equal(ours.x, theirs.x)
    assert (ours.evaluations, ours.iterations) == (theirs.nfev, theirs.nit)


@pytest.mark.parametrize("budget", [1, 2, 7, 20])
def test_budget_is_exact_and_the_best_is_kept(budget):
    calls = []

    def counted(x):
        calls.append(x.copy())
        return rosenbrock(x)

    result = ScipyLBFGSB(max_evaluations=budget).minimize(counted, X0, BOX)
    assert len(calls) == result.evaluations == len(result.values) == budget
    assert result.status == Status.MAX_EVALUATIONS
    assert result.value == result.values.min()
    np.testing.assert_array_equal(result.x, calls[int(result.values.argmin())])


def test_statuses():
    gtol = ScipyLBFGSB().minimize(rosenbrock, np.ones(3), Box(np.zeros(3), np.full(3, 2.0)))
    assert (gtol.status, gtol.evaluations) == (Status.GTOL, 1)
    ftol = ScipyLBFGSB(ftol=1e-2, gtol=0.0).minimize(rosenbrock, X0, BOX)
    assert ftol.status == Status.FTOL
    liar = ScipyLBFGSB().minimize(lambda x: (np.sum(x**2), -2 * x - 1), X0, BOX)
    assert liar.status == Status.LINE_SEARCH


def test_non_finite_keeps_the_best_finite_point():
    def cliff(x):
        value, gradient = rosenbrock(x)
        return (np.nan if value < 5 else value), gradient

    result = ScipyLBFGSB().minimize(cliff, X0, BOX)
    assert result.status == Status.NON_FINITE
    assert result.value >= 5
    assert rosenbrock(result.x)[0] == result.value
    at_once = ScipyLBFGSB().minimize(lambda x: (np.inf, x), X0, BOX)
    assert at_once.status == Status.NON_FINITE
    assert at_once.value == np.inf
    np.testing.assert_array_equal(at_once.x, X0)


def test_callback_sees_every_evaluation_and_may_stop():
    seen = []

    def callback(evaluations, value, x):
        seen.append((evaluations, value))
        assert value == rosenbrock(x)[0]
        return Status.TARGET if value < 10 else None

    result = ScipyLBFGSB().minimize(rosenbrock, X0, BOX, callback)
    assert result.status == Status.TARGET
    assert seen == list(enumerate(result.values, 1))
    assert seen[-1][1] < 10 <= min(value for _, value in seen[:-1])


def test_float32_points_are_in_the_float32_box_exactly():
    rng = np.random.default_rng(0)
    center = rng.normal(size=200).astype(np.float32) * 3
    lower = np.float32(-1 / 3) + rng.normal(size=200).astype(np.float32) / 10
    upper = lower + rng.random(200).astype(np.float32)
    upper[:20] = lower[:20]

    def quadratic(x):
        assert x.dtype == np.float32
        assert np.all((lower <= x) & (x <= upper))
        return np.sum((x - center) ** 2), 2 * (x - center)

    x0 = np.full(200, 9.0, np.float32)
    result = ScipyLBFGSB().minimize(quadratic, x0, Box(lower, upper))
    assert result.x.dtype == np.float32
    np.testing.assert_allclose(result.x, np.clip(center, lower, upper), atol=1e-5)


def test_infinite_bounds():
    box = Box(np.full(2, -np.inf), np.array([np.inf, 1.0]))
    result = ScipyLBFGSB().minimize(lambda x: (np.sum((x - 3) ** 2), 2 * (x - 3)), np.zeros(2), box)
    np.testing.assert_allclose(result.x, [3.0, 1.0], atol=1e-6)


def test_crossed_bounds_are_named():
    with pytest.raises(AdvjaxError, match=r"lower 2.0 above upper 1.0 at variable 1; give"):
        ScipyLBFGSB().minimize(rosenbrock, np.zeros(2), Box(np.array([0.0, 2.0]), np.ones(2)))


def test_a_box_without_width_is_its_own_answer():
    point = np.array([1.0, 2.0], np.float32)
    found = ScipyLBFGSB().minimize(lambda x: (np.sum(x**2), 2 * x), point, Box(point, point))
    assert found.x.tolist() == [1.0, 2.0]
    assert (found.status, found.evaluations) == (Status.GTOL, 1)
