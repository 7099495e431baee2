"""Weights that nobody has trained: drawn from a seed, and of large networks kept in the cache."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from advjax.checkpoints import weights_file
from advjax.checkpoints.catalogue import cache_dir
from advjax.errors import AdvjaxError, WeightsError
from advjax.networks import conversion
from advjax.networks.architecture import Architecture

RECIPE = 2  # part of the file's name; raise it when a seed gives other orthonormal weights
KEPT = 4_000_000  # numbers, above which reading orthonormal weights is quicker than making them


def draw(name: str, row: Architecture, weights: str, seed: int) -> dict[str, Any]:
    """Return the parameters of a network by name, drawn from a seed.

    Orthonormal weights of more than `KEPT` numbers are written to the cache and read from it. A
    cache that cannot be written or read is passed over.

    Args:
        name: The network.
        row: Its row of the zoo.
        weights: "random" or "orthonormal".
        seed: A whole number, 0 or more.
    """
    shapes = conversion.parameters(nnx.state(nnx.eval_shape(lambda: row.build(None))))
    large = weights == "orthonormal" and conversion.count(shapes) > KEPT
    path = cache_dir() / "made" / f"{name}-{weights}-{seed}-v{RECIPE}.safetensors"
    if large and (kept := _read(path)) is not None:
        return kept
    if large:
        print(f"advjax: making orthonormal weights of {name}, to be kept", file=sys.stderr)
    arrays = conversion.parameters(nnx.state(row.build(np.random.default_rng(seed))))
    if weights == "orthonormal":
        arrays = conversion.orthonormal(arrays)
    if large:
        metadata = weights_file.WeightsMetadata(network=name, source=f"orthonormal, seed {seed}")
        with contextlib.suppress(AdvjaxError):
            weights_file.save_weights(path, arrays, metadata)
    return arrays


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """Return what is kept; None where there is nothing, or nothing whole."""
    with contextlib.suppress(WeightsError):
        if path.is_file():
            return weights_file.load_weights(path)[0]
    return None
