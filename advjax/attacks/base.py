"""What every attack says of itself; the engine asks nothing else of it."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float

from advjax.attacks.box import PixelBox

Activate = Callable[[Float[Array, "b h w c"]], Mapping[str, Array]]
"""Images to named activations."""

Features = dict[str, np.ndarray]
"""The activations of one image, [1, ...] each."""


class Given(NamedTuple):
    """What an attack may build its target from."""

    source: np.ndarray  # [h, w, c], float32
    found: Features  # the source's activations
    guide: Features | None  # the guide's; None where a label is all that was given
    label: int | None  # the label to take


class Attack(Protocol):
    """An objective over images, a box and what a pair must know for them.

    A frozen dataclass: equal attacks share their compiled programs. The functions are pure, over a
    leading batch axis whose rows know nothing of each other.

    Attributes:
        name: What people call it.
        layers: Where the distance to the guide is measured, whether or not it is the objective.
        needs: The activations that the host keeps of sources, guides and results.
        one_step: The gradient is taken once, at the start, and no solver runs.
        to_label: A label is aimed at: the pair's, or the guide's.
    """

    name: ClassVar[str]
    one_step: ClassVar[bool]
    to_label: ClassVar[bool]

    @property
    def layers(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def needs(self) -> tuple[str, ...]: ...  # noqa: D102

    def box(self, source: np.ndarray, delta: float) -> PixelBox:
        """Where the images may be."""
        ...

    def target(self, given: Given) -> Any:
        """What `loss` needs of the pair: a pytree of arrays [1, ...], the same for every pair."""
        ...

    def initial(self, target: Any, found: Features) -> float:
        """The objective's natural size: its value at the source, as a rule."""
        ...

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Any
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """The objective of each pair, and the activations at its image."""
        ...

    def distance(self, found: Mapping[str, Any], guide: Mapping[str, Any]) -> Any:
        """The Euclidean distance of each row to the guide's."""
        ...
