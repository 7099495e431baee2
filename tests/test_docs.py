"""The guides' code runs: every ```python block of a page, one after the other, as a reader would.

Blocks marked ```python no-run need something that is not here, such as a file of the reader's;
they must still be Python. Those marked with packages, as ```python torch, run where these are
installed. A block ```python FILE.py is also written to that file. Each line of a block marked ```sh
run is a command of advjax that succeeds.
"""

import importlib.metadata
import importlib.util
import re
import shlex
import textwrap
from pathlib import Path
from string import Template

import jax
import pytest

from advjax import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)``` *$",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: Path):
    """(info string, code padded to its line) of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield match["info"].strip(), "\n" * line + textwrap.dedent(match["code"])


def test_blocks_are_found():
    infos = [info for info, _ in blocks(ROOT / "docs" / "own-network.md")]
    assert infos.count("python") >= 5
    assert "python no-run" in infos
    assert "sh run" in [info for info, _ in blocks(ROOT / "docs" / "tutorial.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, request):
    if page.stem == "README":  # it attacks a network of full size
        request.getfixturevalue("optimised")
    monkeypatch.chdir(tmp_path)  # what a page writes
    namespace: dict = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):  # JAX's default, that readers have
        for info, code in blocks(page):
            if info.split()[:1] == ["python"]:
                program = compile(code, str(page), "exec")
                names = info.split()[1:]
                for name in (name for name in names if name.endswith(".py")):
                    Path(name).write_text(textwrap.dedent(code), encoding="utf-8")
                packages = [name for name in names if not name.endswith(".py")]  # no-run is none
                if all(importlib.util.find_spec(name) for name in packages):
                    exec(program, namespace)
            elif info == "sh run":
                for line in code.split("\n"):
                    if line:
                        program, *words = shlex.split(line)
                        assert program == "advjax"
                        assert cli.main(words) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_commands(page):
    for info, code in blocks(page):
        if info.split()[:1] == ["sh"]:
            variables = {}
            for line in code.replace("\\\n", " ").split("\n"):
                if given := re.fullmatch(r'(\w+)="([^"]*)"', line):
                    variables[given[1]] = given[2]
                words = shlex.split(Template(line).safe_substitute(variables), comments=True)
                if words[:1] == ["advjax"]:
                    cli.parse(words[1:])  # raises AdvjaxError for what it does not know


def test_the_page_of_the_reproduction_is_made_of_what_is_kept(monkeypatch):
    """`python benchmarks/reproduction.py --page` would change nothing."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import reproduction

    page = ROOT / "docs" / "reproduction.md"
    assert page.read_text(encoding="utf-8") == reproduction.page()


def test_the_text_of_the_package_needs_no_other_file():
    """On a package index it stands alone, without pictures and pages of the repository."""
    text = importlib.metadata.metadata("advjax")["Description"]
    assert text.startswith("# advjax")
    assert re.findall(r"\]\((?!https?:)[^)]*", text) == []
