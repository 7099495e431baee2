"""Continuous batching: the lanes are filled, advance together, and are emptied one by one.

The device is never waited for but at one place. While it is at work on a chunk of steps, the host
measures the pairs that ended in the chunk before, and prepares the next ones.
"""

import math
import os
import time
import warnings
from collections import deque
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from advjax.engine.problems import Problems
from advjax.engine.programs import Lanes, Look
from advjax.engine.results import Progress, ProgressCallback
from advjax.engine.stream import Answer, Problem, Stream
from advjax.results import PairResult
from advjax.solvers import Box, Status

CHUNK = 16  # steps between two looks of the host, at most
LOOK = 1.0  # seconds between two looks of the host, about, where steps are slow
MAX_LANES, MAX_LANES_CPU = 1024, 16  # that batch_size="auto" chooses

Occupants = list[Problem | None]
"""The problem in each lane."""

Solved = tuple[Problem, PairResult]


def solve(
    stream: Stream, problems: Problems, batch_size: int | None, callback: ProgressCallback
) -> Iterator[Solved]:
    """Solve all problems: fill free lanes, advance, take out those that have ended, and repeat."""
    devices = len(stream.plan.devices)
    per_device = -(-(batch_size or 0) // devices)
    lanes: Lanes | None = None
    occupants: Occupants = []
    answers: deque[Answer] = deque()  # of pairs that have ended, not measured yet
    done, steps = 0, 0
    chunk = 1  # the first step says how long one takes
    while True:
        interrupted = None
        try:
            # 1. Fill the free lanes. Pairs that are not read yet are waited for when all are free.
            idle = not answers and not any(occupants)
            if lanes is None:
                first = problems.take()
                if first is None:
                    return
                problems.again.appendleft(first)
                per_device = per_device or _lanes_that_fit(stream, first)
                lanes = stream.empty_lanes(per_device * devices, first)
                occupants = [None] * (per_device * devices)
            chosen = {}
            for lane, occupant in enumerate(occupants):
                if occupant is None:
                    problem = problems.take(wait=idle)
                    if problem is None:
                        break
                    chosen[lane] = problem
                    occupants[lane] = problem._replace(placed=None)
            lanes = stream.insert(lanes, chosen)
            # 2. Let the device advance all lanes by a chunk of steps.
            look, begin = None, time.perf_counter()
            if any(occupants):
                enough = _enough(occupants, devices, problems.exhausted)
                lanes, look = stream.advance(lanes, chunk, enough)
            # 3. Meanwhile, measure what ended before, and prepare what comes next.
            while answers:
                result = stream.measure(answers[0])
                yield answers.popleft().problem, result
            if look is None:
                if idle:
                    return
                continue
            problems.prefetch(len(occupants), lambda running=look.steps: not running.is_ready())
            # 4. Wait.
            look = Look(*(np.asarray(leaf) for leaf in look))
            each = (time.perf_counter() - begin) / max(1, int(look.steps.max()))
            chunk = min(CHUNK, max(1, int(LOOK / each)))
            steps += int(look.steps.sum()) * per_device
        except KeyboardInterrupt as error:
            if lanes is None:
                raise
            state, interrupted = lanes.state, error
            look = Look(np.asarray(state.status), np.asarray(state.evaluations), np.zeros(0))
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
            lost = [answer.problem for answer in answers] + [o for o in occupants if o is not None]
            problems.again.extend(map(stream.place, lost))
            answers.clear()
            lanes, occupants = None, []
            continue
        # 5. Take out the lanes that have ended.
        active = sum(occupant is not None for occupant in occupants)
        ended = [
            (lane, problem)
            for lane, problem in enumerate(occupants)
            if problem is not None and look.status[lane] != Status.RUNNING
        ]
        for (lane, _), answer in zip(ended, stream.answers(lanes, ended, look), strict=True):
            if answer.status in (Status.TARGET, Status.LABEL) and not stream.holds(answer):
                # Measured again, it is not at its goal by the last bits of a figure.
                if answer.evaluations < stream.plan.solver.max_evaluations:
                    lanes = stream.resume(lanes, lane)
                    continue
                answer = answer._replace(status=Status.MAX_EVALUATIONS)
            occupants[lane] = None
            answers.append(answer)
            done += 1
        # 6. Report.
        running = look.evaluations[[o is not None for o in occupants]]
        stop = callback(Progress(done, int(running.sum()), active, len(occupants), steps))
        if interrupted or stop:
            for answer in answers:
                yield answer.problem, stream.measure(answer)
            if interrupted:
                raise interrupted
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
    ready = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.placed))  # as many are prefetched
    each = (lane + account.temp_size_in_bytes) / probe + ready
    fit = max(1.0, 0.8 * free / each)
    return int(min(maximum, 2 ** math.floor(math.log2(fit))))


def solve_on_host(
    stream: Stream, problems: Problems, batch_size: int | None, callback: ProgressCallback
) -> Iterator[Solved]:
    """Solve one pair after the other with SciPy; objective and gradient are compiled."""
    solver = stream.plan.solver
    done, steps = 0, 0
    while (problem := problems.take()) is not None:
        task = stream.task(problem)
        ends: list[Status] = []
        values: list[float] = []

        def evaluate(x, task=task, ends=ends, values=values):
            best = np.float32(np.fmin.reduce(values, initial=np.inf))
            value, gradient, status = stream.programs.evaluation(
                stream.first_params, x, task, np.int32(len(ends)), best
            )
            ends.append(Status(int(status)))
            values.append(float(value))
            return value, gradient

        def stop(count, value, point, before=(done, steps), ends=ends, values=values, at=problem):
            callback(Progress(before[0], count, 1, 1, before[1] + count))
            if ends[-1] == Status.RUNNING:
                return None
            answer = stream.answer(at, ends[-1], point, values)
            return ends[-1] if stream.holds(answer) else None

        bounds = Box(*(bound.reshape(-1) for bound in problem.box))
        found = solver.minimize(evaluate, problem.start.reshape(-1), bounds, stop)
        answer = stream.answer(problem, found.status, found.x, found.values)
        yield problem, stream.measure(answer)
        done, steps = done + 1, steps + found.evaluations
        if callback(Progress(done, 0, 1, 1, steps)):
            return
