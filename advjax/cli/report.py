"""The command `advjax report`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


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
