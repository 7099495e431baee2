"""Table S1: the layers' dimensions."""

import math

from advjax.networks import zoo
from advjax.reproduce import published
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.tables import Made, columns


def cells(lab: Lab) -> list[Cell]:
    """No attack is needed."""
    return []


def make(lab: Lab) -> Made:
    """A row for each layer; whatever its weights, the network has them."""
    network = lab.settings.network
    known = published.DIMENSIONS if network == "caffenet" else {}
    rows = [
        {"layer": name, "shape": "x".join(map(str, shape)), "units": math.prod(shape)}
        | {"paper": known.get(name)}
        for name, shape in zoo.load(network, "random").layers.items()
        if name != "data"
    ]
    return Made({"": columns(rows)}, rows)
