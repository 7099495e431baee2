"""Continuous batching: the lanes are filled, advance together, and are emptied one by one."""

import itertools
import math
import os
import time
import warnings
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from advjax.engine.programs import Lanes
from advjax.engine.results import Pair, Progress, ProgressCallback
from advjax.engine.stream import Problem, Stream, prepared
from advjax.results import PairResult
from advjax.solvers import Box, Status

CHUNK = 16  # steps between two looks of the host, at most
LOOK = 1.0  # seconds between two looks of the host, about, where steps are slow
MAX_LANES, MAX_LANES_CPU = 1024, 16  # that batch_size="auto" chooses

Occupants = list[Problem | None]
"""The problem in each lane."""


def solve(
    stream: Stream, pairs: Iterator[Pair], batch_size: int | None, callback: ProgressCallback
) -> Iterator[PairResult]:
    """Solve all pairs: fill free lanes, advance, take out finished pairs, report, and repeat."""
    problems = prepared(stream, pairs)
    waiting = list(itertools.islice(problems, 1))
    if not waiting:
        return
    devices = len(stream.plan.devices)
    if batch_size is None:
        per_device = _lanes_that_fit(stream, waiting[0])
    else:
        per_device = -(-batch_size // devices)
    lanes: Lanes | None = None
    occupants: Occupants = []
    exhausted, done, steps = False, 0, 0
    chunk = 1  # the first step says how many fit
    while True:
        interrupted = None
        try:
            # 1. Fill the free lanes.
            if lanes is None:
                lanes = stream.empty_lanes(per_device * devices, waiting[0])
                occupants = [None] * (per_device * devices)
            for lane, occupant in enumerate(occupants):
                if occupant is None and not exhausted:
                    problem = waiting.pop() if waiting else next(problems, None)
                    exhausted = problem is None
                    if problem is not None:
                        occupants[lane] = problem
                        lanes = stream.insert(lanes, lane, problem)
            if not any(occupants):
                return
            # 2. Advance all lanes by a chunk of steps.
            begin = time.perf_counter()
            lanes, taken = stream.advance(lanes, chunk, _enough(occupants, devices, exhausted))
            status, taken = np.asarray(lanes.state.status), np.asarray(taken)
            each = (time.perf_counter() - begin) / max(1, int(taken.max()))
            chunk = min(CHUNK, max(1, int(LOOK / each)))
            steps += int(taken.sum()) * per_device
        except KeyboardInterrupt as error:
            if lanes is None:
                raise
            interrupted, status = error, np.asarray(lanes.state.status)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or per_device == 1:
                raise
            # The lanes may be lost with the call that they were donated to: their pairs start anew.
            warnings.warn(
                f"out of memory with {per_device} pairs on a device; going on with "
                f"{per_device // 2}",
                stacklevel=2,
            )
            per_device //= 2
            waiting += [occupant for occupant in reversed(occupants) if occupant is not None]
            lanes, occupants, exhausted = None, [], False
            continue
        # 3. Take out the finished lanes.
        finished = [
            (lane, problem)
            for lane, problem in enumerate(occupants)
            if problem is not None and status[lane] != Status.RUNNING
        ]
        done += len(finished)
        active = sum(occupant is not None for occupant in occupants)
        for lane, _ in finished:
            occupants[lane] = None
        # 4. Report, and yield the results.
        running = np.asarray(lanes.state.evaluations)[[o is not None for o in occupants]]
        stop = callback(Progress(done, int(running.sum()), active, len(occupants), steps))
        refused = []
        for (lane, problem), result in zip(finished, stream.harvest(lanes, finished), strict=True):
            if result.status in (Status.TARGET, Status.LABEL) and not stream.holds(problem, result):
                # Measured again, it is not at its goal by the last bits of a figure.
                if result.evaluations < stream.plan.solver.max_evaluations:
                    refused.append((lane, problem))
                    continue
                result = result._replace(status=Status.MAX_EVALUATIONS)
            yield result
        for lane, problem in refused:
            lanes, occupants[lane] = stream.resume(lanes, lane), problem
        done -= len(refused)
        if interrupted:
            raise interrupted
        if stop:
            return


def _enough(occupants: Occupants, devices: int, exhausted: bool) -> np.ndarray:
    """Return, for each device, the number of ended lanes at which it ends its chunk.

    A device ends its chunk when an eighth of its lanes can be filled again. At the end of the
    stream no pair is left to fill them, and the device ends when all its lanes are done.
    """
    per_device = len(occupants) // devices
    if exhausted:
        return np.full(devices, per_device, np.int32)
    idle = np.array([o is None for o in occupants]).reshape(devices, per_device).sum(1)
    return (idle + -(-per_device // 8)).astype(np.int32)


def _lanes_that_fit(stream: Stream, problem: Problem) -> int:
    """Return the number of lanes for which one device's free memory suffices.

    The compiled program says how much memory a lane takes. The number is a power of two, at most
    MAX_LANES, and on a CPU at most MAX_LANES_CPU, because more lanes make nothing faster there.
    """
    device = stream.plan.devices[0]
    maximum = MAX_LANES_CPU if device.platform == "cpu" else MAX_LANES
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    probe = min(8, maximum)
    devices = len(stream.plan.devices)
    lanes = stream.programs.empty.eval_shape(probe * devices, stream.task(problem))
    enough = jax.ShapeDtypeStruct((devices,), jnp.int32)
    limit = jax.ShapeDtypeStruct((), jnp.int32)
    program = stream.programs.advance.lower(stream.params, lanes, limit, enough).compile()
    account = program.memory_analysis()
    if account is None:
        return probe
    lane = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(lanes)) / devices
    each = (lane + account.temp_size_in_bytes) / probe
    fit = max(1.0, 0.8 * free / each)
    return int(min(maximum, 2 ** math.floor(math.log2(fit))))


def solve_on_host(
    stream: Stream, pairs: Iterator[Pair], batch_size: int | None, callback: ProgressCallback
) -> Iterator[PairResult]:
    """Solve one pair after the other with SciPy; objective and gradient are compiled."""
    solver = stream.plan.solver
    steps = 0
    for done, problem in enumerate(prepared(stream, pairs)):
        task = stream.task(problem)
        ends: list[Status] = []
        best = np.float32(np.inf)

        def evaluate(x, task=task, ends=ends):
            nonlocal best
            value, gradient, status = stream.programs.evaluation(
                stream.first_params, x, task, np.int32(len(ends)), best
            )
            ends.append(Status(int(status)))
            best = np.fmin(best, np.float32(value))
            return value, gradient

        def stop(count, value, point, done=done, ends=ends, steps=steps, problem=problem):
            callback(Progress(done, count, 1, 1, steps + count))
            if ends[-1] == Status.RUNNING:
                return None
            answer = np.array([count]), np.array([ends[-1]]), np.full((1, count), value)
            (result,) = stream.measure([problem], point[None], *answer)
            return ends[-1] if stream.holds(problem, result) else None

        bounds = Box(*(bound.reshape(-1) for bound in problem.box))
        answer = solver.minimize(evaluate, problem.start.reshape(-1), bounds, stop)
        yield from stream.measure(
            [problem],
            answer.x[None],
            np.array([answer.evaluations]),
            np.array([answer.status]),
            (answer.values / task.scale).astype(np.float32)[None],
        )
        steps += answer.evaluations
        if callback(Progress(done + 1, 0, 1, 1, steps)):
            return
