"""Networks, pairs, attacks that are done once, and measurements, which all figures share."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advjax import attacks, files, solvers
from advjax.analysis import Adversarial, Analysis, analyse
from advjax.analysis.bank_rows import find_bank_rows
from advjax.bank import Bank, build_bank
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks.network import Network
from advjax.networks.options import NetworkOptions
from advjax.reproduce.draw import PairSet, draw_pairs, write_pairs
from advjax.reproduce.published import DELTA
from advjax.reproduce.settings import LAYERS, Settings, TrainedNetwork
from advjax.runs import open_run
from advjax.runs.directory import check_place, check_same, count_failed, open_directory
from advjax.runs.image_reader import TFDS, LazyImages, Reader
from advjax.runs.pair_list import Images, find_images
from advjax.runs.pipeline import Job
from advjax.runs.schema import ERROR

TRAIN, VALIDATION, FAILURES = "train", "validation", "failures"
ONE_STEP = "-fgrad"  # attacks without a budget end so


class Interrupted(KeyboardInterrupt):
    """The attacks were stopped; what is done is kept."""


class Experiment(NamedTuple):
    """One run: all pairs of a pool by one attack at one layer within one delta."""

    model: TrainedNetwork
    attack: str
    layer: str
    delta: float
    pool: str = TRAIN

    @property
    def name(self) -> str:
        """Return the name of the run's folder; label-opt has no delta."""
        delta = "" if self.attack == "label-opt" else f"-delta{self.delta:g}"
        return f"{self.pool}-{self.attack}-{self.layer.replace('/', '-')}{delta}"

    @property
    def published(self) -> bool:
        """Return True if the paper's numbers of trained CaffeNet are of this experiment."""
        model = self.model
        return model.network == "caffenet" and model.trained and self.delta == DELTA


class Experiments:
    """The settings, and the networks, runs and measurements made with them.

    Runs lie in OUT/runs/NETWORK/EXPERIMENT, so that targets which need the same attacks share them.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = print):
        self.settings, self.say = settings, say
        self._networks: dict[TrainedNetwork, Network] = {}
        self._outlines: dict[TrainedNetwork, Network] = {}
        self._pairs: dict[str, PairSet] = {}
        self._analyses: dict[Experiment, Analysis] = {}
        # The layers whose neighbours will be searched: one pass over the images for all of them.
        self._searched: dict[TrainedNetwork, dict[str, None]] = {}

    # The parts

    def net(self, model: TrainedNetwork) -> Network:
        """Return the network, loaded once."""
        if model not in self._networks:
            self._networks[model] = self._options(model).load(self.settings.seed)
        return self._networks[model]

    def _options(self, model: TrainedNetwork) -> NetworkOptions:
        options = self.settings.network
        if model == self.settings.model:
            return options
        # The mean image is of one network.
        return dataclasses.replace(options, network=model.network, weights=model.weights, mean=None)

    def _outline(self, model: TrainedNetwork) -> Network:
        """Return the network without its weights, to check settings before they are loaded."""
        if model not in self._outlines:
            self._outlines[model] = self._options(model).outline()
        return self._outlines[model]

    def layers(self, model: TrainedNetwork) -> tuple[str, ...]:
        """Return the layers to attack, shallow to deep; the settings' for their own network."""
        s = self.settings
        mine = s.layers if s.layers and model.network == s.model.network else ()
        known = LAYERS.get(model.network)
        return self._outline(model).check_layers(mine or (known and known.shown))

    def counted(self, model: TrainedNetwork) -> tuple[str, ...]:
        """Return the layers of Table 2."""
        s = self.settings
        mine = s.counted_layers if model.network == s.model.network else ()
        known = LAYERS.get(model.network)
        return self._outline(model).check_layers(mine or (known and known.counted))

    def inner(self, model: TrainedNetwork) -> str:
        """Return the convolutional layer shown beside the last one: CaffeNet's conv3."""
        layers = self.layers(model)
        return layers[1 if len(layers) > 2 else 0]

    @functools.cached_property
    def training(self) -> Images:
        """Return the training images, with their classes."""
        if self.settings.images is None:
            raise AdvjaxError(
                "images is not given; name a folder of training images, in folders by class, with "
                "--images"
            )
        images = _images(self.settings.images)
        if None in images.classes:
            missing = images.names[images.classes.index(None)]
            raise AdvjaxError(
                f"image {missing!r} of images is in no folder by class; give a folder of folders"
            )
        return images

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the classes of the training images."""
        return tuple(sorted({name for name in self.training.classes if name is not None}))

    def pairs(self, pool: str) -> PairSet:
        """Return the pairs of a pool, drawn once."""
        if pool not in self._pairs:
            s = self.settings
            if pool in (TRAIN, VALIDATION):
                guides = self.training
                if pool == VALIDATION:
                    guides = _images(s.validation or "")
                sources = self.training if s.sources is None else _images(s.sources)
                classes = self.classes
            else:
                sources = guides = _images(failure_of(s, pool)[1])
                classes = sorted({name for name in guides.classes if name is not None})
            self._pairs[pool] = draw_pairs(
                sources,
                guides,
                classes,
                pairs=s.pairs,
                source_count=s.source_count,
                guide_count=s.guide_count,
                seed=s.seed,
            )
        return self._pairs[pool]

    # Before any work

    def check_settings(self, chosen: Iterable[Experiment], measured: bool) -> None:
        """Raise all that can be said before a network's weights are loaded."""
        if measured and (self.settings.images or "").startswith(TFDS):
            raise AdvjaxError(
                f"images is {self.settings.images!r}, but neighbours are searched in a folder of "
                "images by class; give one"
            )
        files.check_writable(self.settings.out)
        for experiment in chosen:
            pairs, job = self.pairs(experiment.pool), self._job(experiment, outline=True)
            job.check(experiment.layer)
            check_place(self.folder(experiment), job.settings(pairs.work), pairs.work)

    def check(self, chosen: Iterable[Experiment], measured: bool) -> None:
        """Raise, before any attack, the errors that would stop one or its measurement later."""
        s = self.settings
        for experiment in chosen:
            job = self._job(experiment)
            job.check(experiment.layer)
            pairs, there = self.pairs(experiment.pool), open_directory(self.folder(experiment))
            if there is not None:
                check_same(there, job.settings(pairs.work), pairs.work)
        if measured:
            number = {name: i for i, name in enumerate(self.classes)}
            numbers = [number[name or ""] for name in self.training.classes]
            ids = tuple(self._id(name) or "" for name in self.training.names)
            listed = Bank(
                Path(s.images or ""), "", "", {}, ids, np.array(numbers, np.int32), self.classes
            )
            for experiment in chosen:
                self._searched.setdefault(experiment.model, {})[experiment.layer] = None
            for pool in {experiment.pool for experiment in chosen}:
                known = self._known(self.pairs(pool))
                find_bank_rows(listed, len(self.pairs(pool).work), **known, protocol=s.protocol)

    # Attacks

    def attack(self, chosen: Sequence[Experiment]) -> None:
        """Run every attack that is not done yet, and write its pairs to a CSV file.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the same again goes on.
        """
        from advjax.runs.driver import run

        chosen = list(dict.fromkeys(chosen))
        for pool in {experiment.pool for experiment in chosen}:
            write_pairs(self.settings.out / f"pairs-{pool}.csv", self.pairs(pool))
        for number, experiment in enumerate(chosen, 1):
            done = run(
                self._job(experiment),
                self.pairs(experiment.pool).work,
                self.folder(experiment),
                named=self._named(experiment),
            )
            if not done.whole:
                raise Interrupted
            if done.failed == done.pairs:
                error = open_run(self.folder(experiment)).table(["error"])["error"][0].as_py()
                raise AdvjaxError(
                    f"no pair of {self.folder(experiment)} could be attacked: {error}"
                )
            some = f"; {done.failed} could not be attacked" if done.failed else ""
            if done.new or some:
                where = f"{experiment.model.name}, {experiment.name}"
                self.say(f"[{number}/{len(chosen)}] {where}: {done.new} pairs{some}")

    def _named(self, experiment: Experiment) -> dict[str, Any]:
        s = self.settings
        options = self._options(experiment.model)
        pairs = {"pairs": s.out / f"pairs-{experiment.pool}.csv"}
        return pairs | {"images": s.images, "sources": s.sources} | options.files()

    def folder(self, experiment: Experiment) -> Path:
        """Return the run's directory."""
        return self.settings.out / "runs" / experiment.model.name / experiment.name

    def _job(self, experiment: Experiment, *, outline: bool = False) -> Job:
        s = self.settings
        solver = None
        if not experiment.attack.endswith(ONE_STEP):
            solver = solvers.BY_NAME[s.solver](max_evaluations=s.evaluations(experiment.attack))
        return Job(
            net=(self._outline if outline else self.net)(experiment.model),
            attack=experiment.attack,
            layer=experiment.layer,
            delta=experiment.delta,
            solver=solver,
            smoothing="auto" if s.smoothing == "auto" else None,
            # Lanes that no pair needs would be computed all the same.
            batch_size=min(s.batch_size, s.pairs),
            seed=s.seed,
            precision=s.precision,
            # Rounding undoes label-opt; and only attacks of this delta are measured.
            keep_float32=experiment.delta == s.delta and not experiment.pool.startswith(FAILURES),
        )

    def budgets(self, chosen: Iterable[Experiment]) -> dict[str, int]:
        """Return the most evaluations of a pair by attack, of those that iterate."""
        s, names = self.settings, dict.fromkeys(experiment.attack for experiment in chosen)
        return {
            name: s.evaluations(name) * attacks.BY_NAME[name]().attempts
            for name in names
            if not name.endswith(ONE_STEP)
        }

    # Results

    def failed(self, experiment: Experiment) -> int:
        """Return the number of pairs of a run that could not be attacked."""
        return count_failed(open_run(self.folder(experiment)).table(["status"]))

    def column(self, experiment: Experiment, *names: str) -> dict[str, np.ndarray]:
        """Return columns of a run, without the pairs that could not be attacked."""
        table = open_run(self.folder(experiment)).table(["index", "status", *names])
        good = table.filter(np.asarray(table["status"]) != ERROR)
        return {name: np.asarray(good[name]) for name in ("index", *names)}

    def adversarials(
        self, experiment: Experiment, count: int | None = None
    ) -> Iterator[Adversarial]:
        """Yield the images of a run, in no order; with `count` those of the first pairs alone."""
        import pyarrow.dataset as ds

        first = None if count is None else ds.field("index") < count
        for known, image, rounded in open_run(self.folder(experiment)).adversarials(filter=first):
            yield Adversarial(known["index"], image, rounded)

    def image(self, experiment: Experiment, name: str) -> np.ndarray:
        """Return an image of the pair list as the network was given it."""
        return Reader(self.net(experiment.model), self.pairs(experiment.pool).work.root)(name)

    def measured(self, experiment: Experiment) -> Analysis:
        """Return the paper's figures of a run at its layer; computed once a process."""
        if experiment not in self._analyses:
            s, pairs = self.settings, self.pairs(experiment.pool)
            net = self.net(experiment.model)
            reader = Reader(net, pairs.work.root)
            self._analyses[experiment] = analyse(
                self.adversarials(experiment),
                self._bank(experiment.model),
                net,
                LazyImages(reader, pairs.sources),
                LazyImages(reader, pairs.guides),
                layer=experiment.layer,
                sparsity_layers=self.counted(experiment.model),
                protocol=s.protocol,
                batch_size=s.batch_size,
                progress=None,
                **self._known(pairs),
            )
        return self._analyses[experiment]

    def _bank(self, model: TrainedNetwork) -> Bank:
        s = self.settings
        return build_bank(
            self.net(model),
            Path(s.images or "").resolve(),
            tuple(self._searched[model]),
            s.out / "banks" / model.name,
            batch_size=s.batch_size,
            progress=sys.stderr.isatty(),
        )

    def _known(self, pairs: PairSet) -> dict[str, Any]:
        """Return ids and classes of the training images, as `analyse` takes them."""

        def inside(names: list[str | None]) -> list[str | None]:
            classes = set(self.classes)
            return [name if name in classes else None for name in names]

        return {
            "guide_ids": [self._id(name) for name in pairs.guides],
            "source_ids": [self._id(name) for name in pairs.sources],
            "guide_classes": inside(pairs.guide_classes),
            "source_classes": inside(pairs.source_classes),
        }

    def _id(self, name: str) -> str | None:
        return name.removeprefix(self._top) if name.startswith(self._top) else None

    @functools.cached_property
    def _top(self) -> str:
        return Path(self.settings.images or "").resolve().as_posix() + "/"


def failure_of(settings: Settings, pool: str) -> tuple[TrainedNetwork, str]:
    """Return the network and the images of a pool of `failures`."""
    for word in settings.failures:
        network, weights, folder = _three(word)
        model = TrainedNetwork(network, weights)
        if pool == f"{FAILURES}-{model.name}":
            return model, folder
    raise KeyError(pool)


def failure_pools(settings: Settings) -> list[tuple[TrainedNetwork, str]]:
    """Return the networks of `failures`, and the names of their pools."""
    models = [TrainedNetwork(*_three(word)[:2]) for word in settings.failures]
    return [(model, f"{FAILURES}-{model.name}") for model in models]


def _three(word: str) -> tuple[str, str, str]:
    parts = word.split("=")
    if len(parts) != 3 or not all(parts):
        raise AdvjaxError(f"failures has {word!r}; give NETWORK=WEIGHTS=FOLDER")
    if parts[0] not in LAYERS:
        raise UnknownName("network of failures", parts[0], LAYERS)
    return parts[0], parts[1], parts[2]


def _images(where: str) -> Images:
    """Return the images of a folder, by whole paths, or of a tfds data set."""
    return find_images(where if where.startswith(TFDS) else str(Path(where).resolve()))
