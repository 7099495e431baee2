"""The command `advjax report`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from advjax.cli.parser import Command


@dataclasses.dataclass(frozen=True)
class Report(Command):
    """Write a run as one HTML page, to be opened in any browser.

    Attributes:
        run_folder: The run's directory.
        gallery: The most pairs shown with pictures.
        root: The folder where the images are now, when they have been moved since the run.
        out: The file to write; DIR/report.html when not given.
        quiet: Print nothing.
    """

    arguments: ClassVar = {"run_folder": "DIR"}
    groups: ClassVar = {"images": ("gallery", "root"), "output": ("out", "quiet")}
    examples: ClassVar = ("advjax report run", "advjax report run --gallery 100 -o small.html")
    run_folder: Path
    gallery: int = 2000
    root: Path | None = None
    out: Path | None = None
    quiet: bool = False

    def run(self) -> None:
        """Run the command."""
        from advjax.report import write_report

        path = write_report(self.run_folder, self.out, gallery=self.gallery, root=self.root)
        if not self.quiet:
            print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
