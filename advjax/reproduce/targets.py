"""The paper's figures and tables, each a module: which attacks it needs, and what is made of them.

A module has `cells(lab)`, the attacks as data, and `make(lab)`, tables and a figure of their
results. `Lab` does the attacks, once for all targets, and measures them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from advjax import files
from advjax.errors import AdvjaxError, UnknownName
from advjax.reproduce import fig3, fig5
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.settings import Settings
from advjax.reproduce.style import save, style
from advjax.reproduce.tables import Made, markdown, write_csv


class Target(NamedTuple):
    """A figure or table of the paper."""

    what: str
    cells: Callable[[Lab], list[Cell]]
    make: Callable[[Lab], Made]
    measured: bool = False  # beside the training images


TARGETS: dict[str, Target] = {
    "fig3": Target("histograms of the three distance ratios", fig3.cells, fig3.make, True),
    "fig5": Target("ratio against delta by layer; the linear attack", fig5.cells, fig5.make),
}
ALL = "all"


def reproduce(settings: Settings) -> None:
    """Makes the targets of the settings; attacks that are there already are not done again.

    Writes OUT/TARGET.csv (some write several), OUT/TARGET.png and OUT/TARGET.md, and prints the
    latter: the numbers beside the published ones.

    Raises:
        UnknownName: No such target.
        AdvjaxError: Images that are missing or too few, before any attack.
        KeyboardInterrupt: The attacks were stopped; the same again goes on.
    """
    names = _names(settings.targets)
    lab = Lab(settings)
    wanted = {name: TARGETS[name].cells(lab) for name in names}
    for name, cells in wanted.items():
        lab.check(cells, TARGETS[name].measured)
    for name in names:
        lab.attack(wanted[name])
        with style():
            made = TARGETS[name].make(lab)
            write(settings, name, made)


def write(settings: Settings, name: str, made: Made) -> None:
    """A target's files, and its numbers on standard output."""
    for more, table in made.tables.items():
        write_csv(settings.out / f"{name}{'-' if more else ''}{more}.csv", table)
    if made.figure is not None:
        save(made.figure, settings.out / f"{name}.png")
    text = markdown(made.beside) + (f"\n\n{made.words}" if made.words else "")
    files.write_text(settings.out / f"{name}.md", text + "\n")
    print(f"\n{name}: {TARGETS[name].what}\n\n{text}\n", flush=True)


def _names(targets: Sequence[str]) -> list[str]:
    if not targets:
        listed = "; ".join(f"{name}: {target.what}" for name, target in TARGETS.items())
        raise AdvjaxError(f"targets is empty; give 'all' or some of {listed}")
    for name in targets:
        if name not in TARGETS and name != ALL:
            raise UnknownName("target", name, (*TARGETS, ALL))
    return list(TARGETS) if ALL in targets else list(dict.fromkeys(targets))
