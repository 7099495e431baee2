"""Table 1: have adversarial and guide the same neighbours, and is one as central as the other?"""

from advjax.reproduce import published
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.settings import subject_of
from advjax.reproduce.tables import Made, columns, headed, mean, percent


def cells(lab: Lab) -> list[Cell]:
    """feature-opt at each network's last layer."""
    s = lab.settings
    subjects = dict.fromkeys((s.subject, *map(subject_of, s.networks)))
    return [Cell(subject, "feature-opt", lab.layers(subject)[-1], s.delta) for subject in subjects]


def make(lab: Lab) -> Made:
    """A row for each network."""
    k, rows = lab.settings.neighbours, []
    for cell in cells(lab):
        found = lab.measured(cell)
        first, same = found.summary["table_1"], paper(cell, k) or (None, None, None)
        rows.append(
            {
                "network": cell.subject.name,
                "layer": cell.layer,
                "pairs": len(found),
                "all_common": first["all_common"],
                "paper_all": same[0],
                "all_but_one_common": first["all_but_one_common"],
                "paper_all_but_one": same[1],
                "delta_rank_median": first["delta_rank_median"],
                "paper_delta_rank": same[2],
                "ratio": mean(found.table["ratio"]),
                "takes_guide_label": percent(found.table["takes_guide_label"]),
            }
        )
    headings = {
        "all_common": f"{k}-NN all equal %",
        "paper_all": "paper",
        "all_but_one_common": f"{k - 1} or more %",
        "paper_all_but_one": "paper ",
        "delta_rank_median": f"median delta r{k}",
        "paper_delta_rank": "paper  ",
        "ratio": "mean ratio",
        "takes_guide_label": "takes guide's label %",
    }
    caffenet, places = (published.TABLE_1[n] for n in ("caffenet", "places205_alexnet"))
    words = (
        f"The paper's trained CaffeNet: {', '.join(map(str, caffenet))}; Places205, its best: "
        f"{', '.join(map(str, places))}."
    )
    return Made({"": columns(rows)}, headed(rows, headings), words=words)


def paper(cell: Cell, neighbours: int) -> tuple[float, float, float] | None:
    """The published row, if this is what it is of."""
    if not cell.subject.trained or neighbours != 3 or cell.delta != published.DELTA:
        return None
    return published.TABLE_1.get(cell.subject.network)
