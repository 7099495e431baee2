"""The command `advjax reproduce`."""

import dataclasses
import sys

from advjax.reproduce.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce(Settings):
    """Make the figures and tables of Sabour et al. (2016) from attacks of your own.

    TARGETS are fig1, fig2, fig3, fig4, fig5, label-vs-feature, table1, table2, tableS1, tableS2,
    figS3, failures, or 'all'. The numbers are the paper's protocol unless others are given. Attacks
    are kept in OUT/runs and done once; the same command again goes on where it stopped.
    """

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
