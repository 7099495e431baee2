"""label-opt and label-fgrad: the image that the network gives a label (Szegedy et al., 2014)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from advjax.attacks.base import Activate, Attack, Attempt, PairData
from advjax.attacks.box import PixelBox, whole_box
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.solvers import ProjectedLBFGS, SignedStep


def cross_entropy(outputs: Float[Array, "b classes"], labels: Int[Array, "b"]) -> Float[Array, "b"]:
    """Compute -log p(label), of logits or of probabilities.

    A row that is nowhere negative and sums to 1, within what bfloat16 rounds, is taken for
    probabilities.

    Example:
        >>> p = jnp.array([[0.25, 0.75]])
        >>> cross_entropy(jnp.log(p) + 3, jnp.array([0])) / jnp.log(4), cross_entropy(
        ...     p, jnp.array([0])) / jnp.log(4)
        (Array([1.], dtype=float32), Array([1.], dtype=float32))
    """
    normalised = jnp.all(outputs >= 0, 1) & (jnp.abs(jnp.sum(outputs, 1) - 1) < 1e-2)
    tiny = jnp.finfo(outputs.dtype).tiny
    # Not jnp.maximum, whose gradient is lost where outputs, computed anew, round otherwise.
    logs = jnp.log(jnp.where(outputs < tiny, tiny, outputs))
    logits = jnp.where(normalised[:, None], logs, outputs)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def next_c(c: float, taken: Sequence[bool]) -> float:
    """Return the c to try after attempts that began with `c`, each of which took the label or not.

    c moves by factors of 10 until the label was taken once and missed once; then it is the
    geometric mean of the largest c that took the label and the smallest that did not.

    Example:
        >>> next_c(1.0, []), next_c(1.0, [True]), next_c(1.0, [False]), next_c(1.0, [True, False])
        (1.0, 10.0, 0.1, 3.1622776601683795)
    """
    largest, smallest = 0.0, float("inf")  # that took the label, that missed it
    for success in taken:
        largest = max(largest, c) if success else largest
        smallest = smallest if success else min(smallest, c)
        if largest == 0:
            c = smallest / 10
        elif smallest == float("inf"):
            c = largest * 10
        else:
            c = (largest * smallest) ** 0.5
    return c


@dataclasses.dataclass(frozen=True)
class _ToLabel(Attack):
    """The common part of the two attacks on labels: -log p(label), p the softmax of the output."""

    to_label: ClassVar[bool] = True
    direction: ClassVar[int] = 0

    def for_network(self, net: Network) -> Self:
        """Return this attack with its layers and its output.

        Raises:
            AdvjaxError: The network names no output, or the output is not one number a class.
        """
        attack = super().for_network(net)
        if attack.output is None:
            raise AdvjaxError(f"{self.name} needs an output layer, and {net.name} names none")
        shape = net.layers[attack.output]
        if len(shape) != 1:
            raise AdvjaxError(f"output {attack.output!r} has shape {shape}; give (classes,)")
        return attack

    @property
    def needs(self) -> tuple[str, ...]:
        """The layers and the output."""
        if self.output is None or self.output in self.layers:
            return self.layers
        return (*self.layers, self.output)

    def target(self, pair: PairData) -> Any:
        """Return the label."""
        return {"label": np.array([pair.label], np.int32)}

    def initial(self, pair: PairData, target: Any) -> float:
        """Return the objective at the source, at least 1: the label may be there already."""
        assert self.output is not None
        outputs, label = jnp.asarray(pair.features[self.output]), jnp.asarray(target["label"])
        return max(1.0, float(cross_entropy(outputs, label)[0]))

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """Compute -log p(label) of each pair, and the activations at its image."""
        assert self.output is not None
        features = activate(images)
        return cross_entropy(features[self.output], target["label"]), features


@dataclasses.dataclass(frozen=True)
class LabelFgrad(_ToLabel):
    """label-fgrad: one signed step of delta down -log p(label) at the start (S6).

    Goodfellow et al. (2015), section 4, towards a label instead of away from one. The box is
    feature-opt's.

    Attributes:
        layers: The layers where the result's distance to the guide is measured; the network's
            default layer when (). They have no part in the objective.
        weights: Of these layers, in that distance.
        output: The logits or probabilities; the network's `output` when None.
    """

    name: ClassVar[str] = "label-fgrad"
    one_step: ClassVar[bool] = True

    @property
    def default_solver(self) -> SignedStep:
        """The signed step."""
        return SignedStep()


@dataclasses.dataclass(frozen=True)
class LabelOpt(_ToLabel):
    """minimise -log p(label | I) + c |e|^2 subject to 0 <= I <= 255, e = (I - source) / 255.

    Szegedy et al. (2014), section 4.1, with c on the other term. The larger c, the smaller e: each
    pair has a search for the largest c with which the label is still taken. Its result is the
    smallest perturbation that took it; if none did, the result of the smallest c.

    The box is 0..255: delta plays no part. A source that has the label already is its own result.
    The solver's `max_evaluations` is that of one c.

    Attributes:
        layers: The layers where the result's distance to the guide is measured; the network's
            default layer when (). They have no part in the objective.
        weights: Of these layers, in that distance.
        output: The logits or probabilities; the network's `output` when None.
        c: The first c.
        attempts: The number of c that each pair tries: by factors of 10 until the label was taken
            once and missed once, then the geometric mean of the nearest two.
        rounded: If True, the label must be taken after rounding to 8 bits, too: a perturbation of
            less than half a level does not survive that.

    Example:
        >>> LabelOpt(attempts=12).name
        'label-opt'
    """

    # Not compared: whatever the search does, the compiled programs are the same.
    c: float = dataclasses.field(default=1.0, compare=False)
    attempts: int = dataclasses.field(default=8, compare=False)  # pyright: ignore[reportIncompatibleMethodOverride]
    rounded: bool = dataclasses.field(default=False, compare=False)

    name: ClassVar[str] = "label-opt"
    bounded: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.c < float("inf"):
            raise AdvjaxError(f"c is {self.c}; give a number above 0")
        if self.attempts < 1:
            raise AdvjaxError(f"attempts is {self.attempts}; give 1 or more")

    @property
    def default_solver(self) -> ProjectedLBFGS:
        """Projected L-BFGS with 100 evaluations for each c."""
        return ProjectedLBFGS(max_evaluations=100)

    def next_target(self, target: Any, attempts: Sequence[Attempt]) -> Any | None:
        """Return the target with the next c; None after the last, or if nothing had to change."""
        if len(attempts) >= self.attempts or (
            self._taken(attempts[-1]) and not attempts[-1].change
        ):
            return None
        c = next_c(self.c, [self._taken(attempt) for attempt in attempts])
        return target | {"c": np.array([c], np.float32)}

    def is_best(self, attempts: Sequence[Attempt]) -> bool:
        """Return True if the last attempt changed the least of those that took the label.

        While none has taken the label, the last attempt is the nearest to it: its c is the
        smallest.
        """
        *before, last = attempts
        taken = [attempt.change for attempt in before if self._taken(attempt)]
        return (self._taken(last) and last.change < min(taken, default=np.inf)) or not (
            taken or self._taken(last)
        )

    def _taken(self, attempt: Attempt) -> bool:
        return attempt.takes_label and (attempt.takes_label_uint8 or not self.rounded)

    def box(self, pair: PairData, delta: float) -> PixelBox:
        """Return 0 <= I <= 255; the source alone if it has the label already."""
        assert self.output is not None
        if int(np.argmax(pair.features[self.output])) == pair.label:
            source = np.asarray(pair.source, np.float32)
            return PixelBox(source, source)
        return whole_box(pair.source.shape)

    def target(self, pair: PairData) -> Any:
        """Return the label, the source and the first c."""
        source = np.asarray(pair.source, np.float32)[None]
        return super().target(pair) | {"source": source, "c": np.array([self.c], np.float32)}

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """Compute the objective of each pair, and the activations at its image."""
        value, features = super().loss(activate, images, target)
        change = ((images - target["source"]) / 255).reshape(len(images), -1)
        return value + target["c"] * jnp.sum(change**2, 1), features
