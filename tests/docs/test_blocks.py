"""Every command and code block of README and the documentation is run, or held to what it names."""

from __future__ import annotations

import ast
import importlib
import json
import logging.config
import os
import re
import shlex
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import metadata
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from django.core.management import load_command_class
from django.test import override_settings
from django.urls import include, path

from tests.machine.requirements import program_of
from tests.processes import ROOT
from visionagents_runner import AgentLauncher, Runner, ServeOptions
from visionagents_runner.cli import main
from visionagents_runner.conf.settings import SETTING, known_keys
from visionagents_runner.demo import create_agent, join_call
from visionagents_runner.models import AgentSession

from .blocks import Block, blocks, languages

MODELS_IN_THE_CLOUD = {"gemini", "getstream", "openai"}
"""Plugins of vision-agents that need a key, and are not installed for the tests."""
OF_A_CLUSTER = {"kubectl"}
"""No cluster is here; `tests.deployment` holds the manifests to what they name."""
OF_A_SHELL = {"mkdir", "cd", "cp", ".", "cat"}
"""`test_tutorial` follows them."""
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = _PROJECT["project"]["optional-dependencies"]
MARKERS = {each.partition(":")[0] for each in _PROJECT["tool"]["pytest"]["ini_options"]["markers"]}

coaches = Runner(launchers={"coach": AgentLauncher(create_agent, join_call)})

PYTHON = list(blocks("python"))
SHELL = list(blocks("sh"))


def test_each_language_has_a_test() -> None:
    assert languages() == {"python", "sh", "yaml", "text", ""}


# Python


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_what_a_block_imports_is_there(block: Block) -> None:
    for node in ast.walk(parsed(block)):
        if isinstance(node, ast.Import):
            for each in node.names:
                importlib.import_module(each.name)
        elif isinstance(node, ast.ImportFrom) and node.module == "vision_agents.plugins":
            assert {each.name for each in node.names} <= MODELS_IN_THE_CLOUD
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for each in node.names:
                assert hasattr(module, each.name) or importlib.import_module(f"{module.__name__}.{each.name}")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_what_a_block_calls_takes_these_arguments(block: Block) -> None:
    """Of our own classes; those of a model in the cloud are not here."""
    known = {each.__name__: each for each in (AgentLauncher, Runner, ServeOptions)}
    parameters = {name: set(inspect_parameters(each)) for name, each in known.items()}
    for node in ast.walk(parsed(block)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            assert {each.arg for each in node.keywords} <= parameters[node.func.id]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_setting_that_a_block_shows_exists(block: Block) -> None:
    for node in ast.walk(parsed(block)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == SETTING:
            assert isinstance(node.value, ast.Dict)
            assert {ast.literal_eval(key) for key in node.value.keys if key is not None} <= known_keys()


@pytest.mark.django_db
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_block_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEBHOOK_SECRET", "TURN_PASSWORD", "REDIS_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    monkeypatch.delitem(sys.modules, "yourproject", raising=False)
    namespace = around(block)
    with override_settings(**{SETTING: {"RUNNER": f"{__name__}.coaches"}}):
        exec(compile(parsed(block), str(block), "exec"), namespace)
    if "LOGGING" in namespace:
        logging.config.DictConfigurator(namespace["LOGGING"])  # type: ignore[attr-defined]
        for each in (*namespace["LOGGING"]["filters"].values(), *namespace["LOGGING"]["formatters"].values()):
            module, _, name = each["()"].rpartition(".")
            getattr(importlib.import_module(module), name)()
    if "redact" in namespace:
        assert namespace["redact"]("id", "message", {"text": "4111 1111"}) == {"text": "[card]"}
    if SETTING in namespace:
        with override_settings(**{SETTING: {**namespace[SETTING], "RUNNER": "tests.agents.runner"}}):
            from visionagents_runner.checks.settings import check_settings

            assert check_settings(None) == []


def around(block: Block) -> dict[str, Any]:
    """Return what a block takes for granted."""
    agent = SimpleNamespace(events=SimpleNamespace(subscribe=lambda handler: handler))
    return {
        "__name__": "documentation",
        "os": os,
        "path": path,
        "include": include,
        "timedelta": timedelta,
        "AgentLauncher": AgentLauncher,
        "AgentSession": AgentSession,
        "create_agent": create_agent,
        "join_call": join_call,
        "launcher": AgentLauncher(create_agent, join_call),
        "agent": agent,
        "INSTALLED_APPS": ["django.contrib.auth"],
        "MIDDLEWARE": ["django.middleware.security.SecurityMiddleware"],
        "DATABASES": {"default": {}},
        "Agent": SimpleNamespace,
        "BrowserEdge": SimpleNamespace,
        "User": SimpleNamespace,
        "CARD_NUMBER": re.compile(r"[\d ]+"),
        SETTING: {"RUNNER": "tests.agents.runner"},
    }


def parsed(block: Block) -> ast.Module:
    """Return the code of a block; one that is an entry of a dict is put into one."""
    text = block.text
    return ast.parse(f"entry = {{{text}}}" if text.startswith('"') else text)


def inspect_parameters(kind: type) -> Iterator[str]:
    import inspect

    yield from inspect.signature(kind).parameters


# Commands


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block, those within ``$(...)`` too, without what sets variables."""
    text = re.sub(r"\s#.*$", "", block.text, flags=re.M)
    inner = re.findall(r"\$\(([^()]*)\)", text)
    outer = re.sub(r"\$\([^()]*\)", "INNER", text)
    for line in [*inner, *re.split(r"\n|&&", outer)]:
        words = shlex.split(line)
        if words and not re.fullmatch(r"\w+=.*", words[0]):
            yield words


COMMANDS = [(block, words) for block in SHELL for words in commands(block)]


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=[f"{block} {' '.join(words)}" for block, words in COMMANDS])
def test_a_command_is_one_that_there_is(block: Block, words: list[str]) -> None:
    program = words[0].removeprefix(".venv/bin/")
    if program in {"python", "python3"}:
        run_python(words[1:])
    elif program == "pip":
        assert words[1] == "install"
        for each in words[2:]:
            assert each == "-e" or extras_of(each)
    elif program == "curl":
        ask(words[1:])
    elif program == "tests/run":
        done = subprocess.run([ROOT / program, *words[1:], "--help"], capture_output=True, text=True)
        assert (done.returncode, "usage: tests/run" in done.stdout) == (0, True)
    elif program == "django-admin":
        load_command_class("django.core", words[1]).create_parser("django-admin", words[1]).parse_args(words[2:])
    else:
        assert program in OF_A_SHELL | OF_A_CLUSTER, words
        if program in OF_A_CLUSTER and "--" in words:
            run_python(words[words.index("--") + 2 :])


def run_python(words: list[str]) -> None:
    match words:
        case ["manage.py", name, *options]:
            app = "visionagents_runner"
            if not (ROOT / app / "management" / "commands" / f"{name}.py").exists():
                app = "django.contrib.auth" if name == "createsuperuser" else "django.core"
            load_command_class(app, name).create_parser("manage.py", name).parse_args(options)
        case ["agent.py", "run", *options]:
            parser = ArgumentParser(exit_on_error=False)
            main.add_run_arguments(parser)
            parser.parse_args(options)
        case ["-m", "venv", _]:
            pass
        case ["-m", "pytest", "-m", markers]:
            assert set(re.findall(r"\w+", markers)) - {"not", "and", "or"} <= MARKERS
        case ["-m", "pytest", *paths]:
            assert all((ROOT / each).exists() for each in paths)
        case ["-c", code]:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert done.stdout.strip()
        case _:
            raise AssertionError(words)


def extras_of(requirement: str) -> bool:
    """Whether a requirement names a package of ours, or vision-agents, and extras that it has."""
    found = re.fullmatch(r"(visionagents-runner|vision-agents|\.)(?:\[([\w,-]+)\])?", requirement)
    assert found is not None, requirement
    there = metadata("vision-agents").get_all("Provides-Extra") if found[1] == "vision-agents" else EXTRAS
    return set(filter(None, (found[2] or "").split(","))) <= set(there or ())


def ask(words: list[str]) -> None:
    """Hold a request to the schema of the API: its path, its method and its body."""
    from django.test import Client

    schema = json.loads(Client().get("/openapi.json").content)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-d", dest="body")
    parser.add_argument("-H", dest="header")
    asked = parser.parse_args(words)
    method = asked.method or ("POST" if asked.body else "GET")
    target = asked.url.removeprefix("http://localhost:8000").removeprefix("/agents").partition("?")[0]
    operation = schema["paths"][target.replace("SESSION_ID", "{session_id}")][method.lower()]
    if asked.body is None:
        assert "requestBody" not in operation
        return
    jsonschema.validate(json.loads(asked.body), operation["requestBody"]["content"]["application/json"]["schema"])


# The rest


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=str)
def test_yaml_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text)


def test_the_configurations_of_proxies_are_ones_that_they_take(tmp_path: Any) -> None:
    caddy, haproxy, apache = (block.text for block in blocks(""))
    (tmp_path / "Caddyfile").write_text(f":8080 {{\n{caddy}}}\n")
    run([program_of("caddy"), "adapt", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"])
    front = """\
defaults
 mode http
 timeout connect 5s
 timeout client 1m
 timeout server 1m
frontend f
 bind 127.0.0.1:8080
 default_backend agents
"""
    (tmp_path / "haproxy.cfg").write_text(f"{front}{haproxy}")
    run([program_of("haproxy"), "-c", "-f", str(tmp_path / "haproxy.cfg")])
    modules = "/usr/lib/apache2/modules"
    load = "".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "headers", "proxy", "proxy_http")
    )
    (tmp_path / "apache.conf").write_text(
        f"ServerRoot {tmp_path}\nServerName x\nListen 127.0.0.1:8080\nErrorLog {tmp_path}/log\n{load}{apache}"
    )
    run([program_of("apache2"), "-t", "-f", str(tmp_path / "apache.conf")])


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
