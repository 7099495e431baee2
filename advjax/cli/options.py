"""Options that several commands share, each with what is made of them."""

import dataclasses
from typing import Any, Literal

from advjax.choices import AttackName, Metric, SolverName, Start
from advjax.errors import AdvjaxError


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """The attack and its solver; what is not given is the attack's own default.

    Attributes:
        attack: The attack: on features, on labels, by many steps or by one.
        layer: The layer to match; the network's default layer when not given.
        metric: The distance to match in, of the attacks on features.
        delta: The most a pixel may change, in levels of 255; label-opt has no such bound.
        solver: The minimiser; the attack's own when not given (feature-opt has 'sign', label-opt
            and feature-linear 'lbfgs').
        max_evaluations: Evaluations of the network and its gradient, of label-opt for each c that
            it tries; the attack's own number when not given (500, of label-opt 100). The fast
            gradients take one step.
        smoothing: The widths of the gradient's smoothed kinks, at the first evaluation and at the
            last; 'off': exact gradients; 'auto': the attack's own, if the solver has no line
            search.
        start: The starting point: the source, or a random point of the box.
        seed: The seed of random weights, pairs and starts.
    """

    attack: AttackName = "feature-opt"
    layer: str | None = None
    metric: Metric = "l2"
    delta: float = 10.0
    solver: SolverName | None = None
    max_evaluations: int | None = None
    smoothing: Literal["auto", "off"] | tuple[float, float] = "auto"
    start: Start = "source"
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Return these options as arguments of `advjax.attack_stream`."""
        from advjax import attacks, solvers
        from advjax.smoothing import Smoothing

        attack = attacks.BY_NAME[self.attack]()
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del settings["max_evaluations"], settings["metric"]
        if self.metric != "l2":
            if not isinstance(attack, attacks.FeatureOpt):
                raise AdvjaxError(
                    f"metric is {self.metric!r}, and {self.attack} matches no features"
                )
            settings["attack"] = dataclasses.replace(attack, metric=self.metric)
        # An attack of one step has a solver of its own and takes no other.
        settings["solver"] = (
            None
            if attack.one_step
            else solvers.choose(attack.default_solver, self.solver, self.max_evaluations)
        )
        if isinstance(self.smoothing, tuple):
            settings["smoothing"] = Smoothing(*self.smoothing)
        elif self.smoothing == "off":
            settings["smoothing"] = None
        return settings
