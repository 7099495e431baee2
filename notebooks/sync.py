"""Makes the .ipynb of every notebook from its .md, which is the one to edit.

python notebooks/sync.py            # write them
python notebooks/sync.py --check    # exit 1 and name those that are out of step
"""

import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook_of(text: Path) -> str:
    """The notebook as JSON: no outputs, no ids that change."""
    notebook = jupytext.read(text, fmt="md")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 4  # before cells had ids
    for cell in notebook.cells:
        cell.pop("id", None)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    """Writes or compares."""
    behind = []
    for text in sorted(FOLDER.glob("*.md")):
        made, path = notebook_of(text), text.with_suffix(".ipynb")
        if not path.is_file() or path.read_text(encoding="utf-8") != made:
            behind.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(made, encoding="utf-8")
    print(", ".join(behind) or "all in step")
    return 1 if behind and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
