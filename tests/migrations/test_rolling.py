"""An old version goes on working while the migrations of a newer one are applied: the other order loses calls.

From ``BASELINE`` on, no migration may add a column that the database refuses to have left out of an INSERT, nor take
away or rename what an old version reads.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import DeleteModel, RemoveField, RenameField, RenameModel

APP = "visionagents_runner"
BASELINE = "0001_initial"


def loader() -> MigrationLoader:
    return MigrationLoader(None)


def names() -> list[str]:
    return sorted(name for app, name in loader().disk_migrations if app == APP)


def old_models(name: str) -> Any:
    return loader().project_state((APP, name)).apps


@pytest.mark.django_db
@pytest.mark.parametrize("version", names())
def test_an_older_version_still_writes_and_reads_its_rows(version: str) -> None:
    old = old_models(version)
    worker = old.get_model(APP, "Worker").objects.create(hostname="old", pid=1)
    session_model = old.get_model(APP, "AgentSession")
    session = session_model.objects.create(call_id="call", worker=worker, status="active")
    old.get_model(APP, "SessionEvent").objects.create(session=session, seq=1, kind="requested", data={})
    session_model.objects.filter(pk=session.pk).update(status="closing")
    assert session_model.objects.get(pk=session.pk).status == "closing"
    from visionagents_runner.models import AgentSession

    now = AgentSession.objects.get(pk=session.pk)
    assert (now.call_id, now.worker.hostname, now.priority, now.restartable) == ("call", "old", 0, False)


def test_no_migration_takes_away_what_an_older_version_reads() -> None:
    migrations = loader().disk_migrations
    taking = [
        f"{name}: {operation.describe()}"
        for (app, name), migration in migrations.items()
        if app == APP and name > BASELINE
        for operation in migration.operations
        if isinstance(operation, (RemoveField, RenameField, RenameModel, DeleteModel))
    ]
    assert not taking


def test_each_column_that_came_later_may_be_left_out_by_an_older_version() -> None:
    first = loader().project_state((APP, BASELINE))
    last = loader().project_state((APP, names()[-1]))
    missing = []
    for (app, model), state in last.models.items():
        if app != APP or (app, model) not in first.models:
            continue
        for name, field in state.fields.items():
            new = name not in first.models[app, model].fields
            if new and not field.null and not field.has_db_default() and not isinstance(field, models.ManyToManyField):
                missing.append(f"{model}.{name}")
    assert not missing, "give them null=True or a db_default"


@pytest.mark.django_db
def test_the_database_is_at_the_newest_version() -> None:
    assert connection.introspection.table_names()
    assert (APP, names()[-1]) in MigrationLoader(connection).applied_migrations
