"""The host's work on each pair: the preparation for its lane, and the measurement of its result."""

import contextlib
import functools
import hashlib
import itertools
import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.attacks.base import Features, PairData
from advjax.attacks.box import PixelBox, round_into
from advjax.attacks.perceptual import drawn_back
from advjax.attacks.until import Until, goal, judge
from advjax.engine.inputs import CheckedPairs, check_pair
from advjax.engine.programs import INITIAL, Lanes, Plan, Task, programs_of
from advjax.engine.results import Pair
from advjax.networks.network import Network
from advjax.results import PairResult, ratio_of
from advjax.solvers import Box, Status

BLOCK = 8  # pairs that are prepared or measured in one call of the network
GUIDES = 128  # whose activations are kept: the paper's protocol attacks each with many sources


class Problem(NamedTuple):
    """A pair made ready for a lane."""

    index: int
    seed: int  # the index that its random numbers are made of
    source: np.ndarray
    box: PixelBox
    start: np.ndarray
    target: Any  # of the attack's objective, [1, ...] each
    guide: Features | None
    initial_distance: float
    initial_distances: np.ndarray  # in each layer by itself
    initial: float  # the objective's size
    relative: float  # the attack's relative distance
    target_ratio: float | None  # the pair's own
    source_label: int | None
    guide_label: int | None
    label: int | None  # to take
    seen: Any  # of the source, by the perceptual budget, [1, ...] each


def without_batch(target: Any) -> Any:
    """Drop the batch axis, of length 1, of every array."""
    return jax.tree.map(lambda leaf: leaf[0], target)


Labelled = tuple[Features, int | None]
"""The activations of one image, and its label."""


class Stream:
    """The settings of one stream of pairs, its programs, and its latest guides."""

    def __init__(
        self,
        net: Network,
        plan: Plan,
        *,
        delta: float = 10.0,
        until: Until | None = None,
        start: str = "source",
        seed: int = 0,
    ):
        self.net, self.plan, self.attack = net, plan, plan.attack
        self.programs = programs_of(plan)
        self.delta, self.until = delta, until or Until()
        self.start, self.seed = start, seed
        self.guides: OrderedDict[bytes, Labelled] = OrderedDict()

    # Parameters are copied when they are first used, and only where they are not there already: the
    # settings of a stream can be checked on a network that has no weights yet.

    @functools.cached_property
    def params(self) -> Any:
        """Return the network's parameters on all devices of the lanes."""
        return self.programs.everywhere(self.net.params)

    @functools.cached_property
    def first_params(self) -> Any:
        """Return the network's parameters on the first of them."""
        return self.programs.first(self.net.params)

    def features(self, images: Sequence[np.ndarray]) -> list[Labelled]:
        """Compute activations and labels at `highest` precision, BLOCK images in each call."""
        features: list[Labelled] = []
        for begin in range(0, len(images), BLOCK):
            block = images[begin : begin + BLOCK]
            padded = np.zeros((BLOCK, *self.net.input_shape), np.float32)
            padded[: len(block)] = block
            values, labels = jax.device_get(self.programs.activations(self.first_params, padded))
            features += [
                (
                    {name: value[i : i + 1] for name, value in values.items()},
                    None if labels is None else int(labels[i]),
                )
                for i in range(len(block))
            ]
        return features

    def guide_features(self, guides: Sequence[Any]) -> list[tuple[Features | None, int | None]]:
        """Compute the activations and labels of guides; the latest guides are not computed again.

        A guide of several images has the mean of their activations and the most frequent of their
        labels. A guide that is given as activations is returned as it is.
        """
        keys = [
            hashlib.blake2b(g.tobytes(), digest_size=16).digest()
            if isinstance(g, np.ndarray)
            else None
            for g in guides
        ]
        new = {k: g for k, g in zip(keys, guides, strict=True) if k and k not in self.guides}
        if new:
            self.guides |= zip(new, self._of_guides(list(new.values())), strict=True)
        features = [
            self.guides[key] if key else self._given(guide)
            for key, guide in zip(keys, guides, strict=True)
        ]
        for key in filter(None, keys):
            self.guides.move_to_end(key)
        while len(self.guides) > GUIDES:
            self.guides.popitem(last=False)
        return features

    def _of_guides(self, guides: Sequence[np.ndarray]) -> list[Labelled]:
        sets = [guide if guide.ndim == 4 else guide[None] for guide in guides]
        images = [image for each in sets for image in each]
        features = iter(self.features(images))
        joined = _apart if self.attack.guides else _mean
        return [joined([next(features) for _ in each]) for each in sets]

    def _given(self, guide: Mapping[str, np.ndarray] | None) -> tuple[Features | None, int | None]:
        if guide is None:
            return None, None
        output = self.attack.output
        label = int(np.argmax(guide[output])) if output and output in guide else None
        return {name: np.asarray(guide[name])[None] for name in self.attack.layers}, label

    def prepare(self, pairs: Sequence[tuple[int, Pair]]) -> list[Problem]:
        """Compute the boxes, starting points and first activations of up to BLOCK pairs."""
        sources = self.features([pair.source for _, pair in pairs])
        guides = self.guide_features([pair.guide for _, pair in pairs])
        problems = []
        for (index, pair), (features, source_label), (guide, guide_label) in zip(
            pairs, sources, guides, strict=True
        ):
            if guide is None and self.attack.direction > 0:
                guide, guide_label = features, source_label
            label = guide_label if pair.label is None else pair.label
            data = PairData(pair.source, features, guide, label)
            box = self.attack.box(data, self.delta if pair.delta is None else pair.delta)
            target = self.attack.target(data)
            seed = index if pair.index is None else pair.index
            problems.append(
                Problem(
                    index=index,
                    source=pair.source,
                    box=box,
                    start=self.starting_point(seed, pair.source, box),
                    target=target,
                    guide=guide,
                    initial_distance=self.distance(features, guide),
                    initial_distances=self.distances(features, guide),
                    seed=seed,
                    initial=self.attack.initial(data, target),
                    relative=self.attack.relative_distance(data) if self.plan.smoothing else 1.0,
                    target_ratio=pair.target_ratio,
                    source_label=source_label,
                    guide_label=guide_label,
                    label=label,
                    seen=()
                    if self.attack.perceptual is None
                    else self.attack.perceptual.target(pair.source, features),
                )
            )
        return problems

    def distance(self, features: Features, guide: Features | None) -> float:
        """Return the distance of one image's activations to the guide's; NaN without a guide."""
        return float("nan") if guide is None else float(self.attack.distance(features, guide)[0])

    def distances(self, features: Features, guide: Features | None) -> np.ndarray:
        """Return the distance in each layer of the attack by itself."""
        if guide is None:
            return np.full(len(self.attack.layers), np.nan)
        each = (replace(self.attack, layers=(k,), weights=None) for k in self.attack.layers)
        return np.array([float(one.distance(features, guide)[0]) for one in each])

    def layer_ratios(self, problem: Problem, features: Features) -> np.ndarray:
        """Return the ratio in each layer of the attack by itself."""
        ends = self.distances(features, problem.guide).tolist()
        both = zip(ends, problem.initial_distances.tolist(), strict=True)
        return np.array([ratio_of(*each) for each in both], np.float32)

    def starting_point(self, index: int, source: np.ndarray, box: PixelBox) -> np.ndarray:
        """Return the source, or a random point of its box."""
        if self.start == "source" and self.attack.direction <= 0:
            return np.asarray(source, np.float32)
        # Seeded by the pair's index in the stream: neither lane nor batch size matters.
        at = np.random.default_rng((self.seed, index)).random(source.shape, np.float32)
        return np.clip(box.lower + at * (box.upper - box.lower), box.lower, box.upper)

    def empty_lanes(self, count: int, problem: Problem) -> Lanes:
        """Make `count` lanes with nothing to do, for problems like this one."""
        return self.programs.empty(count, self.task(problem))

    def insert(self, lanes: Lanes, lane: int, problem: Problem) -> Lanes:
        """Put this problem into lane `lane`."""
        start = problem.start.reshape(-1)
        return self.programs.insert(lanes, np.int32(lane), start, self.task(problem))

    def resume(self, lanes: Lanes, lane: int) -> Lanes:
        """Let lane `lane` go on, which had ended."""
        return self.programs.resume(lanes, np.int32(lane))

    def advance(self, lanes: Lanes, limit: int, enough: np.ndarray) -> tuple[Lanes, Any]:
        """Take up to `limit` steps of all lanes; return the number that each device took, too."""
        return self.programs.advance(self.params, lanes, np.int32(limit), enough)

    def task(self, problem: Problem) -> Task:
        """Return what a lane must know of the pair, as arrays without a batch axis."""
        initial = problem.initial
        needed = problem.guide if "distance" in self.plan.until else None
        guide = () if needed is None else {name: needed[name] for name in self.attack.layers}
        return Task(
            box=Box(*(bound.reshape(-1) for bound in problem.box)),
            target=without_batch(problem.target),
            scale=np.float32(INITIAL / initial if initial and np.isfinite(initial) else 1.0),
            relative=np.float32(problem.relative),
            key=np.random.SeedSequence((self.seed, problem.seed)).generate_state(2),
            goal=goal(
                self.until,
                self.attack.direction,
                guide=without_batch(guide),
                initial_distance=problem.initial_distance,
                ratio=problem.target_ratio,
                label=problem.label,
            ),
            seen=without_batch(problem.seen),
        )

    def holds(self, problem: Problem, result: PairResult) -> bool:
        """Return True if the figures of the image in 8 bits end the pair."""
        figures = result.distance_uint8, result.cosine_uint8, result.label_uint8
        judged = judge(self.task(problem).goal, self.attack.direction, *figures)
        return bool(judged) and result.keeps_perceptual is not False

    def figures(
        self, problems: Sequence[Problem], images: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return what the attack's perceptual budget bounds, of up to BLOCK images."""
        rows = [min(i, len(images) - 1) for i in range(BLOCK)]
        seen = jax.tree.map(lambda *each: np.concatenate(each), *(problems[i].seen for i in rows))
        padded = np.stack([images[i] for i in rows])
        found = jax.device_get(self.programs.figures(self.first_params, padded, seen))
        return {name: values[: len(images)] for name, values in found.items()}

    def harvest(
        self, lanes: Lanes, finished: Sequence[tuple[int, Problem]]
    ) -> Iterator[PairResult]:
        """Yield the results of these lanes; each distance is evaluated anew, at `highest`."""
        for begin in range(0, len(finished), BLOCK):
            block = finished[begin : begin + BLOCK]
            rows = np.zeros(BLOCK, np.int32)
            rows[: len(block)] = [lane for lane, _ in block]
            taken = jax.device_get(self.programs.take(lanes, rows))
            yield from self.measure([problem for _, problem in block], *taken)

    def measure(
        self,
        problems: Sequence[Problem],
        best: np.ndarray,
        evaluations: np.ndarray,
        status: np.ndarray,
        trace: np.ndarray,
        values: np.ndarray | None = None,
    ) -> Iterator[PairResult]:
        """Yield results from the solver's answers: `best` [b, pixels], the others [b, ...].

        `values` are the scaled objectives at `best`. Without them the result's objective is the
        minimum of its trace.
        """
        images = best[: len(problems)].reshape(-1, *self.net.input_shape)
        perceptual, solved, looks, kept = self.attack.perceptual, images, {}, None
        if perceptual is not None and perceptual.hard:
            images = drawn_back(
                images,
                [p.source for p in problems],
                [p.box for p in problems],
                lambda rounded: perceptual.keeps(self.figures(problems, rounded)),
            )
        rounded = [round_into(image, p.box) for image, p in zip(images, problems, strict=True)]
        if perceptual is not None:
            looks = self.figures(problems, rounded)
            kept = perceptual.keeps(looks).tolist()
        both = self.features([*images, *rounded])
        features, features8 = both[: len(images)], both[len(images) :]
        for i, problem in enumerate(problems):
            (exact, label), (eight_bit, label8) = features[i], features8[i]
            distance = self.distance(exact, problem.guide)
            initial = problem.initial_distance
            if (images[i] != solved[i]).any():
                objective = float("nan")  # it was moved since
            elif values is None:
                objective = float(np.nanmin(trace[i], initial=np.inf))
            else:
                objective = float(values[i]) / float(self.task(problem).scale)
            yield PairResult(
                index=problem.index,
                adversarial=images[i].copy(),
                adversarial_uint8=rounded[i],
                ratio=ratio_of(distance, initial),
                distance=distance,
                initial_distance=initial,
                distance_uint8=self.distance(eight_bit, problem.guide),
                evaluations=int(evaluations[i]),
                status=Status(int(status[i])),
                source_label=problem.source_label,
                guide_label=problem.guide_label,
                label=label,
                label_uint8=label8,
                trace=trace[i, : evaluations[i]].copy() if self.plan.trace else None,
                objective=objective,
                cosine=_cosine(self.attack.layers, exact, problem.guide),
                cosine_uint8=_cosine(self.attack.layers, eight_bit, problem.guide),
                layer_ratios=self.layer_ratios(problem, exact),
                keeps_perceptual=kept and kept[i],
                **{f"{name}_uint8": float(figure[i]) for name, figure in looks.items()},
            )


def _apart(several: Sequence[Labelled]) -> Labelled:
    """Return activations [1, k, ...] of k images; the label is the first one's."""
    names = several[0][0]
    features = {name: np.stack([each[name] for each, _ in several], 1) for name in names}
    return features, several[0][1]


def _cosine(layers: Sequence[str], features: Features, guide: Features | None) -> float:
    """Return the cosine of two images' activations in the one layer; NaN where there is none."""
    if guide is None or len(layers) != 1:
        return float("nan")
    image, other = features[layers[0]], guide[layers[0]]
    other = other[:, 0] if other.ndim > image.ndim else other  # the first of several guides
    a, b = (np.asarray(each, np.float64).ravel() for each in (image, other))
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    with np.errstate(invalid="ignore"):  # activations may overflow
        return float(np.clip(a @ b / lengths, -1, 1)) if lengths > 0 else float("nan")


def _mean(several: Sequence[Labelled]) -> Labelled:
    if len(several) == 1:
        return several[0]
    features = {
        name: np.asarray(np.mean([each[name] for each, _ in several], 0, dtype=np.float32))
        for name in several[0][0]
    }
    return features, Counter(label for _, label in several).most_common(1)[0][0]


def prepared(stream: Stream, pairs: Iterator[Any]) -> Iterator[Problem]:
    """Yield the problems of pairs in their order, prepared by blocks; yield problems unchanged."""
    numbered = enumerate(pairs)
    for index, first in numbered:
        if isinstance(first, Problem):
            yield first
        else:
            yield from stream.prepare([(index, first), *itertools.islice(numbered, BLOCK - 1)])


def read_ahead(net: Network, plan: Plan, pairs: Iterable[Any], limit: int) -> Iterator[Pair]:
    """Read and check pairs in a thread, which is at most `limit` pairs ahead, and yield them."""
    ready: queue.Queue[Any] = queue.Queue(limit)
    stop = threading.Event()
    end = object()
    dark = isinstance(pairs, CheckedPairs)

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def read() -> None:
        try:
            for index, pair in enumerate(pairs):
                if stop.is_set():
                    return
                put(check_pair(net, plan, f"pair {index}", pair, dark=dark))
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
