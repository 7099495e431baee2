"""The documentation site builds without a warning, and all of its links lead somewhere."""

import os
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """What a page links to and what can be linked to in it."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors, self.text = [], set(), path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as the documented command builds it, elsewhere."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(out)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_of_the_folder_is_in_the_site(site):
    pages = {p.relative_to(ROOT / "docs").with_suffix("") for p in (ROOT / "docs").rglob("*.md")}
    built = {p.relative_to(site).with_suffix("") for p in site.rglob("*.html")}
    assert pages <= built
    contents = (site / "index.html").read_text(encoding="utf-8")
    for page in pages - {Path("index")}:
        assert f'href="{page.as_posix()}.html"' in contents, page  # in the table of contents


def test_all_internal_links_resolve(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    links = 0
    for path, page in pages.items():
        for link in page.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc:
                continue
            links += 1
            target = (path.parent / urllib.parse.unquote(address.path)).resolve()
            target = path if not address.path else target
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if address.fragment and target in pages:
                found = urllib.parse.unquote(address.fragment)
                assert found in pages[target].anchors, f"{path.relative_to(site)} links to {link}"
    assert links > 100


def test_the_reference_has_every_public_name_with_readable_shapes(site):
    page = Page(site / "api.html")
    public = re.findall(r" as (\w+)$", (ROOT / "advjax/__init__.pyi").read_text(), re.MULTILINE)
    assert len(public) > 30
    aliases = {"AdvjaxError": "advjax.errors.AdvjaxError"}
    missing = [n for n in public if aliases.get(n, f"advjax.{n}") not in page.anchors]
    assert not missing
    words = re.sub(r"<[^>]+>", "", page.text)
    assert "UInt8[ndarray, 'h w c']" in words.replace("&#39;", "'")
    assert "<class " not in words.replace("&lt;", "<")  # a type shown by its repr


def test_no_page_has_markup_left_over(site):
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.DOTALL)
        words = re.sub(r"<[^>]+>", "", text)
        for mark in ("```", "{include}", ":members:", "\\|"):
            at = words.find(mark)
            assert at < 0, f"{path.relative_to(site)}: {words[max(at - 60, 0) : at + 60]!r}"
