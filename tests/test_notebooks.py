"""The notebooks: in step with their text form, and they run from top to bottom, on a CPU."""

import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SYNC = runpy.run_path(str(FOLDER / "sync.py"))
# What stands in the place of the cell "parameters", so that a notebook takes seconds.
SMALLER = {
    "first_attack": {"EVALUATIONS": 4, "FEWER": 4, "LAYERS": ["pool"]},
    "colab_tpu": {"PAIRS": 4, "EVALUATIONS": 3, "LANES": 1},
    "analysis": {"SQUARES": 10, "PAIRS": 2, "EVALUATIONS": 3, "LABEL_EVALUATIONS": 2},
}
TEXTS = sorted(FOLDER.glob("*.md"))


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def test_every_notebook_has_smaller_settings():
    assert {text.stem for text in TEXTS} == set(SMALLER)
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALLER)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_the_notebook_is_that_of_its_text(text):
    made = SYNC["notebook_of"](text)
    assert SYNC["without_outputs"](notebook(text.stem)) == made, "run notebooks/sync.py"


@pytest.mark.parametrize("name", SYNC["OUTPUTS"])
def test_committed_outputs_are_whole_small_and_have_pictures(name):
    book = notebook(name)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds & {"image/png", "image/jpeg"}
    assert not [output for output in outputs if output.output_type == "error"]
    run = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert run == list(range(1, len(run) + 1))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("there", "address", "asked"),
    [
        ({}, "git+https://host/advjax", "'jax' 'advjax[demo] @ git+https://host/advjax'"),
        ({"jax": "0.10.2"}, "/clone", "'jax' '/clone[demo]'"),
        ({"jax": "0.7.2"}, "advjax", "'jax' 'advjax[demo]'"),
    ],
)
def test_the_first_cell_installs_and_keeps_the_jax_that_is_there(
    there, address, asked, tmp_path, monkeypatch
):
    """Where it is new enough. Without an address the cell names its variable."""
    (cell, *_) = [c for c in notebook("first_attack").cells if c.cell_type == "code"]
    assert 'ADVJAX = ""' in cell.source
    pip = re.search(r"%pip (.*)", cell.source)[1]
    code = cell.source.replace(f"%pip {pip}", f"asked.append(f{pip!r})")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    known = [SimpleNamespace(name=name, version=version) for name, version in there.items()]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: known)
    with pytest.raises(ValueError, match="ADVJAX is empty"):
        exec(code, {})
    said = []
    exec(code.replace('ADVJAX = ""', f"ADVJAX = {address!r}"), {"asked": said})
    assert said == [f"install -q -c constraints.txt {asked}".replace("'", '"')]
    kept = (tmp_path / "constraints.txt").read_text()
    assert kept == ("jax==0.10.2" if there.get("jax") == "0.10.2" else "")


def test_badges_and_the_address_come_from_one_place():
    book = SYNC["notebook_of"](TEXTS[0], "https://github.com/someone/advjax")
    place = f"github/someone/advjax/blob/main/notebooks/{TEXTS[0].stem}.ipynb"
    assert f"(https://colab.research.google.com/{place})" in book.cells[0].source
    (cell, *_) = [c for c in book.cells if c.cell_type == "code"]
    assert 'ADVJAX = "git+https://github.com/someone/advjax"' in cell.source


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
