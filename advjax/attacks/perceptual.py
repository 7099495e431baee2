"""Perceptual budgets: how like its source an image must look, beside the box."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from advjax.attacks.tokens import tokens_of, unit
from advjax.errors import AdvjaxError
from advjax.metrics.image import RADIUS, ssim
from advjax.networks.network import Network

MARGIN = 1e-5
"""By how much a figure must be better than its bound to keep it: what float32 may get wrong."""
HALVINGS = 12


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """How like its source an image must look: a bound on SSIM, on LPIPS, or on both, per pair.

    While it is solved, a pair's objective has `weight` times what the image exceeds the bounds by,
    in units of the pair's initial objective. The box is what it was. What the solver has found is
    then moved straight towards the source, as far as it takes until the image in 8 bits keeps the
    bounds (`hard`); or it stays, and results say which images keep them.

    SSIM is `advjax.metrics.ssim` with the source. LPIPS is Zhang et al. (CVPR 2018), eq. 1: in each
    of some layers [h, w, channels], with every pixel's activations divided by their norm,

        sum_layers mean_hw sum_c w_c (phi(I) - phi(Is))_c^2.

    The layers are those of the network that is attacked. For another network's, attack both as an
    ensemble, at the layers of the first (`advjax.ensemble`). The trained weights of the published
    LPIPS do not come with advjax: with weights of 1, or of your own, it is a distance of that kind
    and not the published one.

    Attributes:
        ssim: The least SSIM, in 0..1.
        lpips: The largest distance.
        layers: Where it is measured.
        layer_weights: For each of the layers one number, or one for each channel; 1 when None.
        weight: How much an excess of 1 costs, in initial objectives.
        hard: Move images that exceed the bounds towards the source. False: a penalty alone.

    Raises:
        AdvjaxError: No bound, or a number out of range.

    Example:
        >>> Perceptual(ssim=0.95).excess({"ssim": jnp.array([0.9, 0.97])}).round(3)
        Array([0.05, 0.  ], dtype=float32)
    """

    ssim: float | None = None
    lpips: float | None = None
    layers: tuple[str, ...] = ()
    layer_weights: tuple[float | tuple[float, ...], ...] | None = None
    weight: float = 3.0
    hard: bool = True

    def __post_init__(self):
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        object.__setattr__(self, "layers", layers)
        if self.ssim is None and self.lpips is None:
            raise AdvjaxError("ssim and lpips are None; give at least one bound")
        if self.ssim is not None and not 0 <= self.ssim <= 1:
            raise AdvjaxError(f"ssim is {self.ssim}; give the least SSIM, a number in 0..1")
        if self.lpips is not None and not 0 <= self.lpips < float("inf"):
            raise AdvjaxError(f"lpips is {self.lpips}; give the largest distance, 0 or more")
        if (self.lpips is None) != (not layers):
            raise AdvjaxError(f"lpips is {self.lpips} and layers is {layers}; give both or none")
        if self.hard and (self.ssim == 1 or self.lpips == 0):
            raise AdvjaxError(
                f"ssim is {self.ssim} and lpips is {self.lpips}, which the source alone keeps; "
                "give a wider bound, or hard=False for a penalty"
            )
        if not 0 < self.weight < float("inf"):
            raise AdvjaxError(f"weight is {self.weight}; give a number above 0")
        if self.layer_weights is not None:
            weights: Any = self.layer_weights  # arrays, too
            given = tuple(
                tuple(float(w) for w in each) if np.ndim(each) else float(each) for each in weights
            )
            object.__setattr__(self, "layer_weights", given)
            flat = [w for each in given for w in (each if isinstance(each, tuple) else (each,))]
            if len(given) != len(layers) or not all(0 <= w < float("inf") for w in flat):
                raise AdvjaxError(
                    f"layer_weights is {self.layer_weights} for the layers {layers}; give for each "
                    "layer one number, 0 or more, or one for each of its channels"
                )

    def check(self, net: Network) -> None:
        """Raise AdvjaxError unless these figures can be had of the network and its images."""
        net.check_layers(self.layers or None)
        if self.ssim is not None and min(net.input_shape[:2]) < 2 * RADIUS + 1:
            raise AdvjaxError(
                f"ssim is {self.ssim}, and SSIM's window needs images of at least 11 x 11; those "
                f"of {net.name} are {net.input_shape[0]} x {net.input_shape[1]}"
            )
        for name, each in zip(self.layers, self.layer_weights or (), strict=False):
            channels = net.layers[name][-1] if net.layers[name] else 1
            if isinstance(each, tuple) and len(each) != channels:
                raise AdvjaxError(
                    f"layer_weights has {len(each)} numbers for {name!r}, which has {channels} "
                    "channels; give as many"
                )

    def target(self, source: np.ndarray, features: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what `figures` must know of a source: arrays [1, ...]."""
        pixels = np.asarray(source, np.float32)[None]
        return {"source": pixels, "features": {name: features[name] for name in self.layers}}

    def figures(
        self, images: Float[Array, "b h w c"], features: Mapping[str, Array], target: Any
    ) -> dict[str, Float[Array, "b"]]:
        """Compute "ssim" and "lpips" of each image with its source, those that are bounded.

        Args:
            images: In levels, 0..255.
            features: Their activations, in `layers` at least.
            target: What `target` gave for each pair, stacked.
        """
        found = {}
        if self.ssim is not None:
            found["ssim"] = ssim(images, target["source"])
        if self.lpips is not None:
            found["lpips"] = lpips(features, target["features"], self.layers, self.layer_weights)
        return found

    def excess(self, figures: Mapping[str, Any]) -> Any:
        """Return by how much the figures of each image are beyond the bounds; 0 within them."""
        total: Any = 0.0
        if self.ssim is not None:
            total = total + jax.nn.relu(self.ssim - figures["ssim"])
        if self.lpips is not None:
            total = total + jax.nn.relu(figures["lpips"] - self.lpips)
        return total

    def keeps(self, figures: Mapping[str, Any], margin: float = MARGIN) -> Any:
        """Return whether each image is within the bounds, whoever measures it."""
        kept: Any = True
        if self.ssim is not None:
            kept = kept & (figures["ssim"] >= self.ssim + margin)
        if self.lpips is not None:
            kept = kept & (figures["lpips"] <= self.lpips - margin)
        return kept


def lpips(
    features: Mapping[str, Any],
    source: Mapping[str, Any],
    layers: Sequence[str],
    weights: Sequence[Any] | None = None,
) -> Any:
    """Compute the distance of Zhang et al. (2018), eq. 1, of each row.

    Args:
        features: Activations [b, ..., channels].
        source: Those of the sources.
        layers: The layers to sum over.
        weights: For each of them one number, or one for each channel; 1 when None.

    Example:
        >>> a, s = np.array([[[3.0, 0.0], [0.0, 2.0]]]), np.array([[[0.0, 5.0], [0.0, 1.0]]])
        >>> lpips({"conv": a}, {"conv": s}, ["conv"])
        array([1.])
    """
    total: Any = 0.0
    for name, w in zip(layers, weights or (1.0,) * len(layers), strict=True):
        a, s = (unit(tokens_of(each[name])) for each in (features, source))
        total = total + ((a - s) ** 2 * np.reshape(np.float32(w), (1, 1, -1))).sum(2).mean(1)
    return total


def farthest(
    keeps: Callable[[Float[Array, "b"]], Bool[Array, "b"]], count: int
) -> Float[Array, "b"]:
    """Return how far each of some images may go from its source, as a part of the whole way.

    Args:
        keeps: Parts in 0..1 to whether each image keeps a budget there.
        count: The number of images.

    Returns:
        1 where the whole way keeps it; else the largest part that bisection finds, or 0.

    Example:
        >>> farthest(lambda parts: parts <= jnp.array([0.25, 2.0]), 2)
        Array([0.25, 1.  ], dtype=float32)
    """
    ones = jnp.ones(count, jnp.float32)
    whole = keeps(ones)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        kept = keeps(middle)
        return jnp.where(kept, middle, low), jnp.where(kept, high, middle)

    def search():
        return jax.lax.fori_loop(0, HALVINGS, halve, (whole.astype(jnp.float32), ones))[0]

    return jax.lax.cond(jnp.all(whole), lambda: ones, search)
