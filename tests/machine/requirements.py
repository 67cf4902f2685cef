"""What tests need beside Python's packages. A test asks for it by :func:`require`, or by the marker ``requires``."""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".venv" / "tools"
"""Where packages are unpacked of which one program is wanted, and not the server that they would start."""

WHY_NOT = "TESTS_WHY_NOT"
"""The environment variable in which ``tests/run`` tells what it could not get: JSON, names to reasons."""

_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
_BREW = ("/opt/homebrew", "/usr/local")

Find = Callable[[], str | None]


class Missing(SkipTest):
    """What the machine lacks. The test that raises it is left out, and the table at the end says so."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why


@dataclass(frozen=True)
class Requirement:
    find: Find
    """Returns where it is; of a server, where one of its programs is."""
    debian: tuple[str, ...] = ()
    brew: tuple[str, ...] = ()
    """The packages that bring it."""
    url: str = ""
    """A server's environment variable: its URL."""
    wanted_for: str = ""
    """The kind of run that wants it, if not every one does: ``mariadb`` or ``fleet``."""
    unpack: bool = False
    """Whether Debian's package is unpacked into ``TOOLS`` instead of installed."""


def require(name: str) -> str:
    """Return where it is: the path of a program or a folder, the URL of a server.

    Raises:
        Missing: it is nowhere.
    """
    url = REQUIREMENTS[name].url
    if not url:
        return program_of(name)
    if os.environ.get(url):
        return os.environ[url]
    raise Missing(name, _why_not(name))


def program_of(name: str) -> str:
    """Return where it is; of a server, where one of its programs is, whether it runs or not.

    Raises:
        Missing: it is nowhere.
    """
    if (found := REQUIREMENTS[name].find()) is not None:
        return found
    raise Missing(name, _why_not(name))


def _why_not(name: str) -> str:
    requirement = REQUIREMENTS[name]
    told: dict[str, str] = json.loads(os.environ.get(WHY_NOT) or "{}")
    if name in told:
        return told[name]
    if requirement.url and requirement.find():
        return f"runs under tests/run, or where {requirement.url} names one"
    if requirement.debian:
        return f"not installed (Debian: {' '.join(requirement.debian)})"
    return "not to be had here"


def _program(*names: str, patterns: tuple[str, ...] = ()) -> Find:
    """Look on PATH, where administrators' programs are, and among files: the one of the highest version."""

    def find() -> str | None:
        on_path = (shutil.which(name) or shutil.which(name, path=_SBIN) for name in names)
        files = sorted((path for pattern in patterns for path in glob(pattern)), key=lambda path: (len(path), path))
        return next(filter(None, on_path), None) or next(reversed(files), None)

    return find


def _file(pattern: str) -> Find:
    return lambda: next(iter(sorted(glob(pattern))), None)


def _compiler() -> str | None:
    """Return what pip compiles mysqlclient with, or the module where it has."""
    if (spec := find_spec("MySQLdb")) is not None:
        return spec.origin
    header = Path(sysconfig.get_path("include"), "Python.h")
    found = [shutil.which(name) for name in ("mariadb_config", "pkg-config", "cc")]
    return found[-1] if all(found) and header.exists() else None


def _root() -> str | None:
    return "/" if os.geteuid() == 0 else None


_CHROMIUM = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    # Playwright's own, where no package brings one.
    str(Path.home() / ".cache/ms-playwright/chromium-*/chrome-linux*/chrome"),
    str(Path.home() / "Library/Caches/ms-playwright/chromium-*/chrome-mac*/*.app/Contents/MacOS/*"),
)
_INITDB = ("/usr/lib/postgresql/*/bin/initdb", *(f"{brew}/opt/postgresql@*/bin/initdb" for brew in _BREW))

REQUIREMENTS = {
    "chromium": Requirement(
        _program("chromium", "chromium-browser", "google-chrome", patterns=_CHROMIUM), debian=("chromium",)
    ),
    # People who speak, and what they say.
    "recordings": Requirement(_file("/usr/share/pocketsphinx/test/data"), debian=("pocketsphinx-testdata",)),
    "promtool": Requirement(
        _program("promtool", patterns=(str(TOOLS / "usr/bin/promtool"),)),
        debian=("prometheus",),
        brew=("prometheus",),
        unpack=True,
    ),
    # What stands in front of servers.
    "nginx": Requirement(_program("nginx"), debian=("nginx-light",), brew=("nginx",)),
    "haproxy": Requirement(_program("haproxy"), debian=("haproxy",), brew=("haproxy",)),
    "apache2": Requirement(_program("apache2"), debian=("apache2-bin",)),
    "caddy": Requirement(_program("caddy"), debian=("caddy",), brew=("caddy",)),
    "socat": Requirement(_program("socat"), debian=("socat",), brew=("socat",)),
    "curl": Requirement(_program("curl"), debian=("curl",)),
    "redis": Requirement(_program("redis-server"), debian=("redis-server",), brew=("redis",), url="TEST_REDIS_URL"),
    "postgresql": Requirement(
        _program("initdb", patterns=_INITDB), debian=("postgresql",), brew=("postgresql@17",), url="POSTGRES_URL"
    ),
    "mariadb": Requirement(
        _program("mariadb-install-db"),
        debian=("mariadb-server",),
        brew=("mariadb",),
        url="MARIADB_URL",
        wanted_for="mariadb",
    ),
    "mysqlclient": Requirement(
        _compiler,
        debian=("libmariadb-dev", "pkg-config", "gcc", "python3-dev"),
        brew=("mariadb", "pkgconf"),
        wanted_for="mariadb",
    ),
    # What the fleet's faults are made of.
    "ip": Requirement(_program("ip"), debian=("iproute2",), wanted_for="fleet"),
    "faketime": Requirement(_file("/usr/lib/*/faketime/libfaketimeMT.so.1"), debian=("faketime",), wanted_for="fleet"),
    "root": Requirement(_root),
    "/proc": Requirement(_file("/proc/net/tcp")),
}
