"""What a function imports when it is called can be imported before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from visionagents_runner.utils.late_imports import import_ahead

MODULES = ("ahead_first", "ahead_package", "ahead_package.inner", "ahead_package.sibling", "ahead_last")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ahead_first.py").touch()
    (tmp_path / "ahead_last.py").touch()
    (tmp_path / "ahead_failing.py").write_text("1 / 0")
    (tmp_path / "ahead_package").mkdir()
    for name in ("__init__", "inner", "sibling"):
        (tmp_path / "ahead_package" / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def there() -> set[str]:
    return set(MODULES) & set(sys.modules)


def function(code: str, **namespace: Any) -> Callable[[], Any]:
    exec(f"def function():\n    {code}\n", namespace)
    made: Callable[[], Any] = namespace["function"]
    return made


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import ahead_first", {"ahead_first"}),
        ("import ahead_package.inner as short", {"ahead_package", "ahead_package.inner"}),
        ("from ahead_package import inner, sibling", {"ahead_package", "ahead_package.inner", "ahead_package.sibling"}),
        ("import ahead_first; from ahead_last import __name__; x = 7", {"ahead_first", "ahead_last"}),
        ("return 1", set()),
    ],
)
def test_each_way_to_import_is_followed(code: str, names: set[str]) -> None:
    import_ahead(function(code))
    assert there() == names


def test_an_import_from_the_functions_own_package_is_followed() -> None:
    import_ahead(function("from . import sibling", __package__="ahead_package", __name__="ahead_package.module"))
    assert there() == {"ahead_package", "ahead_package.sibling"}


def test_what_fails_is_left_to_the_function_and_what_comes_after_it_too() -> None:
    late = function("import ahead_first, ahead_failing, ahead_last")
    import_ahead(late)
    assert there() == {"ahead_first"}
    with pytest.raises(ZeroDivisionError):
        late()


@pytest.mark.parametrize("other", [print, int, type("Callable", (), {"__call__": lambda self: None})()])
def test_what_has_no_code_of_its_own_imports_nothing(other: Callable[..., Any]) -> None:
    import_ahead(other)
    assert there() == set()
