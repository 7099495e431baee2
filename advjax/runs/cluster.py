"""Runs past one machine: JAX's multi-process runtime, and Ray.

With JAX each process attacks its part of the blocks and writes its own shards. With Ray an actor on
each device takes one block after the other; this process, which began the run, writes the shards.
Either way no device waits for another.
"""

import contextlib
import importlib
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa

from advjax.errors import AdvjaxError
from advjax.runs import directory as directories
from advjax.runs.driver import Outcome, open_or_create, remaining, stop_requests
from advjax.runs.lock import locked
from advjax.runs.pair_list import PairList
from advjax.runs.pipeline import SAVED, Job, Tally, Task, attack_blocks
from advjax.runs.progress import Display

LOSSES = 10  # workers that may be lost, for each that was started
ASKED = 1.0  # seconds between two messages of a worker


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
) -> Outcome:
    """Do the work of `advjax.runs.driver.run` on a Ray cluster; needs the extra `ray`.

    A worker that is lost is replaced, and its blocks are done by others.

    Args:
        job: The settings of the attacks; `batch_size` is each worker's.
        pairs: The pair list; every worker must be able to read the images.
        out: The directory, which this process alone writes.
        address: Of the cluster, as `ray.init` takes it; "local" starts one on this machine.
        workers: Number of workers. None: one for each GPU of the cluster, or for each CPU.
        retry_failed: See `run`.
        progress: See `run`.
        save_every: See `run`.

    Raises:
        RunError: As in `run`.
        AdvjaxError: Ray is not installed or cannot be reached, or too many workers were lost.
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
            with stop_requests() as stop, contextlib.closing(display):
                crew = _Crew(ray, job, pairs, tasks, workers, save_every)
                try:
                    while crew.at_work() and not (stop.is_set() and crew.stop()):
                        crew.receive(directory)
                        display(crew.tally())
                finally:
                    crew.dismiss()
                crew.receive(directory)
                last = crew.tally()
        finally:
            if begun:
                ray.shutdown()
        if not crew.missing:
            directory.tidy()
        return left.outcome(last, not crew.missing)


class Desk:
    """The actor that hands out blocks and takes in rows; every worker can reach it."""

    def __init__(self, tasks: list[Task]):
        self.tasks = deque(tasks)
        self.taken: dict[str, dict[int, Task]] = {}
        self.rows: list[tuple[str, int, pa.Table]] = []
        self.tallies: dict[str, Tally] = {}
        self.stopping = False

    def take(self, worker: str) -> Task | None:
        """Return the next block, or None."""
        if self.stopping or not self.tasks:
            return None
        task = self.tasks.popleft()
        self.taken.setdefault(worker, {})[task.block.number] = task
        return task

    def put(self, worker: str, kind: str, number: int, rows: pa.Table) -> None:
        """Take rows of a block, for the directory's `finish` or `keep`."""
        if kind == "finish":
            self.taken[worker].pop(number, None)
        self.rows.append((kind, number, rows))

    def report(self, worker: str, tally: Tally) -> bool:
        """Take the progress of a worker; return True if it should stop."""
        self.tallies[worker] = tally
        return self.stopping

    def lost(self, worker: str) -> None:
        """Put the blocks of a worker that died back into the queue."""
        self.tasks.extendleft(self.taken.pop(worker, {}).values())
        at = self.tallies.get(worker)
        if at is not None:
            self.tallies[worker] = at._replace(running=0, active=0.0)

    def drain(self, stop: bool) -> tuple[list[tuple[str, int, pa.Table]], list[Tally], int]:
        """Return the rows since the last call, each worker's progress, and the blocks not taken."""
        self.stopping = self.stopping or stop
        rows, self.rows = self.rows, []
        return rows, list(self.tallies.values()), len(self.tasks)


class Worker:
    """An actor with a device of its own, which attacks blocks until the desk has none."""

    def __init__(self, job: Job, pairs: PairList, desk: Any, name: str, save_every: float):
        self.job, self.pairs, self.desk, self.name = job, pairs, desk, name
        self.save_every, self.before = save_every, Tally(0, 0, 0, 0.0)

    def work(self) -> None:
        """Attack blocks until there is none left."""
        ray: Any = importlib.import_module("ray")

        def tasks():
            while (task := ray.get(self.desk.take.remote(self.name))) is not None:
                yield task

        def send(kind: str):
            return lambda n, rows: ray.get(self.desk.put.remote(self.name, kind, n, rows))

        asked = 0.0

        def watch(tally: Tally) -> bool:
            nonlocal asked
            if time.monotonic() - asked < ASKED:
                return False
            asked = time.monotonic()
            return ray.get(self.desk.report.remote(self.name, tally))

        attack_blocks(
            self.job,
            self.pairs,
            tasks(),
            finish=send("finish"),
            keep=send("keep"),
            watch=watch,
            save_every=self.save_every,
        )
        ray.get(self.desk.report.remote(self.name, Tally(0, 0, 0, 0.0)))


class _Crew:
    """The workers, seen from the process that began the run."""

    def __init__(
        self,
        ray: Any,
        job: Job,
        pairs: PairList,
        tasks: list[Task],
        workers: int | None,
        save_every: float,
    ):
        self.ray, self.save_every = ray, save_every
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        self.resources = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        self.missing = {task.block.number: task for task in tasks}
        self.known = {number: _counted(task.known) for number, task in self.missing.items()}
        self.desk = ray.remote(num_cpus=0)(Desk).remote(tasks)
        self.given = ray.put(job), ray.put(pairs)
        self.futures: dict[Any, tuple[str, Any]] = {}
        self.idle: list[tuple[str, Any]] = []
        self.waiting, self.started, self.stopping = len(tasks), 0, False
        self.tallies: list[Tally] = []
        self.made: dict[int, tuple[int, int]] = {}  # rows and failures of each block
        self.count = workers or gpus or cpus
        for _ in range(min(self.count, len(tasks))):
            self._start()

    def _start(self) -> None:
        name = f"worker-{self.started}"
        self.started += 1
        remote = self.ray.remote(**self.resources)(Worker)
        worker = remote.remote(*self.given, self.desk, name, self.save_every)
        self.futures[worker.work.remote()] = name, worker

    def at_work(self) -> bool:
        """Wait a little for workers that end; return False when there is nothing to wait for.

        Raises:
            AdvjaxError: A worker failed for a reason of its own, or too many were lost.
        """
        if not self.missing or (self.stopping and not self.futures):
            return False
        ready, _ = self.ray.wait(list(self.futures), timeout=0.3) if self.futures else ([], [])
        for future in ready:
            name, worker = self.futures.pop(future)
            try:
                self.ray.get(future)
                self.idle.append((name, worker))
            except self.ray.exceptions.RayActorError as error:
                self.ray.get(self.desk.lost.remote(name))
                if self.started > self.count * (1 + LOSSES):
                    raise AdvjaxError(f"{self.started - self.count} workers were lost") from error
                if not self.stopping:
                    self._start()
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, AdvjaxError):
                    raise error.cause from error
                raise
        # Blocks of a lost worker may come back after the others had nothing left to do.
        while self.idle and self.waiting and not self.stopping:
            name, worker = self.idle.pop()
            self.waiting -= 1
            self.futures[worker.work.remote()] = name, worker
        return True

    def stop(self) -> bool:
        """Ask the workers to end; return True when all have ended."""
        self.stopping = True
        return not self.futures

    def receive(self, directory: directories.RunDirectory) -> None:
        """Write the rows that have come."""
        rows, self.tallies, self.waiting = self.ray.get(self.desk.drain.remote(self.stopping))
        for kind, number, table in rows:
            if number not in self.missing:
                continue  # done twice: its first worker was given up too early
            failed = directories.count_failed(table)
            self.made[number] = len(table) - self.known[number][0], failed - self.known[number][1]
            if kind == "keep":
                directory.keep(number, table)
            else:
                directory.finish(number, table)
                del self.missing[number]

    def tally(self) -> Tally:
        """Return the progress of all workers together."""
        running = sum(t.running for t in self.tallies)
        active = sum(t.active for t in self.tallies) / max(len(self.futures), 1)
        rows = sum(rows for rows, _ in self.made.values())
        failed = sum(failed for _, failed in self.made.values())
        return Tally(rows, failed, running, min(active, 1.0))

    def dismiss(self) -> None:
        """End the workers."""
        for _, worker in [*self.futures.values(), *self.idle]:
            self.ray.kill(worker)


def _counted(rows: pa.Table | None) -> tuple[int, int]:
    """Return the number of rows, and of failures among them."""
    if rows is None:
        return 0, 0
    return len(rows), directories.count_failed(rows)
