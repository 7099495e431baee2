"""Imports go one way, as the table in docs/architecture.md draws it."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "advjax"
EVERYBODYS = {"choices", "errors", "files", "display"}
COMPILED = {  # rooms, or files of them, that may compile; `engine` alone compiles attacks
    *("engine", "smoothing", "networks/network.py", "networks/from_onnx.py", "metrics"),
    *("solvers/check.py", "runs/rows.py", "analysis/measure.py", "bench"),
}


def layout() -> dict[str, set[str]]:
    """Return each room of the page's table, in its order, with the rooms that it knows."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {}
    for names, knows in re.findall(r"^\| (`.*?) \|.*\| (.*?) \|$", page, re.MULTILINE):
        for name in re.findall(r"`(\w+)/?`", names):
            rooms[name] = set(rooms) if knows == "all" else set(re.findall(r"\w+", knows))
            rooms[name] -= {"nobody"}
    return rooms


LAYOUT = layout()


def room_of(*parts: str) -> str:
    """Return the room of a module; `python -m advjax` is the command line."""
    return "cli" if parts[0] == "__main__" else parts[0]


def trees() -> dict[Path, ast.Module]:
    """Return the syntax tree of every file of the package, by its path without the suffix.

    Of the package itself it is the stub, where the public names stand.
    """
    return {
        file.relative_to(PACKAGE).with_suffix(""): ast.parse(file.read_text(encoding="utf-8"))
        for file in (*PACKAGE.rglob("*.py"), *PACKAGE.glob("*.pyi"))
    }


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, also inside of functions."""
    rooms = defaultdict(set)
    for path, tree in trees().items():
        room = room_of(*path.parts)
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == (room == "__init__"), f"{path} has a relative import"
                module = ".".join(filter(None, ("advjax" * node.level, node.module)))
                whole = module == "advjax"
                names = [f"advjax.{a.name}" for a in node.names] if whole else [module]
            for package, *parts in (name.split(".") for name in names):
                if package == "advjax":
                    rooms[room].add(room_of(*parts) if parts else "__init__")
        rooms[room].discard(room)
    return rooms


IMPORTS = imports()


def test_every_room_is_in_the_table():
    assert set(IMPORTS) <= set(LAYOUT)


@pytest.mark.parametrize("room", LAYOUT)
def test_a_room_imports_only_rooms_above_it(room):
    order = list(LAYOUT)
    assert IMPORTS[room] <= set(order[: order.index(room)])
    assert LAYOUT[room] <= set(order[: order.index(room)])


@pytest.mark.parametrize("room", LAYOUT)
def test_a_room_imports_only_what_it_knows_directly_or_through_others(room):
    order = list(LAYOUT)
    known = set(LAYOUT[room])
    if order.index(room) > order.index("bank"):
        for other in reversed(order):  # each knows only rooms above it
            known |= LAYOUT[other] if other in known else set()
    assert IMPORTS[room] <= known | EVERYBODYS


@pytest.mark.parametrize("room", [room for room in LAYOUT if room != "cli"])
def test_a_room_uses_what_it_knows(room):
    assert LAYOUT[room] <= IMPORTS[room]


def test_attacks_and_solvers_are_compiled_by_the_engine_alone():
    for path, tree in trees().items():
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        where = {room_of(*path.parts), f"{path.as_posix()}.py"}
        assert not used & {"jit", "vmap", "pmap"} or where & COMPILED, path
        assert not used & {"shard_map", "NamedSharding", "Mesh"} or "engine" in where, path
