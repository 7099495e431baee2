"""The command `advjax metrics`."""

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from advjax.analysis import Protocol, analyse
from advjax.analysis.from_files import (
    PairFiles,
    PairImages,
    find_in_folder,
    ids_of,
    read_adversarials,
    read_pair_files,
)
from advjax.analysis.summary import check_suffix
from advjax.bank import bank_name, build_bank, open_bank
from advjax.checkpoints import catalogue
from advjax.cli.parser import Command
from advjax.data import list_images
from advjax.errors import AdvjaxError
from advjax.files import check_writable
from advjax.networks.identity import weights_hash
from advjax.networks.imported import is_imported
from advjax.networks.network import Network
from advjax.networks.options import NetworkOptions
from advjax.runs import open_run


@dataclasses.dataclass(frozen=True)
class Metrics(Command):
    """Measure adversarial images as the paper does, beside a folder of images by class.

    Attributes:
        results: The directory of an 'advjax run', finished or not; a folder that 'advjax attack'
            wrote, or a folder of such folders, as AttackResult.save writes; or a CSV file with the
            columns source, guide, adversarial (paths relative to it) and, where known,
            source_class, guide_class, source_id, guide_id.
        bank_images: The images among which neighbours are searched, in folders by class. Their
            activations are computed once and kept.
        bank: The folder to keep them in; one in the cache when not given. Without bank_images: a
            bank that is there.
        images: Folders with the sources and guides of attacks, if not in bank_images, or of a
            run, if they have been moved.
        layer: The layer to measure; that of the attacks, or the network's default layer.
            Of a run with several, the pairs attacked at this one are measured.
        sparsity_layers: The layers whose active units are counted; the layer measured when none is
            given.
        batch_size: The number of pairs measured, and of images of the bank computed, at once.
        out: The table to write, .parquet or .csv, a row for each pair.
        neighbours_out: A table to write of the near and far neighbours, a row for each.
        json: Print the summary as JSON.
        quiet: Print nothing, and show no progress.
    """

    arguments: ClassVar = {"results": "RESULTS"}
    groups: ClassVar = {
        "images": ("bank_images", "bank", "images"),
        "network": (),
        "measured": ("layer", "sparsity_layers", "batch_size"),
        "protocol": (),
        "output": ("out", "neighbours_out", "json", "quiet"),
    }
    examples: ClassVar = (
        "advjax metrics run --bank-images IMAGENET/train",
        "advjax metrics disguised --bank-images photographs --images photographs -o table.csv",
    )
    results: Path
    bank_images: Path | None = None
    bank: Path | None = None
    images: tuple[Path, ...] = ()
    network: NetworkOptions = NetworkOptions(network=None)
    layer: str | None = None
    sparsity_layers: tuple[str, ...] = ()
    batch_size: int = 32
    protocol: Protocol = Protocol()
    out: Path = Path("advjax-metrics.parquet")
    neighbours_out: Path | None = None
    json: bool = False
    quiet: bool = False

    def run(self) -> None:
        """Run the command."""
        for file in filter(None, (self.out, self.neighbours_out)):
            check_suffix(file)
            check_writable(file.parent)
        if self.bank_images is None and self.bank is None:
            raise AdvjaxError(
                "bank_images and bank are not given; name a folder of images by class"
            )
        folders = [*self.images, *filter(None, (self.bank_images,))]
        for folder in folders:
            list_images(folder)  # is there any?
        from advjax.analysis.from_run import is_run

        given = self._from_run(folders) if is_run(self.results) else self._from_files(folders)
        net, folder = given.net, self.bank
        if self.bank_images is not None:
            folder = folder or catalogue.cache_dir() / "banks" / bank_name(net, self.bank_images)
            build_bank(net, self.bank_images, given.layer, folder, batch_size=self.batch_size)
        bank = open_bank(folder or "", net)
        analysis = analyse(
            given.results,
            bank,
            net,
            given.sources,
            given.guides,
            layer=given.layer,
            sparsity_layers=self.sparsity_layers or None,
            protocol=self.protocol,
            batch_size=self.batch_size,
            progress=False if self.quiet else None,
            **ids_of(given.pair_files, bank, self.bank_images),
        )
        analysis.write(self.out)
        if self.neighbours_out is not None:
            analysis.write_neighbours(self.neighbours_out)
        if self.json:
            print(json.dumps(analysis.summary | {"notes": given.notes}))
        elif not self.quiet:
            print("\n".join([analysis.describe(), *given.notes]))
            print(f"written: {self.out}")

    def _from_run(self, folders: list[Path]) -> "_Given":
        from advjax.analysis.from_run import run_network, run_pairs

        run = open_run(self.results)
        options = dataclasses.asdict(self.network)
        # None is as in the run, whose preprocessing may be resized or the user's own.
        net = run_network(run, **{name: value or None for name, value in options.items()})
        if self.layer is not None:
            net.check_layers(self.layer)
        pairs = run_pairs(run, net, layer=self.layer, images=folders)
        notes = []
        if pairs.failed:
            notes.append(f"left out, not having been attacked: {pairs.failed:,}")
        if pairs.missing:
            notes.append(f"the run is unfinished: {pairs.missing:,} of {run.pairs:,} pairs to come")
        images = pairs.sources, pairs.guides
        return _Given(net, pairs.layer, pairs.pair_files, pairs.results(), *images, notes)

    def _from_files(self, folders: list[Path]) -> "_Given":
        pair_files, noted = read_pair_files(self.results, folders)
        given = dataclasses.asdict(self.network)
        missing = {name: noted[name] for name in given if not given[name] and name in noted}
        if is_imported(missing.get("network")):  # what is read must not say what is run
            raise AdvjaxError(
                f"the attacks are of {missing['network']!r}, a network of your own; name it with "
                "--network"
            )
        options = dataclasses.replace(self.network, **missing)
        layer = noted.get("layer") if self.layer is None else self.layer
        options.outline().check_layers(layer)  # before the weights
        net = options.load(self.protocol.seed)
        made_with = noted.get("parameters")
        if self.network.network == noted.get("network") and made_with not in (
            None,
            weights_hash(net),
        ):
            raise AdvjaxError(
                f"the attacks were made with parameters of SHA-256 {made_with[:12]}..., and those "
                f"of {noted['network']!r} are others; return the parameters of the attacks"
            )
        (layer,) = net.check_layers(layer)
        for folder in folders:
            pair_files = find_in_folder(net, pair_files, folder)
        images = PairImages(net, pair_files, "source"), PairImages(net, pair_files, "guide")
        _check_weights(net, noted, images[0][0], images[1][0], layer)
        return _Given(net, layer, pair_files, read_adversarials(net, pair_files), *images, [])


def _check_weights(net: Network, noted: Any, source: Any, guide: Any, layer: str) -> None:
    """Raise AdvjaxError if the network is not that of saved results, which name no weights."""
    was = noted.get("initial_distance")
    if was is None or "weights" in noted or noted.get("layer") != layer:
        return
    images = [net.read(x) if isinstance(x, Path) else x for x in (source, guide)]
    a, b = net(np.stack(images), layer)[layer]
    here = float(np.linalg.norm(a - b))
    if not np.isclose(here, was, rtol=0.02):
        raise AdvjaxError(
            f"the distance of the first source and guide at {layer} is {here:.4g}, and was "
            f"{was:.4g} in the attack: the network has other weights; give those of the attack "
            "with --weights"
        )


class _Given(NamedTuple):
    """The arguments of `analyse`."""

    net: Network
    layer: str
    pair_files: list[PairFiles]
    results: Any
    sources: Any
    guides: Any
    notes: list[str]  # printed after the figures
