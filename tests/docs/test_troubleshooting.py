"""The sentences of the troubleshooting page are those that the code says: who rewords one finds its entry here."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from visionagents_runner.conf.settings import SETTING

from .reference import PACKAGE, ROOT

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
SENTENCES = re.findall(r"^### (.+)$", PAGE, re.M)
_FILLED_IN = re.compile(r"%(?:\.\d+)?[a-z]")


@cache
def said() -> list[str]:
    """Return the texts of the package's code, and of the call page's, with ``…`` for what is filled in."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        inner = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                inner.update(map(id, node.values))
                texts.append("".join(_text(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                texts.append(_FILLED_IN.sub("…", node.value))
    problems = (PACKAGE / "static" / "visionagents_runner" / "call" / "problems.js").read_text()
    return texts + re.findall(r'title: "(.+?)"', problems)


def _text(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id == "SETTING":
        return SETTING
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def test_there_are_entries() -> None:
    assert len(SENTENCES) > 30
    assert len(set(SENTENCES)) == len(SENTENCES)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_somebody_says_it(sentence: str) -> None:
    assert any(sentence in text for text in said())


def test_each_entry_says_what_to_do() -> None:
    for entry in re.split(r"^### .+$", PAGE, flags=re.M)[1:]:
        assert len(entry.partition("\n## ")[0].split()) > 10, entry
