"""The command `advjax report`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from advjax.cli.parser import Command
from advjax.errors import AdvjaxError


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Write a run as one HTML page, to be opened in any browser; or two runs side by side.

    Attributes:
        run_folders: The run's directory; of two runs, the one beside the other.
        gallery: The most pairs shown with pictures.
        root: The folder where the images are now, when they have been moved since the run.
        out: The file to write; DIR/report.html when not given, of two runs A and B
            A/report-B.html.
        quiet: Print nothing.
    """

    arguments: ClassVar = {"run_folders": "DIR"}
    groups: ClassVar = {"images": ("gallery", "root"), "output": ("out", "quiet")}
    examples: ClassVar = (
        "advjax report run",
        "advjax report run another --gallery 100 -o both.html",
    )
    run_folders: tuple[Path, ...]
    gallery: int = 2000
    root: Path | None = None
    out: Path | None = None
    quiet: bool = False

    def run(self) -> None:
        """Run the command."""
        from advjax.report import write_report

        if len(self.run_folders) not in (1, 2):
            raise AdvjaxError(f"{len(self.run_folders)} runs are given; give one, or two")
        path = write_report(
            self.run_folders[0],
            self.out,
            beside=self.run_folders[1] if len(self.run_folders) > 1 else None,
            gallery=self.gallery,
            root=self.root,
        )
        if not self.quiet:
            print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
