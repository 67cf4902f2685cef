"""Install what tests need, as far as this machine can: packages of Debian or Homebrew, and ``.venv``.

``python -m tests.machine.install [mariadb|fleet]...`` says before it installs anything what that will be, and prints as
its last line what it could not get, for ``requirements.WHY_NOT``. It starts no service.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .requirements import REQUIREMENTS, ROOT, TOOLS, Requirement

_VENV = ROOT / ".venv"
_PYTHON = _VENV / "bin" / "python"
# Debian starts services when it installs them, unless this file says not to. It is there for as long as apt-get runs.
_APT = """
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
exec >/dev/null
apt-get install -qqy --no-install-recommends "$@" && exit
for package; do
    apt-get install -qqy --no-install-recommends "$package" || true
done
"""
_SERVICES = {
    "nginx-light": "nginx",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "redis-server": "redis-server",
    "postgresql": "postgresql",
    "mariadb-server": "mariadb",
}


def say(text: str) -> None:
    print(f"tests/run: {text}", file=sys.stderr, flush=True)


def main(kinds: set[str]) -> None:
    lacking = {
        name: requirement
        for name, requirement in REQUIREMENTS.items()
        if requirement.wanted_for in {"", *kinds} and (requirement.debian or requirement.brew)
        if not os.environ.get(requirement.url) and requirement.find() is None
    }
    why_not = _install(lacking) if lacking else {}
    _make_venv(why_not, with_mysql=REQUIREMENTS["mysqlclient"].find() is not None)
    if "chromium" in why_not and _download_chromium():
        del why_not["chromium"]
    print(json.dumps(why_not))


def _install(lacking: dict[str, Requirement]) -> dict[str, str]:
    """Install packages; returns what is lacking all the same, and why."""
    say(f"this machine lacks {', '.join(lacking)}")
    if shutil.which("apt-get"):
        reason = _install_debian(lacking)
    elif shutil.which("brew"):
        reason = _install_brew(lacking)
    else:
        reason = "there is neither apt-get nor brew"
    left = {name: requirement for name, requirement in lacking.items() if requirement.find() is None}
    return {name: _why(requirement, reason) for name, requirement in left.items()}


def _why(requirement: Requirement, reason: str) -> str:
    packages = f"Debian: {' '.join(requirement.debian)}" if requirement.debian else ""
    return f"not installed, {reason} ({packages})" if packages else f"not installed, {reason}"


def _install_debian(lacking: dict[str, Requirement]) -> str:
    """Returns why something may be lacking all the same."""
    for requirement in lacking.values():
        if requirement.unpack:
            _unpack(requirement)
    packages = [package for each in lacking.values() if not each.unpack for package in each.debian]
    if not packages:
        return "apt-get does not get it"
    if (root := _as_root()) is None:
        return "which takes root, or sudo without a password"
    say(f"installs by apt-get{' and sudo' if root else ''}, and starts none of it: {' '.join(packages)}")
    if _run([*root, "sh", "-c", _APT, "sh", *packages]) != 0:
        return "apt-get failed"
    if Path("/run/systemd/system").exists():
        # Nor shall they be started when the machine is.
        _run([*root, "systemctl", "disable", "--quiet", *(_SERVICES[each] for each in packages if each in _SERVICES)])
    return "apt-get has no such package"


def _as_root() -> list[str] | None:
    """Return what makes a command root's, asking for a password only where somebody can type one."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    if subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return ["sudo"] if sys.stdin.isatty() and not os.environ.get("CI") else None


def _unpack(requirement: Requirement) -> None:
    """Take programs out of a package, which takes no root."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    for package in requirement.debian:
        say(f"takes {package}'s programs out of its package, into {TOOLS.relative_to(ROOT)}")
        if _run(["apt-get", "download", "-q", package], cwd=TOOLS) != 0 and (root := _as_root()) is not None:
            _run([*root, "apt-get", "update", "-q"])
            _run(["apt-get", "download", "-q", package], cwd=TOOLS)
        for archive in TOOLS.glob(f"{package}_*.deb"):
            _run(["dpkg", "-x", str(archive), str(TOOLS)])
            archive.unlink()


def _install_brew(lacking: dict[str, Requirement]) -> str:
    formulas = [formula for each in lacking.values() for formula in each.brew]
    if formulas:
        say(f"installs by brew, and starts none of it: {' '.join(formulas)}")
        if _run(["brew", "install", "--quiet", *formulas], NONINTERACTIVE="1") != 0:
            return "brew failed"
    return "brew has none"


def _make_venv(why_not: dict[str, str], *, with_mysql: bool) -> None:
    """Make ``.venv``, or bring it up to what pyproject.toml says now."""
    if not _PYTHON.exists():
        say(f"makes .venv with Python {sys.version.split()[0]}")
        if _run([sys.executable, "-m", "venv", str(_VENV)]) != 0:
            sys.exit("tests/run: Python could not make a virtual environment")
    extras = "test,mysql" if with_mysql else "test"
    stamp = _VENV / "installed-for-tests"
    wanted = f"{hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()} {extras}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installs the package with its extras {extras} into .venv")
    pip = [str(_PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e"]
    if _run([*pip, f".[{extras}]"]) == 0:
        stamp.write_text(wanted)
    elif with_mysql and _run([*pip, ".[test]"]) == 0:
        why_not["mysqlclient"] = "pip could not build it"
    elif _run([str(_PYTHON), "-c", "import pytest_django, xdist"]) == 0:
        why_not["pip"] = "could not install what pyproject.toml says: .venv is what it was"
    else:
        sys.exit("tests/run: pip could not install Python's packages, without which no test runs")


def _download_chromium() -> bool:
    """Have Playwright fetch its own, where no package brings one: on Ubuntu it is a snap, on macOS an app."""
    say("has Playwright download Chromium")
    with_libraries = ["--with-deps"] if shutil.which("apt-get") and _as_root() is not None else []
    _run([str(_PYTHON), "-m", "playwright", "install", *with_libraries, "chromium"])
    return REQUIREMENTS["chromium"].find() is not None


def _run(command: list[str], cwd: Path = ROOT, **environment: str) -> int:
    """Run a command that has nothing to read and prints for people; returns its exit code."""
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode


if __name__ == "__main__":
    main(set(sys.argv[1:]))
