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
from advjax.solvers import Box, SignMomentum, Status, minimize

solve = jax.jit(minimize, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def one_step(solver, objective, state, box):
    return solver.step(objective, state, box)


def quadratic(center, x):
    return jnp.sum((x - center) ** 2), 2 * (x - center), jnp.max(x)


CENTER = jnp.array([3.0, -3.0, 0.3, 0.25])
BOX = Box(jnp.full(4, -1.0), jnp.array([1.0, 1.0, 1.0, 0.25]))
OBJECTIVE = Partial(quadratic, CENTER)


def test_a_separable_quadratic_is_solved_with_its_active_bounds():
    best = solve(SignMomentum(300), OBJECTIVE, jnp.zeros(4), BOX).best
    assert best.x[:2].tolist() == [1.0, -1.0]
    np.testing.assert_allclose(best.x[2:], [0.3, 0.25], atol=0.01)


def test_the_first_steps_are_the_recurrence_written_out():
    solver = SignMomentum(max_evaluations=10, max_step=0.5, min_step=0.005, momentum=0.9)
    state = solver.init(jnp.array([0.2, -0.4, 0.9, 0.1]), BOX)
    x, v = np.array([0.2, -0.4, 0.9, 0.1]), np.zeros(4)
    half = np.array([1.0, 1.0, 1.0, 0.625])
    for k in range(6):
        np.testing.assert_allclose(state.trial, x, atol=1e-6)
        g = 2 * (x - np.asarray(CENTER))
        v = 0.9 * v + g / np.abs(g).mean()
        share = 0.5 * 100 ** -((k / 10) ** 1.5)
        x = np.clip(x - share * half * np.sign(v), BOX.lower, BOX.upper)
        state, info = one_step(solver, OBJECTIVE, state, BOX)
        assert info.step_size == pytest.approx(share)


@pytest.mark.parametrize(
    "scale",
    [2.0**-13, 2.0**13],  # powers of two: not even the rounding changes
)
def test_units_of_the_objective_do_not_matter(scale):
    def scaled(x):
        value, gradient, aux = OBJECTIVE(x)
        return scale * value, scale * gradient, aux

    plain = solve(SignMomentum(20, gtol=0.0), OBJECTIVE, jnp.zeros(4), BOX)
    other = solve(SignMomentum(20, gtol=0.0), Partial(scaled), jnp.zeros(4), BOX)
    np.testing.assert_array_equal(plain.best.x, other.best.x)


def test_best_falls_budget_is_exact_and_an_ended_state_is_frozen():
    solver = SignMomentum(15, gtol=-1.0)  # it would meet the minimum exactly
    state = solver.init(jnp.zeros(4), BOX)
    best, values, points = [np.inf], [], []
    for _ in range(20):
        points.append(np.asarray(state.trial))
        state, info = one_step(solver, OBJECTIVE, state, BOX)
        best.append(float(state.best.value))
        values.append(float(info.value))
        assert info.aux == points[-1].max()
    assert (state.status, state.evaluations) == (Status.MAX_EVALUATIONS, 15)
    assert all(b <= a for a, b in itertools.pairwise(best))
    assert best[15] == best[-1] == min(values[:15])
    np.testing.assert_array_equal(state.best.x, points[int(np.argmin(values[:15]))])
    again, _ = one_step(solver, OBJECTIVE, state, BOX)
    jax.tree.map(np.testing.assert_array_equal, state, again)


def test_stationary_start_ends_after_one_evaluation():
    state = solve(SignMomentum(), OBJECTIVE, jnp.array([1.0, -1.0, 0.3, 0.25]), BOX)
    assert (state.status, state.evaluations) == (Status.GTOL, 1)


def test_zero_gradient_does_not_divide_by_zero():
    flat = lambda x: (jnp.float32(1), jnp.zeros_like(x), None)  # noqa: E731
    state = solve(SignMomentum(5, gtol=-1.0), Partial(flat), jnp.zeros(4), BOX)
    assert state.status == Status.MAX_EVALUATIONS
    assert state.best.x.tolist() == [0.0] * 4


def test_a_nan_lane_ends_alone():
    def cliff(x):
        value, gradient, aux = OBJECTIVE(x)
        return jnp.where(x[2] > 0.9, jnp.nan, value), gradient, aux

    solver = SignMomentum(12)
    x0 = jnp.zeros((3, 4)).at[:, 0].set(jnp.array([0.1, 0.2, 0.3]))
    boxes = Box(*(jnp.broadcast_to(bound, (3, 4)) for bound in BOX))

    @jax.jit
    def run(x0):
        step = jax.vmap(lambda state, box: solver.step(cliff, state, box)[0])
        state = jax.vmap(solver.init)(x0, boxes)
        return jax.lax.fori_loop(0, 12, lambda _, state: step(state, boxes), state)

    healthy, sick = run(x0), run(x0.at[1, 2].set(1.0))
    assert (sick.status[1], sick.evaluations[1]) == (Status.NON_FINITE, 1)
    assert np.isinf(sick.best.value[1])
    others = jnp.array([0, 2])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), healthy, sick)
    alone = solve(solver, Partial(cliff), x0[0], BOX)
    np.testing.assert_allclose(healthy.best.x[0], alone.best.x, atol=1e-6)


bounds = st.floats(-300, 300, width=32, allow_subnormal=False)


@settings(max_examples=40, deadline=None)
@given(
    ends=st.lists(st.tuples(bounds, bounds), min_size=4, max_size=4),
    x0=st.lists(bounds, min_size=4, max_size=4),
    share=st.sampled_from([0.3, 2.0]),
)
def test_every_trial_is_in_the_box_exactly(ends, x0, share):
    ends = np.sort(np.array(ends, np.float32), axis=1)
    box = Box(jnp.asarray(ends[:, 0]), jnp.asarray(ends[:, 1]))
    solver = SignMomentum(10, max_step=share)
    state = solver.init(jnp.array(x0, jnp.float32), box)
    for _ in range(10):
        for x in (state.trial, state.best.x):
            assert np.all(np.asarray(x) >= ends[:, 0])
            assert np.all(np.asarray(x) <= ends[:, 1])
        state, _ = one_step(solver, OBJECTIVE, state, box)


def test_an_infinite_bound_is_named_at_the_door():
    with pytest.raises(AdvjaxError, match=r"box has an infinite bound.*ProjectedLBFGS"):
        SignMomentum().init(jnp.zeros(2), Box(jnp.zeros(2), jnp.array([1.0, jnp.inf])))


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_step": 0.0},
        {"max_step": 3.0},
        {"min_step": 0.0},
        {"min_step": 0.5},
        {"momentum": 1.0},
        {"max_evaluations": 0},
    ],
)
def test_wrong_settings_are_named(arguments):
    with pytest.raises(AdvjaxError, match=f"{next(iter(arguments))} is .*; give"):
        SignMomentum(**arguments)
