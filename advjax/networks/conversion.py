"""Parameters by name: between a module, Caffe's blobs and flat dictionaries of arrays."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core

from advjax.checkpoints.caffemodel import CaffeLayer, CaffeModel
from advjax.checkpoints.weights_file import Misfit, compare
from advjax.networks.layers import Conv, InnerProduct

NEARLY_SINGULAR = 1e-4  # the least pivot over the greatest for which squaring A loses too much


def parameters(state: nnx.State) -> dict[str, Any]:
    """Return the leaves of a zoo module's state by name, such as "conv1.kernel"."""
    return {
        ".".join(map(str, path[1:])): leaf.get_value() for path, leaf in nnx.to_flat_state(state)
    }


def misfit(state: nnx.State, arrays: Mapping[str, Any]) -> Misfit:
    """Return the ways in which arrays differ by name and shape from the parameters of a state.

    A parameter too many of a layer that the state has, such as a third blob, is a wrong shape of
    that layer: without it the layer would compute something else.
    """
    expected = {name: tuple(leaf.shape) for name, leaf in parameters(state).items()}
    found = compare(expected, {name: tuple(a.shape) for name, a in arrays.items()})
    first = {name.rpartition(".")[0]: name for name in reversed(expected)}  # of each layer
    for name in list(found.extra):
        if owner := first.get(name.rpartition(".")[0]):
            found.wrong[owner] = found.extra.pop(name)
    return found


def with_parameters(
    state: nnx.State, arrays: Mapping[str, Any], unused: Collection[str] = ()
) -> nnx.State:
    """Return a state of the same structure with these arrays, as float32 on the device.

    Args:
        state: Of a zoo module; its leaves may be abstract.
        arrays: All of its parameters by name; others are left out.
        unused: The parameters that no layer of interest needs: they become zeros.
    """

    def leaf_of(name: str, shape: tuple[int, ...]) -> Any:
        return jnp.zeros(shape) if name in unused else jnp.asarray(arrays[name], jnp.float32)

    leaves = [
        (path, leaf.replace(leaf_of(".".join(map(str, path[1:])), leaf.shape)))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.from_flat_state(leaves)


def dependent(
    function: Callable[..., Mapping[str, Any]],
    params: Any,
    shape: tuple[int, ...],
    leaves: Collection[str],
) -> frozenset[str]:
    """Return the layers whose activations depend on some of a network's parameters.

    Args:
        function: `function(params, images)`, a dict of activations.
        params: Its parameters, {"module": the state of a zoo module, ...}, possibly abstract.
        shape: Of one image.
        leaves: The names of parameters of the module.
    """
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(params, images)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    # nnx's names of leaves: ["module"]["layers"]["conv1"]["kernel"].value, say.
    named = [".".join(str(key.key) for key in path[2:] if hasattr(key, "key")) for path in paths]
    touched = {var for var, name in zip(closed.jaxpr.invars, named, strict=False) if name in leaves}
    for equation in closed.jaxpr.eqns:
        if any(not isinstance(v, core.Literal) and v in touched for v in equation.invars):
            touched.update(equation.outvars)
    names = jax.tree.leaves({name: name for name in outputs})  # sorted, as the outputs are
    return frozenset(
        name for name, var in zip(names, closed.jaxpr.outvars, strict=True) if var in touched
    )


def from_caffe(
    module: Any, model: CaffeModel, file_name: Callable[[str], str] = str
) -> dict[str, np.ndarray]:
    """Return a zoo module's parameters from a Caffe file.

    Convolutions go from (out, in, h, w) to (h, w, in, out). Inner products go from (out, in) to
    (in, out), and where their input is spatial, rows from Caffe's channel-major flattening to
    NHWC's.

    Args:
        module: The module, possibly abstract (`nnx.eval_shape`).
        model: The model that `read_caffemodel` returned.
        file_name: From a layer's name in the module to the one in the file, where that is used.

    Returns:
        Arrays by name. Layers of the file that the module lacks keep the file's names, blobs
        numbered ("loss1/fc.0"), so that `misfit` names them.

    Example:
        >>> from advjax.networks.lenet import LeNet
        >>> layer = CaffeLayer("ip2", "InnerProduct", blobs=(np.ones((10, 500)), np.zeros(10)))
        >>> arrays = from_caffe(LeNet(None), CaffeModel("LeNet", "V2", (layer,)))
        >>> {name: array.shape for name, array in arrays.items()}
        {'ip2.kernel': (500, 10), 'ip2.bias': (10,)}
    """
    blobs = {layer.name: layer.blobs for layer in model.layers if layer.blobs}
    arrays = {}
    for name, layer in module.layers.items():
        own = blobs.pop(name, None) or blobs.pop(file_name(name), None)
        if own is None:
            continue
        fields = ["kernel", "bias", *map(str, range(2, len(own)))]
        arrays |= {f"{name}.{field}": array for field, array in zip(fields, own, strict=False)}
        kernel = own[0]
        if isinstance(layer, InnerProduct):
            shape = layer.input_shape
            if len(shape) == 3 and kernel.ndim == 2 and kernel.shape[1] == np.prod(shape):
                h, w, c = shape
                kernel = kernel.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(len(kernel), -1)
            arrays[f"{name}.kernel"] = kernel.T
        elif kernel.ndim == 4:
            arrays[f"{name}.kernel"] = kernel.transpose(2, 3, 1, 0)
    unused = {f"{name}.{i}": blob for name, rest in blobs.items() for i, blob in enumerate(rest)}
    return arrays | unused


def to_caffe(module: Any, name: str) -> CaffeModel:
    """Return a zoo module's parameters as Caffe's blobs: the inverse of `from_caffe`.

    Args:
        module: A module whose layers are convolutions and inner products.
        name: The network's name in the file.

    Returns:
        One layer for each of the module's.
    """
    layers = []
    for key, layer in module.layers.items():
        kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
        if isinstance(layer, Conv):
            layers.append(
                CaffeLayer(key, "Convolution", blobs=(kernel.transpose(3, 2, 0, 1), bias))
            )
            continue
        if len(layer.input_shape) == 3:
            kernel = kernel.reshape(*layer.input_shape, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, bias.size)
        layers.append(CaffeLayer(key, "InnerProduct", blobs=(kernel.T, bias)))
    return CaffeModel(name, "V2", tuple(layers))


def orthonormal(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every kernel by an orthonormal one of its shape; keep the biases (Table S2).

    A kernel A is taken as a matrix (inputs of a unit, units) with a gaussian's entries. Without its
    singular values it is U V', which has the Haar distribution. The Q of its QR decomposition with
    positive diagonal has the same distribution. Columns are orthonormal, or rows where there are
    fewer of them. Q is A R^-1 with the Cholesky factor R of A'A in float64: its error, cond(A)^2
    times 1e-16, is beyond float32. A matrix that is nearly singular has its Q by reflections.

    Example:
        >>> kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 6))
        >>> matrix = orthonormal({"conv.kernel": kernel})["conv.kernel"].reshape(18, 6)
        >>> bool(np.allclose(matrix.T @ matrix, np.eye(6), atol=1e-5))
        True
    """
    return {
        name: _orthonormal(np.asarray(array)) if name.endswith(".kernel") else array
        for name, array in arrays.items()
    }


def _orthonormal(kernel: np.ndarray) -> np.ndarray:
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    wide = matrix.shape[0] < matrix.shape[1]
    q = _q_factor(matrix.T if wide else matrix)
    return np.ascontiguousarray(q.T if wide else q, np.float32).reshape(kernel.shape)


def _q_factor(matrix: np.ndarray) -> np.ndarray:
    """Return the Q of A = Q R with a positive diagonal of R; A has no fewer rows than columns.

    A is overwritten: fc6's takes 300 MB, and a second one would take its time.
    """
    from scipy.linalg import solve_triangular

    gram = matrix.T @ matrix
    try:
        lower = np.linalg.cholesky(gram)  # R'
    except np.linalg.LinAlgError:
        lower = None
    if lower is None or np.diag(lower).min() < NEARLY_SINGULAR * np.diag(lower).max():
        q, r = np.linalg.qr(matrix)
        return q * np.where(np.diag(r) < 0, -1, 1)
    return solve_triangular(lower, matrix.T, lower=True, check_finite=False, overwrite_b=True).T


def count(arrays: Mapping[str, Any]) -> int:
    """Return the number of elements of all arrays."""
    return sum(int(np.prod(np.shape(a))) for a in jax.tree.leaves(dict(arrays)))
