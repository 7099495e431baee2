"""The command `advjax weights`: list, fetch and convert."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg, subcommand

from advjax.checkpoints import catalogue
from advjax.networks import zoo


@dataclasses.dataclass(frozen=True)
class List:
    """The networks, where their weights come from, and which are here."""

    def run(self) -> None:
        """Run the command."""
        entries = catalogue.load_catalogue()
        width = max(len(entry.licence) for entry in entries.values())
        for name, entry in entries.items():
            here = "here" if catalogue.cached(name) else "-"
            source = entry.address or (f"pip: {entry.package}" if entry.package else entry.note)
            print(f"{name:20} {here:5} {entry.licence:{width}}  {source}")


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Download a network's official weights, verify them and keep them in the cache.

    An interrupted download goes on where it stopped when the command is given again.

    Attributes:
        name: The network's name.
    """

    name: Positional[str]

    def run(self) -> None:
        """Run the command."""
        print(catalogue.fetch(self.name))


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert weights to one safetensors file that loads without conversion.

    Attributes:
        file: A .caffemodel file.
        network: The network's name.
        out: The .safetensors file to write.
        mean: A mean image (.binaryproto or .npy) to keep in it.
        licence: The licence of the weights, to be noted in the file.
    """

    file: Positional[Path]
    network: str
    out: Path
    mean: Path | None = None
    licence: str | None = None

    def run(self) -> None:
        """Run the command."""
        noted = {} if self.licence is None else {"licence": self.licence}
        arrays = zoo.convert(self.network, self.file, self.out, mean=self.mean, **noted)
        for name, array in arrays.items():
            print(f"{name:32} {'x'.join(map(str, array.shape))}")
        net = zoo.load(self.network, self.out)
        print(f"{sum(a.size for a in arrays.values()):,} numbers in {len(arrays)} tensors")
        print("blobs: " + ", ".join(f"{k} {int(np.prod(s))}" for k, s in net.layers.items()))
        if zoo.architecture(self.network).vocabulary == "imagenet":
            print(zoo.self_check(net))
        print(f"written: {self.out}")


Weights = Annotated[
    Annotated[List, subcommand("list")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Convert, subcommand("convert")],
    arg(name=""),
]


@dataclasses.dataclass(frozen=True)
class WeightsCommand:
    """List, fetch and convert networks' weights."""

    command: Weights

    def run(self) -> None:
        """Run the command."""
        self.command.run()
