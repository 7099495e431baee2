"""Momentum sign descent with an annealed step: no line search, no curvature, few evaluations."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from advjax.errors import AdvjaxError
from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    Status,
    check_bounds,
    check_positive,
    evaluate,
    finish,
    project,
    projected_gradient_norm,
    start,
)


class SignState(NamedTuple):
    """The point to evaluate next and the running mean of the gradients."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]
    velocity: Float[Array, "n"]


@dataclasses.dataclass(frozen=True)
class SignMomentum:
    """Iterated sign steps with momentum, projected on the box (Dong et al., 2018, eq. 6-7).

    The gradient is divided by its mean absolute value and added to the decayed velocity. The point
    moves by the velocity's sign times a step, which falls from `max_step` to `min_step` over the
    budget: `max_step (min_step / max_step)^(t^1.5)`, where t is the fraction of the budget that is
    used. With steps of a constant size the distance to the minimum cannot fall below that size. A
    nearly geometric fall takes many small steps. It ends at smaller values than a cosine schedule
    if the guide is within reach (docs/benchmarks.md). Not every step descends, so the best point is
    kept.

    Attributes:
        max_evaluations: The budget, over which the step falls. A lane uses all of it, unless it
            meets a stationary point or a value that is not finite.
        max_step: First step of each variable, as a fraction of half the box's width; 0.3 is 3
            levels of 255 in a box of +-10.
        min_step: Last step, likewise.
        momentum: Decay of the velocity.
        gtol: Stop when the max-norm of `P(x - g) - x` is at or under this.

    Example:
        >>> import jax.numpy as jnp
        >>> from advjax.solvers import Box, SignMomentum, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(SignMomentum(), objective, jnp.zeros(2), box).best.x.round(2).tolist()
        [1.0, 3.0]
    """

    max_evaluations: int = 500
    max_step: float = 0.3
    min_step: float = 0.003
    momentum: float = 0.95
    gtol: float = 1e-5

    # No line search compares values along the gradient.
    accepts_smoothing: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(self, "max_evaluations")
        if not 0 < self.max_step <= 2:
            raise AdvjaxError(
                f"max_step is {self.max_step}; give a fraction of the box's half-width in (0, 2]"
            )
        if not 0 < self.min_step <= self.max_step:
            raise AdvjaxError(
                f"min_step is {self.min_step}; give a fraction above 0, at most max_step "
                f"({self.max_step})"
            )
        if not 0 <= self.momentum < 1:
            raise AdvjaxError(f"momentum is {self.momentum}; give a number in [0, 1)")

    def init(self, x0: Float[Array, "n"], box: Box) -> SignState:
        """Return the state before the first evaluation, which is at `x0` projected on the box.

        Raises:
            AdvjaxError: A bound is infinite, and a fraction of the width has no value. This is
                checked outside of jit only; inside, such a lane ends with NON_FINITE.
        """
        check_bounds(self, box)
        return SignState(**start(x0, box), velocity=jnp.zeros_like(x0))

    def step(self, objective: Objective, state: SignState, box: Box) -> tuple[SignState, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        at = evaluate(objective, state)

        mean = jnp.mean(jnp.abs(at.gradient))
        velocity = self.momentum * state.velocity + at.gradient / jnp.where(mean > 0, mean, 1)
        progress = state.evaluations.astype(at.gradient.dtype) / self.max_evaluations
        fraction = self.max_step * (self.min_step / self.max_step) ** (progress**1.5)
        half_width = 0.5 * (box.upper - box.lower)
        trial = project(state.trial - fraction * half_width * jnp.sign(velocity), box)

        norm = projected_gradient_norm(state.trial, at.gradient, box)
        return finish(
            self,
            state,
            state._replace(trial=trial, velocity=velocity),
            at,
            step_size=fraction,
            projected_gradient=norm,
            stops=[(norm <= self.gtol, Status.GTOL)],
        )
