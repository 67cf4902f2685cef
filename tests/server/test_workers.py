"""Several workers on one port, in real processes: told to end, killed, replaced, unable to start."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.standalone.test_script import clean_environment, sessions
from tests.processes import ROOT, _can_write, environment
from tests.server.test_signals import Server, assert_all_ended, running, wait_for
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.models import AgentSession, Worker, WorkerState
from visionagents_runner.server.main import choose_server
from visionagents_runner.utils.process import is_known_dead

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def command(port: int, *more: str) -> list[str]:
    return ["-m", "django", "serveagents", "--port", str(port), *(more or ("--workers", "2"))]


@contextmanager
def two_workers(**settings: Any) -> Iterator[Server]:
    with running(command, **settings) as server:
        wait_for(lambda: len(pids()) == 2)
        yield server


def pids() -> set[int]:
    """Those of the workers that serve."""
    return set(Worker.objects.filter(state=WorkerState.RUNNING).values_list("pid", flat=True))


def two_without(pid: int) -> bool:
    """Whether two workers serve, and not that one."""
    now = pids()
    return len(now) == 2 and pid not in now


def start_on_each(server: Server) -> list[AgentSession]:
    """Start sessions, each over a connection of its own, until both workers, once they are warm, have one."""

    def hosts() -> int:
        return AgentSession.objects.live().order_by().values("worker").distinct().count()

    def one_more() -> bool:
        server.call("POST", "/sessions", {"call_id": f"call-{AgentSession.objects.count()}"})
        return hosts() == 2

    wait_for(one_more)
    return list(AgentSession.objects.live())


def test_every_worker_answers_and_one_that_is_killed_is_replaced() -> None:
    with two_workers(DRAIN_TIMEOUT=1.0, HEARTBEAT_INTERVAL=0.2) as server:
        before = pids()
        assert server.process.pid not in before
        live = start_on_each(server)
        victim = Worker.objects.get(pk=live[0].worker_id)
        os.kill(victim.pid, signal.SIGKILL)
        theirs = AgentSession.objects.filter(worker=victim)
        wait_for(lambda: set(theirs.values_list("end_reason", flat=True)) == {"worker_lost"})
        wait_for(lambda: len(pids() - before) == 1 and len(pids()) == 2, seconds=90)
        server.send(signal.SIGTERM)
        server.until_draining()
        assert server.call("POST", "/sessions", {"call_id": "late"})[0] == 503
        code, output = server.end()
    assert code == 0, output
    assert "Traceback" not in output, output
    assert f"Worker {victim.pid} died (SIGKILL). Starting another" in output
    assert output.count("  ready in ") == output.count("  agents    ") == 1, output
    assert "2 processes on one port" in output
    assert output.count("set CHANNEL_LAYERS to channels_redis") == 1
    assert "a call's WebSocket that reaches another worker than its agent's is refused" in output
    assert {f"pid={pid}" for pid in before} <= set(output.split()), output
    assert_all_ended(*(("worker_lost" if each.worker_id == victim.pk else "drained") for each in live))


def test_sigterm_drains_all_workers_together_and_a_second_one_closes_what_is_left() -> None:
    with two_workers(DRAIN_TIMEOUT=3600) as server:
        live = start_on_each(server)
        server.send(signal.SIGTERM)
        wait_for(lambda: not pids())
        assert AgentSession.objects.live().count() == len(live)
        server.send(signal.SIGTERM)
        code, output = server.end()
    assert code == 0, output
    assert output.count("Second signal") == 2
    assert_all_ended(*["drained"] * len(live))


def test_a_signal_that_reaches_parent_and_workers_counts_once() -> None:
    with two_workers(DRAIN_TIMEOUT=3600) as server:
        live = start_on_each(server)
        os.killpg(server.process.pid, signal.SIGTERM)  # as systemd does
        wait_for(lambda: not pids())
        assert AgentSession.objects.live().count() == len(live)
        os.killpg(server.process.pid, signal.SIGINT)  # as Ctrl-C does
        code, output = server.end()
    assert code == 0, output
    assert "Third signal" not in output
    assert "Traceback" not in output, output
    assert_all_ended(*["drained"] * len(live))


def test_ctrl_c_closes_the_sessions_of_all_workers_at_once() -> None:
    with two_workers(DRAIN_TIMEOUT=3600) as server:
        live = start_on_each(server)
        os.killpg(server.process.pid, signal.SIGINT)
        code, output = server.end()
    assert (code, "Second signal" in output, "Traceback" in output) == (0, False, False), output
    assert_all_ended(*["drained"] * len(live))


def test_workers_whose_parent_was_killed_leave_the_port_drain_and_end() -> None:
    with two_workers(DRAIN_TIMEOUT=3600) as server:
        live = start_on_each(server)
        workers = list(Worker.objects.all())
        server.send(signal.SIGKILL)
        wait_for(lambda: can_listen(server.port))
        assert AgentSession.objects.live().count() == len(live)
        AgentSession.objects.request_close()
        wait_for(lambda: all(is_known_dead(worker.pid, worker.process_started) for worker in workers))
        _, output = server.end()
    assert "The supervisor is gone: draining" in output
    assert_all_ended(*["requested"] * len(live))


def can_listen(port: int) -> bool:
    with socket.create_server(("127.0.0.1", port)):
        return True


def test_sighup_replaces_the_workers_one_by_one_and_a_worker_told_to_end_is_replaced() -> None:
    with two_workers(DRAIN_TIMEOUT=0.2) as server:
        before = pids()
        live = start_on_each(server)
        server.send(signal.SIGHUP)

        def replaced() -> bool:
            assert server.call("GET", "/ready")[0] == 200
            now = pids()
            return len(now) == 2 and not now & before

        wait_for(replaced, seconds=60)
        wait_for(lambda: not AgentSession.objects.live().exists())
        second = pids()
        leaving = second.pop()
        os.kill(leaving, signal.SIGTERM)
        wait_for(lambda: two_without(leaving))
        assert second < pids()
        server.send(signal.SIGTERM)
        code, output = server.end()
    assert code == 0, output
    assert " died " not in output, output
    assert_all_ended(*["drained"] * len(live))


def test_a_connection_that_is_kept_leaves_a_worker_that_drains_for_one_that_does_not() -> None:
    with two_workers(DRAIN_TIMEOUT=3600) as server:
        start_on_each(server)  # so that both have something to drain
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        assert start_over(kept) == 201
        mine = AgentSession.objects.get(call_id="kept").worker
        os.kill(mine.pid, signal.SIGTERM)

        def another_answers() -> bool:
            try:
                kept.request("GET", "/ready")
                kept.getresponse().read()
            except ConnectionError:
                kept.close()
            return kept.sock is None  # else it goes on over the same connection

        wait_for(another_answers)
        assert start_over(kept) == 201
        kept.close()
        assert not is_known_dead(mine.pid, mine.process_started)
        assert AgentSession.objects.live().filter(worker=mine).exists()


def start_over(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/sessions", json.dumps({"call_id": "kept"}))
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_under_nohup_a_hangup_is_ignored_by_all() -> None:
    program = (
        "import signal, sys; from django.core.management import execute_from_command_line as execute;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); execute(sys.argv)"
    )
    with running(lambda port: ["-c", program, *command(port)[2:]]) as server:
        wait_for(lambda: len(pids()) == 2)
        for pid in (server.process.pid, *pids()):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(status["SigIgn"], 16) & 1 << signal.SIGHUP - 1


def test_workers_that_hang_while_they_drain_are_killed() -> None:
    with two_workers(DRAIN_TIMEOUT=3600, HEARTBEAT_INTERVAL=0.2, WORKER_TTL=2.0, WORKER_GRACE=2.0) as server:
        live = start_on_each(server)
        first = Worker.objects.get(pk=live[0].worker_id)
        os.kill(first.pid, signal.SIGTERM)
        wait_for(lambda: two_without(first.pid))
        freeze(first.pid)
        wait_for(lambda: is_known_dead(first.pid, first.process_started))
        second = Worker.objects.filter(state=WorkerState.RUNNING, sessions__in=AgentSession.objects.live()).first()
        assert second is not None
        server.send(signal.SIGTERM)
        wait_for(lambda: not pids())
        freeze(second.pid)
        code, output = server.end()
    assert code == 1, output
    for worker in (first, second):
        assert f"Worker {worker.pid} has hung for 4 s" in output
    assert "Traceback" not in output, output


def freeze(pid: int) -> None:
    """Stop a worker, and not in the middle of a transaction: on SQLite that would lock everybody else out, too."""

    def stopped() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        if _can_write():
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_for(stopped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"REDACT": "tests.nowhere.redact"}, "REDACT"),
        ({"RUNNER": "tests.server.mayfly.runner"}, "ended before it served (exit code 7)"),
    ],
    ids=["a configuration that only workers read", "workers that just end"],
)
def test_what_cannot_start_is_one_line(settings: dict[str, Any], message: str) -> None:
    code, output = serve_in_vain(**settings)
    assert code == 1
    assert message in output.splitlines()[-1], output
    assert output.count(message) == 1, output
    assert "Traceback" not in output, output


def test_a_database_without_tables_is_told_before_a_worker_starts(tmp_path: Path) -> None:
    database = tmp_path / "empty.sqlite3"
    code, output = serve_in_vain(DJANGO_SETTINGS_MODULE="project.settings", DATABASE_URL=f"sqlite:///{database}")
    assert code == 1
    assert "run `python manage.py migrate`" in output.splitlines()[-1], output
    assert "Traceback" not in output, output


def test_a_number_of_workers_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    code, output = serve_in_vain("--server", "uvicorn")
    assert code == 1
    assert "WEB_CONCURRENCY is 'many': make it a number" in output.splitlines()[-1], output
    assert "Traceback" not in output, output


def serve_in_vain(*more: str, **settings: Any) -> tuple[int, str]:
    names = {name: settings.pop(name) for name in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL") if name in settings}
    done = subprocess.run(
        [sys.executable, *command(0, *more)],
        cwd=ROOT,
        env=environment(TEST_RUNNER_SETTINGS=json.dumps(settings), NO_COLOR="1", **names),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_a_script_without_a_project_has_workers_too(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "cli" / "standalone" / "agent.py", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "agent.py", "serve", "--port", str(port), "--workers", "2"],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        server = Server(process, port)
        wait_for(lambda: process.poll() is not None or server.call("GET", "/ready")[0] == 200, seconds=60)
        assert server.call("POST", "/sessions", {"call_id": "here"})[0] == 201
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=40)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert "Traceback" not in output, output
    assert [row[0] for row in sessions(tmp_path)] == ["here"]
    assert sessions(tmp_path)[0][1] == "closed"


@pytest.mark.timeout(240)
def test_a_script_that_serves_when_it_is_imported_is_told_where_to(tmp_path: Path) -> None:
    script = (ROOT / "tests" / "cli" / "standalone" / "agent.py").read_text()
    (tmp_path / "agent.py").write_text(script.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run(
        [sys.executable, "agent.py", "serve", "--port", "0", "--workers", "2"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert "serve() under `if __name__ ==" in done.stderr
    assert "A worker ended before it served (exit code 1): see above" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr, done.stderr


# What is asked for


@pytest.mark.parametrize(
    ("server", "workers", "concurrency", "chosen"),
    [
        (None, None, None, ("daphne", 1)),
        (None, 1, "4", ("daphne", 1)),
        (None, 3, None, ("uvicorn", 3)),
        (None, None, "4", ("uvicorn", 4)),
        ("uvicorn", None, "4", ("uvicorn", 4)),
        ("daphne", None, "4", ("daphne", 1)),
        ("uvicorn", None, "", ("uvicorn", 1)),
        ("uvicorn", 3, "many", ("uvicorn", 3)),
        ("uvicorn", None, None, ("uvicorn", 1)),
    ],
)
def test_several_workers_are_uvicorns_and_web_concurrency_is_the_default(
    server: str | None,
    workers: int | None,
    concurrency: str | None,
    chosen: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if concurrency is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    assert choose_server(server, workers) == chosen


@pytest.mark.parametrize(
    ("server", "workers", "concurrency", "message"),
    [
        ("daphne", 2, "", "--server uvicorn"),
        ("gunicorn", 1, "", "choose from daphne, uvicorn"),
        (None, 0, "", "1 or more with --workers"),
        (None, None, "many", "WEB_CONCURRENCY is 'many'"),
        (None, None, "0", "WEB_CONCURRENCY is '0'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_fix(
    server: str | None, workers: int | None, concurrency: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    with pytest.raises(RunnerConfigurationError, match=message):
        choose_server(server, workers)
