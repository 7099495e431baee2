"""Options that several commands share, each with what is made of them."""

import dataclasses
import functools
from typing import Any, Literal, get_args

from advjax.choices import AttackName, Metric, SolverName, Start
from advjax.errors import AdvjaxError, UnknownName


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """The attack and its solver; what is not given is the attack's own default.

    Attributes:
        attack: The attack: on features, on labels, by many steps or by one; or MODULE:FUNCTION or
            FILE.py:FUNCTION, a function that returns an attack with settings of its own, such as
            advjax.FeatureOpt(tokens='mean').
        layer: The layer to match; the network's default layer when not given.
        metric: The distance to match in, of the attacks on features.
        delta: The most a pixel may change, in levels of 255; label-opt has no such bound.
        ssim: The least structural similarity with the source, 0..1, beside delta.
        transforms: MODULE:FUNCTION or FILE.py:FUNCTION, a function that returns the
            advjax.Transforms drawn at each evaluation.
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

    attack: AttackName | str = "feature-opt"
    layer: str | None = None
    metric: Metric = "l2"
    delta: float = 10.0
    ssim: float | None = None
    transforms: str | None = None
    solver: SolverName | None = None
    max_evaluations: int | None = None
    smoothing: Literal["auto", "off"] | tuple[float, float] = "auto"
    start: Start = "source"
    seed: int = 0

    def __post_init__(self):
        if ":" not in self.attack and self.attack not in get_args(AttackName):
            known = get_args(AttackName)
            raise UnknownName("attack", self.attack, known, "or give FILE.py:FUNCTION")
        if self.transforms is not None and ":" not in self.transforms:
            raise AdvjaxError(f"transforms is {self.transforms!r}; give FILE.py:FUNCTION")

    def settings(self) -> dict[str, Any]:
        """Return these options as arguments of `advjax.attack_stream`."""
        from advjax import attacks, solvers
        from advjax.attacks.perceptual import Perceptual
        from advjax.smoothing import Smoothing

        own = self.attack not in attacks.BY_NAME
        attack = _made(self.attack, "attack") if own else attacks.BY_NAME[self.attack]()
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del settings["max_evaluations"], settings["metric"], settings["ssim"]
        changes: dict[str, Any] = {}
        if self.metric != "l2":
            if own or not isinstance(attack, attacks.FeatureOpt):
                why = "returns a whole attack" if own else "matches no features"
                raise AdvjaxError(f"metric is {self.metric!r}, and {self.attack} {why}")
            changes["metric"] = self.metric
        if self.ssim is not None:
            if attack.perceptual is not None:
                raise AdvjaxError(
                    f"ssim is {self.ssim}, and {self.attack} has a perceptual budget; leave it out"
                )
            changes["perceptual"] = Perceptual(ssim=self.ssim)
        if own or changes:
            settings["attack"] = attack = dataclasses.replace(attack, **changes)
        if self.transforms is not None:
            settings["transforms"] = _made(self.transforms, "transforms")
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


@functools.cache  # what a function returns twice may not be equal
def _made(name: str, what: Literal["attack", "transforms"]) -> Any:
    from advjax.attacks.base import Attack
    from advjax.networks.imported import import_made
    from advjax.transforms import Transforms

    return import_made(name, what, {"attack": Attack, "transforms": Transforms}[what])
