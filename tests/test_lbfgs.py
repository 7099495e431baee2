import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from advjax.errors import AdvjaxError
from advjax.solvers import Box, ProjectedLBFGS, ScipyLBFGSB, Status, minimize, project
from advjax.solvers import lbfgs as module


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def with_gradient(f, *data):
    """An Objective from f(*data, x); a pytree, so that compiled code is shared between data."""
    return Partial(_value_gradient_aux, Partial(f, *data))


def _value_gradient_aux(f, x):
    return *jax.value_and_grad(f)(x), None


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(a, center, x):
    d = x - center.astype(x.dtype)
    return 0.5 * d @ a.astype(x.dtype) @ d


def random_quadratic(seed, n, condition=100.0):
    """Data of a convex quadratic whose unconstrained minimum lies outside of most boxes."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    a = (q * np.geomspace(1, condition, n)) @ q.T
    return jnp.asarray(a), jnp.asarray(rng.normal(size=n) * 2)


def box_of(n, lower, upper, dtype=jnp.float32):
    return Box(jnp.full(n, lower, dtype), jnp.full(n, upper, dtype))


solve = jax.jit(minimize, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def one_step(solver, objective, state, box):
    return solver.step(objective, state, box)[0]


def trace(solver, objective, x0, box, steps):
    """The states after 0, 1, ..., `steps` steps."""
    states = [solver.init(x0, box)]
    for _ in range(steps):
        states.append(one_step(solver, objective, states[-1], box))
    return states


def on_host(f, *data):
    """value_and_grad for SciPy."""
    return jax.jit(jax.value_and_grad(Partial(f, *data)))


# Solutions


BOXES = [(-0.5, 0.8), (-2.0, 2.0), (0.1, 3.0), (-np.inf, 0.9), (-np.inf, np.inf)]


@pytest.mark.parametrize(("lower", "upper"), BOXES)
@pytest.mark.parametrize("n", [2, 12])
def test_rosenbrock_agrees_with_scipy(x64, n, lower, upper):
    # From the positive side: from the other there is a second local minimum.
    x0 = np.random.default_rng(n).uniform(0.0, 1.5, n)
    box = box_of(n, lower, upper, jnp.float64)
    solver = ProjectedLBFGS(max_evaluations=2000, ftol=1e-15, gtol=1e-7)
    ours = solve(solver, with_gradient(rosenbrock), jnp.asarray(x0), box)
    scipy = ScipyLBFGSB(2000, ftol=1e-15, gtol=1e-7).minimize(on_host(rosenbrock), x0, box)
    assert ours.best.value == pytest.approx(scipy.value, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(ours.best.x, scipy.x, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_is_solved_and_satisfies_kkt(x64, seed):
    n = 30
    data = random_quadratic(seed, n)
    box = box_of(n, -1.0, 1.0, jnp.float64)
    state = solve(
        ProjectedLBFGS(ftol=0.0, gtol=1e-5), with_gradient(quadratic, *data), jnp.zeros(n), box
    )
    assert state.status == Status.GTOL
    x, g = np.asarray(state.best.x), np.asarray(on_host(quadratic, *data)(state.best.x)[1])
    at_lower, at_upper = x == -1.0, x == 1.0
    inside = ~(at_lower | at_upper)
    assert at_lower.any()
    assert at_upper.any()
    assert np.all(np.abs(g[inside]) <= 1e-5)
    assert np.all(g[at_lower] >= -1e-5)
    assert np.all(g[at_upper] <= 1e-5)
    scipy = ScipyLBFGSB(5000, ftol=0.0, gtol=1e-8).minimize(
        on_host(quadratic, *data), np.zeros(n), box
    )
    np.testing.assert_allclose(x, scipy.x, atol=1e-5)
    np.testing.assert_array_equal(inside, (scipy.x > -1) & (scipy.x < 1))


def test_float32_reaches_scipys_value():
    data = random_quadratic(3, 40)
    box = box_of(40, -1.0, 1.0)
    ours = solve(ProjectedLBFGS(), with_gradient(quadratic, *data), jnp.zeros(40), box)
    scipy = ScipyLBFGSB().minimize(on_host(quadratic, *data), np.zeros(40, np.float32), box)
    assert ours.best.value <= scipy.value * (1 + 1e-5)
    assert ours.best.x.dtype == jnp.float32


def test_convex_problem_of_every_width(x64):
    # Free below, free above, held, boxed and free: each takes its own bound or the minimum.
    center = jnp.array([3.0, -3.0, 7.0, 0.25, 40.0])
    box = Box(
        jnp.array([-jnp.inf, -1.0, 2.0, 0.0, -jnp.inf]),
        jnp.array([1.0, jnp.inf, 2.0, 1.0, jnp.inf]),
    )
    f = lambda x: jnp.sum((x - center) ** 2)  # noqa: E731
    state = solve(ProjectedLBFGS(), with_gradient(f), jnp.zeros(5), box)
    np.testing.assert_allclose(state.best.x, [1.0, -1.0, 2.0, 0.25, 40.0], rtol=1e-6)
    assert state.best.x[2] == 2.0
    assert state.status == Status.GTOL


def test_one_variable():
    f = lambda x: jnp.sum(jnp.cos(x))  # noqa: E731
    box = box_of(1, 0.0, 5.0)
    state = solve(ProjectedLBFGS(), with_gradient(f), jnp.array([2.0]), box)
    np.testing.assert_allclose(state.best.x, [np.pi], atol=2e-3)


def test_everything_held():
    box = Box(jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0]))
    state = solve(ProjectedLBFGS(), with_gradient(jnp.sum), jnp.zeros(2), box)
    assert state.best.x.tolist() == [1.0, 2.0]
    assert (state.status, state.evaluations) == (Status.GTOL, 1)


def test_x0_outside_is_projected_before_the_first_evaluation():
    box = box_of(3, 0.0, 1.0)
    state = ProjectedLBFGS().init(jnp.array([-5.0, 0.5, 9.0]), box)
    assert state.trial.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("half_width", [1.0, np.inf])
@pytest.mark.parametrize(("scale_f", "scale_x"), [(1e-6, 1e3), (1e6, 1e3), (1.0, 1e-3)])
def test_the_path_does_not_depend_on_units(x64, half_width, scale_f, scale_x):
    # f and x in other units: the same points in those units, the first step included.
    data = random_quadratic(0, 8)
    scaled = lambda a, c, k, z: k[0] * quadratic(a, c, z / k[1])  # noqa: E731
    solver = ProjectedLBFGS(ftol=0.0, gtol=0.0)
    paths = []
    for f, x in ((1.0, 1.0), (scale_f, scale_x)):
        objective = with_gradient(scaled, *data, jnp.array([f, x]))
        box = box_of(8, -half_width * x, half_width * x, jnp.float64)
        states = trace(solver, objective, jnp.full(8, 0.1 * x), box, 8)
        paths.append(np.stack([state.trial / x for state in states]))
    np.testing.assert_allclose(paths[1], paths[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_the_first_move_is_a_share_of_the_box_down_the_gradient(x64, share):
    f = lambda x: x @ jnp.array([3.0, -4.0, 0.0])  # noqa: E731
    box = Box(jnp.array([-2.0, -2.0, 1.0]), jnp.array([2.0, 4.0, 1.0]))  # half-diagonal sqrt(13)
    solver = ProjectedLBFGS(first_move=share)
    _, state = trace(solver, with_gradient(f), jnp.array([0.0, 0.0, 1.0]), box, 1)
    expected = np.array([0.0, 0.0, 1.0]) + share * np.sqrt(13) * np.array([-0.6, 0.8, 0.0])
    np.testing.assert_allclose(state.trial, expected, rtol=1e-12)


def test_a_value_of_zero_at_the_start_of_an_infinite_box():
    f = lambda x: jnp.sum(jnp.sin(x) + 0.1 * x**2)  # noqa: E731
    state = solve(ProjectedLBFGS(), with_gradient(f), jnp.zeros(2), box_of(2, -np.inf, np.inf))
    assert state.status in (Status.GTOL, Status.FTOL)
    np.testing.assert_allclose(state.best.x, [-1.3064, -1.3064], atol=1e-3)


# The matrix


def dense_inverse_hessian(pairs, gamma):
    """BFGS update of the inverse Hessian, pair by pair (Nocedal and Wright, 2006, eq. 6.17)."""
    n = pairs[0][0].size
    h = gamma * np.eye(n)
    for s, y in pairs:
        rho = 1 / (y @ s)
        v = np.eye(n) - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    return h


@functools.partial(jax.jit, static_argnums=0)
def direction(m, pairs, gradient, factor=1.0):
    """-H g after these pairs were pushed, one by one, into a ring of m."""
    history = module.empty_history(m, gradient, gradient.dtype)
    along = jnp.zeros((m, 2))
    for s, y in pairs:
        history, along = module.push(history, s, y, gradient, jnp.zeros(()), jnp.bool_(True))
    hg, _ = module.times_gradient(
        history, gradient, along, jnp.vdot(gradient, gradient), jnp.ones(()), factor
    )
    return -hg


def convex_pairs(seed, n, count):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n))
    a = a @ a.T + np.eye(n)
    s = rng.normal(size=(count, n)) * np.geomspace(10, 0.01, count)[:, None]
    return [(v, a @ v) for v in s]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 11, 23])
def test_the_matrix_is_the_dense_recursion_with_the_ring_wrapped(x64, count):
    n, m = 9, 4
    pairs = convex_pairs(count, n, count)
    kept = pairs[-m:]
    gamma = 2.5 * sum(s @ y for s, y in kept) / sum(y @ y for _, y in kept)
    h = dense_inverse_hessian(kept, gamma)
    columns = jax.vmap(lambda e: -direction(m, pairs, e, 2.5))(jnp.eye(n))
    np.testing.assert_allclose(columns.T, h, rtol=1e-7, atol=1e-9 * np.abs(h).max())


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_secant_equation_holds_for_the_newest_pair(x64, count):
    pairs = convex_pairs(count, 7, count)
    s, y = pairs[-1]
    np.testing.assert_allclose(-direction(4, pairs, y), s, rtol=1e-8, atol=1e-10)


def test_pairs_without_positive_curvature_take_no_part(x64):
    good = (np.array([1.0, 0.5, 0.2]), np.array([2.0, 1.0, 3.0]))
    better = (np.array([0.2, -0.3, 0.9]), np.array([0.1, -0.6, 2.0]))
    bad = (np.array([1.0, 0.0, 1.0]), np.array([-1.0, 0.0, -5.0]))
    gradient = np.array([0.3, -0.7, 9.0])
    for at in range(3):
        pairs = [good, better]
        pairs.insert(at, bad)
        np.testing.assert_allclose(
            direction(4, pairs, gradient), direction(4, [good, better], gradient), rtol=1e-12
        )


def test_a_history_without_any_use_gives_the_first_step(x64):
    bad = (np.array([1.0, 0.0]), np.array([-1.0, 3.0]))
    gradient = np.array([0.3, -0.7])
    np.testing.assert_allclose(direction(3, [bad], gradient), -gradient)


def test_fixed_variables_have_no_part_in_the_pairs_nor_in_the_direction(x64):
    # Variable 0 is held by its bound from the start: the others move as if it were not there.
    data = random_quadratic(5, 6)
    push_out = 1e4

    def bounded(a, center, x):
        return quadratic(a, center, x[1:]) + push_out * x[0] * (1 + jnp.sum(x[1:] ** 2))

    solver = ProjectedLBFGS(history=3, ftol=0.0, gtol=0.0)
    x0 = jnp.zeros(7)
    box = Box(jnp.zeros(7).at[1:].set(-9.0), jnp.full(7, 9.0))
    held = trace(solver, with_gradient(bounded, *data), x0, box, 9)[-1]
    rest = Box(box.lower[1:], box.upper[1:])
    alone = trace(solver, with_gradient(quadratic, *data), x0[1:], rest, 9)[-1]
    assert held.trial[0] == 0.0
    np.testing.assert_allclose(held.trial[1:], alone.trial, rtol=1e-6)
    np.testing.assert_array_equal(held.history.pairs[:, :, 0], 0.0)


# The state machine


def test_one_evaluation_a_step_and_the_best_falls_monotonically():
    calls = []
    value_and_grad = jax.value_and_grad(rosenbrock)

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return *value_and_grad(x), None

    states = trace(
        ProjectedLBFGS(), Partial(counted), jnp.array([-1.2, 1.0, 0.3]), box_of(3, -2, 2), 30
    )
    jax.effects_barrier()
    assert len(calls) == 30
    running = [s for s in states if s.status == Status.RUNNING]
    assert [int(s.evaluations) for s in running] == list(range(len(running)))
    best = [float(s.best.value) for s in states]
    assert all(b <= a for a, b in itertools.pairwise(best))
    seen = [float(rosenbrock(s.trial)) for s in states[: int(states[-1].evaluations)]]
    assert best[-1] == pytest.approx(min(seen), rel=1e-6)


def test_budget_is_exact():
    solver = ProjectedLBFGS(max_evaluations=7)
    state = solve(solver, with_gradient(rosenbrock), jnp.full(5, -1.0), box_of(5, -2, 2))
    assert (state.status, state.evaluations) == (Status.MAX_EVALUATIONS, 7)


def test_stationary_start_ends_after_one_evaluation():
    box = box_of(2, 0.0, 1.0)
    f = lambda x: jnp.sum((x + 1) ** 2)  # noqa: E731
    state = solve(ProjectedLBFGS(), with_gradient(f), jnp.zeros(2), box)
    assert (state.status, state.evaluations) == (Status.GTOL, 1)
    assert state.best.value == 2.0


def test_ftol_ends_a_search_that_crawls():
    objective = with_gradient(quadratic, *random_quadratic(1, 20, condition=1e4))
    x0, box = jnp.zeros(20), box_of(20, -1, 1)
    loose = solve(ProjectedLBFGS(ftol=1e-3, gtol=0.0), objective, x0, box)
    tight = solve(ProjectedLBFGS(ftol=1e-6, gtol=0.0), objective, x0, box)
    assert loose.status == Status.FTOL
    assert loose.evaluations < tight.evaluations
    assert tight.best.value < loose.best.value


def test_an_ascent_direction_ends_with_line_search():
    # The gradient lies: no step along it descends, with or without history.
    liar = lambda x: (jnp.sum(x**2) + 1, -2 * x - 1, None)  # noqa: E731
    state = solve(ProjectedLBFGS(), Partial(liar), jnp.ones(3), box_of(3, -np.inf, np.inf))
    assert state.status == Status.LINE_SEARCH
    assert state.best.x.tolist() == [1.0, 1.0, 1.0]


def test_without_a_line_search_every_trial_is_taken(x64):
    """Also where the value rises; and a convex problem is solved as by any L-BFGS."""
    liar = lambda x: (jnp.sum(x**2) + 1, -2 * x - 1, None)  # noqa: E731
    state = solve(ProjectedLBFGS(line_search=False), Partial(liar), jnp.ones(3), box_of(3, -9, 9))
    assert state.x.tolist() == [9.0, 9.0, 9.0]  # where the gradient leads
    assert state.best.x.tolist() == [1.0, 1.0, 1.0]
    data, box = random_quadratic(4, 30), box_of(30, -1.0, 1.0, jnp.float64)
    free = ProjectedLBFGS(gtol=1e-6, line_search=False, scaling=(1.0, 1.0))
    state = solve(free, with_gradient(quadratic, *data), jnp.zeros(30), box)
    exact = ScipyLBFGSB(5000, ftol=0.0, gtol=1e-9).minimize(
        on_host(quadratic, *data), np.zeros(30), box
    )
    assert state.status == Status.GTOL
    np.testing.assert_allclose(state.best.x, exact.x, atol=1e-5)


def test_a_failed_search_drops_the_history_and_goes_on():
    box = box_of(4, -5.0, 5.0)
    objective = with_gradient(quadratic, *random_quadratic(2, 4))
    solver = ProjectedLBFGS(max_backtracks=3)
    state = trace(solver, objective, jnp.ones(4), box, 5)[-1]
    assert state.history.pushed > 1
    # A history that is nonsense: every trial along its direction is far too long.
    nonsense = state.history._replace(yy=state.history.yy * 1e-12)
    state = state._replace(history=nonsense)
    pushed = []
    for _ in range(12):
        state = one_step(solver, objective, state, box)
        pushed.append(int(state.history.pushed))
        if state.status != Status.RUNNING:
            break
    assert 0 in pushed
    assert state.status != Status.LINE_SEARCH
    assert pushed[-1] > 0


def test_nan_at_once_and_later():
    nan = lambda x: (jnp.nan, x, None)  # noqa: E731
    state = solve(ProjectedLBFGS(), Partial(nan), jnp.ones(2), box_of(2, -1, 1))
    assert (state.status, state.evaluations) == (Status.NON_FINITE, 1)
    assert state.best.x.tolist() == [1.0, 1.0]
    assert np.isinf(state.best.value)

    def cliff(x):
        value, gradient = jax.value_and_grad(rosenbrock)(x)
        return value, jnp.where(value < 1.0, jnp.inf, gradient), None

    state = solve(ProjectedLBFGS(), Partial(cliff), jnp.full(4, -1.0), box_of(4, -2, 2))
    assert state.status == Status.NON_FINITE
    assert np.isfinite(state.best.value)
    assert state.best.value == pytest.approx(float(rosenbrock(state.best.x)))
    assert state.best.value >= 1.0


def test_a_state_that_ended_comes_back_bit_for_bit():
    solver = ProjectedLBFGS(max_evaluations=9)
    objective = with_gradient(rosenbrock)
    box = box_of(6, -2, 2)
    state = solve(solver, objective, jnp.full(6, -1.0), box)
    for status in (Status.MAX_EVALUATIONS, Status.TARGET):
        ended = state._replace(status=jnp.int32(status))
        again = one_step(solver, objective, ended, box)
        jax.tree.map(np.testing.assert_array_equal, ended, again)


# Lanes


def lanes(count, n):
    rng = np.random.default_rng(7)
    x0 = jnp.asarray(rng.uniform(-1.5, 1.5, (count, n)), jnp.float32)
    lower = jnp.asarray(rng.uniform(-2, -0.5, (count, n)), jnp.float32)
    upper = jnp.asarray(rng.uniform(0.5, 2, (count, n)), jnp.float32)
    return x0, Box(lower, upper)


@functools.partial(jax.jit, static_argnums=(0, 4))
def run_lanes(solver, objective, x0, box, steps):
    step = jax.vmap(lambda state, box: solver.step(objective, state, box)[0])
    state = jax.vmap(solver.init)(x0, box)
    return jax.lax.fori_loop(0, steps, lambda _, state: step(state, box), state)


def test_vmapped_equals_one_by_one(x64):
    x0, box = jax.tree.map(lambda a: a.astype(jnp.float64), lanes(5, 7))
    solver, objective = ProjectedLBFGS(history=4), with_gradient(rosenbrock)
    together = run_lanes(solver, objective, x0, box, 25)
    for i in range(5):
        alone = trace(solver, objective, x0[i], jax.tree.map(lambda a, i=i: a[i], box), 25)[-1]
        # Sums go in another order, and Rosenbrock's valley magnifies the last digits.
        np.testing.assert_allclose(together.best.x[i], alone.best.x, rtol=1e-4)
        assert together.evaluations[i] == alone.evaluations


def test_a_nan_lane_ends_alone():
    x0, box = lanes(4, 6)
    box = Box(box.lower, box.upper.at[2].set(50.0))

    def cliff(x):
        value, gradient = jax.value_and_grad(rosenbrock)(x)
        return jnp.where(jnp.max(x) > 2.5, jnp.nan, value), gradient, None

    solver = ProjectedLBFGS(history=3)
    healthy = run_lanes(solver, Partial(cliff), x0, box, 12)
    sick = run_lanes(solver, Partial(cliff), x0.at[2].set(10.0), box, 12)
    assert sick.status[2] == Status.NON_FINITE
    assert sick.evaluations[2] == 1
    others = jnp.array([0, 1, 3])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), healthy, sick)
    assert np.all(np.asarray(sick.evaluations)[others] > 1)


def rugged(a, x):
    return jnp.sum(jnp.sin(3 * x + a) + 0.1 * (x - a) ** 2) ** 2 + x[0]


bounds = st.floats(-300, 300, width=32, allow_subnormal=False)


@settings(max_examples=40, deadline=None)
@given(
    ends=st.lists(st.tuples(bounds, bounds), min_size=5, max_size=5),
    x0=st.lists(bounds, min_size=5, max_size=5),
    a=st.lists(st.floats(-5, 5, width=32), min_size=5, max_size=5),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_every_trial_is_in_the_box_exactly(ends, x0, a, dtype):
    ends = np.sort(np.array(ends, np.float32), axis=1)
    box = Box(jnp.asarray(ends[:, 0]), jnp.asarray(ends[:, 1]))
    solver = ProjectedLBFGS(history=3, history_dtype=dtype)
    objective = with_gradient(rugged, jnp.array(a, jnp.float32))
    state = solver.init(jnp.array(x0, jnp.float32), box)
    for _ in range(15):
        for x in (state.trial, state.best.x):
            assert np.all(np.asarray(x) >= ends[:, 0])
            assert np.all(np.asarray(x) <= ends[:, 1])
        state = one_step(solver, objective, state, box)


def test_bfloat16_history_solves_too():
    objective = with_gradient(quadratic, *random_quadratic(4, 30))
    x0, box = jnp.zeros(30), box_of(30, -1.0, 1.0)
    wide = solve(ProjectedLBFGS(), objective, x0, box)
    narrow = solve(ProjectedLBFGS(history_dtype="bfloat16"), objective, x0, box)
    assert narrow.history.pairs.dtype == jnp.bfloat16
    assert narrow.best.x.dtype == jnp.float32
    assert narrow.best.value == pytest.approx(float(wide.best.value), rel=1e-4)


def test_active_bounds_are_the_true_ones(x64):
    center = jnp.array([5.0, -5.0, 0.3, 0.0, -0.2])
    f = lambda x: jnp.sum(jnp.arange(1, 6) * (x - center) ** 2)  # noqa: E731
    box = box_of(5, -1.0, 1.0, jnp.float64)
    state = solve(ProjectedLBFGS(), with_gradient(f), jnp.full(5, 0.5), box)
    x = np.asarray(state.best.x)
    assert x[0] == 1.0
    assert x[1] == -1.0
    np.testing.assert_array_equal(project(state.best.x, box), x)
    np.testing.assert_allclose(x[2:], center[2:], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"history_dtype": "int8"}, "history_dtype"),
        ({"history": 0}, "history"),
        ({"scaling": (0.0, 3.0)}, "scaling"),
        ({"max_evaluations": 0}, "max_evaluations"),
    ],
)
def test_wrong_settings_are_named(arguments, word):
    with pytest.raises(AdvjaxError, match=f"{word} is .*; give"):
        ProjectedLBFGS(**arguments)
