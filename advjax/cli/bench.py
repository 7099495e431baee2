"""The command `advjax bench`."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from advjax import bench, files, solvers
from advjax.engine import Precision
from advjax.networks import zoo


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast attacks are on this machine; needs no files.

    Attributes:
        network: The network's name.
        weights: 'random', 'orthonormal' or a file.
        layer: The layer to match; the network's default layer when not given.
        solver: The minimiser.
        batch_size: Pairs at a time; 'auto': as many as memory holds.
        pairs: How many pairs the stream has.
        max_evaluations: Of each pair.
        precision: Of matrix products.
        out: A JSON file to write as well.
    """

    network: str = "caffenet"
    weights: str | None = "random"
    layer: str | None = None
    solver: Literal["lbfgs", "sign"] = "lbfgs"
    batch_size: int | Literal["auto"] = 8
    pairs: int = 16
    max_evaluations: int = 20
    precision: Precision = "highest"
    out: Path | None = None

    def run(self) -> None:
        """Run the command."""
        net = zoo.load(self.network, self.weights)
        solver = solvers.BY_NAME[self.solver](max_evaluations=self.max_evaluations)
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
