"""``python -m tests.docs.reference``: writes the tables of the reference anew, from the code that they are about.

They stand in the pages between ``<!-- from the code: NAME -->`` and ``<!-- end -->``, so that they can be read without
building anything; a test fails where they are not what this would write.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import django

from tests.processes import ROOT

PAGES = ROOT / "docs" / "reference"
PACKAGE = ROOT / "visionagents_runner"
_PART = re.compile(r"(<!-- from the code: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


def settings() -> str:
    from visionagents_runner.conf.settings import RunnerSettings

    return _options_table(RunnerSettings, "key")


def limits() -> str:
    from visionagents_runner.quotas.limits import WORDS, Limits, split

    told = _attribute_docs(Limits)
    rows = []
    for each in fields(Limits):
        what = WORDS[split(each.name)[0]] if "_per_" in each.name else ""
        rows.append((f"`{each.name}`", f"`{each.default}`", told.get(each.name) or f"{what[:1].upper()}{what[1:]}."))
    return _table(("limit", "default", "of"), rows)


def launcher() -> str:
    from visionagents_runner import AgentLauncher

    told = dict(_documented_arguments(AgentLauncher))
    rows = []
    for parameter in inspect.signature(AgentLauncher).parameters.values():
        if parameter.default is not parameter.empty and parameter.name != "registry":
            rows.append((f"`{parameter.name}`", _literal(parameter.default), told[parameter.name]))
    return _table(("option", "default", "meaning"), rows)


def serve_options() -> str:
    from visionagents_runner import ServeOptions

    return _options_table(ServeOptions, "option", leave_out={"fast_api"})


def rest() -> str:
    from django.test import Client

    schema = json.loads(Client().get("/openapi.json").content)
    rows = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            query = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            asked = f"{path}?{'&'.join(f'{name}=' for name in query)}" if query else path
            good = sorted(code for code in operation["responses"] if code < "300")
            text = " ".join(filter(None, (f"{operation['summary']}.", operation.get("description"))))
            rows.append((f"`{method.upper()} {asked}`", ", ".join(good), _one_line(text)))
    return _table(("call", "answer", "what it does"), rows)


def events() -> str:
    from visionagents_runner.models.event import KINDS, KINDS_WITHOUT_WORDS

    rows = [(f"`{kind}`", "" if kind in KINDS_WITHOUT_WORDS else "yes", text) for kind, text in KINDS.items()]
    return _table(("kind", "holds words", "what happened"), rows)


def permissions() -> str:
    from django.apps import apps
    from django.contrib.auth.management import _get_all_permissions  # type: ignore[attr-defined]

    models = apps.get_app_config("visionagents_runner").get_models()
    rows = [
        (f"`{codename}`", f"`{model.__name__}`", str(name))
        for model in models
        for codename, name in _get_all_permissions(model._meta)
    ]
    return _table(("permission", "of", "in the admin"), rows)


def signals() -> str:
    from django.dispatch import Signal

    from visionagents_runner import signals

    told = _docs_of_assignments(ast.parse(inspect.getsource(signals)).body)
    rows = []
    for name, value in vars(signals).items():
        if isinstance(value, Signal):
            when, _, more = told[name].partition("\n\n")
            rows.append((f"`{name}`", _markdown(when), _markdown(more.removeprefix("Arguments: "))))
    return _table(("signal", "when", "arguments"), rows)


def metrics() -> str:
    """Each call in the code that makes a metric, with the texts that stand there."""
    rows = []
    for path in ("telemetry/instruments.py", "api/prometheus.py"):
        for call in _calls(PACKAGE / path, {"Counter", "Histogram", "_gauge", "_by", "HistogramMetricFamily"}):
            if isinstance(call.args[0], ast.Constant) and len(call.args) > 1:
                rows.append(_metric(call, _texts_of(PACKAGE / path), _constants(PACKAGE / path)))
    return _table(("metric", "kind", "labels", "of"), sorted(rows))


def checks() -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for path in sorted((PACKAGE / "checks").glob("*.py")):
        for call in _calls(path, {"Error", "Warning"}):
            given = {each.arg: each.value for each in call.keywords}
            number = ast.literal_eval(given["id"]).rpartition(".")[2]
            known = _constants(path)
            text, hint = _template(call.args[0], known), _template(given["hint"], known)
            assert isinstance(call.func, ast.Name)
            rows.setdefault((number, call.func.id.lower()), []).append(f"{text}<br>{hint}")
    return _table(
        ("id", "level", "what it says, and the fix"),
        [(f"`{number}`", level, "<br><br>".join(texts)) for (number, level), texts in sorted(rows.items())],
    )


PARTS: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (settings, limits, launcher, serve_options, rest, events, permissions, signals, metrics, checks)
}


def written_anew(text: str) -> str:
    """Return a page with its parts as the code has them now."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[4]}", text)


def parts_of(text: str) -> list[str]:
    return [name for _, name, _, _ in _PART.findall(text)]


# Tables


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _options_table(kind: type, head: str, leave_out: frozenset[str] | set[str] = frozenset()) -> str:
    told = _attribute_docs(kind)
    return _table(
        (head, "default", "meaning"),
        [
            (f"`{each.name}`", _literal(_default_of(each)), told.get(each.name, ""))
            for each in fields(kind)
            if each.name not in leave_out
        ],
    )


def _default_of(field: Any) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _literal(value: Any) -> str:
    return f"`{json.dumps(value) if isinstance(value, str) else value}`"


# Texts


def _attribute_docs(kind: type) -> dict[str, str]:
    [body] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    return {name: _markdown(text) for name, text in _docs_of_assignments(body.body).items()}


def _docs_of_assignments(body: list[ast.stmt]) -> dict[str, str]:
    """Return the string below each assignment, which is what documents it."""
    found = {}
    for statement, after in pairwise(body):
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        target = statement.targets[0] if isinstance(statement, ast.Assign) else target
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[target.id] = inspect.cleandoc(str(after.value.value))
    return found


def _documented_arguments(kind: type) -> Iterator[tuple[str, str]]:
    """Yield what a docstring says below ``Args:``."""
    section = (inspect.getdoc(kind) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    for name, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, re.M):
        yield name, _markdown(text)


def _markdown(text: str) -> str:
    return _one_line(text.replace("``", "`"))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


# Code


def _calls(path: Path, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def _constants(path: Path) -> Mapping[str, Any]:
    """Return what names mean in a module of the package."""
    return vars(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)))


def _template(node: ast.expr, known: Mapping[str, Any]) -> str:
    """Return the text of a string in code, with ``…`` for what is filled in, but for constants."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue) and node.conversion == -1 and isinstance(node.value, ast.Name):
        value = known.get(node.value.id)
        return str(value) if isinstance(value, (str, int)) else "…"
    if isinstance(node, ast.IfExp):
        return f"{_template(node.body, known)} / {_template(node.orelse, known)}"
    return "…"


def _texts_of(path: Path) -> dict[str, ast.expr]:
    """Return what is assigned to the name ``text`` before it is used, by the line."""
    return {
        str(node.lineno): node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "text"
    }


def _metric(call: ast.Call, texts: dict[str, ast.expr], known: Mapping[str, Any]) -> tuple[str, str, str, str]:
    assert isinstance(call.func, ast.Name)
    name = str(ast.literal_eval(call.args[0]))
    full = name if name.startswith("visionagents_") else f"visionagents_{name}"
    text = call.args[1]
    if isinstance(text, ast.Name):
        text = texts[str(max(int(line) for line in texts if int(line) < call.lineno))]
    counts = call.func.id == "Counter" or any(each.arg == "counter" for each in call.keywords)
    kind = "histogram" if call.func.id.startswith("Histogram") else "counter" if counts else "gauge"
    labels = "" if len(call.args) < 3 or call.func.id in {"_gauge", "HistogramMetricFamily"} else _labels(call.args[2])
    return f"`{full}{'_total' * counts}`", kind, labels, _template(text, known)


def _labels(node: ast.expr) -> str:
    try:
        return ", ".join(f"`{label}`" for label in ast.literal_eval(node))
    except ValueError:
        return "`version`, `vision_agents`, `django`, `python`"


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    for page in sorted(PAGES.glob("*.md")):
        before = page.read_text()
        after = written_anew(before)
        if after != before:
            page.write_text(after)
            print(page.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
