"""Imports go one way: nothing at the bottom knows what is built on it."""

import ast
import graphlib
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "advjax"
EVERYBODYS = {"errors", "files"}


def imports() -> dict[str, set[str]]:
    """For each module or package right under advjax, the others that it imports."""
    found = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "advjax":
                module = (node.module or "").split(".")[1:2]
                found[name].update(module or [alias.name for alias in node.names])
        found[name].discard(name)
    return found


def test_there_is_no_cycle():
    graphlib.TopologicalSorter(imports()).prepare()  # raises CycleError, which names it


def test_the_bottom_knows_nobody():
    found = imports()
    for name in ("data", "solvers", "metrics", "checkpoints"):
        assert found[name] <= EVERYBODYS
    assert found["networks"] <= {"data", "checkpoints"} | EVERYBODYS
    assert found["attacks"] <= {"networks", "solvers"} | EVERYBODYS
    assert found["engine"] <= {"attacks", "networks", "solvers"} | EVERYBODYS
