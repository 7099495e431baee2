"""The engine: B lanes on the device, any number of pairs going through them.

This is the only place that vmaps, jits and shards. A compiled chunk takes some steps of every lane
and comes back early when enough lanes are done; the host reads the statuses, takes out what has
finished and puts the next pairs into the free lanes, which neither recompiles nor touches the
others. On several devices each has its share of the lanes (`jax.shard_map`, no collectives).
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from advjax.attacks.box import PixelBox, check_delta, pixel_box, round_into
from advjax.attacks.feature import FeatureOpt
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.network import Network, activations
from advjax.solvers import Box, ProjectedLBFGS, ScipyLBFGSB, Solver, Status

CHUNK = 16  # steps between two looks of the host, at most
BLOCK = 8  # pairs that are prepared or measured in one call of the network
GUIDES = 128  # whose activations are kept: the paper's protocol attacks each with many sources
PRECISIONS = ("highest", "tensorfloat32", "bfloat16")
_NO_LABEL = -1


class Pair(NamedTuple):
    """One attack to do: images [h, w, c] as the network takes them."""

    source: np.ndarray
    guide: np.ndarray
    delta: float | None = None  # the stream's own when None


class PairResult(NamedTuple):
    """What became of one pair; distances are Euclidean, at `highest` precision."""

    index: int  # the pair's place in the stream
    adversarial: Float[np.ndarray, "h w c"]
    adversarial_uint8: UInt8[np.ndarray, "h w c"]
    ratio: float  # distance / initial_distance
    distance: float  # of the adversarial to the guide
    initial_distance: float  # of the source to the guide
    distance_uint8: float
    evaluations: int
    status: Status
    source_label: int | None  # None where the network has no `output`
    guide_label: int | None
    label: int | None
    label_uint8: int | None
    trace: Float[np.ndarray, "e"] | None  # distance at each evaluation


class AttackResult(NamedTuple):
    """The results of n pairs in the order they were given; `PairResult` says what each is."""

    adversarial: Float[np.ndarray, "n h w c"]
    adversarial_uint8: UInt8[np.ndarray, "n h w c"]
    ratio: Float[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    initial_distance: Float[np.ndarray, "n"]
    distance_uint8: Float[np.ndarray, "n"]
    evaluations: Int[np.ndarray, "n"]
    status: Int[np.ndarray, "n"]  # advjax.Status
    source_label: Int[np.ndarray, "n"] | None
    guide_label: Int[np.ndarray, "n"] | None
    label: Int[np.ndarray, "n"] | None
    label_uint8: Int[np.ndarray, "n"] | None
    trace: Float[np.ndarray, "n e"] | None  # NaN after a pair's last evaluation


class Lanes(NamedTuple):
    """Everything on the device, lane by lane."""

    state: Any
    box: Box
    target: Any  # the guides' activations
    threshold: Float[Array, "b"]  # TARGET at or under this value of the objective
    goal: Int[Array, "b"]  # LABEL when the network says this
    trace: Float[Array, "b e"]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that decides what is compiled; equal plans share their programs."""

    function: Callable[..., Any]
    with_params: bool
    spec: FeatureOpt
    solver: Solver
    input_shape: tuple[int, int, int]
    output: str | None
    until_label: bool
    trace: bool
    precision: str
    devices: tuple[Any, ...]


class _Programs(NamedTuple):
    mesh: Mesh
    advance: Callable[..., tuple[Lanes, Array]]
    insert: Callable[..., Lanes]
    take: Callable[..., tuple[Array, ...]]
    evaluation: Callable[..., tuple[Array, Array, Array]]
    activations: Callable[..., tuple[Any, Array]]


@functools.lru_cache(maxsize=8)
def _programs(plan: _Plan) -> _Programs:
    """The compiled functions of a plan; nothing in them depends on the number of pairs."""
    spec, solver = plan.spec, plan.solver
    shape = plan.input_shape
    mesh = Mesh(np.array(plan.devices), ("lanes",), axis_types=(AxisType.Auto,))
    extra = (plan.output,) if plan.output and plan.until_label else ()

    def activate(params, images, names):
        return activations(plan.function, plan.with_params, params, images, names)

    def evaluations(params, x, target):
        """Objectives, gradients and labels (if asked for) of a batch of flat images."""

        def loss(x):
            names = spec.layers + extra
            images = x.reshape(-1, *shape)
            values, found = spec.loss(lambda i: activate(params, i, names), images, target)
            labels = jnp.argmax(found[extra[0]], -1) if extra else jnp.full(len(x), _NO_LABEL)
            # Rows know nothing of each other: the gradient of the sum is each one's own.
            return jnp.sum(values), (values, labels)

        gradients, (values, labels) = jax.grad(loss, has_aux=True)(x)
        return values, gradients, labels

    def evaluation(params, x, target):
        """The same of one image."""
        one = (x[None], jax.tree.map(lambda leaf: leaf[None], target))
        return jax.tree.map(lambda leaf: leaf[0], evaluations(params, *one))

    def step(lane: Lanes, objective) -> Lanes:
        """One step of one lane, and whether the pair is done."""
        before = lane.state
        state, info = solver.step(objective, before, lane.box)
        running = before.status == Status.RUNNING
        finite = state.status != Status.NON_FINITE
        status = state.status
        if extra:
            taken = info.improved & (info.aux == lane.goal)
            status = jnp.where(running & finite & taken, Status.LABEL, status)
        reached = running & finite & (state.best.value <= lane.threshold)
        status = jnp.where(reached, Status.TARGET, status)
        trace = lane.trace
        if plan.trace:
            slot = jnp.where(running, state.evaluations - 1, trace.shape[0])
            trace = trace.at[slot].set(jnp.sqrt(info.value), mode="drop")
        return lane._replace(state=state._replace(status=status), trace=trace)

    def steps(params, lanes: Lanes) -> Lanes:
        """One step of every lane: one evaluation of the network on a plain batch."""
        if getattr(solver, "evaluates_elsewhere", False):
            return jax.vmap(lambda lane: step(lane, lambda x: evaluation(params, x, lane.target)))(
                lanes
            )
        found = evaluations(params, lanes.state.trial, lanes.target)
        return jax.vmap(lambda lane, found: step(lane, lambda x: found))(lanes, found)

    def chunk(params, lanes: Lanes, limit, enough) -> tuple[Lanes, Int[Array, "1"]]:
        """Up to `limit` steps, fewer as soon as `enough` lanes of this device are not running."""

        def unfinished(carry):
            done, lanes = carry
            idle = jnp.sum(lanes.state.status != Status.RUNNING)
            return (done < limit) & (idle < enough[0])

        def advance(carry):
            done, lanes = carry
            return done + 1, steps(params, lanes)

        done, lanes = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), lanes))
        return lanes, done[None]

    def put(lanes: Lanes, lane, x0, box: Box, target, threshold, goal) -> Lanes:
        """The lanes with a new problem in place of lane `lane`, counted over all devices."""
        count = lanes.goal.shape[0]
        local = lane - jax.lax.axis_index("lanes") * count
        mine = (local >= 0) & (local < count)
        trace = jnp.full(lanes.trace.shape[1:], jnp.nan)
        new = Lanes(solver.init(x0, box), box, target, threshold, goal, trace)

        def write(old, new):
            # The old value again on the other devices, instead of a select over every lane.
            slot = jnp.clip(local, 0, count - 1)
            return old.at[slot].set(jnp.where(mine, new, old[slot]))

        return jax.tree.map(write, lanes, new)

    def take(lanes: Lanes, rows):
        state = lanes.state
        return state.best.x[rows], state.evaluations[rows], state.status[rows], lanes.trace[rows]

    def evaluate(params, images):
        names = spec.layers + ((plan.output,) if plan.output else ())
        found = activate(params, images.astype(jnp.float32), names)
        label = jnp.argmax(found[plan.output], -1) if plan.output else None
        return {name: found[name] for name in spec.layers}, label

    lanes, everywhere = P("lanes"), P()
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    return _Programs(
        mesh=mesh,
        advance=jax.jit(
            shard(
                _at_precision(plan.precision, chunk),
                in_specs=(everywhere, lanes, everywhere, lanes),
                out_specs=(lanes, lanes),
            ),
            donate_argnums=1,
        ),
        insert=jax.jit(
            shard(put, in_specs=(lanes, *(everywhere,) * 6), out_specs=lanes), donate_argnums=0
        ),
        take=jax.jit(take),
        evaluation=jax.jit(_at_precision(plan.precision, evaluation)),
        activations=jax.jit(_at_precision("highest", evaluate)),
    )


def _at_precision(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args):
        with jax.default_matmul_precision(precision):
            return function(*args)

    return traced


class _Problem(NamedTuple):
    """A pair made ready: checked, boxed, its guide's activations known."""

    index: int
    box: PixelBox
    start: np.ndarray
    target: dict[str, np.ndarray]  # [1, ...] each
    initial_distance: float
    source_label: int | None
    guide_label: int | None


def _only(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the batch axis, of one."""
    return {name: value[0] for name, value in features.items()}


Features = tuple[dict[str, np.ndarray], int | None]
"""The activations [1, ...] of one image, and its label."""


class _Run:
    """One stream: its settings, its programs, and the guides that it has seen lately."""

    def __init__(self, net, plan, delta, target_ratio, start, seed):
        self.net, self.plan, self.spec = net, plan, plan.spec
        self.programs = _programs(plan)
        self.delta, self.target_ratio = delta, target_ratio
        self.start, self.seed = start, seed
        self.guides: OrderedDict[bytes, Features] = OrderedDict()

    def features(self, images: Sequence[np.ndarray]) -> list[Features]:
        """Of up to BLOCK images, at `highest` precision; one compilation whatever their number."""
        padded = np.zeros((BLOCK, *self.net.input_shape), np.float32)
        padded[: len(images)] = images
        found, labels = jax.device_get(self.programs.activations(self.net.params, padded))
        return [
            (
                {name: value[i : i + 1] for name, value in found.items()},
                None if labels is None else int(labels[i]),
            )
            for i in range(len(images))
        ]

    def guide_features(self, guides: Sequence[np.ndarray]) -> list[Features]:
        """As `features`, but computed once for each distinct guide among the latest ones."""
        keys = [hashlib.blake2b(np.ascontiguousarray(g), digest_size=16).digest() for g in guides]
        new = {k: g for k, g in zip(keys, guides, strict=True) if k not in self.guides}
        if new:
            self.guides |= zip(new, self.features(list(new.values())), strict=True)
        found = [self.guides[key] for key in keys]
        for key in keys:
            self.guides.move_to_end(key)
        while len(self.guides) > GUIDES:
            self.guides.popitem(last=False)
        return found

    def prepare(self, pairs: Sequence[tuple[int, Pair]]) -> list[_Problem]:
        """Boxes, starting points and first activations of up to BLOCK pairs."""
        sources = self.features([pair.source for _, pair in pairs])
        guides = self.guide_features([pair.guide for _, pair in pairs])
        problems = []
        for (index, pair), (found, source_label), (target, guide_label) in zip(
            pairs, sources, guides, strict=True
        ):
            box = pixel_box(pair.source, self.delta if pair.delta is None else pair.delta)
            problems.append(
                _Problem(
                    index=index,
                    box=box,
                    start=self.starting_point(index, pair.source, box),
                    target=target,
                    initial_distance=float(self.spec.distance(found, target)[0]),
                    source_label=source_label,
                    guide_label=guide_label,
                )
            )
        return problems

    def starting_point(self, index: int, source: np.ndarray, box: PixelBox) -> np.ndarray:
        if self.start == "source":
            return np.asarray(source, np.float32)
        # Seeded by the pair's place in the stream: neither lane nor batch size matters.
        share = np.random.default_rng((self.seed, index)).random(source.shape, np.float32)
        return np.clip(box.lower + share * (box.upper - box.lower), box.lower, box.upper)

    def empty_lanes(self, count: int, target: dict[str, np.ndarray]) -> Lanes:
        """`count` lanes with nothing to do."""
        pixels = jax.ShapeDtypeStruct((int(np.prod(self.net.input_shape)),), jnp.float32)
        evaluations = self.plan.solver.max_evaluations if self.plan.trace else 0

        def make():
            box = Box(jnp.zeros(pixels.shape), jnp.zeros(pixels.shape))
            lane = Lanes(
                state=self.plan.solver.init(jnp.zeros(pixels.shape), box),
                box=box,
                target=jax.tree.map(jnp.zeros_like, _only(target)),
                threshold=jnp.float32(0),
                goal=jnp.int32(0),
                trace=jnp.zeros(evaluations),
            )
            lanes = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), lane)
            idle = jnp.full((count,), Status.MAX_EVALUATIONS, lanes.state.status.dtype)
            return lanes._replace(state=lanes.state._replace(status=idle))

        return jax.jit(make, out_shardings=NamedSharding(self.programs.mesh, P("lanes")))()

    def insert(self, lanes: Lanes, lane: int, problem: _Problem) -> Lanes:
        """The lanes with this problem in lane `lane`."""
        box = Box(*(bound.reshape(-1) for bound in problem.box))
        start = problem.start.reshape(-1)
        goals = self.goals(problem)
        return self.programs.insert(
            lanes, np.int32(lane), start, box, _only(problem.target), *goals
        )

    def goals(self, problem: _Problem) -> tuple[np.float32, np.int32]:
        """The value of the objective, and the label, at which the pair is done."""
        threshold = -np.inf
        if self.target_ratio is not None:
            threshold = (self.target_ratio * problem.initial_distance) ** 2
        goal = _NO_LABEL if problem.guide_label is None else problem.guide_label
        return np.float32(threshold), np.int32(goal)

    def harvest(
        self, lanes: Lanes, finished: Sequence[tuple[int, _Problem]]
    ) -> Iterator[PairResult]:
        """The results of these lanes; every distance is evaluated afresh, at `highest`."""
        for begin in range(0, len(finished), BLOCK):
            block = finished[begin : begin + BLOCK]
            rows = np.zeros(BLOCK, np.int32)
            rows[: len(block)] = [lane for lane, _ in block]
            taken = jax.device_get(self.programs.take(lanes, rows))
            yield from self.measure([problem for _, problem in block], *taken)

    def measure(
        self,
        problems: Sequence[_Problem],
        best: np.ndarray,
        evaluations: np.ndarray,
        status: np.ndarray,
        trace: np.ndarray,
    ) -> Iterator[PairResult]:
        """Results from what the solver left: `best` [b, pixels], the others [b, ...]."""
        images = best[: len(problems)].reshape(-1, *self.net.input_shape)
        rounded = [round_into(image, p.box) for image, p in zip(images, problems, strict=True)]
        features, features8 = self.features(images), self.features(rounded)
        for i, problem in enumerate(problems):
            (found, label), (found8, label8) = features[i], features8[i]
            distance = float(self.spec.distance(found, problem.target)[0])
            initial = problem.initial_distance
            yield PairResult(
                index=problem.index,
                adversarial=images[i].copy(),
                adversarial_uint8=rounded[i],
                ratio=distance / initial if initial else 0.0,
                distance=distance,
                initial_distance=initial,
                distance_uint8=float(self.spec.distance(found8, problem.target)[0]),
                evaluations=int(evaluations[i]),
                status=Status(int(status[i])),
                source_label=problem.source_label,
                guide_label=problem.guide_label,
                label=label,
                label_uint8=label8,
                trace=trace[i, : evaluations[i]].copy() if self.plan.trace else None,
            )


def attack_stream(
    net: Network,
    pairs: Iterable[Pair | tuple[Any, ...]],
    *,
    layer: str | Sequence[str] | None = None,
    layer_weights: Sequence[float] | None = None,
    delta: float = 10.0,
    solver: Solver | ScipyLBFGSB | None = None,
    batch_size: int = 32,
    target_ratio: float | None = None,
    until_label: bool = False,
    start: Literal["source", "random"] = "source",
    seed: int = 0,
    trace: bool = False,
    ordered: bool = True,
    precision: str = "highest",
    devices: Sequence[Any] | None = None,
    progress: bool | None = False,
) -> Iterator[PairResult]:
    """Attacks a stream of pairs of any length, `batch_size` at a time, in constant memory.

    A pair's result does not depend on the other pairs, on its place in the stream (with the start
    at the source) or on its lane. Ctrl-C ends the stream with KeyboardInterrupt once the pairs that
    are finished have been yielded.

    Args:
        net: The network.
        pairs: `(source, guide)` or `(source, guide, delta)`: images [h, w, c], 0..255, or paths of
            image files, which `net.preprocessing` brings to the network's size. Read in a thread of
            its own, a little ahead.
        layer: The layer to match, or several; the network's customary one when None.
        layer_weights: One number for each layer; 1 when None.
        delta: Half-width of the box in levels of 255.
        solver: `advjax.ProjectedLBFGS()` when None; see `advjax.solvers`.
        batch_size: Lanes, over all devices.
        target_ratio: A pair is done when its distance is this share of the initial one.
        until_label: A pair is done when the network gives it the guide's label.
        start: Where a pair starts: its source, or a random point of the box, drawn from `seed` and
            the pair's place.
        seed: See `start`.
        trace: Keep the distance at each evaluation.
        ordered: Yield in the order of `pairs`; else as they finish.
        precision: Of matrix products while solving: "highest" (float32), "tensorfloat32" or
            "bfloat16". Reported distances are evaluated again at "highest".
        devices: Where the lanes live; the first local device when None.
        progress: Show a bar on standard error; None: if it is a terminal.

    Yields:
        One result per pair.

    Raises:
        AdvjaxError: An argument or an image that cannot be used.
        UnknownName: A layer that the network does not have.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> black, white = np.zeros((28, 28, 1), np.uint8), np.full((28, 28, 1), 255, np.uint8)
        >>> solver = advjax.ProjectedLBFGS(max_evaluations=5)
        >>> for result in attack_stream(net, [(black, white)], delta=20.0, solver=solver):
        ...     print(result.index, result.ratio < 1, result.status.name)
        0 True MAX_EVALUATIONS
    """
    layers = net.check_layers(layer)
    spec = FeatureOpt(layers, None if layer_weights is None else tuple(layer_weights))
    solver = ProjectedLBFGS() if solver is None else solver
    if batch_size < 1:
        raise AdvjaxError(f"batch_size is {batch_size}; give 1 or more")
    if target_ratio is not None and not 0 < target_ratio < 1:
        raise AdvjaxError(f"target_ratio is {target_ratio}; give a share between 0 and 1")
    if start not in ("source", "random"):
        raise UnknownName("start", start, ("source", "random"))
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if until_label and net.output is None:
        raise AdvjaxError(f"until_label needs an output layer, and {net.name} names none")
    plan = _Plan(
        function=net.function,
        with_params=net.params is not None,
        spec=spec,
        solver=solver,
        input_shape=net.input_shape,
        output=net.output,
        until_label=until_label,
        trace=trace,
        precision=precision,
        devices=tuple(devices) if devices else (jax.local_devices()[0],),
    )
    run = _Run(net, plan, check_delta(delta), target_ratio, start, seed)
    total = len(pairs) if isinstance(pairs, Sized) else None
    lanes = batch_size if total is None else max(1, min(batch_size, total))
    source = _read_ahead(net, pairs, 2 * max(lanes, BLOCK))
    report, close = _report(plan, total, progress)
    solve = _solve_on_host if isinstance(solver, ScipyLBFGSB) else _solve
    return _finally(close, (_in_order if ordered else iter)(solve(run, source, lanes, report)))


Report = Callable[[int, int], None]
"""Told after each chunk: pairs finished so far, and evaluations of those still running."""


def _solve(
    run: _Run, pairs: Iterator[Pair], batch_size: int, report: Report
) -> Iterator[PairResult]:
    """Continuous batching: finished lanes are taken out and filled again, the others go on."""
    devices = len(run.plan.devices)
    share = -(-batch_size // devices)  # lanes of one device
    problems = _prepared(run, pairs)
    waiting: list[_Problem] = list(itertools.islice(problems, 1))
    if not waiting:
        return
    lanes = run.empty_lanes(share * devices, waiting[0].target)
    occupants: list[_Problem | None] = [None] * (share * devices)
    exhausted, done = False, 0
    while True:
        for lane, occupant in enumerate(occupants):
            if occupant is None and not exhausted:
                problem = waiting.pop() if waiting else next(problems, None)
                exhausted = problem is None
                if problem is not None:
                    lanes = run.insert(lanes, lane, problem)
                    occupants[lane] = problem
        if not any(occupants):
            return
        # A device looks up when an eighth of its lanes can be filled again, and at the end of the
        # stream, when nothing is left to fill them with, only once all are done.
        idle = np.array([o is None for o in occupants]).reshape(devices, share).sum(1)
        enough = np.full(devices, share) if exhausted else idle + -(-share // 8)
        interrupted = None
        try:
            lanes, _ = run.programs.advance(
                run.net.params, lanes, np.int32(CHUNK), enough.astype(np.int32)
            )
            status = np.asarray(lanes.state.status)
        except KeyboardInterrupt as error:
            interrupted, status = error, np.asarray(lanes.state.status)
        finished = [
            (lane, problem)
            for lane, problem in enumerate(occupants)
            if problem is not None and status[lane] != Status.RUNNING
        ]
        done += len(finished)
        for lane, _ in finished:
            occupants[lane] = None
        running = np.asarray(lanes.state.evaluations)[[o is not None for o in occupants]]
        report(done, int(running.sum()))
        yield from run.harvest(lanes, finished)
        if interrupted:
            raise interrupted


def _solve_on_host(
    run: _Run, pairs: Iterator[Pair], batch_size: int, report: Report
) -> Iterator[PairResult]:
    """One pair after the other through SciPy; the objective and its gradient are compiled."""
    solver = run.plan.solver
    assert isinstance(solver, ScipyLBFGSB)
    for done, problem in enumerate(_prepared(run, pairs)):
        threshold, goal = run.goals(problem)
        labels, target = [], _only(problem.target)

        def evaluate(x, target=target, labels=labels):
            value, gradient, label = run.programs.evaluation(run.net.params, x, target)
            labels.append(int(label))
            return value, gradient

        def stop(count, value, point, done=done, threshold=threshold, goal=goal, labels=labels):
            report(done, count)
            if value <= threshold:
                return Status.TARGET
            return Status.LABEL if run.plan.until_label and labels[-1] == goal else None

        bounds = Box(*(bound.reshape(-1) for bound in problem.box))
        found = solver.minimize(evaluate, problem.start.reshape(-1), bounds, stop)
        yield from run.measure(
            [problem],
            found.x[None],
            np.array([found.evaluations]),
            np.array([found.status]),
            np.sqrt(found.values, dtype=np.float32)[None],
        )
        report(done + 1, 0)


def _prepared(run: _Run, pairs: Iterator[Pair]) -> Iterator[_Problem]:
    numbered = enumerate(pairs)
    while block := list(itertools.islice(numbered, BLOCK)):
        yield from run.prepare(block)


def _read_ahead(net: Network, pairs: Iterable[Any], limit: int) -> Iterator[Pair]:
    """Decodes and checks pairs in a thread, at most `limit` of them ahead of their use."""
    ready: queue.Queue[Any] = queue.Queue(limit)
    stop = threading.Event()
    end = object()

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def read() -> None:
        try:
            for index, pair in enumerate(pairs):
                if stop.is_set():
                    return
                put(_checked(net, index, pair))
            put(end)
        except BaseException as error:  # whatever it is, it belongs to the consumer
            put(error)

    thread = threading.Thread(target=read, name="advjax-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()


def _checked(net: Network, index: int, pair: Any) -> Pair:
    try:
        pair = Pair(*pair)
    except TypeError:
        raise AdvjaxError(
            f"pair {index} is not (source, guide) or (source, guide, delta); give tuples"
        ) from None
    images = {}
    for name in ("source", "guide"):
        image = getattr(pair, name)
        if isinstance(image, (str, os.PathLike)):
            image = net.read(image)
        argument = f"{name} of pair {index}"
        images[name] = np.asarray(net.check_images(np.asarray(image)[None], argument))[0]
    return Pair(**images, delta=None if pair.delta is None else check_delta(pair.delta))


def _finally(close: Callable[[], None], results: Iterator[PairResult]) -> Iterator[PairResult]:
    try:
        yield from results
    finally:
        close()


def _in_order(results: Iterator[PairResult]) -> Iterator[PairResult]:
    early: dict[int, PairResult] = {}
    following = 0
    for result in results:
        early[result.index] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _report(
    plan: _Plan, total: int | None, progress: bool | None
) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """A bar that counts evaluations: what to call after each chunk, and at the end."""
    if progress is False:
        return (lambda finished, running: None), (lambda: None)
    from tqdm import tqdm

    budget = plan.solver.max_evaluations
    bar = tqdm(
        total=None if total is None else total * budget,
        unit="evaluation",
        unit_scale=True,
        disable=None if progress is None else False,
    )

    def report(finished: int, running: int) -> None:
        # A pair that ended early counts as its whole budget, so that the bar ends at its end.
        bar.set_postfix_str(f"{finished} pairs done", refresh=False)
        bar.update(finished * budget + running - bar.n)

    return report, bar.close


def attack(
    net: Network,
    sources: Any,
    guides: Any,
    *,
    delta: float | Sequence[float] = 10.0,
    progress: bool | None = None,
    **settings: Any,
) -> AttackResult:
    """Finds, in a small box around each source, an image whose representation is the guide's.

    Minimises || phi(I) - phi(guide) ||^2 subject to |I - source| <= delta and 0 <= I <= 255 for
    each pair (Sabour et al. 2016, eqs. 1 and 2). The box holds exactly, also after rounding.

    Args:
        net: The network.
        sources: [n, h, w, c], uint8 or float32, 0..255; or one image.
        guides: As `sources`, one for each.
        delta: Half-width of the box in levels of 255; one for all pairs or one for each.
        progress: Show a bar on standard error; None: if it is a terminal.
        **settings: `layer`, `solver`, `batch_size`, `target_ratio`, ...: see `attack_stream`.

    Returns:
        The results, in the order of the pairs.

    Raises:
        AdvjaxError: An argument or an image that cannot be used.

    Example:
        >>> import advjax
        >>> net = advjax.load("lenet", "orthonormal")
        >>> images = np.zeros((2, 28, 28, 1), np.uint8)
        >>> images[1] = 200
        >>> result = attack(net, images, images[::-1], solver=advjax.ProjectedLBFGS(5), delta=20.0)
        >>> result.adversarial.shape, bool((result.ratio < 1).all())
        ((2, 28, 28, 1), True)
    """
    batches = []
    for name, images in (("sources", sources), ("guides", guides)):
        images = images if isinstance(images, jax.Array) else np.asarray(images)
        images = images[None] if images.shape == net.input_shape else images
        batches.append(np.asarray(net.check_images(images, name)))
    if len(batches[0]) != len(batches[1]):
        raise AdvjaxError(
            f"sources has {len(batches[0])} images and guides has {len(batches[1])}; give one "
            "guide for each source"
        )
    if not len(batches[0]):
        raise AdvjaxError("sources is empty; give at least one pair")
    deltas = [check_delta(d) for d in np.atleast_1d(np.asarray(delta, object))]
    if len(deltas) not in (1, len(batches[0])):
        raise AdvjaxError(
            f"delta has {len(deltas)} values for {len(batches[0])} pairs; give one or one for each"
        )
    deltas = deltas * len(batches[0]) if len(deltas) == 1 else deltas
    pairs = list(zip(*batches, deltas, strict=True))
    results = list(attack_stream(net, pairs, progress=progress, **settings))
    return _stack(results)


def _stack(results: Sequence[PairResult]) -> AttackResult:
    longest = max(len(r.trace) for r in results) if results[0].trace is not None else 0

    def column(name: str) -> Any:
        values = [getattr(result, name) for result in results]
        if values[0] is None:
            return None
        if name == "trace":
            values = [np.pad(v, (0, longest - len(v)), constant_values=np.nan) for v in values]
        return np.asarray(values, np.float32 if isinstance(values[0], float) else None)

    return AttackResult(**{name: column(name) for name in AttackResult._fields})
