"""Runs past one machine: JAX's multi-process runtime, and Ray.

With JAX each process attacks its part of the blocks and writes its own shards. With Ray an actor on
each device takes one block after the other; this process, which began the run, writes the shards.
Either way no device waits for another. Ray itself restarts an actor that dies, on a machine that is
left, and repeats its blocks there.
"""

import contextlib
import importlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa

from advjax.errors import AdvjaxError
from advjax.runs import directory as directories
from advjax.runs.driver import Outcome, open_or_create, remaining, stop_requests
from advjax.runs.history import session
from advjax.runs.lock import locked
from advjax.runs.pair_list import PairList
from advjax.runs.pipeline import AHEAD, SAVED, Job, Tally, Task, attack_blocks
from advjax.runs.progress import Display

LOSSES = 10  # how often each worker may be lost
ASKED = 1.0  # seconds between two reports of a worker


def join_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> tuple[int, int]:
    """Meet the other processes in JAX's multi-process runtime; call this before JAX is used.

    Args:
        coordinator: HOST:PORT of process 0; on Slurm and TPU pods it need not be given.
        processes: Number of processes, likewise.
        process: This process's number, from 0, likewise.

    Returns:
        This process's number, and the number of processes.

    Raises:
        AdvjaxError: The others cannot be reached.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process)
        index, count = jax.process_index(), jax.process_count()
        # Left at once: a process that dies must not end the others, nor make them wait.
        jax.distributed.shutdown()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AdvjaxError(
            f"the processes cannot be joined ({reason}); give coordinator, processes and process"
        ) from error
    return index, count


def run_on_ray(
    job: Job,
    pairs: PairList,
    out: Path,
    *,
    address: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: bool | None = None,
    save_every: float = SAVED,
    named: Mapping[str, Any] | None = None,
) -> Outcome:
    """Do the work of `advjax.runs.driver.run` on a Ray cluster; needs the extra `ray`.

    A worker that is lost is restarted, on another machine where its own is gone, and does its
    blocks again.

    Args:
        job: The settings of the attacks; `batch_size` is each worker's.
        pairs: The pair list; every worker must be able to read the images.
        out: The directory, which this process alone writes.
        address: Of the cluster, as `ray.init` takes it; "local" starts one on this machine.
        workers: Number of workers. None: one for each GPU of the cluster, or for each CPU.
        retry_failed: See `run`.
        progress: See `run`.
        save_every: See `run`.
        named: See `run`.

    Raises:
        RunError: As in `run`.
        AdvjaxError: Ray is not installed or cannot be reached, or a worker was lost too often.
    """
    try:
        # By its name: type checkers must not need what is an extra.
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise AdvjaxError("Ray is not installed: run pip install 'advjax[ray]'") from None
    with locked(out):
        directory = open_or_create(job, pairs, out)
        directory.clean()
        left = remaining(directory, pairs, (0, 1), retry_failed)
        if not left.blocks:
            return Outcome(left.pairs, left.done, left.failed, 0, True)
        begun = not ray.is_initialized()
        if begun:
            try:
                ray.init(address, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise AdvjaxError(f"ray address {address!r}: {error}") from error
        note = directory.path / directories.UNFINISHED / "progress-0.json"
        display = Display(note, left.pairs, left.done, left.failed, job.budget, progress)
        tasks = [
            Task(block, directory.known(block.number, failed=not retry_failed))
            for block in left.blocks
        ]
        try:
            with (
                session(directory.path, named, f"Ray, {len(ray.nodes())} machines") as record,
                stop_requests() as stop,
                contextlib.closing(display),
            ):
                # Kept here: a worker that is restarted asks for them again.
                given = ray.put(job), ray.put(pairs)
                crew = _start(ray, given, job, workers, len(tasks), save_every)
                try:
                    whole, last = _hand_out(ray, crew, tasks, job, directory, display, stop)
                    record |= {"pairs": last.rows, "failed": last.failed}
                finally:
                    for worker in crew:
                        ray.kill(worker)
        finally:
            if begun:
                ray.shutdown()
        if whole:
            directory.tidy()
        return left.outcome(last, whole)


class Worker:
    """An actor with a device of its own, which attacks the blocks that it is called with.

    The blocks of several calls share its lanes: none is idle at the end of a block.
    """

    def __init__(self, job: Job, pairs: PairList, save_every: float):
        self.job, self.pairs, self.save_every = job, pairs, save_every
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.answers: dict[int, Future[pa.Table | None]] = {}
        self.kept: dict[int, pa.Table] = {}
        self.tally, self.stopping = Tally(0, 0, 0, 0.0), False
        threading.Thread(target=self._work, daemon=True).start()

    def attack(self, task: Task) -> pa.Table | None:
        """Return the rows of a block, or None if the work was stopped before they were whole."""
        answer = self.answers[task.block.number] = Future()
        self.tasks.put(task)
        return answer.result()

    def report(self, stop: bool) -> tuple[Tally, dict[int, pa.Table]]:
        """Return the progress, and the new rows of unfinished blocks; learn whether to stop."""
        self.stopping = self.stopping or stop
        kept, self.kept = self.kept, {}
        return self.tally, kept

    def _work(self) -> None:
        while True:
            first = self.tasks.get()
            try:
                whole = not self.stopping and self._attack(first)
            except BaseException as error:  # belongs to those who wait for rows
                for number in list(self.answers):
                    self.answers.pop(number).set_exception(error)
            else:
                for number in [] if whole else list(self.answers):
                    self.answers.pop(number).set_result(None)

    def _attack(self, first: Task) -> bool:
        def tasks() -> Iterator[Task]:
            yield first
            with contextlib.suppress(queue.Empty):
                while True:
                    yield self.tasks.get_nowait()

        def watch(tally: Tally) -> bool:
            self.tally = tally
            return self.stopping

        whole, self.tally = attack_blocks(
            self.job,
            self.pairs,
            tasks(),
            finish=lambda number, rows: self.answers.pop(number).set_result(rows),
            keep=lambda number, rows: self.kept.update({number: rows}),
            watch=watch,
            save_every=self.save_every,
        )
        return whole


def _in_flight(job: Job) -> int:
    """Return how many blocks a worker needs at once, so that its lanes and its reader have work."""
    return 1 + -(-(job.batch_size + AHEAD) // job.shard_size)


def _start(
    ray: Any, given: Any, job: Job, workers: int | None, blocks: int, save_every: float
) -> list[Any]:
    """Start the workers, no more than there are blocks."""
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
    actor = ray.remote(
        max_restarts=LOSSES,
        max_task_retries=-1,  # as often as it is restarted
        max_concurrency=_in_flight(job) + 1,  # its blocks wait while it reports
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )(Worker)
    count = min(workers or gpus or cpus, blocks)
    return [actor.remote(*given, save_every) for _ in range(count)]


def _hand_out(
    ray: Any,
    crew: list[Any],
    tasks: list[Task],
    job: Job,
    directory: directories.RunDirectory,
    display: Display,
    stop: threading.Event,
) -> tuple[bool, Tally]:
    """Give the workers blocks, and write the rows that come, until all are whole or `stop` is set.

    Returns:
        True if all blocks are whole, and the progress at the end.

    Raises:
        AdvjaxError: A worker failed for a reason of its own, or was lost too often.
    """
    left = iter(tasks)
    known = {task.block.number: _count(task.known) for task in tasks}
    made: dict[int, tuple[int, int]] = {}  # rows and failures of each block
    tallies = [Tally(0, 0, 0, 0.0)] * len(crew)
    blocks: dict[Any, tuple[int, int]] = {}  # calls of `attack`: the worker's index, the block
    reports: dict[Any, int] = {}  # calls of `report`: the worker's index

    def give(index: int) -> None:
        if not stop.is_set() and (task := next(left, None)):
            blocks[crew[index].attack.remote(task)] = index, task.block.number

    def receive(write: Any, number: int, rows: pa.Table) -> None:
        write(number, rows)
        total, failed = _count(rows)
        made[number] = total - known[number][0], failed - known[number][1]

    def answer(call: Any) -> Any:
        try:
            return ray.get(call)
        except ray.exceptions.RayActorError as error:
            raise AdvjaxError(f"a worker was lost {LOSSES + 1} times: {error}") from error
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, AdvjaxError):
                raise error.cause from error
            raise

    def take_report(call: Any) -> None:
        index = reports.pop(call)
        tallies[index], kept = answer(call)
        for number, rows in kept.items():
            if number in waiting:
                receive(directory.keep, number, rows)

    waiting = set(known)
    for _ in range(_in_flight(job)):
        for index in range(len(crew)):
            give(index)
    asked = [0.0] * len(crew)
    while blocks:
        for index, worker in enumerate(crew):
            if index not in reports.values() and time.monotonic() - asked[index] > ASKED:
                asked[index] = time.monotonic()
                reports[worker.report.remote(stop.is_set())] = index
        ready, _ = ray.wait([*blocks, *reports], timeout=0.3)
        for call in ready:
            if call in reports:
                take_report(call)
                continue
            index, number = blocks.pop(call)
            rows = answer(call)
            if rows is not None:
                receive(directory.finish, number, rows)
                waiting.discard(number)
            give(index)
        running = sum(tally.running for tally in tallies)
        active = sum(tally.active for tally in tallies) / len(crew)
        display(_total(made)._replace(running=running, active=min(active, 1.0)))
    if waiting:
        for worker in crew:
            reports[worker.report.remote(True)] = 0
        for call in list(reports):
            take_report(call)
    display(_total(made))
    return not waiting, _total(made)


def _total(made: dict[int, tuple[int, int]]) -> Tally:
    """Return the progress of all blocks."""
    rows, failed = (sum(counts) for counts in zip((0, 0), *made.values(), strict=True))
    return Tally(rows, failed, 0, 0.0)


def _count(rows: pa.Table | None) -> tuple[int, int]:
    """Return the number of rows, and of failures among them."""
    if rows is None:
        return 0, 0
    return len(rows), directories.count_failed(rows)
