"""The command `advjax metrics`."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional

from advjax.analysis import Protocol, analyse
from advjax.analysis.from_files import PairFiles, ids_of, read_adversarials, read_pair_files
from advjax.analysis.summary import check_suffix
from advjax.bank import bank_name, build_bank, open_bank
from advjax.checkpoints import catalogue
from advjax.errors import AdvjaxError
from advjax.networks import zoo
from advjax.networks.network import Network
from advjax.runs import open_run


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Measure adversarial images as the paper does, beside a folder of images by class.

    Attributes:
        results: The directory of an 'advjax run', finished or not; a folder that 'advjax attack'
            wrote, or a folder of such folders; or a CSV file with the columns source, guide,
            adversarial (paths relative to it) and, where known, source_class, guide_class,
            source_id, guide_id.
        bank_images: The images among which neighbours are searched, in folders by class. Their
            activations are computed once and kept.
        bank: The folder to keep them in; one in the cache when not given. Without bank_images: a
            bank that is there.
        images: Folders with the sources and guides of attacks, if not in bank_images, or of a
            run, if they have been moved.
        network: The network's name; that of the attacks when not given.
        weights: As of 'advjax attack'; those of the attacks when not given.
        layer: The layer to measure; that of the attacks, or the network's default layer.
            Of a run with several, the pairs attacked at this one are measured.
        mean: A .binaryproto mean image to subtract instead of the network's mean per channel.
        resize: Resize files straight to the network's input; as the attacks did when not given.
        sparsity_layers: The layers whose active units are counted; the layer measured when none is
            given.
        protocol: The numbers of the analysis; the seed is that of random weights as well.
        batch_size: Pairs measured, and images of the bank computed, at once.
        out: The table to write, .parquet or .csv, a row for each pair.
        neighbours_out: A table to write of the near and far neighbours, a row for each.
    """

    results: Positional[Path]
    bank_images: Path | None = None
    bank: Path | None = None
    images: tuple[Path, ...] = ()
    network: str | None = None
    weights: str | None = None
    layer: str | None = None
    mean: Path | None = None
    resize: bool | None = None
    sparsity_layers: tuple[str, ...] = ()
    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    batch_size: int = 32
    out: Path = Path("advjax-metrics.parquet")
    neighbours_out: Path | None = None

    def run(self) -> None:
        """Run the command."""
        for file in filter(None, (self.out, self.neighbours_out)):
            check_suffix(file)
        if self.bank_images is None and self.bank is None:
            raise AdvjaxError(
                "bank_images and bank are not given; name a folder of images by class"
            )
        folders = [*self.images, *filter(None, (self.bank_images,))]
        from advjax.analysis.from_run import is_run

        given = self._run(folders) if is_run(self.results) else self._files(folders)
        net, layer = given.net, given.layer
        place = self.bank
        if self.bank_images is not None:
            place = place or catalogue.cache_dir() / "banks" / bank_name(net, self.bank_images)
            build_bank(net, self.bank_images, layer, place, batch_size=self.batch_size)
        found = analyse(
            given.results,
            bank := open_bank(place or "", net),
            net,
            given.sources,
            given.guides,
            layer=layer,
            sparsity_layers=self.sparsity_layers or None,
            protocol=self.protocol,
            batch_size=self.batch_size,
            progress=None,
            **ids_of(given.pair_files, bank, self.bank_images),
        )
        found.write(self.out)
        if self.neighbours_out is not None:
            found.write_neighbours(self.neighbours_out)
        print(found.describe())
        for line in given.said:
            print(line)
        print(f"written: {self.out}")

    def _run(self, folders: list[Path]) -> "_Given":
        from advjax.analysis.from_run import run_network, run_pairs

        run = open_run(self.results)
        named = {name: getattr(self, name) for name in ("network", "weights", "mean", "resize")}
        net = run_network(run, **named)
        if self.layer is not None:
            net.check_layers(self.layer)
        pairs = run_pairs(run, net, layer=self.layer, images=folders)
        said = []
        if pairs.failed:
            said.append(f"left out, not having been attacked: {pairs.failed:,}")
        if pairs.missing:
            said.append(f"the run is unfinished: {pairs.missing:,} of {run.pairs:,} pairs to come")
        images = pairs.sources, pairs.guides
        return _Given(net, pairs.layer, pairs.pair_files, pairs.results(), *images, said)

    def _files(self, folders: list[Path]) -> "_Given":
        pair_files, noted = read_pair_files(self.results, folders)

        def setting(name: str) -> Any:
            given = getattr(self, name)
            return noted.get(name) if given is None else given

        net = zoo.load(
            setting("network") or "efficientnet_lite0",
            setting("weights"),
            seed=self.protocol.seed,
            mean=setting("mean"),
            resize=bool(setting("resize")),
        )
        (layer,) = net.check_layers(setting("layer"))
        images = [pair.source for pair in pair_files], [pair.guide for pair in pair_files]
        return _Given(net, layer, pair_files, read_adversarials(net, pair_files), *images, [])


class _Given(NamedTuple):
    """What `analyse` is given."""

    net: Network
    layer: str
    pair_files: list[PairFiles]
    results: Any
    sources: Any
    guides: Any
    said: list[str]  # after the figures
