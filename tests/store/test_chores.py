"""What one of all workers does for all of them: that one does it, and another one when that one does not."""

from __future__ import annotations

import pytest

from tests.processes import run_side_by_side
from tests.worker.test_reaping import session_on, silent_worker
from visionagents_runner.models import AgentSession, Chore, Worker
from visionagents_runner.models.worker import in_seconds, seconds_ago
from visionagents_runner.store import census, worker_rows
from visionagents_runner.utils.process import identify

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def let_pass() -> None:
    """As if the seconds had passed after which the next one may."""
    Chore.objects.update(due_at=seconds_ago(0.0))


def test_one_of_several_processes_takes_a_chore_and_one_the_next_time() -> None:
    program = """
        from visionagents_runner.store import database
        from visionagents_runner.models import Chore
        go()
        say(await database.read(lambda: sum(Chore.objects.take("sweep", 3600) for _ in range(20))))
        wait()
    """
    assert sorted(run_side_by_side(program, processes=4)) == ["0", "0", "0", "1"]
    assert sorted(run_side_by_side(program, processes=2)) == ["0", "0"]
    let_pass()
    assert sorted(run_side_by_side(program, processes=4)) == ["0", "0", "0", "1"]


def test_what_was_left_for_the_others_is_there_until_it_is_too_old() -> None:
    assert Chore.objects.kept("count") is None
    assert Chore.objects.take("count", 60)
    assert Chore.objects.kept("count") is None
    Chore.objects.keep("count", {"live": 3}, next_in=5, valid=60)
    assert Chore.objects.kept("count") == {"live": 3}
    Chore.objects.update(valid_until=seconds_ago(1))
    assert Chore.objects.kept("count") is None


def test_workers_judge_each_other_one_at_a_time_and_none_waits_for_one_that_died_over_it() -> None:
    me, gone = silent_worker(0, boot_id="here"), silent_worker(91)
    session = session_on(gone)
    assert Chore.objects.take("judge", 2.5)  # by a worker that dies before it does anything
    assert worker_rows._reap(me, identify(), lambda: True, 2.5).lost == []
    let_pass()
    assert worker_rows._reap(me, identify(), lambda: True, 2.5).lost == [session.pk]


def test_each_worker_looks_itself_whether_processes_of_its_machine_live() -> None:
    identity = identify()
    same = {"boot_id": identity.boot_id, "pid_namespace": identity.pid_namespace}
    me, killed = silent_worker(0), silent_worker(0, process_started="long ago", **same)
    session = session_on(killed)
    Chore.objects.create(name="judge", due_at=in_seconds(60))
    Chore.objects.create(name="sweep", due_at=in_seconds(60))
    assert worker_rows._reap(me, identity, lambda: True, 2.5).lost == [session.pk]


def test_what_one_worker_counted_the_others_take_from_it() -> None:
    session_on(Worker.objects.create(hostname="host", pid=1))
    first = census.read_census()
    assert first.live == {("default", "starting"): 1}
    AgentSession.objects.all().delete()
    assert census.read_census() == first
    let_pass()
    assert census.read_census().live == {}


def test_who_finds_an_old_count_that_nobody_renews_counts_itself() -> None:
    session_on(Worker.objects.create(hostname="host", pid=1))
    census.read_census()
    AgentSession.objects.all().delete()
    Chore.objects.update(due_at=in_seconds(60), valid_until=seconds_ago(1))
    assert census.read_census().live == {}
