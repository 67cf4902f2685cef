"""What the feeds read at once has a bound, however many sessions are watched."""

from __future__ import annotations

import pytest
from django.utils import timezone

from visionagents_runner.models import AgentSession, EventLine, SessionEvent
from visionagents_runner.websockets.feeds import queries


@pytest.mark.django_db
def test_sessions_that_are_behind_share_what_one_look_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MOST_AT_ONCE", 6)
    rows = [AgentSession.objects.create(call_id=str(number), agent="default") for number in range(3)]
    for row in rows:
        SessionEvent.objects.append([EventLine(row.pk, "turn", timezone.now(), {})] * 5)
    news = queries.news_of({rows[0].pk: 1, rows[1].pk: 0, rows[2].pk: None})
    assert [[event.seq for event in news[row.pk].rows] for row in rows] == [[2, 3, 4], [1, 2, 3], []]
    assert {each.seq for each in news.values()} == {5}
    news = queries.news_of({rows[0].pk: 4})
    assert [event.seq for event in news[rows[0].pk].rows] == [5]
