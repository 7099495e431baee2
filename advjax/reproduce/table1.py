"""Table 1: do adversarial and guide have the same neighbours, and is one as central as the other?"""

from advjax.reproduce import published
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.settings import subject_of
from advjax.reproduce.tables import Made, columns, mean, percent


def cells(lab: Lab) -> list[Cell]:
    """feature-opt at each network's last layer."""
    s = lab.settings
    subjects = dict.fromkeys((s.subject, *map(subject_of, s.networks)))
    return [Cell(subject, "feature-opt", lab.layers(subject)[-1], s.delta) for subject in subjects]


def make(lab: Lab) -> Made:
    """A row for each network."""
    rows = []
    for cell in cells(lab):
        found = lab.measured(cell)
        first, k = found.summary["table_1"], lab.settings.neighbours
        paper = published.TABLE_1.get(cell.subject.network) if cell.subject.trained else None
        same = paper if k == 3 and cell.delta == 10 else None
        same = same or (None, None, None)
        rows.append(
            {
                "network": cell.subject.name,
                "layer": cell.layer,
                "pairs": len(found),
                f"{k}-NN all equal %": first["all_common"],
                "paper ": same[0],
                f"{k - 1} or more %": first["all_but_one_common"],
                "paper  ": same[1],
                f"median delta r{k}": first["delta_rank_median"],
                "paper   ": same[2],
                "mean ratio": mean(found.table["ratio"]),
                "takes guide's label %": percent(found.table["takes_guide_label"]),
            }
        )
    table = [{_plain(name): value for name, value in row.items()} for row in rows]
    all_equal, two, rank = published.TABLE_1["caffenet"]
    words = (
        f"The paper's trained CaffeNet: {all_equal}, {two}, {rank}; Places205, its best: "
        f"{', '.join(map(str, published.TABLE_1['places205_alexnet']))}."
    )
    return Made({"": columns(table)}, rows, words=words)


_PAPER = {"paper ": "paper_all", "paper  ": "paper_two", "paper   ": "paper_delta_rank"}


def _plain(name: str) -> str:
    """Columns of one table must differ; headings for people need not."""
    return _PAPER.get(name, name)
