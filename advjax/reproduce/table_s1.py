"""Table S1: the layers' dimensions."""

import math

from advjax.networks import zoo
from advjax.networks.imported import is_imported
from advjax.reproduce import published
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.output import Made, columns


def needs(experiments: Experiments) -> list[Experiment]:
    """Return nothing: no attack is needed."""
    return []


def make(experiments: Experiments) -> Made:
    """Make a row for each layer; the dimensions do not depend on the weights."""
    model = experiments.settings.model
    network, own = model.network, is_imported(model.network)
    layers = experiments.net(model).layers if own else zoo.load(network, "random").layers
    known = published.DIMENSIONS if network == "caffenet" else {}
    rows = [
        {"layer": name, "shape": "x".join(map(str, shape)), "units": math.prod(shape)}
        | {"paper": known.get(name)}
        for name, shape in layers.items()
        if name != "data"
    ]
    return Made({"": columns(rows)}, rows)
