"""The paper's figures and tables, each a module: its attacks, and the figure or table of them.

A module has `needs(experiments)`, the attacks as data, and `make(experiments)`, tables and a figure
of their results. `Experiments` does the attacks, once for all targets, and measures them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from advjax import files
from advjax.errors import AdvjaxError, UnknownName
from advjax.reproduce import (
    failures,
    fig1,
    fig2,
    fig3,
    fig4,
    fig5,
    fig_s3,
    label_vs_feature,
    table1,
    table2,
    table_s1,
    table_s2,
)
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.origin import file_name, keep, origin, text
from advjax.reproduce.output import Made, markdown, write_csv
from advjax.reproduce.settings import Settings
from advjax.reproduce.style import save, style


class Target(NamedTuple):
    """A figure or table of the paper."""

    what: str
    needs: Callable[[Experiments], list[Experiment]]
    make: Callable[[Experiments], Made]
    measured: bool = False  # beside the training images


TARGETS: dict[str, Target] = {
    "fig1": Target("sources, guides, adversarials and their differences", fig1.needs, fig1.make),
    "fig2": Target("inversions of source, guide and adversarial", fig2.needs, fig2.make),
    "fig3": Target("histograms of the three distance ratios", fig3.needs, fig3.make, True),
    "fig4": Target("likelihood and angles on the manifold", fig4.needs, fig4.make, True),
    "fig5": Target("ratio against delta by layer; the linear attack", fig5.needs, fig5.make),
    "label-vs-feature": Target(
        "ranks and manifold under label-opt and feature-opt",
        label_vs_feature.needs,
        label_vs_feature.make,
        True,
    ),
    "table1": Target("neighbours in common, and ranks", table1.needs, table1.make, True),
    "table2": Target("active units", table2.needs, table2.make, True),
    "tableS1": Target("dimensions of the layers", table_s1.needs, table_s1.make),
    "tableS2": Target("random and orthonormal weights", table_s2.needs, table_s2.make),
    "figS3": Target("one-step attacks", fig_s3.needs, fig_s3.make),
    "failures": Target("where the attack fails", failures.needs, failures.make),
}
ALL = "all"


def reproduce(settings: Settings) -> None:
    """Make the targets of the settings; attacks that are done already are not run again.

    Writes OUT/TARGET.csv (some write several), OUT/TARGET.png and OUT/TARGET.md, and prints the
    latter: the numbers beside the published ones, and how they were made. OUT/index.html shows all
    targets that are there, OUT/settings.json keeps their settings.

    Raises:
        UnknownName: No such target.
        AdvjaxError: Images that are missing or too few, before any attack.
        KeyboardInterrupt: The attacks were stopped; the same again goes on.
    """
    names = _names(settings)
    experiments = Experiments(settings)
    wanted = {name: TARGETS[name].needs(experiments) for name in names}
    for name, chosen in wanted.items():
        experiments.check_settings(chosen, TARGETS[name].measured)
    for name, chosen in wanted.items():
        experiments.check(chosen, TARGETS[name].measured)
    for name in names:
        experiments.attack(wanted[name])
        with style():
            made = TARGETS[name].make(experiments)
            write(settings, name, made, origin(experiments, wanted[name], TARGETS[name].measured))


def write(settings: Settings, name: str, made: Made, lines: Mapping[str, str]) -> None:
    """Write a target's files, and print its numbers and how they were made."""
    for more, table in made.tables.items():
        write_csv(settings.out / file_name(name, more), table)
    figure = ""
    if made.figure is not None:
        figure = f"{name}.{settings.format}"
        save(made.figure, settings.out / figure)
    what = TARGETS[name].what
    parts = [markdown(made.beside), made.words, "How it was made:", text(lines)]
    said = "\n\n".join(part for part in parts if part)
    files.write_text(settings.out / f"{name}.md", said + "\n")
    keep(settings, name, what, made, lines, figure)
    print(f"\n{name}: {what}\n\n{said}\n", flush=True)


def _names(settings: Settings) -> list[str]:
    targets = settings.targets
    if not targets:
        listed = "; ".join(f"{name}: {target.what}" for name, target in TARGETS.items())
        raise AdvjaxError(f"targets is empty; give 'all' or some of {listed}")
    for name in targets:
        if name not in TARGETS and name != ALL:
            raise UnknownName("target", name, (*TARGETS, ALL))
    if ALL not in targets:
        return list(dict.fromkeys(targets))
    return [name for name in TARGETS if name != "failures" or settings.failures]
