"""A run of `advjax run` to be measured: its pairs' files, and its adversarials one at a time."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.dataset as ds
from jaxtyping import Float, UInt8

from advjax.analysis.from_files import PairFiles, ids_of
from advjax.bank import Bank
from advjax.data import Preprocessing, list_images
from advjax.data.images import path_of
from advjax.data.units import from_levels
from advjax.errors import AdvjaxError, UnknownName, WeightsError
from advjax.networks import zoo
from advjax.networks.identity import network_key
from advjax.networks.imported import is_imported
from advjax.networks.network import Network
from advjax.networks.options import NetworkOptions
from advjax.runs.directory import MANIFEST
from advjax.runs.image_reader import TFDS, LazyImages
from advjax.runs.reading import RunData

ROW = ("index", "id", "source", "guide", "pair_label", "layer", "delta", "error")


class RunResult(NamedTuple):
    """One row of a run, as `analyse` takes it."""

    index: int  # of its source and guide in `RunPairs`
    adversarial: Float[np.ndarray, "h w c"]
    adversarial_uint8: UInt8[np.ndarray, "h w c"]
    id: str
    delta: float
    evaluations: int


@dataclasses.dataclass(frozen=True, eq=False)
class RunPairs:
    """The pairs of a run that were attacked at one layer.

    Attributes:
        run: The run.
        net: The network it was made with.
        layer: The layer to measure.
        pair_files: Files, classes and labels of the pairs, in the order of the pair list.
        indices: The indices of the pairs in the pair list.
        failed: Rows left out because the pair could not be attacked.
        missing: Pairs that have no row yet.
    """

    run: RunData
    net: Network
    layer: str
    pair_files: list[PairFiles]
    indices: list[int]
    failed: int
    missing: int

    @property
    def sources(self) -> LazyImages:
        """Return the sources, which are read when they are needed."""
        return self._images("source")

    @property
    def guides(self) -> LazyImages:
        """Return the guides, likewise."""
        return self._images("guide")

    def ids(self, bank: Bank, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Return ids in the bank and classes of the pairs, as arguments of `analyse`.

        Args:
            bank: The bank.
            folder: The folder it was built from.
        """
        return ids_of(self.pair_files, bank, None if folder is None else Path(folder))

    def results(self) -> Iterator[RunResult]:
        """Yield the adversarials, a few in memory at a time; float32 where the run kept it."""
        position = {index: i for i, index in enumerate(self.indices)}
        mine = ds.field("index").isin(self.indices)
        columns = ("index", "id", "delta", "evaluations")
        for known, image, rounded in self.run.adversarials(columns, mine):
            image = from_levels(image, self.net.bounds)  # a run's images are levels
            yield RunResult(position[known.pop("index")], image, rounded, **known)

    def _images(self, name: str) -> LazyImages:
        names = [str(getattr(pair, name)) for pair in self.pair_files]
        return LazyImages(self.run.reader(self.net), names)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return True if `path` is the directory of a run."""
    return Path(path, MANIFEST).is_file() and Path(path, "pairs.parquet").is_file()


def run_network(
    run: RunData,
    *,
    network: str | None = None,
    weights: Any = None,
    mean: Any = None,
    resize: bool | None = None,
    layers_up_to: str | None = None,
) -> Network:
    """Load the network that a run was made with.

    A run notes the SHA-256 of its weights, not where they lie: name the file, unless they are those
    of the catalogue, or random or orthonormal ones.

    Raises:
        AdvjaxError: Another network, other weights or another mean.
    """
    noted = run.settings
    name = network or noted["network"]
    if name not in zoo.ARCHITECTURES and network is None:
        raise AdvjaxError(
            f"the run {str(run.path)!r} is of network {name!r}, which is not advjax's own; name "
            "the function that returns it with --network MODULE:FUNCTION, or measure the run from "
            "Python, with advjax.analysis.from_run.run_pairs"
        )
    tried = (None, "random", "orthonormal") if weights is None else (weights,)
    if is_imported(name):
        tried = (weights,)
    for each in tried:
        try:
            options = NetworkOptions(name, each, mean, bool(resize), layers_up_to)
            net = options.load(noted["seed"])
        except WeightsError:
            if weights is not None:
                raise
            continue
        if resize is None and noted["preprocessing"] is not None:
            made = Preprocessing(**noted["preprocessing"])
            net = dataclasses.replace(net, preprocessing=made)
        if network_key(net)["weights"] == noted["weights"]:
            break
    else:
        if is_imported(name):
            raise AdvjaxError(
                f"the run {str(run.path)!r} has parameters with SHA-256 {noted['weights'][:12]}"
                f"..., and those of {name!r} are others; return the parameters of the run"
            )
        what = "are not given" if weights is None else f"{str(weights)!r} are other ones"
        raise AdvjaxError(
            f"the run {str(run.path)!r} has weights with SHA-256 {noted['weights'][:12]}..., mean "
            f"included; weights {what}: name the file with --weights (and --mean, where the run "
            "had one)"
        )
    return net


def run_pairs(
    run: RunData,
    net: Network,
    *,
    layer: str | None = None,
    images: Sequence[str | os.PathLike[str]] = (),
) -> RunPairs:
    """Return the pairs of a run, finished or not, for `advjax.analyse`.

    Args:
        run: The run, of `advjax.open_run`.
        net: The network the run was made with.
        layer: The layer to measure. In a run of several layers, the pairs attacked at that one are
            taken; in a run of one, all of them, and that layer when None.
        images: Folders to look for sources and guides in, when they have been moved.

    Raises:
        AdvjaxError: Another network's run, several layers and none named, an image that is not
            found, or no pair that was attacked.

    Example:
        `pairs = run_pairs(advjax.open_run("run"), net)`, then `advjax.analyse(pairs.results(),
        bank, net, pairs.sources, pairs.guides, layer=pairs.layer, **pairs.ids(bank, "photos"))`
    """
    key = network_key(net)
    for name in ("network", "input_shape", "weights"):
        if run.settings[name] != key[name]:
            raise AdvjaxError(
                f"the run {str(run.path)!r} is of {name} {run.settings[name]!r}, not {key[name]!r};"
                " give the network it was made with"
            )
    rows = run.table(ROW).to_pylist()
    layers = sorted({row["layer"] for row in rows})
    if len(layers) > 1:
        if layer is None:
            raise AdvjaxError(
                f"the run {str(run.path)!r} has pairs at {', '.join(layers)}; name one with --layer"
            )
        if layer not in layers:
            raise UnknownName("layer of the run", layer, layers)
        rows = [row for row in rows if row["layer"] == layer]
    good = [row for row in rows if row["error"] is None]
    if not good:
        raise AdvjaxError(
            f"the run {str(run.path)!r} has no pair that was attacked ({len(rows)} failed); see "
            "'advjax run status'"
        )
    find = _Finder(Path(run.directory.manifest["root"]), [Path(folder) for folder in images])
    pair_files = [
        PairFiles(find(row["source"]), find(row["guide"]), Path(), label=row["pair_label"])
        for row in good
    ]
    return RunPairs(
        run=run,
        net=net,
        layer=layer or layers[0],
        pair_files=pair_files,
        indices=[row["index"] for row in good],
        failed=len(rows) - len(good),
        missing=run.pairs - len(run),
    )


class _Finder:
    """Finds the images of a pair list, which may have been moved."""

    def __init__(self, root: Path, folders: list[Path]):
        self.root, self.folders = root, folders
        self.paths: dict[str, Path] = {}
        self.by_name: dict[str, list[Path]] | None = None

    def __call__(self, name: str) -> Path:
        if name not in self.paths:
            self.paths[name] = Path(name) if name.startswith(TFDS) else self._find(name)
        return self.paths[name]

    def _find(self, name: str) -> Path:
        path = Path(path_of(name))
        for folder in (self.root, *self.folders):
            if (folder / path).is_file():
                return folder / path
        if self.by_name is None:
            self.by_name = {}
            for file in {file for folder in self.folders for file in list_images(folder)}:
                self.by_name.setdefault(file.name, []).append(file)
        there = self.by_name.get(path.name, [])
        if len(there) == 1:
            return there[0]
        what = f"in {len(there)} places" if there else "not"
        raise AdvjaxError(
            f"image {name!r} of the run is not in {str(self.root)!r}, and {what} in "
            f"{', '.join(map(str, self.folders)) or 'any other folder'}; name its folder with "
            "--images"
        )
