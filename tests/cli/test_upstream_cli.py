"""vision-agents' own command line takes a Runner of ours after the change of an import, as in what it scaffolds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.standalone.test_script import clean_environment
from visionagents_runner import AgentLauncher, Runner

pytestmark = pytest.mark.slow

THEIRS = "from vision_agents.core import Agent, Runner, User\nfrom vision_agents.core.agents import AgentLauncher\n"
OURS = "from vision_agents.core import Agent, User\nfrom visionagents_runner import AgentLauncher, Runner\n"


def vision_agents(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vision_agents.cli", *arguments],
        cwd=folder,
        env=clean_environment(),
        input=typed,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture
def scaffold(tmp_path: Path) -> Path:
    """What ``vision-agents init`` writes, with our import, and parts that need neither key nor network."""
    from vision_agents.cli.init.scaffold import create_project

    folder = tmp_path / "hello"
    create_project("hello", folder)
    agent = folder / "agent.py"
    text = agent.read_text()
    assert THEIRS in text
    text = text.replace(THEIRS, OURS)
    for theirs, ours in (
        (
            "from vision_agents.plugins import getstream, gemini\n",
            "from visionagents_runner.testing.stubs import EchoLLM, SilentTTS, StubEdge\n",
        ),
        ("getstream.Edge()", "StubEdge()"),
        ("gemini.Realtime()", "EchoLLM(), tts=SilentTTS()"),
        ("from dotenv import load_dotenv\n", ""),
        ("load_dotenv()\n", ""),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    agent.write_text(text)
    return folder


def test_their_cli_runs_what_their_init_wrote_with_our_runner(scaffold: Path) -> None:
    done = vision_agents(scaffold, "agent", "run", "--call-id", "hello", "--no-demo", typed="Is anybody there?\n")
    assert done.returncode == 0, done.stderr
    assert "agent> You said: Is anybody there?" in done.stdout
    assert (scaffold / "visionagents.sqlite3").exists()


def test_their_cli_passes_the_options_of_our_serve_on(scaffold: Path) -> None:
    done = vision_agents(scaffold, "agent", "serve", "--workers", "many")
    assert done.returncode == 1
    assert "'many' is no number of workers: choose 1 or more with --workers" in done.stderr


def test_a_runner_is_an_instance_of_both_and_keeps_its_type() -> None:
    from vision_agents.core import Runner as Theirs

    runner = Runner(AgentLauncher(lambda: None, lambda: None))  # type: ignore[arg-type,return-value]
    assert isinstance(runner, Runner)
    assert isinstance(runner, Theirs)
    assert type(runner) is Runner


def test_nobody_who_does_not_ask_has_upstream_loaded() -> None:
    program = (
        "import sys; from visionagents_runner import AgentLauncher, Runner;"
        "runner = Runner(AgentLauncher(lambda: None, lambda: None));"
        "assert isinstance(runner, Runner) and runner.__class__ is Runner;"
        "assert not any(name.partition('.')[0] == 'vision_agents' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
