"""Box-constrained minimisers that know nothing of images or networks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import optax

from advjax.choices import SolverName
from advjax.errors import AdvjaxError, UnknownName
from advjax.solvers.apgd import APGD
from advjax.solvers.base import (
    Best,
    Box,
    Info,
    Objective,
    Solver,
    Status,
    evaluate,
    finish,
    minimize,
    project,
    projected_gradient_norm,
    start,
)
from advjax.solvers.check import check_solver
from advjax.solvers.jaxopt_lbfgsb import JaxoptLBFGSB
from advjax.solvers.lbfgs import ProjectedLBFGS
from advjax.solvers.optax_projected import OptaxProjected
from advjax.solvers.scipy_lbfgsb import ScipyLBFGSB, ScipyResult
from advjax.solvers.sign import SignMomentum
from advjax.solvers.sign_descent import SignDescent
from advjax.solvers.signed_step import SignedStep

PUBLISHED: Mapping[str, Callable[[int], Solver]] = {
    "sign-pgd": SignDescent,
    "mi-fgsm": functools.partial(
        SignDescent, step_size=0.1, relative=True, momentum=1.0, normalise=True
    ),
    "m-attack": functools.partial(SignDescent, momentum=0.9),
    "adam": functools.partial(OptaxProjected, optax.adam(1.0), gtol=-1.0),
    "nightshade": functools.partial(SignDescent, step_size=1.0, last_step=0.01, relative=True),
    "apgd": APGD,
}
"""The field's rules with their published settings: a name -> max_evaluations -> the solver.

* "sign-pgd": sign steps of one level of 255 (AttackVLM: Zhao et al., 2023; M-Attack's "fgsm": Li et
  al., 2025; ART's FeatureAdversaries).
* "mi-fgsm": sign steps of epsilon / 10 along the sum of the L1-normalised gradients, momentum 1
  (Dong et al., 2018, Algorithm 1).
* "m-attack": sign steps of one level, momentum .9, gradients as they are (M-Attack's "mifgsm").
* "adam": `torch.optim.Adam` with a learning rate of one level, projected (M-Attack's "pgd").
* "nightshade": sign steps that fall linearly from epsilon to epsilon / 100 over the budget (Shan et
  al., 2024, their released code).
* "apgd": Auto-PGD (Croce and Hein, 2020, Algorithm 1).

A level is 1 where the variables are pixels of 0..255, and epsilon is `base.epsilon`. All of them
are projected on the box at every step, where some released code clips to 0..255 at the end alone,
and none stops before its budget is used. Their gradients are exact unless a smoothing is given.
"""

BY_NAME: Mapping[str, Callable[..., Any]] = {
    "lbfgs": ProjectedLBFGS,
    "sign": SignMomentum,
    "scipy": ScipyLBFGSB,
    **PUBLISHED,
}
"""The solvers that have a name on the command line: `SolverName`, for type checkers and help."""


def choose(default: Any, name: str | None = None, max_evaluations: int | None = None) -> Any:
    """Return the solver of this name with this budget; for None take those of `default`.

    Args:
        default: A solver, such as an attack's `default_solver`.
        name: A name of `BY_NAME`.
        max_evaluations: The number of evaluations after which a pair ends.

    Raises:
        UnknownName: No solver has this name.
        AdvjaxError: `default` has no number of evaluations that could be replaced.

    Example:
        >>> choose(ProjectedLBFGS(100), "sign").max_evaluations
        100
    """
    if name is not None and name not in BY_NAME:
        raise UnknownName("solver", name, BY_NAME)
    budget = default.max_evaluations if max_evaluations is None else max_evaluations
    if name is not None:
        named = BY_NAME[name](max_evaluations=budget)
        if type(named) is not type(default):
            return named
    try:
        return dataclasses.replace(default, max_evaluations=budget)
    except TypeError:
        raise AdvjaxError(
            f"max_evaluations is {budget}, and solver is {default!r}, no dataclass with that "
            "field; give the number to the solver itself"
        ) from None


__all__ = [
    "APGD",
    "BY_NAME",
    "PUBLISHED",
    "Best",
    "Box",
    "Info",
    "JaxoptLBFGSB",
    "Objective",
    "OptaxProjected",
    "ProjectedLBFGS",
    "ScipyLBFGSB",
    "ScipyResult",
    "SignDescent",
    "SignMomentum",
    "SignedStep",
    "Solver",
    "SolverName",
    "Status",
    "check_solver",
    "choose",
    "evaluate",
    "finish",
    "minimize",
    "project",
    "projected_gradient_norm",
    "start",
]
