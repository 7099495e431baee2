"""Several networks as one: a `Network` whose layers are those of its members."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from advjax.data.images import Preprocessing
from advjax.errors import AdvjaxError
from advjax.networks.network import Activations, Network

OUTPUT = "output"
"""The layer with the mean of the members' probabilities."""


@dataclasses.dataclass(frozen=True)
class _Member:
    """What the function of an ensemble knows of a member; its parameters are arguments."""

    name: str
    function: Callable[..., Mapping[str, Array]]
    with_params: bool
    shape: tuple[int, int, int]
    output: str | None


@dataclasses.dataclass(frozen=True)
class _Together:
    """The function of an ensemble; equal members make an equal function, compiled once."""

    members: tuple[_Member, ...]
    output: bool

    def __call__(self, params: Mapping[str, Any], images: Float[Array, "b h w c"]) -> Activations:
        """Compute all members' activations, each at its own size."""
        found: Activations = {}
        mean: Any = 0.0
        for member in self.members:
            seen = images
            if images.shape[1:] != member.shape:
                # Not cut at 0 and 255: the filter's weights sum to 1 up to rounding, and at a bound
                # a cut would take a part of the gradient.
                seen = jax.image.resize(images, (len(images), *member.shape), "linear")
            own = (params[member.name],) if member.with_params else ()
            layers = member.function(*own, seen)
            found |= {f"{member.name}/{layer}": value for layer, value in layers.items()}
            if self.output and member.output is not None:
                mean += probabilities(layers[member.output]) / len(self.members)
        return found | ({OUTPUT: mean} if self.output else {})


def probabilities(outputs: Float[Array, "b classes"]) -> Float[Array, "b classes"]:
    """Return the softmax of logits; rows that are probabilities already stay what they are."""
    outputs = outputs.astype(jnp.float32)
    already = jnp.all(outputs >= 0, 1) & (jnp.abs(jnp.sum(outputs, 1) - 1) < 1e-2)
    return jnp.where(already[:, None], outputs, jax.nn.softmax(outputs))


def ensemble(
    networks: Mapping[str, Network],
    input_shape: tuple[int, int, int] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Network:
    """Return one network of several, which every attack and command takes.

    A layer is a member's name and its own, "b32/output". The default layer is that of every member
    together, so that an attack comes near to the guide in all of them; `layer_weights` of the
    attack weigh them, and `layer_ratios` of its result are each member's own. Each member sees the
    whole image at its own size: resized inside the graph with a triangle filter that widens when
    shrinking (`jax.image.resize`, "linear", anti-aliased), so that gradients pass through.

    Where all members name an output of as many classes, so does the ensemble: "output", the mean of
    their probabilities.

    Args:
        networks: The members by their names. Images are in levels, 0..255, whatever their bounds.
        input_shape: (height, width, channels) of one image; the first member's when None.
        preprocessing: The steps from a file to an image; those of the first member with this input
            shape when None.

    Raises:
        AdvjaxError: No member, a name that is empty or has a slash, or another number of channels.

    Example:
        >>> means = lambda images: {"mean": images.mean((1, 2))}
        >>> both = ensemble({"a": Network(means, (4, 4, 3)), "b": Network(means, (2, 2, 3))})
        >>> both.layers
        a/mean  3  3 units
        b/mean  3  3 units
        >>> both(jnp.full((1, 4, 4, 3), 8.0))["b/mean"]
        Array([[8., 8., 8.]], dtype=float32)
    """
    if not isinstance(networks, Mapping) or not networks:
        raise AdvjaxError(
            "networks is no dict of networks by name, or an empty one; give "
            '{"b32": net1, "rn50": net2}'
        )
    for name in networks:
        if not isinstance(name, str) or not name or "/" in name or name == OUTPUT:
            raise AdvjaxError(
                f"a member is called {name!r}; give names without '/', and not {OUTPUT!r}"
            )
    nets = {name: net.in_levels for name, net in networks.items()}
    first = next(iter(nets.values()))
    shape = first.input_shape if input_shape is None else input_shape
    for name, net in nets.items():
        if net.input_shape[-1] != shape[-1]:
            raise AdvjaxError(
                f"input_shape has {shape[-1]} channels and {name} takes {net.input_shape[-1]}; "
                "give members with as many"
            )
    classes = {net.layers[net.output] if net.output else None for net in nets.values()}
    output = None not in classes and len(classes) == 1
    alike = [net.preprocessing for net in nets.values() if net.input_shape == tuple(shape)]
    return Network(
        function=_Together(
            tuple(
                _Member(name, net.function, net.params is not None, net.input_shape, net.output)
                for name, net in nets.items()
            ),
            output,
        ),
        input_shape=shape,
        params={name: net.params for name, net in nets.items()},
        name=" + ".join(nets),
        layer=tuple(f"{name}/{net.check_layers(None)[0]}" for name, net in nets.items()),
        output=OUTPUT if output else None,
        classes=first.classes if output else None,
        preprocessing=preprocessing or next(filter(None, alike), None),
    )
