"""feature-opt: the image whose deep representation is the guide's (Sabour et al., section 2)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from advjax.errors import AdvjaxError

Activate = Callable[[Float[Array, "b h w c"]], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class FeatureOpt:
    """minimise sum_k w_k || phi_k(I) - phi_k(guide) ||^2 over the layers k (eq. 1).

    Attributes:
        layers: The layers to match; the paper takes one.
        weights: w_k; 1 for every layer when None.

    Example:
        >>> import numpy as np
        >>> spec = FeatureOpt(("fc7",))
        >>> spec.distance({"fc7": np.zeros((1, 2))}, {"fc7": np.array([[3.0, 4.0]])})
        array([5.])
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self):
        if not self.layers:
            raise AdvjaxError("layers is (); name at least one layer to match")
        if self.weights is not None and (
            len(self.weights) != len(self.layers)
            or not all(0 < w < float("inf") for w in self.weights)
        ):
            raise AdvjaxError(
                f"weights is {self.weights} for the layers {self.layers}; give one number above 0 "
                "for each layer"
            )

    def loss(
        self, activate: Activate, images: Float[Array, "b h w c"], target: Mapping[str, Array]
    ) -> tuple[Float[Array, "b"], Mapping[str, Array]]:
        """The objective of each pair, and the activations at its image.

        Args:
            activate: Images to activations, of these layers at least.
            images: The points of evaluation, one for each pair.
            target: The guides' activations.
        """
        found = activate(images)
        return self._squared(found, target), found

    def distance(self, found: Mapping[str, Any], target: Mapping[str, Any]) -> Any:
        """The Euclidean distance of each row, sqrt of the objective; of JAX's or NumPy's arrays.

        Of activations that overflow it is infinite or NaN, without a warning.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._squared(found, target) ** 0.5

    def _squared(self, found, target) -> Any:
        terms = zip(self.layers, self.weights or (1.0,) * len(self.layers), strict=True)
        return sum(
            w * ((found[k] - target[k]) ** 2).reshape(len(found[k]), -1).sum(1) for k, w in terms
        )
