"""Layers of tokens: their mean, or each token beside the nearest of the guide's.

A layer [tokens, channels] of a transformer is one, and so is [h, w, channels] of a convolution. The
functions take arrays of NumPy or of JAX.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


def tokens_of(activation: Float[Any, "b ..."]) -> Float[Any, "b t d"]:
    """Return the tokens; a layer without any is one token.

    Example:
        >>> tokens_of(np.zeros((2, 3, 4, 5))).shape, tokens_of(np.zeros((2, 5))).shape
        ((2, 12, 5), (2, 1, 5))
    """
    return activation.reshape(len(activation), -1, activation.shape[-1])


def mean_token(activation: Float[Any, "b ..."]) -> Float[Any, "b d"]:
    """Return the mean over the tokens."""
    return tokens_of(activation).mean(1)


def nearest(
    activation: Float[Any, "b ..."], guide: Float[Any, "b ..."], cosine: bool
) -> Float[Any, "b"]:
    """Compute sum_i min_j ||a_i - g_j||^2 over the tokens i; of cosines mean_i min_j (1 - cos).

    Example:
        >>> a, g = np.array([[[1.0, 0], [0, 3]]]), np.array([[[0.0, 2], [5, 5], [1, 1]]])
        >>> nearest(a, g, cosine=False)
        array([2.])
    """
    a, g = tokens_of(activation), tokens_of(guide)
    if cosine:
        a, g = unit(a), unit(g)
    # The nearest is found by a product of matrices, whose rounding does not matter, and the
    # distance to it is computed from the difference, which keeps its digits.
    squares = (g * g).sum(2)[:, None] - 2 * (a @ g.swapaxes(1, 2))
    chosen = squares.argmin(2)[..., None]
    take = np.take_along_axis if isinstance(g, np.ndarray) else jnp.take_along_axis
    found = ((a - take(g, chosen, 1)) ** 2).sum(2)
    return found.mean(1) / 2 if cosine else found.sum(1)


def unit(rows: Float[Any, "... d"]) -> Float[Any, "... d"]:
    """Divide each row by its Euclidean norm; zeros stay zeros, with a finite gradient."""
    squares = (rows * rows).sum(-1, keepdims=True)
    return rows * (squares + (squares == 0).astype(squares.dtype)) ** -0.5
