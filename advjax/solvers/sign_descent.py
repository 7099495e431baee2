"""The sign steps of the literature: step sizes, momentum and normalisation as they were published.

`PUBLISHED` in `advjax.solvers` has each rule with its settings.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from advjax.errors import AdvjaxError
from advjax.solvers.base import (
    Box,
    Info,
    Objective,
    check_bounds,
    check_positive,
    epsilon,
    evaluate,
    finish,
    project,
    projected_gradient_norm,
    start,
)
from advjax.solvers.sign import SignState


@dataclasses.dataclass(frozen=True)
class SignDescent:
    """x <- P(x - s sign(v)), v <- momentum v + g: projected sign descent (Madry et al., 2018).

    It uses all of its budget unless it meets a value that is not finite, and keeps the best point.

    Attributes:
        max_evaluations: The budget.
        step_size: s of the first step, of every variable, in the units of the box: 1 is one level
            of 255 in an attack.
        last_step: s falls linearly from `step_size` to this over the budget; None: it does not.
        relative: The two step sizes are fractions of epsilon, half the width of the box's widest
            variable, so that a step is the same at variables whose box 0 or 255 cuts off.
        momentum: Decay of v, 0..1; 0: v is the gradient.
        normalise: g is the gradient divided by its L1 norm (Dong et al., 2018, eq. 6).

    Example:
        >>> import jax.numpy as jnp
        >>> from advjax.solvers import Box, SignDescent, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(SignDescent(10), objective, jnp.zeros(2), box).best.x.tolist()
        [1.0, 3.0]
    """

    max_evaluations: int = 500
    step_size: float = 1.0
    last_step: float | None = None
    relative: bool = False
    momentum: float = 0.0
    normalise: bool = False

    def __post_init__(self):
        check_positive(self, "max_evaluations")
        if not 0 < self.step_size < math.inf:
            raise AdvjaxError(f"step_size is {self.step_size}; give a finite number above 0")
        if self.last_step is not None and not 0 < self.last_step <= self.step_size:
            raise AdvjaxError(
                f"last_step is {self.last_step}; give None, or a number above 0, at most step_size "
                f"({self.step_size})"
            )
        if not 0 <= self.momentum <= 1:
            raise AdvjaxError(f"momentum is {self.momentum}; give a number in [0, 1]")

    def init(self, x0: Float[Array, "n"], box: Box) -> SignState:
        """Return the state before the first evaluation, which is at `x0` projected on the box.

        Raises:
            AdvjaxError: `relative`, and a bound is infinite (seen outside of jit alone; inside,
                such a lane ends with NON_FINITE).
        """
        if self.relative:
            check_bounds(self, box)
        return SignState(**start(x0, box), velocity=jnp.zeros_like(x0))

    def step(self, objective: Objective, state: SignState, box: Box) -> tuple[SignState, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        at = evaluate(objective, state)

        gradient = at.gradient
        if self.normalise:
            norm = jnp.sum(jnp.abs(gradient))
            gradient = gradient / jnp.where(norm > 0, norm, 1)
        velocity = self.momentum * state.velocity + gradient
        size = jnp.asarray(self.step_size, gradient.dtype)
        if self.last_step is not None:
            progress = state.evaluations.astype(gradient.dtype) / self.max_evaluations
            size = size - (self.step_size - self.last_step) * progress
        if self.relative:
            size = size * epsilon(box)
        trial = project(state.trial - size * jnp.sign(velocity), box)

        return finish(
            self,
            state,
            state._replace(trial=trial, velocity=velocity),
            at,
            step_size=size,
            projected_gradient=projected_gradient_norm(state.trial, at.gradient, box),
        )
