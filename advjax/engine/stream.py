"""The host's work on each pair: the preparation for its lane, and the measurement of its result.

Each has two halves: what is sent to the device, without waiting for it, and what is made of the
activations that have come back, while the device is at work on the lanes.
"""

import contextlib
import functools
import hashlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.attacks.base import Attack, Features, PairData
from advjax.attacks.box import PixelBox
from advjax.attacks.until import Until, goal, judge
from advjax.engine.programs import INITIAL, Lanes, Look, Plan, Taken, Task, programs_of
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
    placed: Any = None  # start and task [1, ...] on a device


class Sent(NamedTuple):
    """The activations of one image, in a block that is on its way from the device."""

    values: Mapping[str, Any]  # [BLOCK, ...]
    labels: Any
    row: int


class Begun(NamedTuple):
    """A block of pairs whose activations are on their way."""

    pairs: Sequence[tuple[int, Pair]]
    sources: Sequence[Sent]
    guides: Sequence[Any]  # what `Stream.guides` holds, or activations that were given, or None
    keys: Sequence[bytes | None]

    def is_ready(self) -> bool:
        """Return True if no activation of theirs has still to be waited for."""
        guides = [sent for guide in self.guides if isinstance(guide, list) for sent in guide]
        sent = [value for each in (*self.sources, *guides) for value in each.values.values()]
        return all(value.is_ready() for value in sent)


class Answer(NamedTuple):
    """The answer of a lane that has ended, on its way from the device."""

    problem: Problem
    status: Status
    evaluations: int
    taken: Taken
    row: int
    exact: Sent
    rounded: Sent


def without_batch(target: Any) -> Any:
    """Drop the batch axis, of length 1, of every array."""
    return jax.tree.map(lambda leaf: leaf[0], target)


Labelled = tuple[Any, int | None]
"""The `Features` of one image, or None, and its label."""


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
        self.guides: OrderedDict[bytes | None, list[Sent] | Labelled] = OrderedDict()

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

    def send(self, images: Sequence[np.ndarray]) -> list[Sent]:
        """Send images to the network, BLOCK in each call, and do not wait for their activations."""
        sent = []
        dtype = np.uint8 if all(image.dtype == np.uint8 for image in images) else np.float32
        for begin in range(0, len(images), BLOCK):
            block = images[begin : begin + BLOCK]
            padded = np.zeros((BLOCK, *self.net.input_shape), dtype)
            padded[: len(block)] = block
            sent += self.activate(self.programs.floats(padded))[: len(block)]
        return sent

    def activate(self, block: Any) -> list[Sent]:
        """Compute activations and labels of images on the first device, at `highest` precision."""
        values, labels = self.programs.activations(self.first_params, block)
        for leaf in jax.tree.leaves((values, labels)):
            leaf.copy_to_host_async()
        return [Sent(values, labels, row) for row in range(len(block))]

    def begin(self, pairs: Sequence[tuple[int, Pair]]) -> Begun:
        """Send pairs to the network; the latest guides are not evaluated again."""
        sources = self.send([pair.source for _, pair in pairs])
        keys = [
            hashlib.blake2b(guide.tobytes(), digest_size=16).digest()
            if isinstance(guide := pair.guide, np.ndarray)
            else None
            for _, pair in pairs
        ]
        new = {
            key: pair.guide if pair.guide.ndim == 4 else pair.guide[None]
            for key, (_, pair) in zip(keys, pairs, strict=True)
            if key and key not in self.guides
        }
        sent = iter(self.send([image for images in new.values() for image in images]))
        self.guides |= {key: [next(sent) for _ in images] for key, images in new.items()}
        guides = [
            self.guides[key] if key else pair.guide
            for key, (_, pair) in zip(keys, pairs, strict=True)
        ]
        for key in filter(None, keys):
            self.guides.move_to_end(key)
        while len(self.guides) > GUIDES:
            self.guides.popitem(last=False)
        return Begun(pairs, sources, guides, keys)

    def complete(self, begun: Begun) -> list[Problem]:
        """Make the problems of these pairs, and put them on the devices."""
        problems = []
        with _on_host():
            for (index, pair), source, guide, key in zip(*begun, strict=True):
                labelled = self._labelled(guide)
                if key in self.guides:
                    self.guides[key] = labelled
                problems.append(self._problem(index, pair, _received(source), labelled))
        return [self.place(problem) for problem in problems]

    def _labelled(self, guide: Any) -> Labelled:
        """Return a guide's activations and label.

        A guide of several images has the mean of their activations, or has them apart if the attack
        wants that, and the most frequent of their labels. One that is given as activations is
        returned as it is.
        """
        if isinstance(guide, list):
            return (_apart if self.attack.guides else _mean)([_received(sent) for sent in guide])
        if isinstance(guide, tuple):
            return guide  # received before
        if guide is None:
            return None, None
        output = self.attack.output
        label = int(np.argmax(guide[output])) if output and output in guide else None
        return {name: np.asarray(guide[name])[None] for name in self.attack.layers}, label

    def _problem(
        self,
        index: int,
        pair: Pair,
        source: Labelled,
        labelled: Labelled,
    ) -> Problem:
        (features, source_label), (guide, guide_label) = source, labelled
        if guide is None and self.attack.direction > 0:
            guide, guide_label = features, source_label
        label = guide_label if pair.label is None else pair.label
        data = PairData(pair.source, features, guide, label)
        box = self.attack.box(data, self.delta if pair.delta is None else pair.delta)
        target, perceptual = self.attack.target(data), self.attack.perceptual
        seed = index if pair.index is None else pair.index
        return Problem(
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
            seen=perceptual.target(pair.source, features) if perceptual else (),
        )

    def place(self, problem: Problem) -> Problem:
        """Put what a lane needs of the problem on a device."""
        lane = jax.tree.map(lambda x: x[None], (problem.start.reshape(-1), self.task(problem)))
        return problem._replace(placed=jax.device_put(lane, self._device(problem)))

    def _device(self, problem: Problem) -> Any:
        """Return the device on which a problem is put: they take turns."""
        return self.plan.devices[problem.index % len(self.plan.devices)]

    def distance(self, features: Features, guide: Features | None) -> float:
        """Return the distance of one image's activations to the guide's; NaN without a guide."""
        return float("nan") if guide is None else _distance(self.attack, features, guide)

    def distances(self, features: Features, guide: Features | None) -> np.ndarray:
        """Return the distance in each layer of the attack by itself."""
        if guide is None:
            return np.full(len(self.attack.layers), np.nan)
        each = (replace(self.attack, layers=(k,), weights=None) for k in self.attack.layers)
        return np.array([_distance(one, features, guide) for one in each])

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

    def insert(self, lanes: Lanes, problems: Mapping[int, Problem]) -> Lanes:
        """Put these problems into these lanes, in one call as many as there are devices."""
        devices = self.plan.devices
        each = len(lanes.trace) // len(devices)
        lists: list[list[int]] = [[] for _ in devices]
        for lane in problems:
            lists[lane // each].append(lane)
        for row in itertools.zip_longest(*lists):
            slots = np.array([-1 if lane is None else lane % each for lane in row], np.int32)
            given = next(lane for lane in row if lane is not None)  # a device with none drops it
            chosen = [problems[given if lane is None else lane] for lane in row]
            placed = [
                one.placed if self._device(one) == device else jax.device_put(one.placed, device)
                for one, device in zip(chosen, devices, strict=True)
            ]
            lanes = self.programs.insert(lanes, slots, *self.programs.of_each_device(placed))
        return lanes

    def resume(self, lanes: Lanes, lane: int) -> Lanes:
        """Let lane `lane` go on, which had ended."""
        return self.programs.resume(lanes, np.int32(lane))

    def advance(self, lanes: Lanes, limit: int, enough: np.ndarray) -> tuple[Lanes, Look]:
        """Take up to `limit` steps of all lanes, and do not wait for them."""
        lanes, look = self.programs.advance(self.params, lanes, np.int32(limit), enough)
        for leaf in look:
            leaf.copy_to_host_async()
        return lanes, look

    def task(self, problem: Problem) -> Task:
        """Return what a lane must know of the pair, as arrays without a batch axis."""
        needed = problem.guide if "distance" in self.plan.until else None
        guide = () if needed is None else {name: needed[name] for name in self.attack.layers}
        return Task(
            box=Box(*(bound.reshape(-1) for bound in problem.box)),
            target=without_batch(problem.target),
            scale=_scale(problem),
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

    def answers(
        self, lanes: Lanes, ended: Sequence[tuple[int, Problem]], look: Look
    ) -> list[Answer]:
        """Take the answers of these lanes, and do not wait for them."""
        answers = []
        for begin in range(0, len(ended), BLOCK):
            block = ended[begin : begin + BLOCK]
            rows, order = np.zeros(BLOCK, np.int32), np.zeros(2 * BLOCK, np.int32)
            rows[: len(block)] = [lane for lane, _ in block]
            order[: 2 * len(block)] = [*range(len(block)), *range(BLOCK, BLOCK + len(block))]
            taken, images = self.programs.take(self.params, lanes, rows, order)
            for leaf in jax.tree.leaves(taken):
                leaf.copy_to_host_async()
            # Few answers fit into one call of the network.
            blocks = self.programs.first(images[: -(-2 * len(block) // BLOCK)])
            sent = [one for images in blocks for one in self.activate(images)]
            answers += [
                Answer(
                    problem=problem,
                    status=Status(int(look.status[lane])),
                    evaluations=int(look.evaluations[lane]),
                    taken=taken,
                    row=row,
                    exact=sent[row],
                    rounded=sent[len(block) + row],
                )
                for row, (lane, problem) in enumerate(block)
            ]
        return answers

    def answer(
        self, problem: Problem, status: Status, best: np.ndarray, values: Sequence[float]
    ) -> Answer:
        """Make the answer of a solver on the host: its best point, and all its scaled values."""
        point = np.asarray(best, np.float32).reshape(1, -1)
        box = Box(*(bound.reshape(1, -1) for bound in problem.box))
        settled = self.programs.settle(self.first_params, point, box, problem.seen)
        settled, rounded, moved, figures = jax.device_get(settled)
        images = [each.reshape(self.net.input_shape) for each in (settled, rounded)]
        exact, eight_bit = self.send(images)
        trace = (np.asarray(values) / _scale(problem)).astype(np.float32)
        taken = Taken(
            best=settled,
            rounded=rounded.astype(np.uint8),
            trace=trace[None],
            value=np.fmin.reduce(values, initial=np.inf, keepdims=True),
            moved=moved,
            figures=figures,
        )
        return Answer(problem, status, len(values), taken, 0, exact, eight_bit)

    def holds(self, answer: Answer) -> bool:
        """Return True if the figures of the image in 8 bits end the pair."""
        problem, (features, label) = answer.problem, _received(answer.rounded)
        figures = self.distance(features, problem.guide), self.cosine(features, problem.guide)
        judged = judge(self.task(problem).goal, self.attack.direction, *figures, label)
        return bool(judged) and self.looks(answer)[1] is not False

    def looks(self, answer: Answer) -> tuple[dict[str, float], bool | None]:
        """Return what is bounded of the image in 8 bits, and whether it keeps the bounds."""
        if self.attack.perceptual is None:
            return {}, None
        figures = {k: float(np.asarray(v)[answer.row]) for k, v in answer.taken.figures.items()}
        return figures, bool(self.attack.perceptual.keeps(figures))

    def measure(self, answer: Answer) -> PairResult:
        """Return the result; each distance is evaluated anew, at `highest` precision."""
        problem, taken, row = answer.problem, answer.taken, answer.row
        (exact, label), (eight_bit, label8) = _received(answer.exact), _received(answer.rounded)
        best, rounded, trace, value, moved = (np.asarray(leaf)[row] for leaf in taken[:-1])
        looks, kept = self.looks(answer)
        distance = self.distance(exact, problem.guide)
        return PairResult(
            index=problem.index,
            adversarial=best.reshape(self.net.input_shape).copy(),
            adversarial_uint8=rounded.reshape(self.net.input_shape).copy(),
            ratio=ratio_of(distance, problem.initial_distance),
            distance=distance,
            initial_distance=problem.initial_distance,
            distance_uint8=self.distance(eight_bit, problem.guide),
            evaluations=answer.evaluations,
            status=answer.status,
            source_label=problem.source_label,
            guide_label=problem.guide_label,
            label=label,
            label_uint8=label8,
            trace=trace[: answer.evaluations].copy() if self.plan.trace else None,
            objective=float("nan") if moved else float(value) / float(_scale(problem)),
            cosine=self.cosine(exact, problem.guide),
            cosine_uint8=self.cosine(eight_bit, problem.guide),
            layer_ratios=self.layer_ratios(problem, exact),
            keeps_perceptual=kept,
            **{f"{name}_uint8": figure for name, figure in looks.items()},
        )

    def cosine(self, features: Features, guide: Features | None) -> float:
        """Return the cosine of two images' activations in the one layer; NaN if there is none."""
        if guide is None or len(self.attack.layers) != 1:
            return float("nan")
        (layer,) = self.attack.layers
        image, other = features[layer], guide[layer]
        other = other[:, 0] if other.ndim > image.ndim else other  # the first of several guides
        a, b = (np.asarray(each, np.float64).ravel() for each in (image, other))
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        with np.errstate(invalid="ignore"):  # activations may overflow
            return float(np.clip(a @ b / lengths, -1, 1)) if lengths > 0 else float("nan")


def _scale(problem: Problem) -> np.float32:
    """Return what the solver sees of the objective, as a factor."""
    initial = problem.initial
    return np.float32(INITIAL / initial if initial and np.isfinite(initial) else 1.0)


def _distance(attack: Attack, features: Features, guide: Features) -> float:
    with _on_host():
        return float(attack.distance(features, guide)[0])


def _received(sent: Sent) -> Labelled:
    """Wait for the activations [1, ...] and the label of one image."""
    values = {name: np.asarray(value) for name, value in sent.values.items()}
    at = slice(sent.row, sent.row + 1)
    label = None if sent.labels is None else int(np.asarray(sent.labels)[sent.row])
    return {name: value[at] for name, value in values.items()}, label


def _on_host() -> contextlib.AbstractContextManager[Any]:
    """Let JAX's operations run on the CPU, where they do not wait for what a device does."""
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # this process has no such backend (JAX_PLATFORMS)
        return contextlib.nullcontext()


def _apart(several: Sequence[Labelled]) -> Labelled:
    """Return activations [1, k, ...] of k images; the label is the first one's."""
    names = several[0][0]
    features = {name: np.stack([each[name] for each, _ in several], 1) for name in names}
    return features, several[0][1]


def _mean(several: Sequence[Labelled]) -> Labelled:
    if len(several) == 1:
        return several[0]
    features = {
        name: np.asarray(np.mean([each[name] for each, _ in several], 0, dtype=np.float32))
        for name in several[0][0]
    }
    return features, Counter(label for _, label in several).most_common(1)[0][0]
