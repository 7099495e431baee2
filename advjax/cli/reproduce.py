"""The command `advjax reproduce`."""

import dataclasses
import sys
from typing import ClassVar

from advjax.cli.parser import Command
from advjax.reproduce.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(Settings, Command):
    """Make the paper's figures and tables from attacks of your own (Sabour et al., 2016).

    TARGETS are fig1, fig2, fig3, fig4, fig5, label-vs-feature, table1, table2, tableS1, tableS2,
    figS3, failures, or 'all'. The numbers are the paper's protocol unless others are given. Attacks
    are kept in OUT/runs and done once; the same command again goes on where it stopped.
    """

    arguments: ClassVar = {"targets": "TARGET"}
    groups: ClassVar = {
        "images": ("images", "validation", "sources", "pairs", "source_count", "guide_count"),
        "network": (),
        "networks": ("networks", "layers", "counted_layers", "failures", "judge"),
        "attacks": (
            *("delta", "deltas", "failure_deltas", "solver", "smoothing", "max_evaluations"),
            *("linear_evaluations", "label_evaluations", "invert_evaluations", "invert_jitter"),
        ),
        "protocol": (),
        "engine": ("precision", "batch_size"),
        "output": ("out", "format", "rows", "inverted"),
    }
    examples: ClassVar = (
        "advjax reproduce fig5 --images IMAGENET/train --pairs 50 -o paper",
        "advjax reproduce all --images IMAGENET/train --validation IMAGENET/val -o paper",
    )

    def run(self) -> int:
        """Run the command and return the exit status."""
        from advjax.reproduce.experiments import Interrupted
        from advjax.reproduce.targets import reproduce

        try:
            reproduce(self)
        except Interrupted:
            print("advjax: stopped; the same command goes on", file=sys.stderr)
            return 130
        return 0
