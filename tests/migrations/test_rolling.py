"""An old version goes on working while the migrations of a newer one are applied: the other order loses calls.

From ``BASELINE`` on, no migration may add a column that the database refuses to have left out of an INSERT, nor take
away, rename or narrow what an old version reads and writes. What is no addition is named, and why it is safe.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import AddField, AddIndex, AlterModelOptions, CreateModel
from django.db.migrations.operations.base import Operation

from visionagents_runner.models import Chore
from visionagents_runner.models.worker import in_seconds

APP = "visionagents_runner"
BASELINE = "0001_initial"

ADDING = (AddField, AddIndex, AlterModelOptions, CreateModel)
"""What takes nothing away. That a column may be left out is tested below; options are permissions and names."""

HARMLESS = {
    ("0007_cluster", "AlterField", "agentsession.agent"): "compares byte for byte now; it takes what it took",
    ("0007_cluster", "AlterField", "agentsession.cost_unpriced"): "has a default in the database now",
    ("0007_cluster", "AlterField", "agentsession.end_reason"): "has one more choice, which no database checks",
    ("0007_cluster", "AlterField", "worker.loop_lag"): "has a default in the database now",
    ("0009_chore", "AlterModelTable", "turn"): "is the name that the table has",
    ("0009_chore", "RenameModel", "turn"): "leaves the table its name",
}
"""Other operations, and why an older version goes on with them."""


def subject(operation: Operation) -> tuple[str, str]:
    """Return of which kind an operation is, and what it is about."""
    about = [getattr(operation, name, "") for name in ("model_name", "name")]
    return type(operation).__name__, ".".join(filter(None, about)).lower()


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


@pytest.mark.django_db
@pytest.mark.parametrize("version", names())
def test_an_older_version_reads_and_changes_what_a_newer_one_wrote(version: str) -> None:
    """States and reasons that it does not know, rows with columns that it does not know, and those without a worker."""
    from visionagents_runner.models import AgentSession, EndReason, SessionStatus
    from visionagents_runner.models.session import ENDED

    lost = AgentSession(call_id="lost", status=SessionStatus.ACTIVE, restartable=True)
    lost.insert()
    AgentSession.objects.filter(pk=lost.pk).finish(EndReason.WORKER_LOST)
    for status in set(SessionStatus) - set(ENDED):
        AgentSession(call_id="live", status=status, priority=5, metadata={"status": status}).insert()
    for reason in EndReason:
        ended = AgentSession(call_id="ended", status=SessionStatus.ACTIVE)
        ended.insert()
        AgentSession.objects.filter(pk=ended.pk).finish(reason)
    written = {row.pk: (row.status, row.end_reason) for row in AgentSession.objects.all()}

    old = old_models(version).get_model(APP, "AgentSession").objects
    assert {row.pk: (row.status, row.end_reason) for row in old.all()} == written
    assert old.filter(ended_at__isnull=True).count() == AgentSession.objects.live().count()
    for row in old.all():
        row.error = "changed by the older version"
        row.save()
    assert {row.pk: (row.status, row.end_reason) for row in AgentSession.objects.all()} == written
    successor = AgentSession.objects.get(restart_of=lost)
    assert (successor.status, successor.error) == (SessionStatus.QUEUED, "changed by the older version")
    assert successor.due_at is not None
    assert set(AgentSession.objects.filter(call_id="live").values_list("priority", flat=True)) == {5}


@pytest.mark.django_db
@pytest.mark.parametrize("version", [name for name in names() if "0007" <= name < "0009"])
def test_of_two_versions_one_does_what_only_one_is_to_do(version: str) -> None:
    older = old_models(version).get_model(APP, "Turn").objects
    assert Chore.objects.take("sweep", 3600)
    assert older.get().name == "sweep"
    older.update(name="judge", value={"live": 3}, valid_until=in_seconds(60))
    assert not Chore.objects.take("judge", 3600)
    assert Chore.objects.kept("judge") == {"live": 3}


@pytest.mark.django_db(transaction=True)
def test_a_model_gets_another_name_without_a_word_to_the_database() -> None:
    sql = StringIO()
    call_command("sqlmigrate", APP, "0009_chore", stdout=sql)
    said = [line for line in sql.getvalue().splitlines() if not line.startswith("--")]
    assert set(said) <= {"", "BEGIN;", "COMMIT;"}


@pytest.mark.smoke
def test_each_migration_only_adds() -> None:
    """Whatever else it does has to be thought about, and written down here."""
    unsafe = [
        f"{name}: {operation.describe()}"
        for (app, name), migration in loader().disk_migrations.items()
        if app == APP and name > BASELINE
        for operation in migration.operations
        if not isinstance(operation, ADDING) and (name, *subject(operation)) not in HARMLESS
    ]
    assert not unsafe, "an older version may depend on what this changes"


def test_each_exemption_is_of_an_operation_that_is_there() -> None:
    there = {
        (name, *subject(operation))
        for (app, name), migration in loader().disk_migrations.items()
        if app == APP
        for operation in migration.operations
    }
    assert set(HARMLESS) <= there


@pytest.mark.parametrize("exempted", [key for key in HARMLESS if key[1] == "AlterField"], ids="-".join)
def test_a_field_that_is_altered_takes_whatever_it_took_before(exempted: tuple[str, str, str]) -> None:
    name, _, subject_of = exempted
    model, field = subject_of.split(".")
    before_name = names()[names().index(name) - 1]
    before, after = (loader().project_state((APP, at)).models[APP, model].fields[field] for at in (before_name, name))
    assert isinstance(after, type(before)) or isinstance(before, type(after))
    assert after.null or not before.null
    assert (after.max_length or 0) >= (before.max_length or 0)
    assert after.has_db_default() or not before.has_db_default()
    assert (after.unique, after.db_column) == (before.unique, before.db_column)
    known = {value for value, _ in after.choices or ()}
    assert known >= {value for value, _ in before.choices or ()}


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


@pytest.mark.smoke
@pytest.mark.django_db
def test_the_database_is_at_the_newest_version() -> None:
    assert connection.introspection.table_names()
    assert (APP, names()[-1]) in MigrationLoader(connection).applied_migrations
