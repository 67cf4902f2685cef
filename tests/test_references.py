"""What docstrings and comments refer to is there: dotted names in single backticks lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import visionagents_runner

ROOT = Path(visionagents_runner.__file__).parent
REFERENCE = re.compile(r"(?<!`)`([a-z_]+(?:\.\w+)+)`(?!`)")
FOREIGN = frozenset({"agent", "agent_session", "django", "json", "lifespan", "request", "runner", "session", "sys"})
"""Beginnings that mean an object, or what is not of this package."""
FILES = frozenset({"agent.py", "asgi.py", "conftest.py"})
"""Of a project."""


def names_in(path: Path) -> set[str]:
    """Return the names that a module defines, those of its classes' members as ``Class.member``."""
    names: set[str] = set()

    def collect(body: list[ast.stmt], before: str) -> None:
        for node in body:
            found: list[str] = []
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found = [node.name]
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{before}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found = [node.target.id]
            elif isinstance(node, ast.Assign):
                found = [each.id for each in node.targets if isinstance(each, ast.Name)]
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found = [each.asname or each.name for each in node.names]
            names.update(before + each for each in found)

    collect(ast.parse(path.read_text()).body, "")
    return names


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): names_in(path)
    for path in sorted(ROOT.rglob("*.py"))
    if "migrations" not in path.parts
}


def leads_somewhere(reference: str) -> bool:
    """Whether there is what ``reference`` names, from the root or from any package."""
    for module, names in MODULES.items():
        for start in [module, *(module.split(".", deep)[-1] for deep in range(1, module.count(".") + 1))]:
            if reference == start or start.startswith(reference + "."):
                return True
            if reference.startswith(start + "."):
                rest = reference.removeprefix(start + ".")
                if rest in names or rest.partition(".")[0] in names:
                    return True
    return False


def references() -> Iterator[tuple[str, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        for reference in REFERENCE.findall(path.read_text()):
            if reference not in FILES and reference.partition(".")[0] not in FOREIGN:
                yield str(path.relative_to(ROOT)), reference.removeprefix("visionagents_runner.")


def test_what_docstrings_refer_to_is_there() -> None:
    assert [(path, name) for path, name in references() if not leads_somewhere(name)] == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("store.database.read", True),
        ("database.read", True),
        ("messaging.sealing", True),
        ("session.LiveSession.request_close", True),
        ("database.never_there", False),
        ("store.never_there", False),
        ("never_there.read", False),
    ],
)
def test_a_reference_is_followed_from_any_package(reference: str, expected: bool) -> None:
    assert leads_somewhere(reference) is expected
