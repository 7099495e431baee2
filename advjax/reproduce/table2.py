"""Table 2: the change of active units under an attack."""

import numpy as np

from advjax.reproduce import published
from advjax.reproduce.experiments import Experiment, Experiments
from advjax.reproduce.label_vs_feature import needs as needs
from advjax.reproduce.output import Made, columns, plus_minus, standard_error


def make(experiments: Experiments) -> Made:
    """Make a row for each layer: delta S and I/U with the source, of both attacks."""
    rows, beside, budgets = [], {}, experiments.budgets(needs(experiments))
    for experiment in needs(experiments):
        table = experiments.measured(experiment).table
        for layer in reversed(experiments.counted(experiment.model)):
            values = [100 * table[f"active_{name}[{layer}]"] for name in ("change", "overlap")]
            change, overlap = (float(np.mean(each)) for each in values)
            errors = [standard_error(each) for each in values]
            known = paper(experiment, layer) or (None, None)
            rows.append(
                {
                    "attack": experiment.attack,
                    "layer": layer,
                    "evaluations": budgets[experiment.attack],
                    "active_change": change,
                    "active_change_error": errors[0],
                    "paper_active_change": known[0],
                    "active_overlap": overlap,
                    "active_overlap_error": errors[1],
                    "paper_active_overlap": known[1],
                }
            )
            head = (
                f"{experiment.attack}, {budgets[experiment.attack]:,} evaluations: delta S, I/U %"
            )
            both = zip((change, overlap), errors, strict=True)
            beside.setdefault(layer, {"layer": layer})[head] = ", ".join(
                plus_minus(value, error) for value, error in both
            )
            beside[layer][f"{experiment.attack}, paper"] = (
                ", ".join(map(str, known)) if known[0] is not None else None
            )
    published_rows = [
        f"{attack} " + ", ".join(f"{layer} {s} and {u}" for layer, (s, u) in table.items())
        for attack, table in published.TABLE_2.items()
    ]
    words = "The paper's trained CaffeNet, delta S and I/U: " + "; ".join(published_rows) + "."
    return Made({"": columns(rows)}, list(beside.values()), words=words)


def paper(experiment: Experiment, layer: str) -> tuple[int, int] | None:
    """Return the published numbers of this experiment and layer, or None."""
    return published.TABLE_2[experiment.attack].get(layer) if experiment.published else None
