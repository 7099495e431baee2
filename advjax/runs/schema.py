"""The files of a run's directory, and the columns of its Parquet shards.

    DIR/manifest.json                      settings, hashes, versions (see `advjax.runs.directory`)
    DIR/pairs.parquet                      the pair list, in order (see `advjax.runs.pair_list`)
    DIR/shards/part-00012-0f3a….parquet    rows of block 12, whole; named by its SHA-256's beginning
    DIR/unfinished/…                       rows of blocks that are not whole yet; empty at the end
    DIR/history/….json                     a record of each session (see `advjax.runs.history`)

One row is one pair. Rows come in the order of the pair list within a shard. A pair that could not
be attacked has `status` "ERROR", its reason in `error`, and null in every column of results.
"""

import pyarrow as pa

ERROR = "ERROR"
"""The `status` of a pair that could not be attacked; the others are names of `advjax.Status`."""

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "index": (pa.int64(), "the pair's index in the pair list, from 0"),
    "id": (pa.string(), "the pair's name, unique in the run"),
    "source": (pa.string(), "the source, as the pair list names it"),
    "guide": (pa.string(), "the guide, as the pair list names it"),
    "pair_label": (pa.string(), "the pair list's own label of the pair, or null"),
    "layer": (pa.string(), "the layer matched"),
    "delta": (pa.float64(), "half-width of the box, in levels of 255"),
    "status": (pa.string(), "why it ended: a name of advjax.Status, or ERROR"),
    "error": (pa.string(), "what went wrong, or null"),
    "evaluations": (pa.int32(), "evaluations of the objective and its gradient"),
    "initial_distance": (pa.float64(), "d(source, guide) at the layer, Euclidean"),
    "distance": (pa.float64(), "d(adversarial, guide), of the float32 image"),
    "distance_uint8": (pa.float64(), "the same after rounding to 8 bits"),
    "ratio": (pa.float64(), "distance / initial_distance"),
    "ratio_uint8": (pa.float64(), "distance_uint8 / initial_distance"),
    "cosine": (pa.float64(), "of adversarial and guide at the layer; NaN for several layers"),
    "cosine_uint8": (pa.float64(), "the same after rounding to 8 bits"),
    "source_label": (pa.int32(), "the network's label of the source; null without an output layer"),
    "guide_label": (pa.int32(), "of the guide"),
    "adversarial_label": (pa.int32(), "of the float32 adversarial"),
    "adversarial_uint8_label": (pa.int32(), "of the rounded adversarial, the one in the PNG"),
    "max_change": (pa.float64(), "|adversarial - source|_inf in levels, of the float32 image"),
    "mean_change": (pa.float64(), "mean |adversarial - source|, in levels"),
    "psnr": (pa.float64(), "peak signal-to-noise ratio in dB; infinite for equal images"),
    "ssim": (pa.float64(), "structural similarity; null for images under 11 x 11"),
    "max_change_uint8": (pa.float64(), "the four again, of the rounded adversarial"),
    "mean_change_uint8": (pa.float64(), ""),
    "psnr_uint8": (pa.float64(), ""),
    "ssim_uint8": (pa.float64(), ""),
    "lpips_uint8": (pa.float64(), "LPIPS distance of the rounded adversarial; null unless bounded"),
    "keeps_perceptual": (
        pa.bool_(),
        "the rounded adversarial keeps the attack's perceptual budget; null without one",
    ),
    "trace": (
        pa.list_(pa.float32()),
        "distance (or objective, if that is no square) at each evaluation; null unless asked for",
    ),
    "adversarial_png": (pa.binary(), "the rounded adversarial, a PNG file's bytes"),
    "adversarial_float32": (
        pa.list_(pa.float32()),
        "the adversarial before rounding, flattened [h w c]; null unless asked for",
    ),
}

SCHEMA = pa.schema([pa.field(name, kind) for name, (kind, _) in COLUMNS.items()])
