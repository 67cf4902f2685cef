"""Writing many events at once, at the least cost in Python.

The thread that writes shares the interpreter with the event loop: while it builds statements, audio waits. So a batch
goes to PostgreSQL, SQLite and MariaDB as JSON texts, which cost the interpreter a tenth of what a statement of as many
parameters does; elsewhere by the ORM.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.models import F

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .event import EventLine

_CHUNK = 500
"""SQLite takes a limited number of parameters."""

_PIECE = 50
_ROWS = 100
_TEXT_LENGTH = 2_000_000
"""MariaDB refuses a statement above 16 MiB (max_allowed_packet), in which a character may take four bytes."""

_TAKE = {
    "postgresql": "UPDATE {table} SET {seq} = {table}.{seq} + t.value::int FROM jsonb_each_text(%s::jsonb) t "
    "WHERE {table}.{id} = t.key::uuid RETURNING {table}.{id}, {table}.{seq}",
    "sqlite": "UPDATE {table} SET {seq} = {table}.{seq} + t.value FROM json_each(%s) t "
    "WHERE {table}.{id} = t.key RETURNING {id}, {seq}",
    # Without the order and the index it may read the whole table, and lock what it reads.
    "mariadb": "UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (id CHAR(36) PATH '$[0]', count INT PATH '$[1]')) t "
    "STRAIGHT_JOIN {table} FORCE INDEX (PRIMARY) ON {table}.{id} = t.id SET {table}.{seq} = {table}.{seq} + t.count",
}
_TAKEN = {  # where UPDATE does not return it
    "mariadb": "SELECT {table}.{id}, {table}.{seq} FROM JSON_TABLE(%s, '$[*]' COLUMNS (id CHAR(36) PATH '$[0]')) t "
    "STRAIGHT_JOIN {table} FORCE INDEX (PRIMARY) ON {table}.{id} = t.id",
}
_INSERT = {
    "postgresql": "INSERT INTO {table} ({columns}) SELECT (e->>0)::uuid, (e->>1)::int, e->>2, "
    "(e->>3)::timestamptz, e->4 FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS t(e, n) ORDER BY n",
    "sqlite": "INSERT INTO {table} ({columns}) SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), "
    "json_extract(value, '$[2]'), json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(%s)",
    "mariadb": "INSERT INTO {table} ({columns}) SELECT session_id, seq, kind, at, data FROM JSON_TABLE(%s, '$[*]' "
    "COLUMNS (n FOR ORDINALITY, session_id CHAR(36) PATH '$[0]', seq INT PATH '$[1]', kind LONGTEXT PATH '$[2]', "
    "at DATETIME(6) PATH '$[3]', data JSON PATH '$[4]')) t ORDER BY n",
}
_COLUMNS = ("session_id", "seq", "kind", "at", "data")
_RETURNING_SINCE = (3, 35)


def take_numbers(using: str, wanted: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, int]:
    """Take so many numbers for events of each of these sessions. Returns the last one of each that exists."""
    from .session import AgentSession

    if statement := _statement(using, _TAKE):
        connection = connections[using]
        keys = {_key(connection, key): key for key in wanted}
        taken = _statement(using, _TAKEN)
        with connection.cursor() as cursor:
            names = _quoted(connection, table=AgentSession._meta.db_table, id="id", seq="event_seq")
            counts = {name: wanted[key] for name, key in keys.items()}
            # MariaDB locks the rows in this order, which is the same everywhere; the others choose their own.
            text = json.dumps(sorted(counts.items()) if taken else counts)
            cursor.execute(statement.format(**names), [text])
            if taken:
                cursor.execute(taken.format(**names), [text])
            return {keys[_key(connection, key)]: number for key, number in cursor.fetchall()}

    by_count: dict[int, list[uuid.UUID]] = defaultdict(list)
    for key, count in wanted.items():
        by_count[count].append(key)
    sessions = AgentSession.objects.using(using).order_by()
    for count, group in by_count.items():
        for chunk in _chunks(group):
            sessions.filter(pk__in=chunk).update(event_seq=F("event_seq") + count)
    last: dict[uuid.UUID, int] = {}
    for chunk in _chunks(list(wanted)):
        last.update(sessions.filter(pk__in=chunk).values_list("pk", "event_seq"))
    return last


def insert_events(using: str, events: Sequence[tuple[EventLine, int]]) -> None:
    """Insert new events with their numbers, in order."""
    from .event import SessionEvent

    statement = _statement(using, _INSERT)
    if statement is None:
        rows = [
            SessionEvent(session_id=line.session_id, seq=seq, kind=line.kind, at=line.at, data=line.data)
            for line, seq in events
        ]
        SessionEvent.objects.using(using).bulk_create(rows, batch_size=_ROWS)
        return
    connection = connections[using]
    names = _quoted(connection, table=SessionEvent._meta.db_table)
    names["columns"] = ", ".join(_quoted(connection, **{name: name for name in _COLUMNS}).values())
    with connection.cursor() as cursor:
        for text in _texts(connection, events):
            cursor.execute(statement.format(**names), [text])


def _texts(connection: BaseDatabaseWrapper, events: Sequence[tuple[EventLine, int]]) -> Iterator[str]:
    """Yield the events as JSON lists."""
    at = connection.ops.adapt_datetimefield_value
    texts: list[str] = []
    length = 0
    for start in range(0, len(events), _PIECE):
        piece = events[start : start + _PIECE]
        values = [
            (_key(connection, line.session_id), seq, line.kind, str(at(line.at)), line.data) for line, seq in piece
        ]
        texts.append(json.dumps(values, ensure_ascii=False)[1:-1])
        length += len(texts[-1])
        time.sleep(0)  # let the event loop have the interpreter now, not only when the time slice of 5 ms is over
        if length > _TEXT_LENGTH:
            yield f"[{','.join(texts)}]"
            texts, length = [], 0
    if texts:
        yield f"[{','.join(texts)}]"


def _statement(using: str, statements: Mapping[str, str]) -> str | None:
    connection: Any = connections[using]
    if connection.vendor == "sqlite" and connection.Database.sqlite_version_info < _RETURNING_SINCE:
        return None
    if connection.vendor == "mysql" and connection.mysql_is_mariadb and connection.features.has_native_uuid_field:
        return statements.get("mariadb")
    return statements.get(connection.vendor)


def _key(connection: BaseDatabaseWrapper, key: uuid.UUID | str) -> str:
    """A UUID as the database's JSON has it: as its text, or as 32 digits on SQLite, which stores it so."""
    if connection.features.has_native_uuid_field:
        return str(key)
    return key.hex if isinstance(key, uuid.UUID) else key


def _quoted(connection: BaseDatabaseWrapper, **names: str) -> dict[str, str]:
    return {name: connection.ops.quote_name(value) for name, value in names.items()}


def _chunks(keys: list[uuid.UUID]) -> list[list[uuid.UUID]]:
    return [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
