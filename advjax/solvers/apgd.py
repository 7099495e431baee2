"""Auto-PGD: sign steps that halve, and start again from the best point, when progress stalls."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from advjax.errors import AdvjaxError
from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    check_bounds,
    check_positive,
    epsilon,
    evaluate,
    finish,
    freeze,
    project,
    projected_gradient_norm,
    start,
)


class APGDState(NamedTuple):
    """The point to evaluate next, the one before it, and the record since the last checkpoint."""

    trial: Float[Array, "n"]
    best: Best
    status: Int[Array, ""]
    evaluations: Int[Array, ""]
    previous: Float[Array, "n"]  # the iterate from which `trial` was proposed
    value: Float[Array, ""]  # there
    best_gradient: Float[Array, "n"]
    step_size: Float[Array, ""]  # as a fraction of epsilon
    halved: Bool[Array, ""]  # at the last checkpoint
    checkpoint: Int[Array, ""]  # the iteration of the last one
    checkpoint_best: Float[Array, ""]  # the best value there
    descents: Int[Array, ""]  # iterations since then whose value fell


@dataclasses.dataclass(frozen=True)
class APGD:
    """Auto-PGD of Croce and Hein (2020), Algorithm 1, in the max-norm and for a minimum.

    A step is a sign step, projected, then mixed with the last change: with z = P(x_k - s sign(g)),
    x_{k+1} = P(x_k + alpha (z - x_k) + (1 - alpha) (x_k - x_{k-1})). At each checkpoint s is halved
    and the best point becomes the iterate, if since the last checkpoint (1) fewer than `rho` of the
    steps lowered the value, or (2) neither was s halved there nor has the best value changed since.
    The checkpoints are at 22 % of the iterations, and then every 19, 16, 13, 10, 7, 6, 6, ... %.

    As printed, not as in the authors' code, which differs by one in what the conditions count and
    has no condition (2) at the first checkpoint. A budget of n evaluations is n - 1 iterations. The
    start is the given one; the authors draw theirs (`start="random"` of the engine does). It keeps
    the best point, and uses all of its budget unless it meets a value that is not finite.

    Attributes:
        max_evaluations: The budget, over which the checkpoints are spread.
        step_size: The first s, as a fraction of epsilon: half the width of the box's widest
            variable.
        alpha: Weight of the sign step against the last change.
        rho: See condition (1).

    Example:
        >>> import jax.numpy as jnp
        >>> from advjax.solvers import APGD, Box, minimize
        >>> objective = lambda x: (jnp.sum((x - 3.0) ** 2), 2 * (x - 3.0), None)
        >>> box = Box(jnp.zeros(2), jnp.array([1.0, 5.0]))
        >>> minimize(APGD(), objective, jnp.zeros(2), box).best.x.round(2).tolist()
        [1.0, 3.0]
    """

    compares_values: ClassVar[bool] = True

    max_evaluations: int = 100
    step_size: float = 2.0
    alpha: float = 0.75
    rho: float = 0.75

    def __post_init__(self):
        check_positive(self, "max_evaluations")
        if not 0 < self.step_size <= 2:
            raise AdvjaxError(
                f"step_size is {self.step_size}; give a fraction of epsilon in (0, 2]"
            )
        for name in ("alpha", "rho"):
            if not 0 < getattr(self, name) <= 1:
                raise AdvjaxError(f"{name} is {getattr(self, name)}; give a number in (0, 1]")

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The iterations at which the step size may be halved, after 0."""
        percent, period, checkpoints = 22, 22, []
        while percent <= 100:
            checkpoints.append(-(-percent * (self.max_evaluations - 1) // 100))  # rounded up
            period = max(period - 3, 6)
            percent += period
        return tuple(checkpoints)

    def init(self, x0: Float[Array, "n"], box: Box) -> APGDState:
        """Return the state before the first evaluation, which is at `x0` projected on the box.

        Raises:
            AdvjaxError: A bound is infinite, so that a fraction of the width means nothing (seen
                outside of jit alone; inside, such a lane ends with NON_FINITE).
        """
        check_bounds(self, box)
        first = start(x0, box)
        x, infinite = first["trial"], first["best"].value
        return APGDState(
            **first,
            previous=x,
            value=infinite,
            best_gradient=jnp.zeros_like(x),
            step_size=jnp.full_like(infinite, self.step_size),
            halved=jnp.bool(False),
            checkpoint=jnp.int32(0),
            checkpoint_best=infinite,
            descents=jnp.int32(0),
        )

    def step(self, objective: Objective, state: APGDState, box: Box) -> tuple[APGDState, Info]:
        """Evaluate at `state.trial`; return a state whose status is not RUNNING unchanged."""
        at = evaluate(objective, state)

        iteration = state.evaluations - 1  # the one that proposed this point
        point = Best(at.x, at.value), at.gradient
        best, best_gradient = freeze(
            at.value < state.best.value, point, (state.best, state.best_gradient)
        )

        checks = jnp.any(iteration == jnp.array(self.checkpoints)) & (iteration > 0)
        few = state.descents < self.rho * (iteration - state.checkpoint)
        stuck = ~state.halved & (best.value == state.checkpoint_best)
        halves = checks & (few | stuck)
        size = jnp.where(halves, 0.5, 1) * state.step_size
        (x, value), gradient = freeze(halves, (best, best_gradient), point)

        aim = project(x - size * epsilon(box) * jnp.sign(gradient), box)
        alpha = jnp.where(state.evaluations == 0, 1, self.alpha)
        trial = project(x + alpha * (aim - x) + (1 - alpha) * (x - state.previous), box)

        resets = checks | (iteration == 0)
        new = state._replace(
            trial=trial,
            previous=x,
            value=value,
            best_gradient=best_gradient,
            step_size=size,
            halved=jnp.where(resets, halves, state.halved),
            checkpoint=jnp.where(resets, iteration, state.checkpoint),
            checkpoint_best=jnp.where(resets, best.value, state.checkpoint_best),
            descents=jnp.where(resets, 0, state.descents) + (value < state.value),
        )
        return finish(
            self,
            state,
            new,
            at,
            step_size=size * epsilon(box),
            projected_gradient=projected_gradient_norm(at.x, at.gradient, box),
        )
