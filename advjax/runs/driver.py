"""The driver of a run: it attacks the pairs that have no row, and keeps the rows that are there."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from advjax.display import versions
from advjax.errors import AdvjaxError
from advjax.runs import directory as directories
from advjax.runs.directory import Block, RunDirectory, count_rows
from advjax.runs.history import PACKAGES, session
from advjax.runs.lock import locked, locked_share
from advjax.runs.pair_list import PairList
from advjax.runs.pipeline import SAVED, Job, Tally, Task, attack_blocks
from advjax.runs.progress import Display


class Outcome(NamedTuple):
    """The state of a run after a call, in numbers of pairs."""

    pairs: int  # in the pair list, or in this process's share of it
    done: int  # that have a row
    failed: int  # of these, pairs that could not be attacked
    new: int  # rows made by this call
    whole: bool  # all pairs have a row


def run(
    job: Job,
    pairs: PairList,
    out: Path,
    *,
    retry_failed: bool = False,
    progress: bool | None = None,
    save_every: float = SAVED,
    named: Mapping[str, Any] | None = None,
) -> Outcome:
    """Attack every pair that has no row yet in the run's directory.

    Ctrl-C and SIGTERM end it after the present chunk, with everything finished written.

    Args:
        job: The settings of the attacks.
        pairs: The pair list.
        out: The directory; made when missing, continued when it holds this very run.
        retry_failed: Attack the pairs that failed again.
        progress: None: a bar on a terminal, a line a minute elsewhere.
        save_every: Seconds between two savings of blocks that are not whole. A killed process loses
            at most the work of so many seconds.
        named: Names of the files that pairs and weights came from, for the record of this session
            (`advjax.runs.history`).

    Raises:
        RunError: The directory holds another run, is damaged, or another process works there.
        AdvjaxError: The directory cannot be written.
    """
    with locked(out):
        directory = open_or_create(job, pairs, out)
        directory.clean()
        return work_through(
            job,
            pairs,
            directory,
            retry_failed=retry_failed,
            progress=progress,
            save_every=save_every,
            named=named,
        )


def run_share(
    job: Job, pairs: PairList, out: Path, index: int, count: int, **options: Any
) -> Outcome:
    """Do the part of `run` that belongs to one of `count` processes, which share a directory.

    Each attacks every `count`-th block and writes its own shards; they need no other connection.

    Args:
        job: The settings of the attacks.
        pairs: The pair list.
        out: The directory.
        index: The number of this process, from 0.
        count: The number of processes.
        **options: `retry_failed`, `progress`, `save_every` and `named`, as in `run`.

    Raises:
        RunError: As in `run`.
        AdvjaxError: As in `run`, or an index that is not in 0..count - 1.
    """
    if not 0 <= index < count:
        raise AdvjaxError(f"share is {index} of {count}; give 0 to {count - 1} of {count}")

    def prepare() -> None:
        open_or_create(job, pairs, out).clean()

    with locked_share(out, index, count, prepare):
        directory = open_or_create(job, pairs, out)
        return work_through(job, pairs, directory, share=(index, count), **options)


def open_or_create(job: Job, pairs: PairList, out: Path) -> RunDirectory:
    """Return the run's directory, which must be this run's or empty."""
    for layer in [job.layer, *pairs.table["layer"].unique().drop_null().to_pylist()]:
        job.check(layer)
    settings = job.settings(pairs)
    directory = directories.open_directory(out)
    if directory is None:
        return directories.create(out, settings, about(job, pairs), pairs)
    return directories.go_on(directory, settings, about(job, pairs), pairs)


def about(job: Job, pairs: PairList) -> dict[str, Any]:
    """Return the part of a manifest in which a resumed run may differ."""
    return {
        "root": str(pairs.root.resolve()),
        "classes": None if job.net.classes is None else list(job.net.classes),
        "versions": versions(PACKAGES),
        "devices": devices(),
    }


def devices() -> str:
    """Return the devices of this process in words."""
    mine = jax.local_devices()
    return f"{len(mine)} {mine[0].device_kind}"


def work_through(
    job: Job,
    pairs: PairList,
    directory: RunDirectory,
    *,
    share: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    progress: bool | None = None,
    save_every: float = SAVED,
    named: Mapping[str, Any] | None = None,
) -> Outcome:
    """Attack the pairs without a row of one share of the blocks; the caller holds the lock.

    Args:
        job: The settings of the attacks.
        pairs: The pair list.
        directory: The directory.
        share: (p, n): every n-th block from the p-th on, p from 0.
        retry_failed: See `run`.
        progress: See `run`.
        save_every: See `run`.
        named: See `run`.
    """
    left = remaining(directory, pairs, share, retry_failed)
    if not left.blocks:
        return Outcome(left.pairs, left.done, left.failed, 0, True)
    note = directory.path / directories.UNFINISHED / f"progress-{share[0]}.json"
    # Of many processes that share a terminal or a log, the first one speaks.
    shown = progress if share[0] == 0 else False
    display = Display(note, left.pairs, left.done, left.failed, job.budget, shown)

    def tasks() -> Iterator[Task]:
        for block in left.blocks:
            yield Task(block, directory.known(block.number, failed=not retry_failed))

    with (
        session(directory.path, named, devices(), share) as record,
        stop_requests() as stop,
        contextlib.closing(display),
    ):

        def watch(tally: Tally) -> bool:
            display(tally)
            return stop.is_set()

        whole, last = attack_blocks(
            job,
            pairs,
            tasks(),
            finish=directory.finish,
            keep=directory.keep,
            watch=watch,
            save_every=save_every,
        )
        display(last)
        record |= {"pairs": last.rows, "failed": last.failed}
    if whole and share[1] == 1:
        directory.tidy()
    return left.outcome(last, whole)


class Remaining(NamedTuple):
    """The blocks of a share that are still to be attacked, and the state so far."""

    pairs: int  # of the share
    done: int  # that have a row, and keep it
    failed: int  # of these, pairs that could not be attacked
    blocks: list[Block]

    def outcome(self, last: Tally, whole: bool) -> Outcome:
        """Return the state after the work that `last` counts."""
        return Outcome(
            self.pairs, self.done + last.rows, self.failed + last.failed, last.rows, whole
        )


def remaining(
    directory: RunDirectory, pairs: PairList, share: tuple[int, int], retry_failed: bool
) -> Remaining:
    """Return the blocks that have no shard; with `retry_failed` also those with failures.

    Raises:
        RunError: A shard that is truncated.
    """
    blocks = directory.blocks(pairs)[share[0] :: share[1]]
    whole, partial = count_rows(directory)
    numbers = {block.number for block in blocks}
    counts = [count for number, count in (whole | partial).items() if number in numbers]
    done, failed = sum(c.rows for c in counts), sum(c.failed for c in counts)
    if retry_failed:
        done, failed = done - failed, 0
        whole = {number: count for number, count in whole.items() if not count.failed}
    left = [block for block in blocks if block.number not in whole]
    return Remaining(sum(len(block.indices) for block in blocks), done, failed, left)


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; the second one ends the process."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.getsignal(name) for name in names}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    def ask(number: int, frame: Any) -> None:
        stop.set()
        restore()

    for name in names:
        signal.signal(name, ask)
    try:
        yield stop
    finally:
        restore()
