import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from advjax.errors import AdvjaxError
from advjax.solvers import Box, OptaxProjected, Status, minimize

solve = jax.jit(minimize, static_argnums=0)
CENTER = jnp.array([3.0, -3.0, 0.3])
BOX = Box(jnp.full(3, -1.0), jnp.full(3, 1.0))


@Partial
def quadratic(x):
    return jnp.sum((x - CENTER) ** 2), 2 * (x - CENTER), None


@functools.partial(jax.jit, static_argnums=0)
def one_step(solver, state):
    return solver.step(quadratic, state, BOX)


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), optax.adam(0.05), optax.sgd(0.05, momentum=0.9), optax.lion(0.01)],
    ids=["sgd", "adam", "momentum", "lion"],
)
def test_any_optimizer_finds_the_constrained_minimum(optimizer):
    best = solve(OptaxProjected(optimizer, 400), quadratic, jnp.zeros(3), BOX).best
    np.testing.assert_allclose(best.x, [1.0, -1.0, 0.3], atol=0.02)


def test_it_is_the_optimizer_then_the_projection():
    optimizer = optax.adam(0.7)
    solver = OptaxProjected(optimizer)
    state = solver.init(jnp.zeros(3), BOX)
    x, inner = jnp.zeros(3), optimizer.init(jnp.zeros(3))
    for _ in range(6):
        np.testing.assert_allclose(state.trial, x, rtol=1e-6)
        state, _ = one_step(solver, state)
        update, inner = optimizer.update(2 * (x - CENTER), inner, x)
        x = jnp.clip(x + update, -1.0, 1.0)


def test_schedules_and_optimizers_that_look_at_the_value_work():
    # reduce_on_plateau needs `value`, which the step hands on.
    optimizer = optax.chain(optax.adam(0.3), optax.contrib.reduce_on_plateau(patience=5))
    best = solve(OptaxProjected(optimizer, 200), quadratic, jnp.zeros(3), BOX).best
    np.testing.assert_allclose(best.x, [1.0, -1.0, 0.3], atol=0.05)


def test_budget_best_and_frozen():
    solver = OptaxProjected(optax.sgd(1.05), 9)  # oscillates: the last point is not the best
    state = solver.init(jnp.zeros(3), BOX)
    values = []
    for _ in range(9):
        state, info = one_step(solver, state)
        values.append(float(info.value))
    assert (state.status, state.evaluations) == (Status.MAX_EVALUATIONS, 9)
    assert state.best.value == min(values)
    assert quadratic(state.best.x)[0] == pytest.approx(min(values))
    again, _ = one_step(solver, state)
    jax.tree.map(np.testing.assert_array_equal, state, again)


def test_stationary_start_ends_after_one_evaluation():
    state = solve(OptaxProjected(optax.sgd(0.1)), quadratic, jnp.array([1.0, -1.0, 0.3]), BOX)
    assert (state.status, state.evaluations) == (Status.GTOL, 1)


def test_the_box_holds_for_a_wild_step():
    solver = OptaxProjected(optax.sgd(1e6, momentum=0.9), 10)
    state = solver.init(jnp.array([50.0, 0.0, -50.0]), BOX)
    for _ in range(10):
        assert jnp.all(jnp.abs(state.trial) <= 1.0)
        state, _ = one_step(solver, state)


def test_a_nan_lane_ends_alone():
    solver = OptaxProjected(optax.adam(0.1), 8)
    boxes = Box(*(jnp.broadcast_to(bound, (3, 3)) for bound in BOX))

    @jax.jit
    def run(weight):
        def step(state, box, w):
            weighted = lambda x: jax.tree.map(lambda a: w * a, quadratic(x))  # noqa: E731
            return solver.step(weighted, state, box)[0]

        state = jax.vmap(solver.init)(jnp.zeros((3, 3)), boxes)
        body = lambda _, state: jax.vmap(step)(state, boxes, weight)  # noqa: E731
        return jax.lax.fori_loop(0, 8, body, state)

    healthy, sick = run(jnp.ones(3)), run(jnp.array([1.0, jnp.nan, 1.0]))
    assert (sick.status[1], sick.evaluations[1]) == (Status.NON_FINITE, 1)
    others = jnp.array([0, 2])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), healthy, sick)


def test_something_else_than_an_optimizer_is_named():
    with pytest.raises(AdvjaxError, match=r"optimizer is 0\.1; give"):
        OptaxProjected(0.1)  # pyright: ignore[reportArgumentType]
