"""What all box-constrained minimisers share: the box, the statuses and the shape of a step.

A solver is a frozen set of hyper-parameters with two pure functions, `init` and `step`, written for
one problem; the engine vmaps them. One `step` evaluates the objective exactly once, at
`state.trial`, and proposes the next trial point: a line search is a state machine across steps,
because an inner loop under vmap would cost every lane the slowest lane's trips.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Objective = Callable[[Float[Array, "n"]], tuple[Float[Array, ""], Float[Array, "n"], Any]]
"""x -> (value, gradient, aux); aux is any pytree and comes back unchanged in `Info.aux`."""


class Status(enum.IntEnum):
    """Why a lane stopped; the text is what a person should know or do."""

    RUNNING = 0
    MAX_EVALUATIONS = 1
    FTOL = 2
    GTOL = 3
    TARGET = 4
    LABEL = 5
    LINE_SEARCH = 6
    NON_FINITE = 7

    @property
    def text(self) -> str:
        """One line for people."""
        return _TEXTS[self]


_TEXTS = {
    Status.RUNNING: "still running",
    Status.MAX_EVALUATIONS: "the budget of evaluations is used; raise max_evaluations to go on",
    Status.FTOL: "the relative decrease of the objective fell under ftol",
    Status.GTOL: "the projected gradient fell under gtol: a stationary point of the box",
    Status.TARGET: "the target value was reached",
    Status.LABEL: "the adversarial takes the guide's label",
    Status.LINE_SEARCH: "no step along the projected gradient lowers the value in this precision",
    Status.NON_FINITE: "the value or its gradient was not finite; the best finite point is kept",
}


class Box(NamedTuple):
    """lower <= x <= upper, elementwise."""

    lower: Float[Array, "n"] | Float[np.ndarray, "n"]
    upper: Float[Array, "n"] | Float[np.ndarray, "n"]


class Best(NamedTuple):
    """The best point seen, the only one that is ever returned."""

    x: Float[Array, "n"]
    value: Float[Array, ""]


class Info(NamedTuple):
    """What a person would plot of one step."""

    value: Float[Array, ""]  # at the point that this step evaluated
    improved: Bool[Array, ""]  # that point is the best so far
    projected_gradient: Float[Array, ""]  # max-norm of P(x - g) - x at the current iterate
    step_size: Float[Array, ""]
    aux: Any


class State(Protocol):
    """The fields that every solver's state (a NamedTuple) has; the engine reads these alone."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]


@runtime_checkable
class Solver(Protocol):
    """A box-constrained minimiser: pure, for one problem, one evaluation a step."""

    @property
    def max_evaluations(self) -> int:
        """Evaluations of the objective after which a lane ends."""
        ...

    def init(self, x0: Float[Array, "n"], box: Box) -> Any:
        """The state before the first evaluation, which will be at `x0` projected on the box."""
        ...

    def step(self, objective: Objective, state: Any, box: Box) -> tuple[Any, Info]:
        """Evaluates at `state.trial`; a state whose status is not RUNNING comes back unchanged."""
        ...


def project(x: Float[Array, "n"], box: Box) -> Float[Array, "n"]:
    """The nearest point of the box: argmin_z ||z - x|| subject to lower <= z <= upper, exactly."""
    return jnp.clip(x, box.lower, box.upper)


def projected_gradient_norm(
    x: Float[Array, "n"], gradient: Float[Array, "n"], box: Box
) -> Float[Array, ""]:
    """Max-norm of P(x - g) - x, which is zero at the stationary points of the box alone."""
    return jnp.max(jnp.abs(project(x - gradient, box) - x))


def update_best(
    best: Best, x: Float[Array, "n"], value: Float[Array, ""], allowed: Bool[Array, ""]
) -> tuple[Best, Bool[Array, ""]]:
    """The better of `best` and (x, value), and whether that is the new one; needs `allowed`."""
    improved = allowed & (value < best.value)
    return Best(
        *(jnp.where(improved, n, o) for n, o in zip((x, value), best, strict=True))
    ), improved


def freeze(running: Bool[Array, ""], new: Any, old: Any) -> Any:
    """`new` where the lane is still running, `old`, bit for bit, where it has ended."""
    return jax.tree.map(lambda n, o: jnp.where(running, n, o), new, old)


def minimize(solver: Solver, objective: Objective, x0: Float[Array, "n"], box: Box) -> Any:
    """Steps until the status is no longer RUNNING: the plain driver, for one problem.

    Args:
        solver: Any solver of this package that has `init` and `step`.
        objective: x -> (value, gradient, aux).
        x0: Start; projected on the box before it is evaluated.
        box: Bounds, infinite where there are none; `lower == upper` holds a variable.

    Returns:
        The solver's last state; `state.best` is the answer.
    """
    return jax.lax.while_loop(
        lambda state: state.status == Status.RUNNING,
        lambda state: solver.step(objective, state, box)[0],
        solver.init(x0, box),
    )
