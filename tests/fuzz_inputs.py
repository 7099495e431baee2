"""Damages the other files that people give: python fuzz_inputs.py COUNT SEED KIND...

KIND is images, lists, shards or manifests (weights: `fuzz_weights.py`). Each damaged file must give
a one-line AdvjaxError or a right read, within 20 seconds and 1 GiB of memory beyond what the
program has when it begins with the damage. Prints one line of JSON for each kind.
"""

import contextlib
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_weights import MEMORY, SECONDS, mutate
from PIL import Image

import advjax
from advjax.bank import build_bank, open_bank
from advjax.data import decode_image, write_png
from advjax.errors import AdvjaxError, AdvjaxWarning
from advjax.runs import directory as directories
from advjax.runs.pair_list import COLUMNS, PairList, read_list
from advjax.runs.rows import table_of
from advjax.runs.schema import SCHEMA


class Case(NamedTuple):
    """A file to be damaged, where most damage is done to it, and what reads it and judges."""

    raw: bytes
    places: list[int]
    check: Callable[[bytes], None]


def head(raw: bytes, size: int = 200) -> list[int]:
    """Where the parsing is: at the beginning and at the end."""
    return [*range(min(size, len(raw))), *range(max(0, len(raw) - size), len(raw))]


def images(folder: Path) -> list[Case]:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    photo = coarse.resize((60, 44), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    saved = [
        ("JPEG", {"exif": exif}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"exif": exif}),
        ("GIF", {}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {}),
        ("BMP", {}),
        ("PPM", {}),
    ]
    cases = []
    for format, options in saved:
        stream = io.BytesIO()
        photo.save(stream, format, **options)
        raw = stream.getvalue()
        right = decode_image(raw, "right")

        def check(damaged: bytes, format: str = format, right: np.ndarray = right) -> None:
            image = decode_image(damaged, "damaged")
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.size
            if format == "PNG":  # whose checksums leave nothing to chance, save in unused chunks
                assert sorted(image.shape) == sorted(right.shape)
                assert np.array_equal(np.sort(image.ravel()), np.sort(right.ravel()))

        cases.append(Case(raw, head(raw), check))
    return cases


def lists(folder: Path) -> list[Case]:
    rows = [
        {"id": f"{i:03}", "source": f"a/{i}.png", "guide": f'"b, {i}".png', "delta": 1.0 + i}
        for i in range(30)
    ]
    known = [COLUMNS.field(name) for name in ("id", "source", "guide", "delta")]
    table = pa.Table.from_pylist(rows, pa.schema([*known, ("note", pa.string())]))
    stream = io.BytesIO()
    pq.write_table(table, stream)
    text = "id,source,guide,delta,note\n" + "".join(
        f'{i:03},a/{i}.png,"""b, {i}"".png",{1.0 + i},\n' for i in range(30)
    )
    contents = {
        "list.csv": text.encode(),
        "list.tsv": text.replace(",", "\t").encode(),
        "utf16.csv": text.encode("utf-16"),
        "list.parquet": stream.getvalue(),
    }
    cases = []
    for name, raw in contents.items():

        def check(damaged: bytes, path: Path = folder / name) -> None:
            path.write_bytes(damaged)
            found = read_list(path).table
            assert found.schema.names[: len(COLUMNS)] == COLUMNS.names
            assert len(found) > 0
            ids = found["id"].to_pylist()
            assert len(set(ids)) == len(ids)
            for row in found.select(COLUMNS.names).to_pylist():
                assert row["source"]
                assert row["guide"]
                assert row["delta"] is None or 0 < row["delta"] < np.inf

        cases.append(Case(raw, head(raw, 100), check))
    return cases


def run_directory(folder: Path) -> directories.RunDirectory:
    rows = [{"id": f"{i:04}", "source": "s.png", "guide": f"{i}.png"} for i in range(8)]
    pairs = PairList(pa.Table.from_pylist(rows, COLUMNS), folder)
    settings = {"network": "n", "layer": "l", "shard_size": 4, "pairs": pairs.sha256()}
    info = {"root": str(folder), "classes": ["a", "b"]}
    return directories.create(folder / "run", settings, info, pairs)


def shards(folder: Path) -> list[Case]:
    """A whole shard, whose name vouches for it; rows that are not whole; the list of pairs."""
    run = run_directory(folder)
    table = table_of(
        [
            {
                **{"index": i, "id": f"{i:04}", "status": "CONVERGED", "ratio": 0.1 * i},
                **{"adversarial_png": bytes(200), "trace": np.arange(4, dtype=np.float32)},
            }
            for i in range(4)
        ]
    )
    run.finish(0, table)
    run.keep(1, table)
    cases = []
    for path in (run.shards()[0], run.unfinished()[1], run.path / directories.PAIRS):
        raw = path.read_bytes()

        def check(damaged: bytes, path: Path = path) -> None:
            path.write_bytes(damaged)
            try:
                if path.name == directories.PAIRS:
                    assert run.pairs().table.to_pylist() == pairs.to_pylist()
                elif path.parent.name == "shards":
                    found = run.known(0)
                    assert found is not None
                    assert found.equals(table)
                else:
                    found = run.known(1)
                    assert found is None or found.schema.names == SCHEMA.names
                    directories.verify(run)
            finally:
                path.write_bytes(whole[path])

        cases.append((raw, check, path))
    whole = {path: raw for raw, _, path in cases}
    pairs = run.pairs().table
    return [Case(raw, head(raw, 600), check) for raw, check, _ in cases]


def manifests(folder: Path) -> list[Case]:
    """Those of a run, which has its own checksum, and of a bank."""
    run = run_directory(folder)
    for i in range(3):
        write_png(folder / "photos" / "a" / f"{i}.png", np.full((4, 4, 3), 9 * i, np.uint8))
    net = advjax.Network(
        lambda x: {"mean": x.mean((1, 2))}, (4, 4, 3), preprocessing=advjax.Preprocessing(crop=4)
    )
    bank = build_bank(net, folder / "photos", "mean", folder / "bank", progress=False)
    cases = []
    names = ("manifest.json", "images.json")
    for path in (run.path / directories.MANIFEST, *(bank.path / name for name in names)):
        raw = path.read_bytes()

        def check(damaged: bytes, path: Path = path, raw: bytes = raw) -> None:
            path.write_bytes(damaged)
            try:
                if path.parent == run.path:
                    found = directories.open_directory(run.path)
                    assert found is not None
                    assert found.manifest == run.manifest
                else:
                    opened = open_bank(bank.path)
                    for name in opened.layers:
                        assert opened.features(name).shape[0] == len(opened)
            finally:
                path.write_bytes(raw)

        cases.append(Case(raw, list(range(len(raw))), check))
    return cases


KINDS = {each.__name__: each for each in (images, lists, shards, manifests)}


def fuzz(kind: str, count: int, seed: int) -> dict[str, float]:
    """Damage files of a kind; the figures."""
    generator = random.Random(seed)
    messages, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        cases = KINDS[kind](Path(folder))
        for case in cases:
            case.check(case.raw)
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for index in range(count):
            case = generator.choice(cases)
            damaged = mutate(case.raw, case.places, generator)
            signal.alarm(SECONDS)
            begin = time.perf_counter()
            try:
                case.check(damaged)
            except AdvjaxError as error:
                messages.append(str(error))
            except BaseException:
                signal.alarm(0)
                kept = Path(tempfile.gettempdir()) / f"fuzz-{kind}-{seed}-{index}"
                kept.write_bytes(damaged)
                print(f"kept in {kept}", file=sys.stderr)
                raise
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - begin)
    assert not [message for message in messages if "\n" in message or len(message) > 1000]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "kind": kind,
        "count": count,
        "refused": len(messages),
        "slowest_s": round(slowest, 3),
        "peak_rss_mib": round(peak),
    }


def main() -> int:
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore", AdvjaxWarning)
    for kind in sys.argv[3:]:
        print(json.dumps(fuzz(kind, count, seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
