"""The work on blocks: images in, the engine, rows out; reading and encoding beside the main path.

tasks ─> reader's thread: images decoded in a pool ─> engine (caller's thread)
│ pairs that cannot be read             │ results
▼                                       ▼
collector's thread: rows by block <── encoding in a pool (PNG, image metrics)
└─> finish(block, rows), or keep(block, rows) of what is not whole yet
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import pyarrow as pa

from advjax.attacks.base import Attack
from advjax.attacks.until import Until
from advjax.engine import Pair, PairResult, Progress, attack_stream, choose_smoothing, resolve
from advjax.errors import AdvjaxError, whole
from advjax.networks.identity import network_key
from advjax.networks.network import Network
from advjax.runs.directory import Block
from advjax.runs.image_reader import Reader
from advjax.runs.pair_list import PairList
from advjax.runs.rows import Item, failed_row, result_row, table_of
from advjax.runs.schema import ERROR
from advjax.smoothing import Smoothing
from advjax.solvers import ScipyLBFGSB, Solver
from advjax.transforms import Transforms

AHEAD = 32  # pairs whose images are being read
WAITING = 64  # results that may wait to be encoded
SAVED = 60.0  # seconds between two savings of blocks that are not whole yet
THREADS = max(2, min(8, (os.cpu_count() or 2) // 2))


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """The settings with which every pair of a run is attacked; see `advjax.attack_stream`.

    Attributes:
        net: The network. Whatever its bounds, a run is in levels of 255, as its files are.
        attack: A name, or any attack that `advjax.attack` takes.
        layer: The layer, or several, for the pairs that name none; the network's default layer when
            None. Several are joined by "+" in the column `layer`.
        delta: The half-width of the box, in levels of 255, for the pairs that name none.
        solver: The minimiser; the attack's default when None.
        smoothing: Of the gradient's kinks; None: exact gradients; "auto": the attack's own.
        transforms: `advjax.Transforms`, drawn at each evaluation.
        batch_size: Lanes, over all devices of a process; no more are used than a run has pairs.
        until: What ends a pair; `target_ratio` and `until_label` are short for a part of it.
        target_ratio: A pair is done at this fraction of its initial distance.
        until_label: A pair is done when it takes the guide's label.
        start: "source" or "random".
        seed: The seed of random starts; a pair's start depends on it and the pair's index alone.
        precision: The precision of matrix products while solving.
        trace: Keep the distance at each evaluation.
        keep_float32: Keep the adversarial before rounding, too.
        shard_size: Pairs in a shard.
    """

    net: Network
    attack: str | Attack = "feature-opt"
    layer: str | Sequence[str] | None = None
    delta: float = 10.0
    solver: Solver | ScipyLBFGSB | None = None
    smoothing: Smoothing | Literal["auto"] | None = "auto"
    transforms: Transforms | None = None
    batch_size: int = 32
    until: Until | None = None
    target_ratio: float | None = None
    until_label: bool = False
    start: Literal["source", "random"] = "source"
    seed: int = 0
    precision: str = "highest"
    trace: bool = False
    keep_float32: bool = False
    shard_size: int = 256

    def __post_init__(self):
        object.__setattr__(self, "net", self.net.in_levels)
        attack, solver = self.resolved  # with `layer` as it was given
        object.__setattr__(self, "layer", "+".join(attack.layers))
        object.__setattr__(self, "solver", solver)
        object.__setattr__(self, "smoothing", choose_smoothing(attack, solver, self.smoothing))
        for name in ("batch_size", "shard_size"):
            object.__setattr__(self, name, whole(given := getattr(self, name), 1) or given)
        if whole(self.batch_size, 1) is None:
            raise AdvjaxError(
                f"batch_size is {self.batch_size!r}; give 1 or more ('auto' depends on the memory "
                "that is free, and a resumed run must have the same)"
            )
        if whole(self.shard_size, 1) is None:
            raise AdvjaxError(f"shard_size is {self.shard_size!r}; give 1 or more")

    @functools.cached_property
    def resolved(self) -> tuple[Attack, Any]:
        """The attack on this network, and its solver."""
        return resolve(self.net, self.attack, self.layer, None, self.solver)

    @property
    def budget(self) -> int:
        """The maximum number of evaluations of a pair."""
        attack, solver = self.resolved
        return solver.max_evaluations * attack.attempts

    def settings(self, pairs: PairList) -> dict[str, Any]:
        """Return all settings on which the rows depend, as JSON values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del plain["net"]
        # Not noted where they are not used, so that runs from before they existed go on.
        del plain["until"], plain["transforms"]
        if self.until is not None:
            plain["until"] = dataclasses.asdict(self.until)
        if self.transforms is not None:
            plain["transforms"] = self.transforms.described()
        if not isinstance(self.attack, str):
            kind, attack = type(self.attack), self.resolved[0]
            plain["attack"] = {
                "name": kind.name,
                "class": f"{kind.__module__}:{kind.__qualname__}",
                "squared": attack.squared,
                "attempts": attack.attempts,
                **json.loads(json.dumps(dataclasses.asdict(attack), default=repr)),
            }
        if self.smoothing is not None:
            plain["smoothing"] = dataclasses.asdict(self.smoothing)  # pyright: ignore[reportArgumentType]
        if self.solver is not None:
            options: Any = self.solver  # a frozen dataclass, which the protocol does not say
            plain["solver"] = {"name": type(self.solver).__name__} | dataclasses.asdict(options)
        plain = json.loads(json.dumps(plain, default=lambda number: number.item()))  # of NumPy
        return {**network_key(self.net), "pairs": pairs.sha256(), **plain}

    def check(self, layer: str | None = None) -> None:
        """Raise the errors of settings that the engine refuses, before any work."""
        self.stream((), layer)

    def stream(
        self,
        pairs: Iterable[Pair],
        layer: str | None = None,
        *,
        count: int | None = None,
        **more: Any,
    ) -> Iterator[PairResult]:
        """Attack these pairs, at a layer of their own or at the job's.

        Lanes that none of `count` pairs could fill would be computed all the same: there are none.
        """
        own = layer not in (None, self.layer)
        return attack_stream(
            self.net,
            pairs,
            attack=self.attack if own else self.resolved[0],
            layer=layer if own else None,
            delta=self.delta,
            solver=self.solver,
            smoothing=self.smoothing,
            batch_size=min(self.batch_size, count or self.batch_size),
            transforms=self.transforms,
            until=self.until,
            target_ratio=self.target_ratio,
            until_label=self.until_label,
            start=self.start,
            seed=self.seed,
            trace=self.trace,
            precision=self.precision,
            devices=jax.local_devices(),
            ordered=False,
            **more,
        )


class Task(NamedTuple):
    """A block to be attacked, and its rows that are known."""

    block: Block
    known: pa.Table | None = None


class Tally(NamedTuple):
    """The progress of the work."""

    rows: int  # made since it began
    failed: int  # of these
    running: int  # evaluations, so far, of the pairs in the lanes
    active: float  # fraction of the lanes that have a pair


Watch = Callable[[Tally], bool | None]
Write = Callable[[int, pa.Table], None]


def attack_blocks(
    job: Job,
    pairs: PairList,
    tasks: Iterable[Task],
    *,
    finish: Write,
    keep: Write = lambda block, rows: None,
    watch: Watch = lambda tally: None,
    save_every: float = SAVED,
) -> tuple[bool, Tally]:
    """Attack the pairs of blocks, which must come layer by layer.

    Args:
        job: The settings of the attacks.
        pairs: The pair list.
        tasks: The blocks; taken by another thread, each when it is needed.
        finish: Called with a block's rows, in any order, when all are there.
        keep: Called now and then, and at the end, with the rows of blocks that are not whole.
        watch: Called after each chunk with the progress. When it returns True the work ends; all
            rows that are ready go to `finish` or `keep` first.
        save_every: Seconds between two calls of `keep` for all blocks.

    Returns:
        True if all blocks are done, and the progress at the end.
    """
    reader, stopped = Reader(job.net, pairs.root), False
    with _Collector(job, pairs.own, finish, keep, save_every) as collector:

        def look(at: Progress) -> bool:
            nonlocal stopped
            collector.check()
            tally = Tally(
                collector.rows, collector.failed, at.running, at.active / max(at.lanes, 1)
            )
            stopped = stopped or bool(watch(tally))
            return stopped

        for layer, group in itertools.groupby(tasks, key=lambda task: task.block.layer):
            items: dict[int, Item] = {}
            feed = _feed(job, pairs, reader, group, items, collector)
            for result in job.stream(feed, layer, count=len(pairs), progress=look):
                collector.put(items.pop(result.index), result)
            if stopped:
                break
    return not stopped, Tally(collector.rows, collector.failed, 0, 0.0)


def _feed(
    job: Job,
    pairs: PairList,
    reader: Reader,
    tasks: Iterable[Task],
    items: dict[int, Item],
    collector: "_Collector",
) -> Iterator[Pair]:
    """Yield pairs with their images; a pair whose images cannot be read goes to the collector."""
    pool = ThreadPoolExecutor(THREADS, "advjax-images")
    count = itertools.count()

    def read(item: Item) -> tuple[Any, Any]:
        return reader(item.entry["source"]), reader(item.entry["guide"])

    def ready(item: Item, images: Future) -> Iterator[Pair]:
        try:
            source, guide = images.result()
        except Exception as error:
            collector.fail(item, error)
            return
        items[next(count)] = item._replace(source=source)
        yield Pair(source, guide, item.delta, index=item.index)

    ahead: deque[tuple[Item, Future]] = deque()
    try:
        for task in tasks:
            block = task.block
            entries = pairs.table.take(pa.array(block.indices)).to_pylist()
            done = set() if task.known is None else set(task.known["index"].to_pylist())
            collector.begin(task)
            for index, entry in zip(block.indices.tolist(), entries, strict=True):
                if index in done:
                    continue
                delta = job.delta if entry["delta"] is None else entry["delta"]
                item = Item(block.number, index, entry, block.layer, delta)
                ahead.append((item, pool.submit(read, item)))
                if len(ahead) > AHEAD:
                    yield from ready(*ahead.popleft())
        while ahead:
            yield from ready(*ahead.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Row(NamedTuple):
    block: int
    row: dict[str, Any]


_NOTHING, _END = object(), object()


class _Collector:
    """A thread and a pool that encode results and gather the rows of each block."""

    def __init__(
        self, job: Job, own: Sequence[pa.Field], finish: Write, keep: Write, save_every: float
    ):
        self.job, self.own = job, own
        self.finish, self.keep, self.save_every = finish, keep, save_every
        self.rows = self.failed = 0
        self._open: dict[int, tuple[Task, list[dict[str, Any]]]] = {}
        self._changed: set[int] = set()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._slots = threading.Semaphore(WAITING)
        self._pool = ThreadPoolExecutor(THREADS, "advjax-encoder")
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._collect, name="advjax-collector", daemon=True)

    def __enter__(self) -> "_Collector":
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._pool.shutdown()
        self._queue.put(_END)
        self._thread.join()
        if error is None or isinstance(error, KeyboardInterrupt):
            self.check()

    def check(self) -> None:
        """Raise, in the caller's thread, the error that writing met."""
        if self._error is not None:
            raise self._error

    def begin(self, task: Task) -> None:
        """Begin a block; its rows come later."""
        self._queue.put(task)

    def put(self, item: Item, result: PairResult) -> None:
        """Take a result; wait while too many are waiting."""
        self._wait()
        self.check()
        self._pool.submit(self._encode, item, result)

    def fail(self, item: Item, error: BaseException) -> None:
        """Take a pair that could not be attacked."""
        self._wait()
        self._queue.put(_Row(item.block, failed_row(item, error)))

    def _wait(self) -> None:
        """Wait until a result can be taken, or the collector has ended."""
        while not self._slots.acquire(timeout=0.2):
            if not self._thread.is_alive():
                return

    def _encode(self, item: Item, result: PairResult) -> None:
        try:
            row = result_row(item, result, self.job.keep_float32, self.job.resolved[0].squared)
        except Exception as error:
            row = failed_row(item, error)
        self._queue.put(_Row(item.block, row))

    def _collect(self) -> None:
        saved = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                what = _NOTHING
                what = self._queue.get(timeout=self.save_every)
            try:
                if self._error is None:
                    self._take(what)
                    if what is _END or time.monotonic() - saved > self.save_every:
                        saved = time.monotonic()
                        self._save()
            except BaseException as error:  # belongs to the caller; what comes is let through
                self._error = error
            if isinstance(what, _Row):
                self._slots.release()
            if what is _END:
                return

    def _take(self, what: Any) -> None:
        if isinstance(what, Task):
            number = what.block.number
            self._open[number] = (what, [])
        elif isinstance(what, _Row):
            number = what.block
            self._open[number][1].append(what.row)
            self._changed.add(number)
            self.rows += 1
            self.failed += what.row["status"] == ERROR
        else:
            return
        task, rows = self._open[number]
        known = 0 if task.known is None else len(task.known)
        if known + len(rows) == len(task.block.indices):
            del self._open[number]
            self._changed.discard(number)
            self.finish(number, self._joined(task.known, rows))

    def _save(self) -> None:
        for number in sorted(self._changed):
            task, rows = self._open[number]
            self.keep(number, self._joined(task.known, rows))
        self._changed.clear()

    def _joined(self, known: pa.Table | None, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        new = table_of([dict(row) for row in rows], self.own)
        if known is None:
            return new
        return pa.concat_tables([known.replace_schema_metadata(None), new])
