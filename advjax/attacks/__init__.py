"""Objectives, boxes and targets; `for_network` makes of an argument an attack on a network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from advjax.attacks.base import Attack
from advjax.attacks.feature import FeatureAway, FeatureFgrad, FeatureOpt
from advjax.attacks.label import LabelFgrad, LabelOpt
from advjax.attacks.linear import FeatureLinear
from advjax.choices import AttackName as AttackName
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.network import Network

BY_NAME: dict[str, type[Attack]] = {
    kind.name: kind
    for kind in (FeatureOpt, FeatureLinear, FeatureFgrad, FeatureAway, LabelOpt, LabelFgrad)
}
"""The attacks that have a name on the command line: `AttackName`, for type checkers and help."""


def for_network(
    net: Network,
    attack: str | Attack,
    layer: str | Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
) -> Attack:
    """Return the attack on this network, everything filled in and checked.

    Args:
        net: The network.
        attack: A name of `BY_NAME`, or an attack with settings of its own.
        layer: One layer or several, if the attack has none.
        weights: One number for each layer, in place of the attack's own.

    Raises:
        AdvjaxError: Not an attack, layers given twice, or a setting that does not fit the network.
    """
    if isinstance(attack, str):
        if attack not in BY_NAME:
            raise UnknownName("attack", attack, BY_NAME)
        attack = BY_NAME[attack]()
    if not (isinstance(attack, Attack) and dataclasses.is_dataclass(attack)):
        raise AdvjaxError(
            f"attack is {attack!r}; give {', '.join(BY_NAME)}, or a frozen dataclass that is an "
            "advjax.attacks.base.Attack, such as advjax.LabelOpt()"
        )
    if attack.layers and layer is not None:
        raise AdvjaxError(f"layer is {layer!r}, and attack has {attack.layers}; give one of them")
    given: dict[str, Any] = {}
    if layer is not None:
        given["layers"] = net.check_layers(layer)
    if weights is not None:
        given["weights"] = tuple(weights)
    return dataclasses.replace(attack, **given).for_network(net)
