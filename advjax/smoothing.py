"""Smoothed gradients: the values of a network bit for bit, the kinks of its derivative smoothed.

A network of ReLUs is piecewise linear in very many pieces, and a gradient at one point knows one
piece. Here the step 1[x > 0] in the derivative of max(x, 0) is replaced by the ramp

    clip(1/2 + x / (8 c m), 0, 1),    m = the mean of |x| over one image's units,

whose half-width is 4 c m; there is no gradient through m. A clip has one ramp up at its lower end
and one down at its upper end, the derivative of a clip that is smoothed over that width. The width
c falls over a solve (`Smoothing`), and with c = 0 the gradient is exact. The engine multiplies it
by the pair's relative distance (`Attack.relative_distance`): where source and guide differ little
in the layer, as in a random network, few kinks are crossed, and wide ramps would only be wrong.
Relatives: surrogate gradients of spiking networks, linear backpropagation (Guo et al., 2020),
graduated optimisation.

`smooth_kinks` interprets the jaxpr of any function that JAX traces; it knows nothing of networks.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jaxtyping import Array, Float

from advjax.errors import AdvjaxError
from advjax.jaxprs import Interpreter, bind

PROBE = 997  # a batch size that no other axis has: it tells which axis is the batch
ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "abs", "max", "min", "sqrt", "rsqrt", "square"),
    *("integer_pow", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy"),
}
FLIPPED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """The width of the smoothed kinks over a solve: a geometric fall from `first` to `last`.

    Attributes:
        first: Width c at the first evaluation, in units of a layer's mean |x|, of a pair whose
            relative distance is 1; the width is proportional to that distance.
        last: Width at the end of the budget, likewise.

    Example:
        >>> [f"{c:.3f}" for c in Smoothing(0.5, 0.005).width(jnp.array([0.0, 0.5, 1.0]))]
        ['0.500', '0.050', '0.005']
    """

    first: float = 0.7
    last: float = 0.014

    def __post_init__(self):
        for name in ("first", "last"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise AdvjaxError(
                    f"{name} of smoothing is {value}; give a finite width above 0, or "
                    "smoothing=None for exact gradients"
                )

    def width(self, progress: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the width when this fraction of the budget is used.

        Args:
            progress: Evaluations so far over `max_evaluations`, 0..1.
        """
        return self.first * (self.last / self.first) ** progress

    def within(self, max_evaluations: int) -> Self:
        """Return the smoothing for a solve of this budget: a short one begins narrower.

        Under 300 evaluations `first` is multiplied by the fourth root of their share of 300, and
        is never below `last`. A wide start pays off late: it was measured, not derived
        (docs/benchmarks.md).

        Args:
            max_evaluations: The budget.

        Example:
            >>> Smoothing().within(500).first, Smoothing().within(75).first
            (0.7, 0.495)
        """
        share = min(1.0, max_evaluations / 300)
        return dataclasses.replace(self, first=max(self.last, round(self.first * share**0.25, 3)))


def smooth_kinks(
    function: Callable[[Float[Array, "b ..."]], Any],
) -> Callable[[Float[Array, "*b"], Float[Array, "b ..."]], Any]:
    """Return smoothed(width, images): the values of `function`, its derivative smoothed.

    Smoothed are max and min with a constant, clamps, ReLU, ReLU6, leaky and parametric ReLU,
    hard sigmoid, hard swish and hard tanh, wherever they stand: in jit, custom_jvp, checkpoint,
    scan and cond. What stays as it is: functions with a gradient rule of their own (custom_vjp),
    maxima between arrays (max pooling), floors of sums (of a variance or a norm), while loops. A
    function without kinks has its own gradient.

    Where every kink has the images' batch as its first axis, the batch is evaluated as it is; where
    one has not (attention windows folded into the batch), each image's derivative is taken alone,
    by vmap, and the values are computed once more. The function must take a batch of any size.

    Args:
        function: Images to a pytree of arrays, each with the batch as first axis.

    Returns:
        A function of the widths, one for each image or one for all, and the images.

    Example:
        >>> relu = smooth_kinks(jax.nn.relu)
        >>> slope = jax.grad(lambda x: relu(0.25, x).sum())(jnp.array([[-2.0, 0.0, 1.0, 3.0]]))
        >>> [f"{x:.3f}" for x in slope[0]]  # m is 1.5, the ramp goes from -1.5 to 1.5
        ['0.000', '0.500', '0.833', '1.000']
    """

    @functools.wraps(function)
    def smoothed(width, images):
        width = jnp.broadcast_to(jnp.asarray(width, jnp.float32), (len(images),))
        probe = jax.ShapeDtypeStruct((PROBE, *images.shape[1:]), images.dtype)
        kinks = find_kinks(jax.make_jaxpr(function)(probe))
        if not kinks:
            return function(images)
        if all(kink[:1] == (PROBE,) for kink in kinks):
            closed, shape = jax.make_jaxpr(function, return_shape=True)(images)
            results = _Interpreter(width).run(closed, [images])
            return jax.tree.unflatten(jax.tree.structure(shape), results)

        def alone(width, image):
            one = jax.make_jaxpr(function)(image[None])
            return [leaf[0] for leaf in _Interpreter(width).run(one, [image[None]])]

        # Sums go in another order there: the values are those of the batch, the slopes those alone.
        values, tree = jax.tree.flatten(function(images))
        slopes = jax.vmap(alone)(width, images)
        both = zip(values, slopes, strict=True)
        return jax.tree.unflatten(
            tree, [_with_slope(v, x, 1) if _is_float(v) else v for v, x in both]
        )

    return smoothed


def count_kinks(function: Callable[[Float[Array, "b ..."]], Any], images: Any) -> int:
    """Count the operations of `function` that `smooth_kinks` smooths.

    Args:
        function: Images to a pytree of arrays.
        images: A batch, or its `jax.ShapeDtypeStruct`; nothing is computed.

    Example:
        >>> images = jax.ShapeDtypeStruct((2, 3), jnp.float32)
        >>> count_kinks(jax.nn.relu6, images), count_kinks(jax.nn.gelu, images)
        (2, 0)
    """
    return len(find_kinks(jax.make_jaxpr(function)(images)))


def find_kinks(closed: core.ClosedJaxpr) -> list[tuple[int, ...]]:
    """Return the shape of the input of each kink, in order; a clamp with two ends is two kinks."""
    interpreter = _Interpreter(None)
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    jax.eval_shape(lambda *args: interpreter.run(closed, args), *shapes)
    return interpreter.kinks


class _Interpreter(Interpreter):
    """Evaluates a jaxpr equation by equation, with smoothed kinks.

    relu's own custom_jvp is entered in place, as calls are, so that a value is the same object
    inside and outside: what is known of it (`constants`, `comparisons`, `multiples`) is kept by
    its identity.
    """

    def __init__(self, width: Any):
        """`width` is [b], one for each row, or a scalar for one image; None: kinks are counted."""
        self.width = width
        self.kinks: list[tuple[int, ...]] = []
        self.constants: dict[int, float] = {}  # scalars, also when broadcast
        self.floors: dict[int, tuple[Any, float | None]] = {}  # x and c of max(x, c)
        self.comparisons: dict[int, tuple[str, Any, float]] = {}  # x > c and its kind
        self.multiples: dict[int, tuple[Any, ...]] = {}  # factors of a product
        self.statistics: dict[int, bool] = {}  # sums and what is computed of them by elements
        self.alive: list[Any] = []  # an identity is good as long as its object lives

    def read(self, value: Any) -> Any:
        if not isinstance(value, Tracer) and np.ndim(value) == 0:
            self._know(self.constants, value, float(value) if _is_real(value) else None)
        return value

    def evaluate(self, equation: Any, inputs: list[Any]) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        if name in ("max", "min"):
            x, c = inputs if self._constant(inputs[1]) is not None else inputs[::-1]
            level = self._constant(c)
            # An infinite level (softmax has one) is never met.
            if (
                level is not None
                and np.isfinite(level)
                and self._constant(x) is None
                # max(variance, 0) and max(norm, epsilon) are guards.
                and id(x) not in self.statistics
                and _is_float(x)
            ):
                ends = (level, None) if name == "max" else (None, level)
                return [self._kink(bind(equation, inputs)[0], x, *ends)]
        elif name == "clamp":
            low, x, high = inputs
            ends = self._constant(low), self._constant(high)
            if None not in ends and _is_float(x):
                return [self._kink(bind(equation, inputs)[0], x, *ends)]
        elif name == "select_n" and len(inputs) == 3:
            blended = self._select(equation, inputs)
            if blended is not None:
                return [blended]
        elif (
            name == "custom_jvp_call"
            # Of several operands one must be constant, else there is no kink of one of them.
            and (len(inputs) == 1 or any(self._constant(x) is not None for x in inputs))
            and _is_bare_kink(params["call_jaxpr"].jaxpr)
        ):
            return self.run(params["call_jaxpr"], inputs)
        results = super().evaluate(equation, inputs)
        self._learn(name, inputs, results)
        return results

    def _kink(self, value: Any, x: Any, low: float | None, high: float | None) -> Any:
        # A minimum of a maximum is one clip of what went into the maximum.
        origin, floor = self.floors.get(id(x), (x, low)) if low is None else (x, low)
        self.kinks += [tuple(x.shape)] * ((low is not None) + (high is not None))
        if self.width is not None:
            value = _with_slope(value, origin, self._slope(origin, floor, high))
        if high is None:
            self._know(self.floors, value, (x, low))
        return value

    def _select(self, equation: Any, inputs: list[Any]) -> Any:
        """Smooth a continuous where(x > c, ., .): x or a x on one side, a x or c on the other.

        where(x > 0, 0, x), the guard of ELU and its kind, is not taken for a kink.
        """
        if id(inputs[0]) not in self.comparisons:
            return None
        kind, x, level = self.comparisons[id(inputs[0])]
        if id(x) in self.statistics:  # a guard, as in max
            return None
        below, above = inputs[1:] if kind in ("gt", "ge") else inputs[:0:-1]

        def is_multiple(side: Any) -> bool:
            return side is x or any(f is x for f in self.multiples.get(id(side), ()))

        if is_multiple(below) and is_multiple(above):
            continuous = level == 0
        elif is_multiple(above):
            continuous = self._constant(below) == level
        else:
            continuous = is_multiple(below) and self._constant(above) == level != 0
        if not continuous:
            return None
        (value,) = bind(equation, inputs)
        self.kinks.append(tuple(x.shape))
        if self.width is not None:
            value = _with_blend(value, below, above, self._slope(x, level, None))
        self._know(self.multiples, value, (x,))
        return value

    def _slope(self, x: Any, low: float | None, high: float | None) -> Any:
        """Return the ramp at `low`, clip(1/2 + (x - low) / (8 c m), 0, 1), less that at `high`."""
        width = self.width
        x = jax.lax.stop_gradient(x)
        size = jnp.mean(jnp.abs(x), tuple(range(width.ndim, x.ndim)), jnp.float32, keepdims=True)
        half = 4 * width.reshape(width.shape + (1,) * (x.ndim - width.ndim)) * size
        steep = half > 0
        scale = jnp.where(steep, 0.5 / jnp.where(steep, half, 1), 0).astype(x.dtype)

        def ramp(level: float, step: Any) -> Any:
            return jnp.where(steep, jnp.clip(0.5 + (x - level) * scale, 0, 1), step.astype(x.dtype))

        slope = 1 if low is None else ramp(low, x > low)
        return slope if high is None else slope - ramp(high, x >= high)

    def within(self, closed: core.ClosedJaxpr) -> Callable[..., list[Any]]:
        def body(*args: Any) -> list[Any]:
            inner = _Interpreter(self.width)
            results = inner.run(closed, args)
            self.kinks += inner.kinks
            return results

        return body

    def _learn(self, name: str, inputs: list[Any], results: Sequence[Any]) -> None:
        unknown = [x for x in inputs if self._constant(x) is None]
        if name == "reduce_sum" or (
            name in ELEMENTWISE and unknown and all(id(x) in self.statistics for x in unknown)
        ):
            self._know(self.statistics, results[0], True)
        if name in ("convert_element_type", "broadcast_in_dim", "reshape", "copy"):
            self._know(self.constants, results[0], self._constant(inputs[0]))
        elif name == "mul":
            self._know(self.multiples, results[0], tuple(inputs))
        elif name in FLIPPED:
            a, b = map(self._constant, inputs)
            if b is not None and a is None:
                self._know(self.comparisons, results[0], (name, inputs[0], b))
            elif a is not None and b is None:
                self._know(self.comparisons, results[0], (FLIPPED[name], inputs[1], a))

    def _know(self, facts: dict[int, Any], value: Any, fact: Any) -> None:
        if fact is not None:
            self.alive.append(value)
            facts[id(value)] = fact

    def _constant(self, value: Any) -> float | None:
        return self.constants.get(id(value))


def _is_bare_kink(jaxpr: Any) -> bool:
    """Return True for a body of maxima, minima and clamps alone, as in relu and relu6."""
    simple = {"max", "min", "clamp", "convert_element_type", "broadcast_in_dim"}
    return all(
        _is_bare_kink(equation.params["jaxpr"].jaxpr)
        if equation.primitive.name in ("jit", "pjit")
        else equation.primitive.name in simple
        for equation in jaxpr.eqns
    )


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _is_real(x: Any) -> bool:
    return np.asarray(x).dtype.kind in "fiu" or _is_float(x)


@jax.custom_jvp
def _with_slope(value: Any, x: Any, slope: Any) -> Any:
    """Return `value` with the derivative `slope` with respect to x, and no other."""
    return value


@_with_slope.defjvp
def _with_slope_jvp(primals: Any, tangents: Any) -> Any:
    value, _, slope = primals
    return value, slope * tangents[1]


@jax.custom_jvp
def _with_blend(value: Any, below: Any, above: Any, slope: Any) -> Any:
    """Return `value` with a derivative between those of `below` (slope 0) and `above` (slope 1)."""
    return value


@_with_blend.defjvp
def _with_blend_jvp(primals: Any, tangents: Any) -> Any:
    value, _, _, slope = primals
    return value, (1 - slope) * tangents[1] + slope * tangents[2]
