"""The documentation builds without a warning, and the site that comes of it loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"
LOADED = frozenset({"audio", "embed", "iframe", "img", "link", "object", "script", "source", "track", "video"})
NOT_LOADED = frozenset({"canonical", "next", "prev", "author", "license"})
"""Relations of a ``link`` that no browser follows by itself."""
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?\s*([^"')\s;]+)""")


class Page(HTMLParser):
    """What a page loads, where it links to, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        self.loads += IN_STYLES.findall(found.get("style", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADED and found.get("rel") not in NOT_LOADED:
            self.loads += [found[name] for name in ("src", "href", "data", "poster") if name in found]
            self.loads += [each.split()[0] for each in found.get("srcset", "").split(",") if each.strip()]


def elsewhere(address: str) -> bool:
    """Whether ``address`` is another site's: with a host, by whichever scheme."""
    return bool(urlsplit(address).netloc)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", built / "cache", DOCS, built / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return built / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    assert site / "index.html" in found
    return found


def test_no_page_loads_anything_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert all(page.loads for page in pages.values())
    assert [(path.name, each) for path, page in pages.items() for each in page.loads if elsewhere(each)] == []


def test_no_stylesheet_and_no_picture_loads_anything_from_elsewhere(site: Path) -> None:
    texts = {path: path.read_text() for suffix in ("css", "svg") for path in site.rglob(f"*.{suffix}")}
    assert [
        (path.name, each) for path, text in texts.items() for each in IN_STYLES.findall(text) if elsewhere(each)
    ] == []
    drawings = {path: Page(text) for path, text in texts.items() if path.suffix == ".svg"}
    assert [(path.name, each) for path, page in drawings.items() for each in page.loads if elsewhere(each)] == []


def links_to(pages: dict[Path, Page]) -> Iterator[tuple[Path, str, Path, str]]:
    """Yield each link that stays on the site: from, as written, the file that it leads to, and where in it."""
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if not parts.scheme and not parts.netloc:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                yield path, link, target, unquote(parts.fragment)


def test_every_link_leads_to_a_page_and_a_place_that_are_there(pages: dict[Path, Page]) -> None:
    broken = [
        (path.name, link)
        for path, link, target, place in links_to(pages)
        if not target.is_file() or (place and target in pages and place not in pages[target].anchors)
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("markup", "foreign"),
    [
        ('<script src="https://cdn.example/a.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', True),
        ('<img srcset="a.png 1x, https://img.example/a.png 2x">', True),
        ('<p style="background: url(https://img.example/a.png)">', True),
        ('<a href="https://example.org">', False),
        ('<script src="_static/a.js?v=1"></script>', False),
        ('<img src="data:image/png;base64,AAAA">', False),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_seen(markup: str, foreign: bool) -> None:
    assert any(elsewhere(each) for each in Page(markup).loads) is foreign


def test_the_readme_can_be_read_at_one_go_and_what_it_points_to_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150
    pointed = [*re.findall(r"\]\(([^)#]+)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    assert [each for each in pointed if not elsewhere(each) and not (ROOT / each).exists()] == []


def test_every_picture_is_shown_somewhere_and_is_quick_to_load() -> None:
    texts = "".join(path.read_text() for path in [ROOT / "README.md", *DOCS.rglob("*.md")])
    pictures = [*(DOCS / "images").iterdir(), *(DOCS / "drawings").iterdir()]
    assert [path.name for path in pictures if path.name not in texts] == []
    assert [path.name for path in pictures if path.stat().st_size > 150_000] == []


def test_the_drawing_of_the_layers_is_the_contract_that_the_imports_are_held_to() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [name for layer in contract["layers"] for name in re.split(r" [|:] ", layer)]
    drawn = re.findall(r'text-anchor="middle"[^>]*>(\w+)</text>', (DOCS / "drawings" / "layers.svg").read_text())
    assert drawn == layers
