"""Makes the .ipynb of every notebook from its .md, which is the one to edit.

python notebooks/sync.py            # write them, with the outputs that are there
python notebooks/sync.py --run      # run those in OUTPUTS first, and keep their outputs
python notebooks/sync.py --check    # exit 1 and name those that are out of step

Badges for Colab, and the address from which the first cell installs advjax, are switched on in one
place: `Repository` of [project.urls] in pyproject.toml, such as https://github.com/NAME/advjax.
"""

import base64
import io
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from PIL import Image

FOLDER = Path(__file__).parent
PROJECT = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"].get("Repository", "")
OLDEST = next(
    re.findall(r"\d+", name)[:2] for name in PROJECT["dependencies"] if name[:5] == "jax>="
)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
ACCELERATORS = {"colab_tpu": "TPU"}  # of the others: a GPU
OUTPUTS = ("first_attack", "analysis")  # colab_tpu's would be those of a CPU
SMALL = 40_000  # bytes; larger pictures become JPEG

INSTALL = """\
# Installs advjax where it is missing, as in Colab. ADVJAX is what pip takes: an address, such as
# "git+https://github.com/NAME/advjax", the folder of a clone, or the name of a release.
ADVJAX = "{address}"

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

if importlib.util.find_spec("advjax") is None:
    if not ADVJAX:
        raise ValueError("ADVJAX is empty; set it above to where you have this notebook from")
    advjax_demo = f"advjax[demo] @ {{ADVJAX}}" if "://" in ADVJAX else f"{{ADVJAX}}[demo]"
    tpu = any(Path("/dev").glob("accel*")) or any(Path("/dev").glob("vfio/*"))
    jax_here = "jax[cuda12]" if shutil.which("nvidia-smi") else "jax[tpu]" if tpu else "jax"
    # JAX and its plugin for the accelerator must be of one version: those that are here stay, if
    # they are new enough, and are replaced together if not.
    names = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda12-pjrt", "libtpu")
    here = {{d.name: d.version for d in importlib.metadata.distributions() if d.name in names}}
    new = [int(part) for part in here.get("jax", "0.0").split(".")[:2]] >= [{oldest}]
    lines = [f"{{name}}=={{version}}" for name, version in here.items()] if new else []
    Path("constraints.txt").write_text("\\n".join(lines))
    %pip install -q -c constraints.txt "{{jax_here}}" "{{advjax_demo}}"
"""


def notebook_of(text: Path, repository: str = REPOSITORY) -> Any:
    """The notebook without outputs, and without ids that change."""
    notebook = jupytext.read(text, fmt="md")
    address = f"git+{repository}" if repository else ""
    source = INSTALL.format(address=address, oldest=", ".join(OLDEST))
    notebook.cells.insert(1, nbformat.v4.new_code_cell(source.strip()))
    if repository:
        place = f"{repository.removeprefix('https://')}/blob/main/notebooks/{text.stem}.ipynb"
        badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        link = f"(https://colab.research.google.com/{place.replace('github.com', 'github', 1)})"
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(badge + link))
    accelerator = ACCELERATORS.get(text.stem, "GPU")
    notebook.metadata = nbformat.from_dict(
        {
            "accelerator": accelerator,
            "colab": {"provenance": []} | ({"gpuType": "T4"} if accelerator == "GPU" else {}),
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 4  # before cells had ids
    for cell in notebook.cells:
        cell.pop("id", None)
    nbformat.validate(notebook)
    return notebook


def without_outputs(notebook: Any) -> Any:
    """A copy of a notebook as `notebook_of` makes it."""
    plain = nbformat.from_dict(notebook)
    for cell in plain.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return plain


def run(notebook: Any) -> Any:
    """The notebook with its outputs, which are made small: no progress, larger pictures as JPEG."""
    metadata = nbformat.from_dict(notebook.metadata)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook, timeout=3600, resources={"metadata": {"path": folder}}
        ).execute()
    notebook.metadata = metadata  # the kernel adds its version
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
        for output in outputs:
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            png = base64.b64decode(data.get("image/png", ""))
            if len(png) > SMALL:
                stream = io.BytesIO()
                Image.open(io.BytesIO(png)).convert("RGB").save(stream, "JPEG", quality=75)
                del data["image/png"]
                data["image/jpeg"] = base64.b64encode(stream.getvalue()).decode()
        if "outputs" in cell:
            cell.outputs = [o for o in outputs if o.get("data") != {}]
    return notebook


def with_outputs_of(notebook: Any, old: Any) -> Any:
    """The notebook with the outputs of an older one, of cells that are as they were."""
    before = {c.source: c for c in old.cells if c.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source in before:
            cell.outputs = before[cell.source].outputs
            cell.execution_count = before[cell.source].execution_count
    return notebook


def main() -> int:
    """Writes or compares."""
    behind = []
    for text in sorted(FOLDER.glob("*.md")):
        made, path = notebook_of(text), text.with_suffix(".ipynb")
        old = (
            nbformat.read(path, as_version=nbformat.NO_CONVERT)
            if path.is_file()
            else nbformat.v4.new_notebook()
        )
        again = "--run" in sys.argv and text.stem in OUTPUTS
        if again or without_outputs(old) != made:
            behind.append(path.name)
            if "--check" not in sys.argv:
                made = run(made) if again else with_outputs_of(made, old)
                path.write_text(nbformat.writes(made) + "\n", encoding="utf-8")
    print(", ".join(behind) or "all in step")
    return 1 if behind and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
