"""The compiled programs of an attack: this module vmaps, jits and shards.

A chunk takes some steps of every lane, and ends early when enough lanes are done. Each of several
devices has its part of the lanes (`jax.shard_map`) and a loop of its own, without collectives.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from advjax.attacks.base import Attack, cosine_distance
from advjax.attacks.perceptual import MARGIN, farthest
from advjax.attacks.until import NO_LABEL, Goal, judge
from advjax.errors import AdvjaxError
from advjax.networks.convolutions import with_fast_convolutions
from advjax.networks.network import activations
from advjax.smoothing import Smoothing, smooth_kinks
from advjax.solvers import Best, Box, Status
from advjax.solvers.base import freeze
from advjax.transforms import Transforms

# What every pair's objective is scaled to at the source: its value in the authors' own run on
# CaffeNet's fc7. The solvers' tolerances are absolute, as SciPy's are, and made for such values; a
# network with small activations would else be stopped at once.
INITIAL = 154.67**2


class Task(NamedTuple):
    """What a lane must know of its pair; on the device the first axis of each array is the lane."""

    box: Box
    target: Any  # the attack's target of the pair
    scale: Any  # of the objective that the solver sees
    relative: Any  # distance of the pair, by which the widths of kinks are scaled
    key: Any  # of the pair's random transformations, uint32[2]
    goal: Goal
    seen: Any  # of the source, by the attack's perceptual budget; () without one


class Lanes(NamedTuple):
    """The arrays on the device; the first axis of each is the lane."""

    state: Any
    task: Task
    trace: Float[Array, "b e"]


class Look(NamedTuple):
    """What the host looks at after a chunk, in arrays of its own: the lanes go on without it."""

    status: Any  # int32[b]
    evaluations: Any  # int32[b]
    steps: Any  # int32[d], of each device


class Taken(NamedTuple):
    """The answers of some lanes that have ended, on a device or on the host."""

    best: Any  # float32[k, n]
    rounded: Any  # uint8[k, n]
    trace: Any  # float32[k, e]
    value: Any  # float32[k], the scaled objective at `best`, before it was moved
    moved: Any  # bool[k], to keep the perceptual budget
    figures: Any  # float32[k] each, of what the perceptual budget bounds, in 8 bits


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings on which the compiled programs depend; equal plans share programs."""

    function: Callable[..., Any]
    with_params: bool
    attack: Attack
    solver: Any  # a Solver; ScipyLBFGSB runs on the host and needs no lanes
    input_shape: tuple[int, int, int]
    until: tuple[str, ...]  # what may end a pair: `Until.names`
    trace: bool
    precision: str
    devices: tuple[Any, ...]
    smoothing: Smoothing | None = None
    transforms: Transforms | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function that knows only its plan's devices and JAX's usual promotion of dtypes.

    What the caller set (`jax.set_mesh`, strict promotion) is for the caller's own code.
    """

    function: Any  # jitted
    mesh: Mesh

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._within(self.function, args)

    def lower(self, *args: Any) -> Any:
        """Lower the function, without running it."""
        return self._within(self.function.lower, args)

    def eval_shape(self, *args: Any) -> Any:
        """Return the shapes of what a call would return."""
        return self._within(self.function.eval_shape, args)

    def _within(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with jax.set_mesh(self.mesh), jax.numpy_dtype_promotion("standard"):
            return call(*args)


class Programs(NamedTuple):
    """The compiled functions of a plan; the last four run on its first device alone."""

    empty: Program  # -> Lanes
    advance: Program  # -> Lanes, Look
    insert: Program  # -> Lanes
    resume: Program  # -> Lanes
    take: Program  # -> Taken, and its images in two blocks for `activations`
    floats: Program  # -> images in float32
    evaluation: Program  # -> value, gradient and Status of one image
    activations: Program  # -> named activations, labels of a batch
    settle: Program  # -> images within the perceptual budget, in 8 bits, if moved, figures

    def everywhere(self, arrays: Any) -> Any:
        """Return arrays, such as a network's parameters, on all devices of the lanes."""
        return _placed(arrays, self.insert.mesh)

    def first(self, arrays: Any) -> Any:
        """Return arrays on the first of them."""
        return _placed(arrays, self.activations.mesh)

    def of_each_device(self, trees: Sequence[Any]) -> Any:
        """Join trees of arrays [1, ...], one on each device, to arrays with the device as axis."""
        if len(trees) == 1:
            return trees[0]
        sharding = NamedSharding(self.insert.mesh, P("lanes"))

        def join(*leaves: Array) -> Array:
            shape = (len(leaves), *leaves[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, sharding, list(leaves))

        return jax.tree.map(join, *trees)


def _placed(params: Any, mesh: Mesh) -> Any:
    whole = NamedSharding(mesh, P())

    def place(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                raise AdvjaxError(
                    f"a parameter of shape {leaf.shape} is spread over several processes; give "
                    "each process the whole parameters"
                )
            leaf = leaf.addressable_data(0)
        return jax.device_put(leaf, whole)

    return jax.tree.map(place, params)


def home(params: Any) -> Any:
    """Return the device on which a network's parameters are; the default one if that is not one."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    devices = {device for leaf in leaves for device in leaf.devices()}
    if len(devices) == 1:
        (device,) = devices
        if device in jax.local_devices(backend=device.platform):
            return device
    return jnp.zeros(()).device if not devices else jax.local_devices()[0]


@functools.lru_cache(maxsize=8)
def programs_of(plan: Plan) -> Programs:
    """Compile the functions of a plan; nothing in them depends on the number of pairs."""
    attack, solver = plan.attack, plan.solver
    shape = plan.input_shape
    mesh, first = (
        Mesh(np.array(devices), ("lanes",), axis_types=(AxisType.Auto,))
        for devices in (plan.devices, plan.devices[:1])
    )
    extra = (attack.output,) if attack.output and "label" in plan.until else ()
    perceptual = attack.perceptual
    needs = attack.needs + (perceptual.layers if perceptual else ())
    names = needs + extra

    function = with_fast_convolutions(plan.function)

    def activate(params, images, names):
        return activations(function, plan.with_params, params, images, names)

    def in_8_bits(x, box: Box):
        """Return the nearest images in 8 bits that are inside the box, as `attacks.round_into`."""
        return jnp.clip(jnp.rint(x), jnp.ceil(box.lower), jnp.floor(box.upper))

    def judged(images, features, task: Task):
        """Return the status of each row whose image has these activations."""
        goal = task.goal
        distance, cosine = jnp.nan, jnp.nan
        if "distance" in plan.until:
            distance = attack.distance(features, goal.guide)
            if len(attack.layers) == 1:
                cosine = 1 - cosine_distance(attack.layers, None, features, goal.guide)
        label = jnp.argmax(features[extra[0]], -1) if extra else NO_LABEL
        status = judge(goal, attack.direction, distance, cosine, label)
        if perceptual is None:
            return status
        kept = perceptual.keeps(perceptual.figures(images, features, task.seen))
        return jnp.where(kept, status, Status.RUNNING)

    def settled(params, x, box: Box, seen):
        """Return points moved to their sources until they keep the budget, and what they are."""
        if perceptual is None:
            return x, in_8_bits(x, box), jnp.zeros(len(x), bool), {}
        budget, source = perceptual, seen["source"].reshape(x.shape)

        def at(parts):
            parts = parts[:, None]
            moved = jnp.where(parts == 1, x, source + parts * (x - source))
            moved = jnp.clip(moved, box.lower, box.upper)
            rounded = in_8_bits(moved, box)
            images = rounded.reshape(-1, *shape)
            features = activate(params, images, budget.layers) if budget.layers else {}
            return moved, rounded, parts[:, 0] < 1, budget.figures(images, features, seen)

        def keeps(parts):
            # Twice the margin, so that the figures are within the budget when computed anew.
            return budget.keeps(at(parts)[3], 2 * MARGIN)

        return at(farthest(keeps, len(x)) if budget.hard else jnp.ones(len(x)))

    def ended(params, x, features, task: Task, better):
        """Return the status of each row: of its image in 8 bits, if it is `better` than before.

        The network sees the images in 8 bits only when one of the exact ones is at its goal.
        """
        near = better
        if not plan.transforms:
            near &= judged(x.reshape(-1, *shape), features, task) != Status.RUNNING

        def of_rounded():
            images = in_8_bits(x, task.box).reshape(-1, *shape)
            with jax.default_matmul_precision("highest"):
                return judged(images, activate(params, images, names), task)

        none = jnp.full(len(x), Status.RUNNING)
        return jnp.where(near, jax.lax.cond(jnp.any(near), of_rounded, lambda: none), none)

    def evaluations(params, x, task: Task, count, best):
        """Compute scaled objectives, gradients and statuses of flat images.

        `count` is each lane's evaluations so far. The width of its kinks and its transformations
        depend on the pair and on this number alone. Only what is under `best` can end a pair.
        """
        transforms = plan.transforms
        width = None
        if plan.smoothing:
            progress = jnp.float32(count) / jnp.float32(solver.max_evaluations)
            width = task.relative * plan.smoothing.width(progress)

        def loss(x, keys=None):
            images = x.reshape(-1, *shape)

            def activate_smoothly(images):
                exact = functools.partial(activate, params, names=names)
                if transforms is not None:
                    assert keys is not None
                    images = jax.vmap(transforms)(keys, images)
                return exact(images) if width is None else smooth_kinks(exact)(width, images)

            values, features = attack.loss(activate_smoothly, images, task.target)
            values = values.astype(jnp.float32) * task.scale
            if perceptual is not None:
                # Of the image itself, whatever the network sees of it.
                own = activate(params, images, names) if transforms is not None else features
                excess = perceptual.excess(perceptual.figures(images, own, task.seen))
                values += INITIAL * perceptual.weight * excess
            # The rows are independent: the gradient of the sum is each one's own.
            return jnp.sum(values), (values, features if plan.until else None)

        descend = jax.grad(loss, has_aux=True)
        if transforms is None:
            gradients, (values, features) = descend(x)
        else:
            keys = jax.random.wrap_key_data(task.key, impl="threefry2x32")
            keys = jax.vmap(jax.random.fold_in)(keys, count)

            def draw(sums, number):
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
                gradients, (values, _) = descend(x, own)
                return (sums[0] + gradients, sums[1] + values), None

            none = jnp.zeros_like(x), jnp.zeros(len(x), jnp.float32)
            (gradients, values), _ = jax.lax.scan(draw, none, jnp.arange(transforms.draws))
            gradients, values = gradients / transforms.draws, values / transforms.draws
            filtered = jax.vmap(transforms.filtered)(gradients.reshape(-1, *shape))
            gradients = filtered.reshape(x.shape)
            features = None
        if plan.until:
            status = ended(params, x, features, task, values < best)
        else:
            status = jnp.full(len(x), Status.RUNNING)
        return values, gradients, status

    def evaluation(params, x, task, count, best):
        """Compute the same for one image."""
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (x, task, count, best))
        return jax.tree.map(lambda leaf: leaf[0], evaluations(params, *one))

    def step(lane: Lanes, objective) -> Lanes:
        """Advance one lane by a step, and set its status if the pair is done."""
        before = lane.state
        state, info = solver.step(objective, before, lane.task.box)
        running = before.status == Status.RUNNING
        finite = state.status != Status.NON_FINITE
        improved = info.improved
        if plan.transforms:
            # The least of values that were drawn is the luckiest draw: the answer is the latest.
            improved = running & finite
            state = state._replace(
                best=freeze(improved, Best(before.trial, info.value), state.best)
            )
        done = running & finite & improved & (info.aux != Status.RUNNING)
        status = jnp.where(done, info.aux, state.status)
        trace = lane.trace
        if plan.trace:
            slot = jnp.where(running, state.evaluations - 1, trace.shape[0])
            trace = trace.at[slot].set(info.value / lane.task.scale, mode="drop")
        return lane._replace(state=state._replace(status=status), trace=trace)

    def steps(params, lanes: Lanes) -> Lanes:
        """Advance every lane by a step: one evaluation of the network on a plain batch."""
        state = lanes.state
        to_beat = jnp.inf if plan.transforms else state.best.value
        best = jnp.where(state.status == Status.RUNNING, to_beat, -jnp.inf)
        if getattr(solver, "evaluates_elsewhere", False):

            def alone(lane, best):
                pair = lane.task, lane.state.evaluations, best
                return step(lane, lambda x: evaluation(params, x, *pair))

            return jax.vmap(alone)(lanes, best)
        evaluated = evaluations(params, state.trial, lanes.task, state.evaluations, best)
        return jax.vmap(lambda lane, here: step(lane, lambda x: here))(lanes, evaluated)

    def chunk(params, lanes: Lanes, limit, enough) -> tuple[Lanes, Look]:
        """Take up to `limit` steps, fewer as soon as `enough` lanes of this device have ended."""

        def unfinished(carry):
            done, lanes = carry
            idle = jnp.sum(lanes.state.status != Status.RUNNING)
            return (done < limit) & (idle < enough[0])

        def advance(carry):
            done, lanes = carry
            return done + 1, steps(params, lanes)

        done, lanes = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), lanes))
        return lanes, Look(lanes.state.status, lanes.state.evaluations, done[None])

    def empty(count: int, task: Task) -> Lanes:
        """Make `count` lanes with nothing to do; `task` is that of any pair."""
        x = jnp.zeros(np.prod(shape), jnp.float32)
        lane = Lanes(
            state=solver.init(x, Box(x, x)),
            task=jax.tree.map(jnp.zeros_like, task),
            trace=jnp.zeros(solver.max_evaluations if plan.trace else 0, jnp.float32),
        )
        lanes = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), lane)
        # Of a Status itself JAX makes a weak type, and every program would be compiled twice.
        idle = jnp.full(count, jnp.int32(Status.MAX_EVALUATIONS))
        return lanes._replace(state=lanes.state._replace(status=idle))

    def put(lanes: Lanes, lane, x0, task: Task) -> Lanes:
        """Put new problems, one for each device, into these lanes of theirs; drop it at -1."""
        x0, task = x0[0], jax.tree.map(lambda leaf: leaf[0], task)
        trace = jnp.zeros(lanes.trace.shape[1:], jnp.float32)
        new = Lanes(solver.init(x0, task.box), task, trace)
        slot = jnp.where(lane[0] < 0, lanes.trace.shape[0], lane[0])
        return jax.tree.map(lambda old, new: old.at[slot].set(new, mode="drop"), lanes, new)

    def resume(lanes: Lanes, lane) -> Lanes:
        """Let a lane go on that had ended."""
        status = lanes.state.status.at[lane].set(Status.RUNNING)
        return lanes._replace(state=lanes.state._replace(status=status))

    def take(params, lanes: Lanes, rows, order) -> tuple[Taken, list[Float[Array, "k h w c"]]]:
        """Take the answers of these lanes, and make two blocks of images of them.

        `order` says which: it counts the exact images first, and then those in 8 bits.
        """
        best, box, seen, trace = jax.tree.map(
            lambda leaf: leaf[rows],
            (lanes.state.best, lanes.task.box, lanes.task.seen, lanes.trace),
        )
        x, rounded, moved, figures = settled(params, best.x, box, seen)
        images = jnp.concatenate([x, rounded])[order].reshape(2, -1, *shape)
        taken = Taken(x, rounded.astype(jnp.uint8), trace, best.value, moved, figures)
        return taken, list(images)

    def evaluate(params, images):
        output = attack.output
        names = needs + ((output,) if output else ())
        features = activate(params, images, names)
        label = jnp.argmax(features[output], -1) if output else None
        return {name: features[name] for name in needs}, label

    lanes, everywhere = P("lanes"), P()
    # Said of every program that returns lanes: for one device JAX would say it in another way, and
    # the others would be compiled again.
    sharded = NamedSharding(mesh, lanes)
    shard = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    advance = jax.jit(
        shard(
            _at_precision(plan.precision, chunk),
            in_specs=(everywhere, lanes, everywhere, lanes),
            out_specs=(lanes, lanes),
        ),
        out_shardings=sharded,
        donate_argnums=1,
    )
    insert = jax.jit(
        shard(put, in_specs=(lanes,) * 4, out_specs=lanes), out_shardings=sharded, donate_argnums=0
    )
    return Programs(
        empty=Program(jax.jit(empty, static_argnums=0, out_shardings=sharded), mesh),
        advance=Program(advance, mesh),
        insert=Program(insert, mesh),
        resume=Program(jax.jit(resume, donate_argnums=0, out_shardings=sharded), mesh),
        take=Program(jax.jit(_at_precision("highest", take)), mesh),
        floats=Program(jax.jit(_floats, out_shardings=NamedSharding(first, P())), first),
        evaluation=Program(jax.jit(_at_precision(plan.precision, evaluation)), first),
        activations=Program(jax.jit(_at_precision("highest", evaluate)), first),
        settle=Program(jax.jit(_at_precision("highest", settled)), first),
    )


def _floats(images: Any) -> Array:
    return images.astype(jnp.float32)


def _at_precision(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def traced(*args):
        with jax.default_matmul_precision(precision):
            return function(*args)

    return traced
