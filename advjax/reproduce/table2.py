"""Table 2: how an attack changes which units are active."""

from advjax.reproduce import published
from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.label_vs_feature import cells as cells
from advjax.reproduce.tables import Made, columns


def make(lab: Lab) -> Made:
    """A row for each layer: delta S and I/U with the source, of feature-opt and of label-opt."""
    found = {cell: lab.measured(cell).summary["table_2"] for cell in cells(lab)}
    subject = lab.settings.subject
    rows = []
    for layer in reversed(lab.counted(subject)):
        row = {"layer": layer}
        for cell, counted in found.items():
            same = _paper(cell, layer) or (None, None)
            names = ("active_change", "active_overlap")
            for name, key, paper in zip(("delta S %", "I/U %"), names, same, strict=True):
                row |= {
                    f"{cell.attack} {name}": counted[layer][key],
                    f"{cell.attack} {name}, paper": paper,
                }
        rows.append(row)
    both = [
        f"{attack} " + ", ".join(f"{layer} {s} and {u}" for layer, (s, u) in table.items())
        for attack, table in published.TABLE_2.items()
    ]
    words = "The paper's trained CaffeNet, delta S and I/U: " + "; ".join(both) + "."
    return Made({"": columns(rows)}, rows, words=words)


def _paper(cell: Cell, layer: str) -> tuple[int, int] | None:
    if cell.subject.network != "caffenet" or not cell.subject.trained:
        return None
    return published.TABLE_2[cell.attack].get(layer)
