"""The file that keeps SECRET_KEY: made once, and taken only if nobody else could have had a hand in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from project import settings as project_settings
from tests.processes import ROOT
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.utils.secret_key import LEAST_CHARACTERS, read_or_make_secret

GOOD = "x" * LEAST_CHARACTERS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".secret_key"


def write(path: Path, content: str | bytes = GOOD, mode: int = 0o600) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def test_it_is_made_at_the_first_start_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        secret = read_or_make_secret(path)
    finally:
        os.umask(before)
    assert len(secret) >= 50
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert read_or_make_secret(path) == secret


def test_processes_that_start_at_once_have_the_same(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from visionagents_runner.utils.secret_key import read_or_make_secret;"
        "sys.stdin.read(1); print(read_or_make_secret(Path(sys.argv[1])))"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        for _ in range(4)
    ]
    outputs = {start.communicate("x", timeout=30)[0] for start in starts}
    assert len(outputs) == 1
    assert outputs == {path.read_text() + "\n"}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o620, 0o602, 0o644, 0o777])
def test_one_that_others_may_read_or_write_is_refused_with_the_fix(path: Path, mode: int) -> None:
    write(path, mode=mode)
    with pytest.raises(RunnerConfigurationError, match=f"chmod 600 {path}"):
        read_or_make_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    path.chmod(0o400)
    assert read_or_make_secret(path) == GOOD


@pytest.mark.requires("root")
def test_one_of_somebody_else_is_refused(path: Path) -> None:
    write(path)
    os.chown(path, 4711, -1)
    with pytest.raises(RunnerConfigurationError, match=r"another user \(uid 4711\): `chown"):
        read_or_make_secret(path)


def test_a_link_is_refused_whatever_it_leads_to(path: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "good", tmp_path / "nowhere"):
        write(tmp_path / "good")
        path.symlink_to(target)
        with pytest.raises(RunnerConfigurationError, match="symbolic link"):
            read_or_make_secret(path)
        path.unlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_is_refused_without_waiting_for_it(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(RunnerConfigurationError, match="no regular file"):
        read_or_make_secret(path)


@pytest.mark.parametrize("content", ["", "\n", "short", b"\xff" * 100, "x\0" * 50, "x" * 5000, f"{GOOD}\n{GOOD}"])
def test_one_without_a_secret_is_refused_with_the_fix(path: Path, content: str | bytes) -> None:
    write(path, content)
    with pytest.raises(RunnerConfigurationError, match="delete it"):
        read_or_make_secret(path)


def test_the_shipped_settings_say_the_fix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, mode=0o644)
    monkeypatch.delenv("SECRET_KEY", raising=False)
    monkeypatch.setattr(project_settings, "DEBUG", True)
    monkeypatch.setattr(project_settings, "BASE_DIR", path.parent)
    with pytest.raises(ImproperlyConfigured, match=f"chmod 600 {path}"):
        project_settings._secret_key()
