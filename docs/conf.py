"""The documentation site; `sphinx-build -W docs site` builds it."""

import inspect
import re

import advjax

project = "advjax"
author = "the authors of advjax"
copyright = "the authors of advjax"
version = release = advjax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"advjax {version}"

myst_heading_anchors = 3  # links to headings, as on GitHub
default_role = "code"  # docstrings put code between single backticks
highlight_language = "text"  # of blocks that name none: commands, as a rule

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # attributes as a list, not as members again
python_maximum_signature_line_length = 88


def fields(named_tuple):
    """Its fields that have a comment beside them, with it."""
    source = inspect.getsource(named_tuple)
    for name in named_tuple._fields:
        if comment := re.search(rf"^    {name}: .*  # (.*)$", source, re.MULTILINE):
            yield f"    {name}: {comment[1]}"


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text to be read in an editor: |x| is a norm, and `Pair`s a plural."""
    if hasattr(obj, "_fields") and "Attributes:" not in lines:
        lines += ["", "Attributes:", *fields(obj)]
    example = False
    for number, line in enumerate(lines):
        if line in ("Returns:", "Yields:"):  # what follows is a sentence; its colon ends no type
            lines[number + 1] = "    : " + lines[number + 1].strip()
        example = line.lstrip().startswith(">>>") or (example and line.strip() != "")
        if not example:
            parts = re.split(r"(`[^`]*`)", line)  # text, code, text, ...
            text = [re.sub(r"^(?=\w)", r"\\ ", part.replace("|", r"\|")) for part in parts[2::2]]
            parts[::2] = [parts[0].replace("|", r"\|"), *text]
            lines[number] = "".join(parts)


def setup(app):
    """Before napoleon, which makes markup of a docstring's sections."""
    app.connect("autodoc-process-docstring", plain, priority=400)
