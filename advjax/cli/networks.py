"""The command `advjax networks`."""

import dataclasses
import json
import math
from typing import Any, ClassVar

from advjax.cli.parser import Command


@dataclasses.dataclass(frozen=True)
class Networks(Command):
    """List the networks, or the layers of one.

    Attributes:
        network: A network's name, or MODULE:FUNCTION that returns one, to list its layers with
            their shapes; all networks without it.
        json: Print JSON.
    """

    arguments: ClassVar = {"network": "NETWORK"}
    groups: ClassVar = {"output": ("json",)}
    examples: ClassVar = ("advjax networks", "advjax networks squeezenet")
    network: str | None = None
    json: bool = False

    def run(self) -> None:
        """Run the command."""
        from advjax.networks import zoo
        from advjax.networks.imported import import_network, is_imported

        if self.network is not None:
            own = is_imported(self.network)
            layers = (import_network if own else zoo.outline)(self.network).layers
            print(json.dumps(layers) if self.json else layers)
            return
        rows = list(_rows())
        if self.json:
            print(json.dumps(rows, indent=1))
            return
        table = [["network", "input", "layer", "size", "here", "licence"]]
        for row in rows:
            size = f"{row['megabytes']:,.3g} MB"
            here = "yes" if row["here"] else "no"
            shape = "x".join(map(str, row["input"]))
            table.append([row["network"], shape, row["layer"], size, here, row["licence"]])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for cells in table:
            pairs = zip(cells, widths, strict=True)
            print("  ".join(f"{cell:{width}}" for cell, width in pairs).rstrip())
        print("\nsize: of the weights as float32; here: 'advjax weights fetch NETWORK' brings them")


def _rows() -> Any:
    import jax

    from advjax.checkpoints.catalogue import cached, load_catalogue
    from advjax.networks import zoo

    def sizes(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    catalogue = load_catalogue()
    for name, row in zoo.ARCHITECTURES.items():
        yield {
            "network": name,
            "input": list(row.input_shape),
            "layer": row.layer,
            "megabytes": round(4 * sizes(zoo.outline(name).params) / 1e6, 1),
            "licence": catalogue[name].licence,
            "here": cached(name) is not None,
        }
