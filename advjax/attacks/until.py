"""Stopping on what is saved: the figures of the 8-bit image at which a pair is done."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advjax.attacks.base import Attack
from advjax.errors import AdvjaxError
from advjax.solvers import Status

NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Until:
    """A pair is done as soon as one of these holds, of its image rounded to 8 bits.

    The status is then TARGET, or LABEL. An attack that goes away from its guide (feature-away) is
    done at or above the distance, at or under the cosine, and at another label than the guide's.

    Attributes:
        distance: The distance to the guide is this or less.
        ratio: The distance is this fraction of the initial one, or less.
        cosine: The cosine to the guide is this or more; in one layer.
        label: The network gives it the pair's own label, or else the guide's.

    Raises:
        AdvjaxError: A number that no image can have.

    Example:
        >>> Until(cosine=0.9).names
        ('distance',)
    """

    distance: float | None = None
    ratio: float | None = None
    cosine: float | None = None
    label: bool = False

    def __post_init__(self):
        if self.ratio is not None:
            check_ratio("ratio", self.ratio)
        if self.distance is not None and not 0 < self.distance < float("inf"):
            raise AdvjaxError(f"distance is {self.distance}; give a number above 0")
        if self.cosine is not None and not -1 < self.cosine < 1:
            raise AdvjaxError(f"cosine is {self.cosine}; give a number between -1 and 1")

    @property
    def names(self) -> tuple[str, ...]:
        """What has to be looked at: "distance" (with cosine and ratio), "label", both or none."""
        distances = (self.distance, self.ratio, self.cosine) != (None, None, None)
        return ("distance",) * distances + ("label",) * self.label

    def check(self, attack: Attack, network: str = "the network") -> None:
        """Raise AdvjaxError unless the attack can end by these figures."""
        if self.ratio is not None:
            check_ratio("target_ratio", self.ratio, attack)
        for name in ("distance", "cosine"):
            if getattr(self, name) is not None and not attack.direction:
                raise AdvjaxError(
                    f"until has a {name}, and {attack.name} has no distance to reach; give a label"
                )
        if self.cosine is not None and len(attack.layers) != 1:
            raise AdvjaxError(
                f"until has a cosine, and the attack has the layers {', '.join(attack.layers)}; "
                "give a distance, or one layer"
            )
        if self.label and attack.output is None:
            raise AdvjaxError(f"until_label needs an output layer, and {network} names none")


def check_ratio(name: str, ratio: float, attack: Attack | None = None) -> None:
    """Raise AdvjaxError unless it is a fraction, and one that the attack can reach."""
    if not 0 < ratio < 1:
        raise AdvjaxError(f"{name} is {ratio}; give a fraction between 0 and 1")
    if attack is not None and attack.direction >= 0:
        raise AdvjaxError(f"{name} is {ratio}, and {attack.name} has no ratio to reach")


class Goal(NamedTuple):
    """The figures at which one pair is done; infinite, or NO_LABEL, where it is not by them."""

    guide: Any  # its activations; () where no distance is looked at
    distance: Any
    cosine: Any
    label: Any


def goal(
    until: Until,
    direction: int,
    *,
    guide: Any,
    initial_distance: float,
    ratio: float | None,
    label: int | None,
) -> Goal:
    """Return the goal of a pair.

    Args:
        until: The stream's.
        direction: The attack's.
        guide: The guide's activations, () if none are needed.
        initial_distance: Of source and guide.
        ratio: The pair's own, in place of the stream's.
        label: To take, or to leave.
    """
    ratio = until.ratio if ratio is None else ratio
    ends = [] if until.distance is None else [until.distance]
    ends += [] if ratio is None else [ratio * initial_distance]
    never = np.inf if direction > 0 else -np.inf
    cosine = -never if until.cosine is None else until.cosine
    return Goal(
        guide,
        np.float32(max(ends, default=never)),
        np.float32(cosine),
        np.int32(label if until.label and label is not None else NO_LABEL),
    )


def judge(goal: Goal, direction: int, distance: Any, cosine: Any, label: Any) -> Any:
    """Return TARGET, LABEL or, where a pair is not done, RUNNING; of numbers or of rows.

    Example:
        >>> at = Goal((), np.float32(3), np.float32(np.inf), np.int32(7))
        >>> [int(judge(at, -1, d, 0.5, label)) for d, label in ((2.5, 1), (3.5, 7), (3.5, 1))]
        [4, 5, 0]
    """
    if direction > 0:
        reached, taken = (distance >= goal.distance) | (cosine <= goal.cosine), label != goal.label
    else:
        reached, taken = (distance <= goal.distance) | (cosine >= goal.cosine), label == goal.label
    taken &= goal.label != NO_LABEL
    return jnp.where(reached, Status.TARGET, jnp.where(taken, Status.LABEL, Status.RUNNING))
