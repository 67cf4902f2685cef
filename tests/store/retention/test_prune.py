"""What is deleted, and what never is."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from tests.store.retention.conftest import session, worker
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, Worker
from visionagents_runner.store import retention
from visionagents_runner.store.retention import Tally, default_age, preview, prune

DAY = timedelta(days=1)
MONTH = 30 * DAY


def left() -> set[Any]:
    return set(AgentSession.objects.values_list("pk", flat=True))


@pytest.mark.django_db
def test_old_sessions_go_with_their_events_and_others_stay() -> None:
    old = [session(31 * DAY), session(400 * DAY, EndReason.ERROR, events=10)]
    young = session(29 * DAY)
    tally = prune(MONTH)
    assert tally.sessions == {"closed": 1, "failed": 1}
    assert tally.events == 13
    assert left() == {young.pk}
    assert SessionEvent.objects.count() == 3
    assert not SessionEvent.objects.filter(session_id__in=[each.pk for each in old]).exists()
    assert prune(MONTH) == Tally()


@pytest.mark.django_db
def test_a_live_session_is_never_touched_however_old() -> None:
    here = worker()
    live = []
    for status in ("queued", "starting", "active", "closing", "unreachable"):
        made = session(worker=None if status == "queued" else here)
        AgentSession.objects.filter(pk=made.pk).update(status=status, created_at="2001-01-01T00:00Z")
        live.append(made.pk)
    session(365 * DAY)
    assert prune(timedelta(seconds=1)).sessions == {"closed": 1}
    assert left() == set(live)


@pytest.mark.django_db
def test_age_counts_from_the_end_not_from_the_start() -> None:
    long = session(DAY)
    AgentSession.objects.filter(pk=long.pk).update(created_at="2001-01-01T00:00Z")
    assert prune(MONTH).sessions == {}
    assert left() == {long.pk}


@pytest.mark.django_db
def test_those_that_did_not_end_well_can_be_kept() -> None:
    failed, lost = session(99 * DAY, EndReason.JOIN_FAILED), session(99 * DAY, EndReason.WORKER_LOST)
    session(99 * DAY)
    assert prune(MONTH, keep_failed=True).sessions == {"closed": 1}
    assert left() == {failed.pk, lost.pk}
    assert prune(MONTH).sessions == {"failed": 1, "lost": 1}


@pytest.mark.django_db
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_are_no_larger_than_told_and_leave_nothing_out(batch_size: int) -> None:
    kept = {session(99 * DAY, EndReason.ERROR).pk for _ in range(4)}
    for _ in range(10):
        session(99 * DAY)
    # Of the same moment, as a bulk import leaves them.
    AgentSession.objects.update(created_at="2001-01-01T00:00Z", ended_at="2001-01-02T00:00Z")
    sizes: list[int] = []
    assert prune(MONTH, keep_failed=True, batch_size=batch_size, on_batch=sizes.append).sessions == {"closed": 10}
    assert sum(sizes) == 10
    assert max(sizes) <= batch_size
    assert left() == kept


@pytest.mark.django_db
def test_a_batch_is_bounded_by_its_events_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_EVENTS", 10)
    for events in (4, 4, 4, 25, 2, 2):
        session(99 * DAY, events=events)
    sizes: list[int] = []
    assert prune(MONTH, on_batch=sizes.append).events == 41
    assert sum(sizes) == 6
    assert len(sizes) >= 3


@pytest.mark.django_db
def test_who_stops_half_way_has_whole_sessions_and_goes_on_later() -> None:
    for _ in range(6):
        session(99 * DAY, events=5)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    tally = Tally()
    with pytest.raises(KeyboardInterrupt):
        prune(MONTH, batch_size=2, tally=tally, on_batch=stop)
    assert tally == Tally({"closed": 2}, 10)  # type: ignore[arg-type]
    for each in AgentSession.objects.all():
        assert each.events.count() == 5
    assert prune(MONTH).sessions == {"closed": 4}


@pytest.mark.django_db(transaction=True)
def test_two_at_once_delete_each_session_once() -> None:
    for _ in range(60):
        session(99 * DAY)
    young = session(DAY)
    start = threading.Barrier(2)
    tallies: list[Tally] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            start.wait(10)
            tallies.append(prune(MONTH, batch_size=3))
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert sum(tally.sessions.total() for tally in tallies) == 60
    assert sum(tally.events for tally in tallies) == 180
    assert left() == {young.pk}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "words", ["deadlock detected", "database table is locked", "Record has changed since last read in table 'x'"]
)
def test_a_deadlock_is_tried_again(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    session(99 * DAY)
    delete, failures = retention._delete_batch, iter([OperationalError(words)])

    def once(*args: Any) -> Any:
        for error in failures:
            raise error
        return delete(*args)

    monkeypatch.setattr(retention, "_delete_batch", once)
    assert prune(MONTH).sessions == {"closed": 1}


@pytest.mark.django_db
def test_workers_go_once_nothing_of_them_is_left() -> None:
    empty, busy, emptied = worker(stopped=99 * DAY), worker(stopped=99 * DAY), worker(stopped=99 * DAY)
    running, recent = worker(), worker(stopped=DAY)
    Worker.objects.filter(pk=running.pk).update(heartbeat_at="2001-01-01T00:00Z")
    session(DAY, worker=busy)
    session(99 * DAY, worker=emptied)
    assert prune(MONTH).workers == 2
    assert set(Worker.objects.values_list("pk", flat=True)) == {busy.pk, running.pk, recent.pk}
    assert not Worker.objects.filter(pk=empty.pk).exists()


@pytest.mark.django_db
def test_a_worker_that_may_come_back_stays_for_a_day() -> None:
    slow = worker(stopped=timedelta(hours=23))
    assert prune(timedelta(seconds=1)).workers == 0
    assert Worker.objects.get() == slow


@pytest.mark.django_db
def test_the_preview_says_what_pruning_does() -> None:
    session(99 * DAY, events=4)
    session(99 * DAY, events=6)
    session(99 * DAY, EndReason.WORKER_LOST, events=2)
    session(DAY)
    session()
    found = preview(MONTH)
    assert found == {"closed": (2, 10), "lost": (1, 2)}
    assert preview(MONTH, keep_failed=True) == {"closed": (2, 10)}
    assert AgentSession.objects.count() == 5
    tally = prune(MONTH)
    assert tally.sessions == {status: count for status, (count, _) in found.items()}
    assert tally.events == 12


@pytest.mark.django_db
def test_ages_beyond_what_a_database_can_count_are_no_error() -> None:
    session(99 * DAY)
    assert prune(timedelta.max).sessions == {}
    assert preview(timedelta.max) == {}


@pytest.mark.parametrize(
    ("value", "age"),
    [(None, None), (86400, DAY), (0.5, timedelta(seconds=0.5)), (MONTH, MONTH), (1e18, timedelta(days=36525))],
)
def test_the_setting_is_a_timedelta_or_seconds(settings: Any, value: Any, age: timedelta | None) -> None:
    settings.VISIONAGENTS_RUNNER = {"RETENTION": value}
    assert default_age() == age
