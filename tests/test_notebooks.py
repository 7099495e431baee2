"""The notebooks: in step with their text form, and they run from top to bottom, on a CPU."""

import os
import re
import runpy
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SYNC = runpy.run_path(str(FOLDER / "sync.py"))
# What stands in the place of the cell "parameters", so that a notebook takes seconds.
SMALLER = {
    "first_attack": {"EVALUATIONS": 10, "FEWER": 4, "LAYERS": ["block13"]},
    "colab_tpu": {"PAIRS": 6, "EVALUATIONS": 6, "LANES": 1},
    "analysis": {"SQUARES": 10, "PAIRS": 4, "EVALUATIONS": 6, "LABEL_EVALUATIONS": 3},
}
TEXTS = sorted(FOLDER.glob("*.md"))


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_every_notebook_has_smaller_settings():
    assert {text.stem for text in TEXTS} == set(SMALLER)
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALLER)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_the_notebook_is_that_of_its_text(text):
    made = SYNC["notebook_of"](text)
    assert made == text.with_suffix(".ipynb").read_text(encoding="utf-8"), "run notebooks/sync.py"


@pytest.mark.parametrize("name", SMALLER)
def test_the_parameters_are_those_of_the_notebook(name):
    (cell,) = [c for c in notebook(name).cells if "parameters" in c.metadata.get("tags", [])]
    known = set(re.findall(r"^([A-Z_]+) = ", cell.source, re.MULTILINE))
    assert set(SMALLER[name]) <= known


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_it_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    if name != "colab_tpu":  # which is for several devices; the others are not
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), *_path()]))
    book = notebook(name)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{key} = {value!r}" for key, value in SMALLER[name].items())
    client = nbclient.NotebookClient(book, timeout=1800, resources={"metadata": {"path": tmp_path}})
    client.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    warned = [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]
    assert not warned


def _path() -> list[str]:
    return list(filter(None, [os.environ.get("PYTHONPATH")]))
