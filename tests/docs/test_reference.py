"""The tables of the reference are what the code says, all of it, and each line of them means something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.processes import ROOT
from visionagents_runner.models.event import KINDS, KINDS_WITHOUT_WORDS
from visionagents_runner.sessions import recorder

from . import reference

PAGES = sorted(reference.PAGES.glob("*.md"))
LIVE_ONLY = {"partial", "state", "interrupted"}
"""What pages and viewers are told, and no history keeps."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.django_db
def test_a_page_says_what_the_code_says(page: Path) -> None:
    text = page.read_text()
    assert text == reference.written_anew(text), "run: python -m tests.docs.reference"


def test_each_table_is_on_a_page() -> None:
    assert sorted(name for page in PAGES for name in reference.parts_of(page.read_text())) == sorted(reference.PARTS)


@pytest.mark.parametrize("part", reference.PARTS)
@pytest.mark.django_db
def test_each_line_of_a_table_means_something(part: str) -> None:
    head, _, *lines = reference.PARTS[part]().splitlines()
    assert lines
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == head.count("|") - 1, line
        assert re.search(r"\w{3}", cells[-1]), line


def test_every_kind_of_event_that_the_code_tells_is_in_the_table() -> None:
    told = set(KINDS_WITHOUT_WORDS) | set().union(*recorder._VALUE)
    for path in (ROOT / "visionagents_runner" / "observe").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            name = getattr(call, "func", None)
            if (getattr(name, "id", "") or getattr(name, "attr", "")).strip("_") in {"tell", "Observed"}:
                told |= {each.value for each in call.args[:1] if isinstance(each, ast.Constant)}  # type: ignore[attr-defined]
    assert told - LIVE_ONLY <= set(KINDS)
    assert "message" in told
