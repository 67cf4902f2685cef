"""The code blocks of README and the documentation, and what runs of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    """Yield those in one of these languages; "" is one that names none."""
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            if found["language"] in languages:
                yield Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])


def languages() -> set[str]:
    """Return those that there are; what is in braces is a directive of the site's."""
    found = {found["language"] for page in PAGES for found in _BLOCK.finditer(page.read_text())}
    return {language for language in found if not language.startswith("{")}
