"""The command `advjax bench`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from advjax import files
from advjax.choices import Precision, SolverName
from advjax.cli.parser import Command
from advjax.errors import AdvjaxError

if TYPE_CHECKING:
    from advjax.networks.network import Network


@dataclasses.dataclass(frozen=True)
class Bench(Command):
    """Measure how fast attacks are on this machine; needs no files.

    Attributes:
        network: The network's name ('advjax networks' shows them).
        weights: The network's weights: 'random', 'orthonormal' or a file.
        layer: The layer to match; the network's default layer when not given.
        solver: The minimiser.
        solvers: Compare these solvers at equal evaluations instead: mean ratios of the distance and
            of the cosine distance to the guide, and seconds.
        max_evaluations: The number of evaluations of each pair.
        batch_size: The number of pairs at a time; 'auto': as many as memory holds.
        pairs: The number of pairs of the stream.
        precision: The precision of matrix products; highest is float32.
        out: A JSON file to write as well.
        json: Print JSON.
    """

    groups: ClassVar = {
        "network": ("network", "weights"),
        "attack": ("layer", "solver", "solvers", "max_evaluations"),
        "engine": ("batch_size", "pairs", "precision"),
        "output": ("out", "json"),
    }
    examples: ClassVar = (
        "advjax bench --network squeezenet --batch-size 16",
        "advjax bench --network lenet --solvers sign lbfgs --max-evaluations 50",
    )
    network: str = "caffenet"
    weights: str | None = "random"
    layer: str | None = None
    solver: SolverName = "lbfgs"
    solvers: tuple[SolverName, ...] = ()
    max_evaluations: int = 20
    batch_size: int | Literal["auto"] = 8
    pairs: int = 16
    precision: Precision = "highest"
    out: Path | None = None
    json: bool = False

    def run(self) -> None:
        """Run the command."""
        if self.solver == "scipy":
            raise AdvjaxError("solver is 'scipy', which has no lanes; compare it with --solvers")
        from advjax import bench
        from advjax.networks import zoo

        net = zoo.load(self.network, self.weights)
        figures = self._compare(net) if self.solvers else self._measure(net)
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("out", "json")}
        if self.json:
            print(json.dumps(figures))
        if self.out is not None:
            record = {"machine": bench.machine(), "settings": settings, "figures": figures}
            files.write_text(self.out, json.dumps(record, indent=1) + "\n")
            if not self.json:
                print(f"written: {self.out}")

    def _compare(self, net: "Network") -> list[dict[str, Any]]:
        from advjax import bench
        from advjax.solvers import BY_NAME

        budget = self.max_evaluations
        rows = bench.compare_solvers(
            net,
            {name: (BY_NAME[name](max_evaluations=budget), "auto") for name in self.solvers},
            self.pairs,
            layer=self.layer,
            batch_size=self.batch_size,
            precision=self.precision,
        )
        if self.json:
            return [row._asdict() for row in rows]
        print(f"{'':12} {'ratio':>8} {'cosine':>8} {'seconds':>8}")
        for row in rows:
            print(f"{row.name:12} {row.ratio:8.4f} {row.cosine_ratio:8.4f} {row.seconds:8.1f}")
        return [row._asdict() for row in rows]

    def _measure(self, net: "Network") -> dict[str, float]:
        from advjax import bench
        from advjax.solvers import BY_NAME

        solver = BY_NAME[self.solver](max_evaluations=self.max_evaluations)
        shown: dict[str, Any] = {"solver": solver, "layer": self.layer, "precision": self.precision}
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
        for name, value in () if self.json else figures.items():
            print(f"{name.replace('_', ' '):24} {value:.4g}")
        return figures
