"""Figure 1: sources, guides, adversarials of several layers, and what has been changed."""

from typing import Any

import numpy as np

from advjax.reproduce.lab import Cell, Lab
from advjax.reproduce.style import gallery
from advjax.reproduce.tables import Made, columns
from advjax.sheet import TIMES, magnification


def cells(lab: Lab) -> list[Cell]:
    """feature-opt at all layers but the first, deep to shallow."""
    subject, s = lab.settings.subject, lab.settings
    layers = lab.layers(subject)
    return [Cell(subject, "feature-opt", each, s.delta) for each in (layers[1:] or layers)[::-1]]


def make(lab: Lab) -> Made:
    """The first pairs as pictures, and their figures."""
    s, chosen = lab.settings, cells(lab)
    pairs, count = lab.pairs(chosen[0].pool), min(s.rows, s.pairs)
    made = {cell: {a.index: a for a in lab.adversarials(cell, count)} for cell in chosen}
    k = magnification(s.delta)
    pictures, captions, rows = [], [], []
    for i in range(count):
        source = lab.image(chosen[0], pairs.sources[i])
        shown: list[Any] = [source, lab.image(chosen[0], pairs.guides[i])]
        below: list[str] = ["", ""]
        for cell in chosen:
            found = lab.column(cell, "ratio", "max_change", "ssim")
            here = found["index"] == i
            if i not in made[cell]:
                shown += [None, None]
                below += ["", ""]
                continue
            rounded = made[cell][i].adversarial_uint8
            shown += [rounded, 127.5 + k * (rounded.astype(np.float32) - source)]
            ratio, ssim = float(found["ratio"][here][0]), float(found["ssim"][here][0])
            below += [f"ratio {ratio:.2f}", ""]
            rows.append({"pair": i, "layer": cell.layer, "ratio": ratio, "ssim": ssim})
            rows[-1] |= {"source": pairs.sources[i], "guide": pairs.guides[i]}
        pictures.append(shown)
        captions.append(below)
    names = ["source", "guide"]
    for cell in chosen:
        names += [cell.layer, f"difference {TIMES} {k}"]
    beside = [{n: row[n] for n in ("pair", "layer", "ratio", "ssim")} for row in rows]
    return Made(
        {"": columns(rows)},
        beside,
        gallery(pictures, names, captions),
        "The paper shows pictures, without numbers.",
    )
