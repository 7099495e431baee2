"""Evaluate the jaxpr of a traced function, some of its operations in another way."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

CALLS = ("jit", "pjit", "closed_call")
CHECKPOINTS = ("remat2", "checkpoint")


class Interpreter:
    """Evaluates a jaxpr equation by equation; `evaluate` is there to be overridden.

    Calls (jit) are entered in place, so that a value is the same object inside and outside. Bodies
    of checkpoint, scan and cond are evaluated by `within`. Custom derivatives and while loops stay
    as they are.
    """

    def run(self, closed: core.ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """Return the outputs of a jaxpr for these arguments."""
        jaxpr = closed.jaxpr
        values: dict[Any, Any] = {}

        def read(atom: Any) -> Any:
            return self.read(atom.val if isinstance(atom, core.Literal) else values[atom])

        for variable, value in zip(
            (*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True
        ):
            values[variable] = value
        for equation in jaxpr.eqns:
            results = self.evaluate(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def read(self, value: Any) -> Any:
        """Return a value that is about to be used, as it is."""
        return value

    def within(self, closed: core.ClosedJaxpr) -> Callable[..., list[Any]]:
        """Return a function of the body of a construct, whose values are others than outside."""
        return lambda *args: self.run(closed, args)

    def evaluate(self, equation: Any, inputs: list[Any]) -> Sequence[Any]:
        """Return the results of one equation."""
        name, params, inner = equation.primitive.name, equation.params, bodies(equation)
        if name in CALLS:
            return self.run(inner[0], inputs)
        if name in CHECKPOINTS:
            body = jax.checkpoint(
                self.within(inner[0]), policy=params["policy"], prevent_cse=params["prevent_cse"]
            )
            return body(*inputs)
        if name == "scan":
            return self._scan(params, inputs)
        if name == "cond":
            return jax.lax.switch(inputs[0], [self.within(body) for body in inner], *inputs[1:])
        return bind(equation, inputs)

    def _scan(self, params: Any, inputs: list[Any]) -> Sequence[Any]:
        if "ft_in" in params:  # JAX 0.12 and later
            consts, carried, _ = map(len, params["ft_in"].unpack())
        else:
            consts, carried = params["num_consts"], params["num_carry"]
        fixed, begin, slices = np.split(np.arange(len(inputs)), [consts, consts + carried])
        body = self.within(params["jaxpr"])

        def step(carry: Any, x: Any) -> Any:
            results = body(*(inputs[i] for i in fixed), *carry, *x)
            return results[:carried], results[carried:]

        last, stacked = jax.lax.scan(
            step,
            [inputs[i] for i in begin],
            [inputs[i] for i in slices],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*last, *stacked]


def bodies(equation: Any) -> Sequence[core.ClosedJaxpr]:
    """Return the jaxprs inside an equation that an `Interpreter` enters."""
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        return [params["jaxpr" if "jaxpr" in params else "call_jaxpr"]]
    if name in CHECKPOINTS:
        return [core.ClosedJaxpr(params["jaxpr"], ())]
    if name == "scan":
        return [params["jaxpr"]]
    return params["branches"] if name == "cond" else ()


def bind(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    """Evaluate one equation as it is."""
    primitive = equation.primitive
    parameters = primitive.get_bind_params(equation.params)
    if isinstance(parameters, tuple):  # JAX before 0.10: functions and parameters apart
        functions, parameters = parameters
        results = primitive.bind(*functions, *inputs, **parameters)
    else:
        results = primitive.bind(*inputs, **parameters)
    return results if primitive.multiple_results else [results]
