"""PyTorch's operations in JAX: a table by their ATen names, for `advjax.networks.from_torch`.

Each function takes the arguments of its ATen operation, with `Tensor`s for PyTorch's. The dtype of
a result is PyTorch's: `from_torch` converts to it.
"""

from collections.abc import Callable
from typing import Any

from advjax.networks.aten.elements import ELEMENTS
from advjax.networks.aten.spatial import SPATIAL
from advjax.networks.aten.sums import SUMS
from advjax.networks.aten.tensors import CHANNELS_LAST, KERNEL, SHAPES, Tensor, tensor

__all__ = ["CHANNELS_LAST", "KERNEL", "OPERATIONS", "Tensor", "tensor"]

OPERATIONS: dict[str, Callable[..., Any]] = SHAPES | ELEMENTS | SUMS | SPATIAL
"""By the name of an ATen operation, without its overload."""
