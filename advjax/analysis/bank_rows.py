"""The rows and classes of the pairs' images in the bank, and a check that they can be measured."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from advjax.analysis.protocol import Protocol
from advjax.bank import Bank, BankError
from advjax.errors import AdvjaxError, UnknownName


class BankRows(NamedTuple):
    """The rows of the pairs' images in the bank and their classes there; -1 for none."""

    guide_row: Int[np.ndarray, "n"]
    source_row: Int[np.ndarray, "n"]
    guide_class: Int[np.ndarray, "n"]
    source_class: Int[np.ndarray, "n"]

    def own(self, i: np.ndarray) -> Int[np.ndarray, "b 2"]:
        """Return the rows of the bank that are no neighbours of these pairs."""
        return np.stack([self.guide_row[i], self.source_row[i]], 1)


def find_bank_rows(
    bank: Bank, count: int, guide_ids, source_ids, guide_classes, source_classes, protocol: Protocol
) -> BankRows:
    """Return the rows and classes of all pairs, after a check that each can be measured."""
    bank.rows(0)  # has it labels?
    guide_row = _rows(bank, guide_ids, count, "guide_ids")
    source_row = _rows(bank, source_ids, count, "source_ids")
    bank_rows = BankRows(
        guide_row=guide_row,
        source_row=source_row,
        guide_class=_classes(bank, guide_classes, guide_row, "guide_classes"),
        source_class=_classes(bank, source_classes, source_row, "source_classes"),
    )
    sizes = np.bincount(bank.labels[bank.labels >= 0], minlength=len(bank.classes))
    for i, label in enumerate(bank_rows.guide_class):
        if label < 0:
            raise AdvjaxError(
                f"guide {i} has no class in the bank {str(bank.path)!r}; give guide_classes, or "
                "its id in guide_ids if it is one of the bank's labelled images"
            )
        own = {row for row in bank_rows.own(np.array([i]))[0].tolist() if row >= 0}
        left = int(sizes[label]) - sum(bank.labels[row] == label for row in own)
        wanted = {f"neighbours={protocol.neighbours}": (protocol.neighbours, left)}
        manifold = f"far={tuple(protocol.far)}"
        if protocol.within == "class":
            wanted[manifold] = (protocol.far[1], left)
        for name, (minimum, there) in wanted.items():
            if there < minimum or sizes[label] <= protocol.neighbours:
                raise AdvjaxError(
                    f"class {bank.classes[label]!r} leaves {there} neighbours for guide {i}, less "
                    f"the pair's own images, but the protocol has {name}; take classes with more "
                    "images, or other numbers"
                )
        if len(bank) - len(own) < protocol.far[1]:
            raise AdvjaxError(
                f"bank {str(bank.path)!r} leaves {len(bank) - len(own)} neighbours for guide {i}, "
                f"but the protocol has {manifold}; build it of more images, or take other numbers"
            )
    for label in np.unique(bank_rows.source_class[bank_rows.source_class >= 0]):
        if sizes[label] <= protocol.neighbours:
            raise AdvjaxError(
                f"class {bank.classes[label]!r} of a source has {sizes[label]} images, but the "
                f"protocol has neighbours={protocol.neighbours}; take classes with more images, "
                "or other numbers"
            )
    return bank_rows


def _rows(bank: Bank, ids, count: int, argument: str) -> Int[np.ndarray, "n"]:
    if ids is None:
        return np.full(count, -1, np.int32)
    if isinstance(ids, str) or len(ids) != count:
        raise AdvjaxError(
            f"{argument} has {len(ids)} entries for {count} pairs; give one for each, None for an "
            "image that is not in the bank"
        )
    rows = [-1 if id is None else bank.row(id) for id in ids]
    for i, (id, row) in enumerate(zip(ids, rows, strict=True)):
        if id is not None and row < 0:
            raise AdvjaxError(
                f"{argument}[{i}] is {id!r}, which the bank {str(bank.path)!r} does not have (its "
                f"first is {bank.ids[0]!r}); give None for an image that is not in it"
            )
    return np.array(rows, np.int32)


def _classes(bank: Bank, classes, rows, argument: str) -> Int[np.ndarray, "n"]:
    """Return the class numbers given, or else those of the rows."""
    known = np.where(rows >= 0, bank.labels[rows], -1).astype(np.int32)
    if classes is None:
        return known
    if isinstance(classes, str) or len(classes) != len(rows):
        raise AdvjaxError(
            f"{argument} has {len(classes)} entries for {len(rows)} pairs; give one for each, or "
            "None"
        )
    numbers = {name: number for number, name in enumerate(bank.classes)}
    for i, label in enumerate(classes):
        if label is None:
            continue
        if isinstance(label, str):
            if label not in numbers:
                raise UnknownName(f"{argument}[{i}]", label, numbers)
            known[i] = numbers[label]
        elif 0 <= int(label) < len(numbers):
            known[i] = label
        else:
            raise BankError(
                f"{argument}[{i}] is {label}; the bank has classes 0 to {len(numbers) - 1}"
            )
    return known
