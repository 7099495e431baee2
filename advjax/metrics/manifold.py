"""Likelihood under a local linear Gaussian model: a test for inliers (Sabour et al., section 4.2).

The model is probabilistic PCA (Tipping and Bishop, *Probabilistic Principal Component Analysis*,
J. R. Statist. Soc. B 61, 1999): x ~ N(mean, C), C = W W^T + sigma^2 I with W of q columns. Of C
only its q leading eigenvectors and eigenvalues are held, so that a layer of 290,400 units costs a
few rows of that length.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from advjax.errors import AdvjaxError

COMPONENTS = 10  # our choice for 15 points, which span 14 dimensions; the paper does not say
TURN = 0.1  # up to which a rotation counts as small


class PPCA(NamedTuple):
    """Probabilistic PCA, one model a row: C = sum_i variances_i v_i v_i^T + noise (I - V^T V).

    Attributes:
        mean: The centre.
        components: The rows of V, orthonormal, in the order of falling variance.
        variances: The leading eigenvalues of C.
        noise: sigma^2, the variance along every other direction; NaN where the points leave none.
    """

    mean: Float[Array, "b d"]
    components: Float[Array, "b q d"]
    variances: Float[Array, "b q"]
    noise: Float[Array, "b"]


class ReferenceSets(NamedTuple):
    """Neighbours of a guide, as rows of the searched set (section 4.2).

    Attributes:
        reference: N_ref, random ones of N20; the model is made of them.
        near: N_c, the others of N20.
        far: N_f = N50 without N40.
    """

    reference: Int[Array, "b r"]
    near: Int[Array, "b c"]
    far: Int[Array, "b f"]


def fit_ppca(points: Float[ArrayLike, "b n d"], components: int = COMPONENTS) -> PPCA:
    """Fit PPCA by maximum likelihood (Tipping and Bishop 1999, equations 7 and 8).

    With l_1 >= l_2 >= ... the eigenvalues of the sample covariance (divided by n), the variances
    are l_1 .. l_q and sigma^2 = (l_{q+1} + ... + l_d) / (d - q): the mean over all the directions
    left, also those in which the points do not vary (scikit-learn's PCA divides by n - 1, and with
    fewer points than dimensions leaves these directions out).

    The eigenvectors come from the n x n Gram matrix, with a correction; one Newton-Schulz step
    makes them orthonormal, and the noise is computed from the residuals, not by subtraction. In
    float32: variances and noise within a relative 1e-4 of float64.

    Args:
        points: n points for each of b models.
        components: q, at most n - 2 (n points span n - 1 dimensions, and noise needs one).

    Raises:
        AdvjaxError: Too few points or dimensions for so many components.

    Example:
        >>> cross = jnp.array([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> model = fit_ppca(cross, components=1)
        >>> model.variances, model.noise
        (Array([[4.5]], dtype=float32), Array([0.5], dtype=float32))
    """
    x = jnp.asarray(points, jnp.float32)
    if x.ndim != 3:
        raise AdvjaxError(f"points has shape {x.shape}; give [b, n, d], n points of each model")
    n, d = x.shape[1:]
    if not 1 <= components <= min(n - 2, d - 1):
        raise AdvjaxError(
            f"components is {components}, but {n} points in {d} dimensions allow 1 to "
            f"{min(n - 2, d - 1)}; give fewer components or more points"
        )
    scale = jnp.square(x).sum((1, 2))
    mean = x.mean(1)
    x = x - mean[:, None, :]
    left = x.mean(1)  # by rounding, far from the origin
    mean, x = mean + left, x - left[:, None, :]
    v, lengths = (part[:, :components] for part in _principal(x))
    drift = _product("bqd,bpd->bqp", v, v)
    v = 1.5 * v - 0.5 * _product("bqp,bpd->bqd", drift, v)
    scores = _product("bnd,bqd->bnq", x, v)
    residual = jnp.square(x - _product("bnq,bqd->bnd", scores, v)).sum(-1).sum(-1)
    # Residuals, or a direction to begin with, that are nothing but the rounding of the points.
    minimum = (8 * jnp.finfo(jnp.float32).eps) ** 2 * scale
    nothing = (residual <= minimum) | (lengths[:, -1] ** 2 <= minimum)
    noise = jnp.where(nothing, jnp.nan, residual / (n * (d - components)))
    return PPCA(mean, v, jnp.square(scores).mean(1), noise)


def _principal(x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n d"], Float[Array, "b n"]]:
    """Return the right singular vectors and the singular values of centred points, falling.

    The eigenvectors of the Gram matrix mix the small singular vectors with rounding errors of the
    large ones. Turned by them the points are nearly orthogonal rows y_i, largest first, whose
    remaining products are known relative to their own lengths: perturbation theory to the first
    order, y_i + sum_j <y_i, y_j> / (|y_i|^2 - |y_j|^2) y_j, takes the mixture out.
    """
    _, vectors = jnp.linalg.eigh(_product("bnd,bmd->bnm", x, x))
    y = _product("bnm,bnd->bmd", vectors[:, :, ::-1], x)
    gram = _product("bnd,bmd->bnm", y, y)
    square = jnp.square(y).sum(-1)
    gap = square[:, :, None] - square[:, None, :]
    turn = gram / jnp.where(gap == 0, jnp.inf, gap)
    # Two lengths too near to be distinguished span the same plane in any case.
    y = y + _product("bnm,bmd->bnd", jnp.where(jnp.abs(turn) < TURN, turn, 0), y)
    # 0 / 0 where the points span too little: those models get NaN as their noise.
    length = jnp.sqrt(jnp.maximum(jnp.square(y).sum(-1), jnp.finfo(jnp.float32).tiny))
    return y / length[:, :, None], length


def move_to(model: PPCA, guide: Float[ArrayLike, "b d"]) -> PPCA:
    """Return the model with its mean moved to the guide (section 4.2).

    The principal subspace of a guide's neighbours is a secant plane: nearly parallel to the
    tangent plane, but off the guide.

    Example:
        >>> cross = jnp.array([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> move_to(fit_ppca(cross, 1), jnp.array([[1.0, 1.0]])).mean
        Array([[1., 1.]], dtype=float32)
    """
    return model._replace(mean=jnp.asarray(guide, jnp.float32))


def mahalanobis(model: PPCA, x: Float[ArrayLike, "b m d"]) -> Float[Array, "b m"]:
    """Compute (x - mean)^T C^-1 (x - mean), by Woodbury's identity.

    With V's orthonormal rows it is sum_i <v_i, z>^2 / variance_i + |r|^2 / sigma^2. Here z = x -
    mean, and r is the part of z outside the subspace, computed as a vector, because the difference
    of |z|^2 and the part inside would lose its digits. Within a relative 1e-3 of float64.

    Args:
        model: b models.
        x: m points for each.

    Example:
        >>> cross = jnp.array([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> mahalanobis(fit_ppca(cross, 1), jnp.array([[[3.0, 2.0]]]))  # 9 / 4.5 + 4 / 0.5
        Array([[10.]], dtype=float32)
    """
    z = jnp.asarray(x, jnp.float32) - model.mean[:, None, :]
    inside = _product("bmd,bqd->bmq", z, model.components)
    outside = z - _product("bmq,bqd->bmd", inside, model.components)
    along = (jnp.square(inside) / model.variances[:, None, :]).sum(-1)
    return along + jnp.square(outside).sum(-1) / model.noise[:, None]


def log_likelihood(model: PPCA, x: Float[ArrayLike, "b m d"]) -> Float[Array, "b m"]:
    """Compute L(x) = -(d log 2 pi + log det C + (x - mean)^T C^-1 (x - mean)) / 2, in nats.

    Tipping and Bishop 1999, equation 4, for one point; log det C is the sum of the log variances
    and (d - q) log sigma^2. The constants grow with d: in float32 at 290,400 dimensions they round
    to about 0.1 nat, so take differences by `delta_log_likelihood`.

    Args:
        model: b models.
        x: m points for each.

    Example:
        >>> cross = jnp.array([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> float(log_likelihood(fit_ppca(cross, 1), jnp.zeros((1, 1, 2)))[0, 0]).__round__(3)
        -2.243
    """
    q, d = model.components.shape[1:]
    volume = jnp.log(model.variances).sum(-1) + (d - q) * jnp.log(model.noise)
    return -0.5 * (d * math.log(2 * math.pi) + volume[:, None] + mahalanobis(model, x))


def delta_log_likelihood(
    model: PPCA, x: Float[ArrayLike, "b m d"], guide: Float[ArrayLike, "b d"]
) -> Float[Array, "b m"]:
    """Compute L(x) - L(g) under the model moved to the guide (section 4.2, Figure 4); at most 0.

    The constants cancel, and the guide is the mean, so that the difference is
    -(x - g)^T C^-1 (x - g) / 2. It is computed by this formula.

    Args:
        model: b models of the guides' `ReferenceSets.reference`.
        x: m points for each: the adversarial, the near and the far neighbours.
        guide: The guides.

    Example:
        >>> cross = jnp.array([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> guide = jnp.array([[1.0, 1.0]])
        >>> delta_log_likelihood(fit_ppca(cross, 1), jnp.array([[[4.0, 1.0]]]), guide)
        Array([[-1.]], dtype=float32)
    """
    return -0.5 * mahalanobis(move_to(model, guide), x)


def reference_sets(
    neighbours: Int[ArrayLike, "b n"],
    key: Key[Array, ""] | Key[Array, "b"],
    *,
    near: int = 20,
    reference: int = 15,
    far: tuple[int, int] = (40, 50),
) -> ReferenceSets:
    """Split the neighbours of a guide as section 4.2 does.

    N_ref is 15 random ones of N20(g), N_c the other 5, and N_f = N50(g) without N40(g).

    Args:
        neighbours: The guides' neighbours, nearest first, 50 or more; the paper finds them by
            cosine distance, the guide left out.
        key: `jax.random.key(seed)`, or a key for each guide; then its sets do not depend on the
            batch.
        near: Number of neighbours that count as near.
        reference: Number of the near ones from which the model is made.
        far: (m, n): the neighbours m + 1 to n count as far.

    Raises:
        AdvjaxError: Fewer neighbours than asked for, or numbers out of order.

    Example:
        >>> sets = reference_sets(jnp.arange(50)[None, :], jax.random.key(0))
        >>> [part.shape[1] for part in sets], sets.far[0, 0]
        ([15, 5, 10], Array(40, dtype=int32))
    """
    neighbours = jnp.asarray(neighbours)
    if not 0 < reference <= near <= far[0] < far[1]:
        raise AdvjaxError(
            f"reference, near and far are {reference}, {near}, {far}; "
            "give reference <= near <= far[0] < far[1]"
        )
    if neighbours.ndim != 2 or neighbours.shape[1] < far[1]:
        raise AdvjaxError(
            f"neighbours has shape {neighbours.shape}; give [b, {far[1]}] of them, nearest first"
        )
    keys = key if key.ndim else jax.random.split(key, neighbours.shape[0])
    order = jax.vmap(lambda key: jax.random.permutation(key, near))(keys)
    mixed = jnp.take_along_axis(neighbours, order, 1)
    return ReferenceSets(mixed[:, :reference], mixed[:, reference:], neighbours[:, slice(*far)])


def _product(equation: str, x: Array, y: Array) -> Array:
    return jnp.einsum(equation, x, y, precision=jax.lax.Precision.HIGHEST)
