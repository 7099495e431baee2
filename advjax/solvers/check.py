"""The contract of a solver as one check, for the solvers of this package and for users' own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax.errors import AdvjaxError
from advjax.solvers.base import Box, Solver, Status, minimize

CURVATURE = np.array([1, 4, 2, 9, 3], np.float32)
CENTRE = np.array([0.5, -3, 0.25, 2, 5], np.float32)  # the second and the last lie outside
BOX = Box(  # the fourth is fixed
    np.array([-1, -1, -1, 2, -1], np.float32), np.array([1, 1, 1, 2, 1], np.float32)
)
START = np.array([9, 0.5, -0.5, 2, -0.5], np.float32)  # the first lies outside of the box


def quadratic(x: Any) -> tuple[Any, Any, Any]:
    """Evaluate a separable quadratic; its minimum over a box is its centre, projected."""
    error = x - CENTRE
    return jnp.sum(CURVATURE * error**2), 2 * CURVATURE * error, jnp.sum(x)


def check_solver(solver: Solver, *, keeps_best: bool = True) -> None:
    """Check that a solver keeps the contract on which the engine relies.

    `init` projects the start on the box and does not evaluate it. A step evaluates once, at
    `state.trial`. All points are in the box. The best point is kept with its value. The budget ends
    the lane, and so does a value that is not finite. An ended lane never changes. A lane does not
    depend on the other lanes.

    Args:
        solver: A solver with a budget of 3 evaluations or more. The check takes longer with more.
        keeps_best: False for a solver whose answer is its last point, such as a signed step.

    Raises:
        AdvjaxError: The part of the contract that does not hold.

    Example:
        >>> from advjax.solvers import SignMomentum
        >>> check_solver(SignMomentum(max_evaluations=10))
    """
    state = solver.init(jnp.asarray(START), BOX)
    _demand(
        int(state.status) == Status.RUNNING and int(state.evaluations) == 0,
        "init gives a state that is RUNNING and counts 0 evaluations",
    )
    _demand(bool(_inside(state.trial)), "init projects the start on the box")

    calls = 0

    def counted(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return quadratic(x)

    elsewhere = getattr(solver, "evaluates_elsewhere", False)
    jax.eval_shape(lambda state: solver.step(counted, state, BOX), state)
    _demand(elsewhere or calls == 1, f"a step evaluates the objective once, not {calls} times")

    step = jax.jit(lambda state: solver.step(quadratic, state, BOX))
    values = []
    while int(state.status) == Status.RUNNING:
        trial, before = state.trial, state
        state, info = step(state)
        values.append(float(info.value))
        if not elsewhere:
            _demand(
                int(state.evaluations) == int(before.evaluations) + 1
                and bool(jnp.isclose(info.value, quadratic(trial)[0], rtol=1e-5))
                and bool(jnp.isclose(info.aux, jnp.sum(trial), rtol=1e-5, atol=1e-5)),
                "a step evaluates at state.trial, counts it and hands value and aux to Info",
            )
        _demand(bool(_inside(state.trial) & _inside(state.best.x)), "all points are in the box")
        _demand(
            len(values) <= solver.max_evaluations, "a lane ends after max_evaluations evaluations"
        )
    value = float(quadratic(state.best.x)[0])
    _demand(np.isclose(float(state.best.value), value, rtol=1e-5), "best.value is that at best.x")
    _demand(not keeps_best or float(state.best.value) <= min(values), "the best point seen is kept")
    _demand(value < values[0], "a quadratic becomes smaller")

    again, _ = step(state)
    _demand(_equal(again, state), "a step leaves a lane that has ended unchanged, bit for bit")

    poisoned = minimize(solver, _not_finite, jnp.asarray(START), BOX)
    _demand(
        (elsewhere or int(poisoned.status) == Status.NON_FINITE)
        and bool(jnp.all(jnp.isfinite(poisoned.best.x))),
        "a value that is not finite ends the lane with NON_FINITE, its best point finite",
    )

    starts = jnp.stack([jnp.asarray(START), jnp.zeros(5)])
    together = jax.vmap(lambda x0: minimize(solver, quadratic, x0, BOX).best.x)(starts)
    alone = [minimize(solver, quadratic, x0, BOX).best.x for x0 in starts]
    _demand(
        bool(jnp.allclose(together, jnp.stack(alone), atol=1e-4)), "lanes do not know each other"
    )


def _not_finite(x: Any) -> Any:
    value, gradient, aux = quadratic(x)
    start = jnp.all(x == jnp.clip(START, *BOX))
    return jnp.where(start, value, jnp.nan), gradient, aux


def _inside(x: Any) -> Any:
    return jnp.all((x >= BOX.lower) & (x <= BOX.upper))


def _equal(a: Any, b: Any) -> bool:
    same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y, equal_nan=True)), a, b)
    return all(jax.tree.leaves(same))


def _demand(holds: Any, what: str) -> None:
    if not holds:
        raise AdvjaxError(f"the solver breaks its contract: {what}")
