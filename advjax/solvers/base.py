"""The common part of all box-constrained minimisers: box, statuses, start and end of a step.

A solver is a frozen set of hyper-parameters with two pure functions, `init` and `step`, written for
one problem; the engine vmaps them. A step begins with `evaluate` and ends with `finish`; the
solver's mathematics stands between. One `step` evaluates the objective exactly once, at
`state.trial`, and proposes the next trial point. A line search is therefore a state machine across
steps: in an inner loop under vmap every lane would wait for the slowest one.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from advjax.errors import AdvjaxError

Objective = Callable[[Float[Array, "n"]], tuple[Float[Array, ""], Float[Array, "n"], Any]]
"""x -> (value, gradient, aux); aux is any pytree and comes back unchanged in `Info.aux`."""


class Status(enum.IntEnum):
    """The reason why a lane stopped, in words `reason`; `text` also says what to do."""

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
        """The reason and what to do about it, in one line."""
        return _TEXTS[self]

    @property
    def reason(self) -> str:
        """The reason alone."""
        return self.text.split(";")[0]


_TEXTS = {
    Status.RUNNING: "still running",
    Status.MAX_EVALUATIONS: "the budget of evaluations is used; raise max_evaluations to go on",
    Status.FTOL: "the relative decrease of the objective fell under ftol",
    Status.GTOL: "the projected gradient fell under gtol: a stationary point of the box",
    Status.TARGET: "the image in 8 bits has reached the target",
    Status.LABEL: "the image in 8 bits has the label to take",
    Status.LINE_SEARCH: "no step along the projected gradient lowers the value in this precision",
    Status.NON_FINITE: "the value or its gradient was not finite; the best finite point is kept",
}


class Box(NamedTuple):
    """lower <= x <= upper, elementwise."""

    lower: Float[Array, "n"] | Float[np.ndarray, "n"]
    upper: Float[Array, "n"] | Float[np.ndarray, "n"]


class Best(NamedTuple):
    """The best point of all that were evaluated: the solver's answer."""

    x: Float[Array, "n"]
    value: Float[Array, ""]


class Info(NamedTuple):
    """The figures of one step, for plots."""

    value: Float[Array, ""]  # at the point that this step evaluated
    improved: Bool[Array, ""]  # that point is the best so far
    projected_gradient: Float[Array, ""]  # max-norm of P(x - g) - x at the current iterate
    step_size: Float[Array, ""]
    aux: Any


@runtime_checkable
class Solver(Protocol):
    """A box-constrained minimiser: pure, for one problem, one evaluation a step.

    One that compares the value of one evaluation with another's, as a line search does, says so by
    a class variable `compares_values`: it refuses objectives that are drawn at each evaluation.
    Its state is a NamedTuple with the fields of `start`; the engine reads these alone.
    """

    @property
    def max_evaluations(self) -> int:
        """The number of evaluations of the objective after which a lane ends."""
        ...

    def init(self, x0: Float[Array, "n"], box: Box) -> Any:
        """Return the state before the first evaluation, which is at `x0` projected on the box."""
        ...

    def step(self, objective: Objective, state: Any, box: Box) -> tuple[Any, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        ...


def project(x: Float[Array, "n"], box: Box) -> Float[Array, "n"]:
    """Return the nearest point of the box: argmin_z ||z - x||, lower <= z <= upper, exactly."""
    return jnp.clip(x, box.lower, box.upper)


def projected_gradient_norm(
    x: Float[Array, "n"], gradient: Float[Array, "n"], box: Box
) -> Float[Array, ""]:
    """Compute the max-norm of P(x - g) - x: zero at stationary points of the box and only there."""
    return jnp.max(jnp.abs(project(x - gradient, box) - x))


def epsilon(box: Box) -> Float[Array, ""]:
    """Return half the width of the box's widest variable.

    That is the `epsilon` (here: delta) of an attack's box around an image, also where 0 and 255 cut
    off a part of it at other variables; it is less only if they do so at every one.

    Example:
        >>> epsilon(Box(jnp.array([0.0, 90.0]), jnp.array([13.0, 110.0]))).item()
        10.0
    """
    return 0.5 * jnp.max(box.upper - box.lower)


class Evaluation(NamedTuple):
    """The objective at one point, with which every step begins."""

    x: Float[Array, "n"]
    value: Float[Array, ""]
    gradient: Float[Array, "n"]
    aux: Any
    running: Bool[Array, ""]  # the lane is at work; if not, this step changes nothing
    finite: Bool[Array, ""]  # value and gradient are


def start(x0: Float[Array, "n"], box: Box) -> dict[str, Any]:
    """Return the fields that every state has, before the first evaluation."""
    x = project(x0, box)
    return {
        "trial": x,
        "best": Best(x, jnp.full((), jnp.inf, x.dtype)),
        "status": jnp.int32(Status.RUNNING),
        "evaluations": jnp.int32(0),
    }


def evaluate(objective: Objective, state: Any) -> Evaluation:
    """Evaluate the objective at `state.trial`."""
    value, gradient, aux = objective(state.trial)
    # The sum of a gradient with NaN or infinity is not finite.
    finite = jnp.isfinite(value) & jnp.isfinite(jnp.sum(jnp.abs(gradient)))
    running = state.status == Status.RUNNING
    return Evaluation(state.trial, value, gradient, aux, running, finite)


def finish(
    solver: Any,
    state: Any,
    new: Any,
    at: Evaluation,
    *,
    step_size: Any,
    projected_gradient: Float[Array, ""],
    stops: Sequence[tuple[Bool[Array, ""], Status]] = (),
    evaluations: Int[Array, ""] | None = None,
    frozen: Sequence[str] = (),
) -> tuple[Any, Info]:
    """End a step: keep the best point, count, set the status, and freeze a lane that had ended.

    If there are several reasons to stop, the status is the last one of this order: the budget,
    `stops` in their order, a value that is not finite.

    Args:
        solver: Its `max_evaluations` is the budget.
        state: The state before the step.
        new: The state that the step proposes; `best`, `status` and `evaluations` are set here.
        at: The evaluation of this step.
        step_size: For `Info`.
        projected_gradient: For `Info`.
        stops: The solver's own reasons to stop.
        evaluations: The count after this step; one more than before when None.
        frozen: Fields of `new` that are unchanged in every lane that is not running. They need no
            `where`, which would cost a pass over them.
    """
    evaluations = state.evaluations + 1 if evaluations is None else evaluations
    status = jnp.where(evaluations >= solver.max_evaluations, Status.MAX_EVALUATIONS, state.status)
    for condition, reason in (*stops, (~at.finite, Status.NON_FINITE)):
        status = jnp.where(condition, reason, status)
    improved = at.running & at.finite & (at.value < state.best.value)
    best = freeze(improved, Best(at.x, at.value), state.best)
    new = new._replace(best=best, status=status.astype(jnp.int32), evaluations=evaluations)
    # `best` is unchanged where the lane is not running, as `improved` says.
    fixed = {name: getattr(new, name) for name in ("best", *frozen)}
    without = dict.fromkeys(fixed)
    new = freeze(at.running, new._replace(**without), state._replace(**without))
    return new._replace(**fixed), Info(at.value, improved, projected_gradient, step_size, at.aux)


def freeze(running: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Return `new` if the lane is running; return `old`, bit for bit, if it has ended."""
    return jax.tree.map(lambda n, o: jnp.where(running, n, o), new, old)


def check_positive(solver: Any, *names: str) -> None:
    """Raise AdvjaxError unless these attributes of a solver are 1 or more."""
    for name in names:
        if getattr(solver, name) < 1:
            raise AdvjaxError(f"{name} is {getattr(solver, name)}; give 1 or more")


def check_bounds(solver: Any, box: Box) -> None:
    """Raise AdvjaxError if a bound is infinite, outside of jit; inside nothing can be raised."""
    width = box.upper - box.lower
    if not isinstance(width, Tracer) and not bool(jnp.all(jnp.isfinite(width))):
        raise AdvjaxError(
            f"box has an infinite bound, and {type(solver).__name__} steps by a fraction of its "
            "width; give finite bounds or use ProjectedLBFGS"
        )


def minimize(solver: Solver, objective: Objective, x0: Float[Array, "n"], box: Box) -> Any:
    """Take steps until the status is no longer RUNNING; this is the plain loop for one problem.

    Args:
        solver: Any solver of this package that has `init` and `step`.
        objective: x -> (value, gradient, aux).
        x0: Start; projected on the box before it is evaluated.
        box: Bounds, infinite where there are none; `lower == upper` fixes a variable.

    Returns:
        The solver's last state; `state.best` is the answer.
    """
    return jax.lax.while_loop(
        lambda state: state.status == Status.RUNNING,
        lambda state: solver.step(objective, state, box)[0],
        solver.init(x0, box),
    )
