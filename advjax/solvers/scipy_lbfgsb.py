"""SciPy's L-BFGS-B with this package's types: a loop on the host, the reference for the others."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from advjax.errors import AdvjaxError
from advjax.solvers.base import Box, Status

Callback = Callable[[int, float, np.ndarray], Status | None]
"""(evaluations so far, value, point) -> a status, to stop, or None, to go on."""


class ScipyResult(NamedTuple):
    """The best point that was evaluated, and the course of the search."""

    x: Float[np.ndarray, "n"]  # dtype of x0, inside the box exactly
    value: float  # infinite if no evaluation was finite
    status: Status
    evaluations: int
    iterations: int
    values: Float[np.ndarray, "evaluations"]  # in the order of evaluation


class _Stop(Exception):
    """The exception that leaves SciPy's loop from inside the function that it evaluates."""

    def __init__(self, status: Status):
        super().__init__(status.name)
        self.status = status


@dataclasses.dataclass(frozen=True)
class ScipyLBFGSB:
    """L-BFGS-B of Zhu, Byrd, Lu and Nocedal (1997) as SciPy ships it, one problem at a time.

    SciPy works in float64. The objective is evaluated at SciPy's point rounded to the dtype of
    `x0`. That point is in the box too, because the bounds are numbers of this dtype and rounding is
    monotone.

    Attributes:
        max_evaluations: Maximum number of evaluations, exact also within a line search.
        history: Number of curvature pairs (SciPy's `maxcor`).
        ftol: Relative decrease at which to stop; SciPy's default.
        gtol: Max-norm of the projected gradient at which to stop; SciPy's default.

    Example:
        >>> import numpy as np
        >>> from advjax.solvers import Box, ScipyLBFGSB
        >>> box = Box(np.zeros(2, np.float32), np.array([1, 5], np.float32))
        >>> result = ScipyLBFGSB().minimize(
        ...     lambda x: (np.sum((x - 3) ** 2), 2 * (x - 3)), np.zeros(2, np.float32), box)
        >>> result.x.tolist(), result.status.name
        ([1.0, 3.0], 'GTOL')
    """

    compares_values: ClassVar[bool] = True

    max_evaluations: int = 500
    history: int = 10
    ftol: float = 2.220446049250313e-9
    gtol: float = 1e-5

    def minimize(
        self,
        value_and_grad: Callable[[Float[np.ndarray, "n"]], tuple],
        x0: Float[np.ndarray, "n"],
        box: Box,
        callback: Callback | None = None,
    ) -> ScipyResult:
        """Minimise on the host.

        Args:
            value_and_grad: x -> (value, gradient); gets an array of x0's dtype.
            x0: Start; projected on the box before it is evaluated.
            box: Bounds, infinite where there are none.
            callback: Called after every finite evaluation; it may return a status, to stop.

        Returns:
            The best point seen, its value, the status, and every value in order.

        Raises:
            AdvjaxError: A lower bound is above its upper bound.
        """
        from scipy.optimize import Bounds
        from scipy.optimize import minimize as scipy_minimize

        x0 = np.asarray(x0)
        dtype = x0.dtype if np.issubdtype(x0.dtype, np.floating) else np.dtype(np.float32)
        lower, upper = (np.asarray(bound, dtype) for bound in box)
        if not np.all(lower <= upper):
            where = int(np.argmin(lower <= upper))
            raise AdvjaxError(
                f"box has lower {lower[where]} above upper {upper[where]} at variable {where}; "
                "give lower <= upper"
            )
        x0 = np.clip(x0.astype(dtype), lower, upper)
        best_x, best_value, values = x0, np.inf, []

        def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best_x, best_value
            if len(values) == self.max_evaluations:
                raise _Stop(Status.MAX_EVALUATIONS)
            point = x.astype(dtype)
            value, gradient = value_and_grad(point)
            value, gradient = float(value), np.asarray(gradient, np.float64)
            values.append(value)
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                raise _Stop(Status.NON_FINITE)
            if value < best_value:
                best_x, best_value = point, value
            stop = callback(len(values), value, point) if callback else None
            if stop is not None:
                raise _Stop(stop)
            return value, gradient

        wide = [bound.astype(np.float64) for bound in (lower, upper)]
        bounds = Bounds(*wide)  # pyright: ignore[reportArgumentType]  # SciPy's stub says float
        iterations = 0

        def count(_: np.ndarray) -> None:
            nonlocal iterations
            iterations += 1

        try:
            result = scipy_minimize(
                evaluate,
                x0.astype(np.float64),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                callback=count,
                options={
                    "maxcor": self.history,
                    "ftol": self.ftol,
                    "gtol": self.gtol,
                    "maxfun": 2**31 - 1,
                    "maxiter": 2**31 - 1,
                },
            )
            if result.success:
                # A box without width SciPy answers without a gradient.
                ahead = np.clip(result.x - result.get("jac", 0.0), lower, upper) - result.x
                converged = np.abs(ahead).max(initial=0.0) <= self.gtol
                status = Status.GTOL if converged else Status.FTOL
            else:
                status = Status.LINE_SEARCH
        except _Stop as stop:
            status = stop.status
        return ScipyResult(best_x, best_value, status, len(values), iterations, np.asarray(values))
