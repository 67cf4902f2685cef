"""Run the smoke tests on each Python and Django that pyproject.toml's classifiers name, in environments made for it.

``python -m tests.machine.versions`` leaves out the pair that it runs on itself: there the whole suite runs. A Python
that is not on this machine is told in the table at the end, and fails nothing but with ``--strict``: no package of a
stable Debian or Ubuntu brings more than one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from shutil import which

import django

from .requirements import ROOT

_HERE = ("{}.{}".format(*sys.version_info), "{}.{}".format(*django.VERSION))
_OLDEST_PYTHON = {"6.0": "3.12"}
"""The oldest Python of a version of Django, where it is not the package's own."""
_AT_ONCE = 2
_FOLDERS = ("~/.pyenv/versions/{0}.*/bin", "~/.local/share/uv/python/cpython-{0}.*/bin", "/opt/homebrew/bin")


def main(*, strict: bool) -> int:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = _versions(classifiers, "Programming Language :: Python")
    djangos = _versions(classifiers, "Framework :: Django")
    with tempfile.TemporaryDirectory(prefix="visionagents-versions-") as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
        tried = pool.map(lambda python: list(_try(python, djangos, Path(folder) / python)), pythons)
        rows = [row for each in tried for row in each]
    print(f"\n{'Python':<7} {'Django':<7} smoke tests")
    for python, version, outcome in rows:
        print(f"{python:<7} {version:<7} {outcome}")
    bad = ("failed", "not run") if strict else ("failed",)
    return 1 if any(outcome.startswith(bad) for _, _, outcome in rows) else 0


def _versions(classifiers: list[str], kind: str) -> list[str]:
    return [found[1] for each in classifiers if (found := re.fullmatch(rf"{kind} :: (\d+\.\d+)", each))]


def _try(python: str, djangos: list[str], folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield ``(python, django, outcome)`` of each Django that this Python can run."""
    program = _find(python)
    for version in djangos:
        if (python, version) == _HERE:
            yield python, version, "left to the whole suite"
        elif _number(python) < _number(_OLDEST_PYTHON.get(version, python)):
            yield python, version, f"there is no such pair: Django {version} takes Python {_OLDEST_PYTHON[version]}"
        elif program is None:
            yield python, version, f"not run: there is no Python {python} here"
        else:
            yield python, version, _run_smoke_tests(program, version, folder)


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _find(python: str) -> str | None:
    """Return the program of a Python that can make virtual environments."""
    name = f"python{python}"
    files = [path for folder in _FOLDERS for path in glob(str(Path(folder.format(python)).expanduser() / name))]
    for program in filter(None, [which(name), *files]):
        # A shim of pyenv's may stand for a version that is not installed.
        if subprocess.run([program, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return program
    return None


def _run_smoke_tests(program: str, version: str, folder: Path) -> str:
    """Return how they ended; what failed is printed."""
    python = str(folder / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    # Each Django of a Python takes the place of the one before.
    what = [".[test]"] if not folder.exists() else ["."]
    commands = {
        "venv": [] if folder.exists() else [program, "-m", "venv", str(folder)],
        "pip": [python, "-m", "pip", "install", "-q", "--root-user-action=ignore", f"Django=={version}.*", "-e", *what],
        "tests": [python, "-m", "pytest", "-q", "-m", "smoke", "-p", "no:cacheprovider", "--fail-on-left-out"],
    }
    for name, command in commands.items():
        if command:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                said = done.stdout[-20_000:] + done.stderr[-5_000:]
                print(f"=== {name} of {program} with Django {version}\n{said}", flush=True)
                return f"failed: {name}"
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main(strict="--strict" in sys.argv[1:]))
