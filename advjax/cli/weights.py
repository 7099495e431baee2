"""The command `advjax weights`: list, fetch and convert."""

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

from advjax.cli.parser import Command


@dataclasses.dataclass(frozen=True)
class List(Command):
    """List where weights come from, and which are here.

    Attributes:
        json: Print JSON.
    """

    groups: ClassVar = {"output": ("json",)}
    examples: ClassVar = ("advjax weights list", "advjax weights list --json")
    json: bool = False

    def run(self) -> None:
        """Run the command."""
        from advjax.checkpoints import catalogue

        entries = catalogue.load_catalogue()
        if self.json:
            rows = [
                dataclasses.asdict(e) | {"here": catalogue.cached(n) is not None}
                for n, e in entries.items()
            ]
            print(json.dumps(rows, indent=1))
            return
        width = max(len(entry.licence) for entry in entries.values())
        for name, entry in entries.items():
            here = "here" if catalogue.cached(name) else "-"
            source = entry.address or (f"pip: {entry.package}" if entry.package else entry.note)
            print(f"{name:20} {here:5} {entry.licence:{width}}  {source}")


@dataclasses.dataclass(frozen=True)
class Fetch(Command):
    """Download a network's official weights.

    They are verified and kept in the cache. An interrupted download goes on where it stopped when
    the command is given again.

    Attributes:
        name: The network's name.
        quiet: Show no progress.
    """

    arguments: ClassVar = {"name": "NETWORK"}
    groups: ClassVar = {"output": ("quiet",)}
    examples: ClassVar = ("advjax weights fetch squeezenet", "advjax weights fetch caffenet")
    name: str
    quiet: bool = False

    def run(self) -> None:
        """Run the command."""
        from advjax.checkpoints import catalogue

        print(catalogue.fetch(self.name, progress=False if self.quiet else None))


@dataclasses.dataclass(frozen=True)
class Convert(Command):
    """Convert weights to one safetensors file that loads without conversion.

    Attributes:
        file: A .caffemodel file.
        network: The network's name.
        out: The .safetensors file to write.
        mean: A mean image (.binaryproto or .npy) to keep in it.
        licence: The licence of the weights, to be noted in the file.
    """

    arguments: ClassVar = {"file": "FILE"}
    groups: ClassVar = {"network": ("network", "mean"), "output": ("out", "licence")}
    examples: ClassVar = (
        "advjax weights convert net.caffemodel --network caffenet -o caffenet.safetensors",
        "advjax weights convert lenet.caffemodel --network lenet --licence MIT -o l.safetensors",
    )
    file: Path
    network: str
    out: Path
    mean: Path | None = None
    licence: str | None = None

    def run(self) -> None:
        """Run the command."""
        import numpy as np

        from advjax.networks import zoo

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
