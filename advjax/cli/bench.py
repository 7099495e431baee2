"""The command `advjax bench`."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from advjax import bench, files
from advjax.engine import Precision
from advjax.errors import AdvjaxError
from advjax.networks import zoo
from advjax.networks.network import Network
from advjax.solvers import BY_NAME, SolverName


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast attacks are on this machine; needs no files.

    Attributes:
        network: The network's name.
        weights: 'random', 'orthonormal' or a file.
        layer: The layer to match; the network's default layer when not given.
        solver: The minimiser.
        solvers: Compare these at equal evaluations instead: mean ratios of the distance and of the
            cosine distance to the guide, and seconds.
        batch_size: Pairs at a time; 'auto': as many as memory holds.
        pairs: The number of pairs of the stream.
        max_evaluations: Of each pair.
        precision: Of matrix products.
        out: A JSON file to write as well.
    """

    network: str = "caffenet"
    weights: str | None = "random"
    layer: str | None = None
    solver: SolverName = "lbfgs"
    solvers: tuple[SolverName, ...] = ()
    batch_size: int | Literal["auto"] = 8
    pairs: int = 16
    max_evaluations: int = 20
    precision: Precision = "highest"
    out: Path | None = None

    def run(self) -> None:
        """Run the command."""
        if self.solver == "scipy":
            raise AdvjaxError("solver is 'scipy', which has no lanes; compare it with --solvers")
        net = zoo.load(self.network, self.weights)
        figures = self._compare(net) if self.solvers else self._measure(net)
        if self.out is not None:
            settings = {k: v for k, v in dataclasses.asdict(self).items() if k != "out"}
            record = {"machine": bench.machine(), "settings": settings, "figures": figures}
            files.write_text(self.out, json.dumps(record, indent=1) + "\n")
            print(f"written: {self.out}")

    def _compare(self, net: Network) -> list[dict[str, Any]]:
        budget = self.max_evaluations
        rows = bench.compare_solvers(
            net,
            {name: (BY_NAME[name](max_evaluations=budget), "auto") for name in self.solvers},
            self.pairs,
            layer=self.layer,
            batch_size=self.batch_size,
            precision=self.precision,
        )
        print(f"{'':12} {'ratio':>8} {'cosine':>8} {'seconds':>8}")
        for row in rows:
            print(f"{row.name:12} {row.ratio:8.4f} {row.cosine_ratio:8.4f} {row.seconds:8.1f}")
        return [row._asdict() for row in rows]

    def _measure(self, net: Network) -> dict[str, float]:
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
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):24} {value:.4g}")
        return figures
