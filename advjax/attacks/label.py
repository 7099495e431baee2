"""label-opt and label-fgrad: the image that the network gives a label (Szegedy et al., 2014)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from advjax.attacks.base import Activate, Features, Given
from advjax.attacks.box import PixelBox, pixel_box
from advjax.attacks.feature import check_weights, distance
from advjax.errors import AdvjaxError


def cross_entropy(outputs: Float[Array, "b classes"], labels: Int[Array, "b"]) -> Float[Array, "b"]:
    """-log p(label), of logits or of probabilities.

    A row that is nowhere negative and sums to 1 is taken for probabilities.

    Example:
        >>> p = jnp.array([[0.25, 0.75]])
        >>> cross_entropy(jnp.log(p) + 3, jnp.array([0])) / jnp.log(4), cross_entropy(
        ...     p, jnp.array([0])) / jnp.log(4)
        (Array([1.], dtype=float32), Array([1.], dtype=float32))
    """
    share = jnp.all(outputs >= 0, 1) & (jnp.abs(jnp.sum(outputs, 1) - 1) < 1e-3)
    logs = jnp.log(jnp.maximum(outputs, jnp.finfo(outputs.dtype).tiny))
    logits = jnp.where(share[:, None], logs, outputs)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


class Search(NamedTuple):
    """Where the search over c stands, for one pair."""

    c: float  # of the attempt to come
    attempts: int = 0
    taken: float = 0.0  # largest c that took the label
    missed: float = float("inf")  # least c that did not

    def after(self, taken: bool) -> "Search":
        """The search after an attempt with c, which took the label or did not."""
        most = max(self.taken, self.c) if taken else self.taken
        least = self.missed if taken else min(self.missed, self.c)
        if most == 0:
            c = least / 10
        elif least == float("inf"):
            c = most * 10
        else:
            c = (most * least) ** 0.5
        return Search(c, self.attempts + 1, most, least)


@dataclasses.dataclass(frozen=True)
class _ToLabel:
    """What the two attacks on labels share: -log p(label), p being the softmax of the output."""

    layers: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    output: str | None = None

    to_label: ClassVar[bool] = True

    def __post_init__(self):
        check_weights(self.layers, self.weights)

    @property
    def needs(self) -> tuple[str, ...]:
        """The layers and the output."""
        assert self.output is not None
        return self.layers if self.output in self.layers else (*self.layers, self.output)

    def target(self, given: Given) -> Any:
        """The label."""
        return {"label": np.array([given.label], np.int32)}

    def initial(self, target: Any, found: Features) -> float:
        """The objective at the source, at least 1: the label may be there already."""
        assert self.output is not None
        outputs, label = jnp.asarray(found[self.output]), jnp.asarray(target["label"])
        return max(1.0, float(cross_entropy(outputs, label)[0]))

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """-log p(label) of each pair, and the activations at its image."""
        assert self.output is not None
        found = activate(images)
        return cross_entropy(found[self.output], target["label"]), found

    def distance(self, found: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """The Euclidean distance of each row to the guide's activations in `layers`."""
        return distance(self.layers, self.weights, found, guide)


@dataclasses.dataclass(frozen=True)
class LabelFgrad(_ToLabel):
    """label-fgrad: one signed step of delta down -log p(label) at the start (S6).

    Goodfellow et al. (2015), section 4, towards a label instead of away from one. The box is
    feature-opt's.

    Attributes:
        layers: Where the result's distance to the guide is measured; the network's customary layer
            when (). They have no part in the objective.
        weights: Of these layers, in that distance.
        output: The logits or probabilities; the network's `output` when None.
    """

    name: ClassVar[str] = "label-fgrad"
    one_step: ClassVar[bool] = True

    def box(self, source: np.ndarray, delta: float) -> PixelBox:
        """|I - source| <= delta and 0 <= I <= 255."""
        return pixel_box(source, delta)


@dataclasses.dataclass(frozen=True)
class LabelOpt(_ToLabel):
    """minimise -log p(label | I) + c |e|^2 subject to 0 <= I <= 255, e = (I - source) / 255.

    Szegedy et al. (2014), section 4.1, with c on the other term. The larger c, the smaller e: each
    pair has a search for the largest c with which the label is still taken. Its result is the
    smallest perturbation that took it; if none did, what the least c gave.

    The box is 0..255: delta plays no part. The solver's `max_evaluations` is that of one c.

    Attributes:
        layers: Where the result's distance to the guide is measured; the network's customary layer
            when (). They have no part in the objective.
        weights: Of these layers, in that distance.
        output: The logits or probabilities; the network's `output` when None.
        c: The first c.
        attempts: How many c each pair tries: by factors of 10 until the label was taken once and
            missed once, then the geometric mean of the nearest two.
        rounded: Whether the label must be taken after rounding to 8 bits, too: a perturbation of
            less than half a level does not survive that.

    Example:
        >>> LabelOpt(attempts=12).name
        'label-opt'
    """

    c: float = 1.0
    attempts: int = 8
    rounded: bool = False

    name: ClassVar[str] = "label-opt"
    one_step: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.c < float("inf"):
            raise AdvjaxError(f"c is {self.c}; give a number above 0")
        if self.attempts < 1:
            raise AdvjaxError(f"attempts is {self.attempts}; give 1 or more")

    def box(self, source: np.ndarray, delta: float) -> PixelBox:
        """0 <= I <= 255."""
        return whole_box(source.shape)

    def target(self, given: Given) -> Any:
        """The label, the source and the first c."""
        source = np.asarray(given.source, np.float32)[None]
        return super().target(given) | {"source": source, "c": np.array([self.c], np.float32)}

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """The objective of each pair, and the activations at its image."""
        value, found = super().loss(activate, images, target)
        change = ((images - target["source"]) / 255).reshape(len(images), -1)
        return value + target["c"] * jnp.sum(change**2, 1), found


def whole_box(shape: tuple[int, ...]) -> PixelBox:
    """Every image: 0 <= I <= 255."""
    return PixelBox(np.zeros(shape, np.float32), np.full(shape, 255, np.float32))
