"""One pair's row: its result measured once more as an image, and the image as PNG."""

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from PIL import Image

from advjax.engine import PairResult
from advjax.errors import AdvjaxError
from advjax.metrics.image import RADIUS, max_change, mean_change, psnr, ssim
from advjax.runs.pair_list import COLUMNS
from advjax.runs.schema import ERROR, SCHEMA


class Item(NamedTuple):
    """A pair on its way: its block, and its index, row and settings of the pair list."""

    block: int
    index: int
    entry: Mapping[str, Any]
    layer: str
    delta: float
    source: UInt8[np.ndarray, "h w c"] | None = None


def table_of(rows: list[dict[str, Any]], own: Sequence[pa.Field] = ()) -> pa.Table:
    """Return rows as a table, with null for the columns that a row does not have.

    Args:
        rows: The rows.
        own: The columns of the user's own (`PairList.own`).
    """
    fields = [*SCHEMA, *own]
    return pa.table({f.name: pa.array([r.get(f.name) for r in rows], f.type) for f in fields})


def failed_row(item: Item, error: BaseException) -> dict[str, Any]:
    """Return the row of a pair that could not be attacked."""
    text = str(error) if isinstance(error, AdvjaxError) else f"{type(error).__name__}: {error}"
    return _begin(item) | {"status": ERROR, "error": " ".join(text.split())}


def result_row(item: Item, result: PairResult, keep_float32: bool, squared: bool) -> dict[str, Any]:
    """Return the row of a pair that was attacked; `squared` is the attack's."""
    assert item.source is not None
    row = _begin(item) | {
        "status": result.status.name,
        "evaluations": result.evaluations,
        "initial_distance": result.initial_distance,
        "distance": result.distance,
        "distance_uint8": result.distance_uint8,
        "ratio": result.ratio,
        "ratio_uint8": result.ratio_uint8,
        "cosine": result.cosine,
        "cosine_uint8": result.cosine_uint8,
        "source_label": result.source_label,
        "guide_label": result.guide_label,
        "adversarial_label": result.label,
        "adversarial_uint8_label": result.label_uint8,
        "lpips_uint8": None if np.isnan(result.lpips_uint8) else result.lpips_uint8,
        "keeps_perceptual": result.keeps_perceptual,
        "trace": np.sqrt(result.trace) if squared and result.trace is not None else result.trace,
        "adversarial_png": encode_png(result.adversarial_uint8),
    }
    if keep_float32:
        row["adversarial_float32"] = result.adversarial.reshape(-1)
    return row | image_figures(item.source, result.adversarial, result.adversarial_uint8)


def image_figures(source: np.ndarray, exact: np.ndarray, rounded: np.ndarray) -> dict[str, float]:
    """Return the visibility of the change, of the float image and of the rounded one."""
    large = min(source.shape[:2]) > 2 * RADIUS
    with jax.default_device(_cpu()):
        figures = np.asarray(_figures(source, exact, rounded, large)).tolist()
    names = ["max_change", "mean_change", "psnr"] + ["ssim"] * large
    return {
        f"{name}{end}": value
        for name, values in zip(names, figures, strict=True)
        for end, value in zip(("", "_uint8"), values, strict=True)
    }


@functools.partial(jax.jit, static_argnums=3)
def _figures(source, exact, rounded, large):
    # Always two images in a call: rows of a batch that varies might differ in the last bit.
    images = jax.numpy.stack([exact, rounded.astype(jax.numpy.float32)])
    sources = jax.numpy.broadcast_to(source, images.shape)
    measures = (max_change, mean_change, psnr, ssim) if large else (max_change, mean_change, psnr)
    return jax.numpy.stack([measure(sources, images) for measure in measures])


@functools.cache
def _cpu() -> Any:
    """Return a CPU device, which leaves the accelerator to the attacks; None where JAX has none."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Return the bytes of a PNG file of an image."""
    stream = io.BytesIO()
    flat = image[..., 0] if image.shape[-1] == 1 else image
    # Level 3: perturbed photographs hardly compress further, and higher levels take twice the time.
    Image.fromarray(np.ascontiguousarray(flat)).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def _begin(item: Item) -> dict[str, Any]:
    entry = item.entry
    own = {name: value for name, value in entry.items() if name not in COLUMNS.names}
    return own | {
        "index": item.index,
        "id": entry["id"],
        "source": entry["source"],
        "guide": entry["guide"],
        "pair_label": entry["label"],
        "layer": item.layer,
        "delta": item.delta,
    }
