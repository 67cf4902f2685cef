"""API keys in the admin: made, shown once, revoked, and by whom."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from tests.auth.keys.fixtures import make_key, user
from visionagents_runner.auth import keys
from visionagents_runner.models import AgentKey, Scope
from visionagents_runner.models.key import digest_of, make_prefix

LIST = "/admin/visionagents_runner/agentkey/"
ADD, REVOKE = f"{LIST}add/", f"{LIST}revoke/"
KEY = re.compile(r"va_[0-9a-z]{10}_[0-9A-Za-z]{43}")

pytestmark = pytest.mark.django_db


def staff(*codenames: str, name: str = "staff", **fields: Any) -> Client:
    made = get_user_model().objects.create_user(name, is_staff=True, **fields)  # type: ignore[attr-defined]
    permissions = Permission.objects.filter(content_type__app_label="visionagents_runner", codename__in=codenames)
    assert permissions.count() == len(codenames)
    made.user_permissions.set(permissions)
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def root() -> Client:
    return staff(name="root", is_superuser=True)


def form(**changes: Any) -> dict[str, Any]:
    data = {"name": "backend", "scopes": ["start", "close"], "lifetime": "90", "new_prefix": make_prefix()}
    return {**data, **changes}


def test_a_new_key_is_shown_once_and_only_its_hash_is_kept(root: Client) -> None:
    owner = user("caller")
    page = root.get(ADD).content.decode()
    prefix = re.search(r'name="new_prefix" value="([0-9a-z]{10})"', page)
    assert prefix is not None
    answer = root.post(ADD, form(owner=owner.pk, new_prefix=prefix[1]))
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    shown = set(KEY.findall(answer.content.decode()))
    assert len(shown) == 1
    plain = shown.pop()
    row = AgentKey.objects.get()
    assert plain.startswith(f"va_{row.prefix}_")
    assert row.prefix == prefix[1]
    assert row.digest == digest_of(plain)
    assert (row.name, row.owner, row.scopes, row.created_by) == ("backend", owner, ["close", "start"], "root")
    assert row.expires_at is not None
    assert (row.expires_at - row.created_at).days == 90

    secret = plain.rpartition("_")[2]
    for url in (LIST, f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/history/", "/admin/", ADD):
        page = root.get(url).content.decode()
        assert secret not in page
        assert row.digest not in page
    assert secret not in str(dict(root.session.items()))
    assert not any(secret in morsel.value for morsel in root.cookies.values())


def test_sending_the_form_again_makes_no_second_key(root: Client) -> None:
    data = form(owner=user().pk)
    assert KEY.search(root.post(ADD, data).content.decode())
    again = root.post(ADD, data)
    assert again.status_code == 200
    assert not KEY.search(again.content.decode())
    assert "was sent before" in again.content.decode()
    assert AgentKey.objects.count() == 1


def test_a_double_click_makes_one_key(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    data = form(owner=user().pk)
    root.post(ADD, data)
    # Both found the prefix free.
    monkeypatch.setattr("visionagents_runner.admin.keys.AgentKeyForm.clean_new_prefix", lambda self: data["new_prefix"])
    answer = root.post(ADD, data, follow=True)
    assert answer.redirect_chain == [(LIST, 302)]
    assert "was sent before" in answer.content.decode()
    assert AgentKey.objects.count() == 1


def test_a_key_may_never_expire(root: Client) -> None:
    root.post(ADD, form(owner=user().pk, lifetime=""))
    assert AgentKey.objects.get().expires_at is None
    assert "never" in root.get(LIST).content.decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "two\nlines"},
        {"name": "x" * 101},
        {"scopes": []},
        {"scopes": ["root"]},
        {"lifetime": "-1"},
        {"owner": "0"},
        {"owner": ""},
        {"new_prefix": ""},
        {"new_prefix": "../../../"},
        {"new_prefix": "ABCDEFGHIJ"},
    ],
)
def test_a_form_that_is_wrong_makes_nothing_and_says_what(root: Client, wrong: dict[str, Any]) -> None:
    answer = root.post(ADD, form(**{"owner": user().pk, **wrong}))
    assert answer.status_code == 200
    assert "errornote" in answer.content.decode()
    assert not AgentKey.objects.exists()


def test_an_inactive_owner_is_refused(root: Client) -> None:
    answer = root.post(ADD, form(owner=user("gone", is_active=False).pk))
    assert "would be void" in answer.content.decode()
    assert not AgentKey.objects.exists()


def test_who_is_no_superuser_makes_keys_for_themselves_that_may_what_they_may() -> None:
    maker = staff("add_agentkey", "start_agentsession")
    page = maker.get(ADD).content.decode()
    assert 'value="start"' in page
    assert 'name="owner"' not in page
    for scope in set(Scope.values) - {"start"}:
        assert f'value="{scope}"' not in page
        assert not KEY.search(maker.post(ADD, form(scopes=[scope])).content.decode())
    assert not AgentKey.objects.exists()
    # An owner that is sent all the same counts for nothing.
    answer = maker.post(ADD, form(scopes=["start"], owner=user("caller").pk))
    assert KEY.search(answer.content.decode())
    row = AgentKey.objects.get()
    assert row.owner is not None
    assert (row.owner.get_username(), row.scopes) == ("staff", ["start"])
    # They may make keys and not look at them.
    assert maker.get(LIST).status_code == 403


@pytest.mark.parametrize(
    ("codenames", "may"),
    [
        ((), set()),
        (("view_agentsession", "view_worker"), set()),
        (("view_agentkey",), {"look"}),
        (("add_agentkey",), {"make"}),
        (("view_agentkey", "add_agentkey"), {"look", "make"}),
        (("change_agentkey",), {"look", "revoke"}),
        (("view_agentkey", "change_agentkey"), {"look", "revoke"}),
        (
            ("start_agentsession", "close_agentsession", "view_transcript", "speak_agentsession", "view_metrics"),
            set(),
        ),
    ],
)
def test_each_permission_lets_in_for_itself_alone(codenames: tuple[str, ...], may: set[str]) -> None:
    row, _ = make_key("start")
    client = staff(*codenames)
    page = f"{LIST}{row.pk}/change/"
    for url in (LIST, page, f"{LIST}{row.pk}/history/"):
        assert client.get(url).status_code == (200 if "look" in may else 403), url
    assert client.get(ADD).status_code == (200 if "make" in may else 403)
    if "make" not in may:
        assert client.post(ADD, form()).status_code == 403
    assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    if "look" in may:
        shown = client.get(page).content.decode()
        assert (REVOKE in shown) == ("revoke" in may)
        assert 'name="_save"' not in shown
        assert client.post(page, {"name": "another", "scopes": ["view"]}).status_code == 403
        listed = client.get(LIST).content.decode()
        assert ('value="revoke"' in listed) == ("revoke" in may)
        assert "delete_selected" not in listed
        client.post(LIST, {"action": "revoke", "_selected_action": [row.pk], "confirmed": "yes"})
    row.refresh_from_db()
    assert row.revoked_at is None
    answer = client.post(REVOKE, {"_selected_action": [row.pk], "confirmed": "yes"})
    assert answer.status_code == (302 if "revoke" in may else 403)
    row.refresh_from_db()
    assert (row.revoked_at is not None) == ("revoke" in may)
    assert (row.name, row.scopes) == ("backend", ["start"])


def test_nobody_who_is_not_staff_gets_in() -> None:
    stranger = Client()
    stranger.force_login(user("guest"))
    row, _ = make_key()
    for client in (stranger, Client()):
        for url in (LIST, ADD, REVOKE, f"{LIST}{row.pk}/change/"):
            assert client.get(url).status_code == 302
            assert client.post(url, {"_selected_action": [row.pk], "confirmed": "yes", **form()}).status_code == 302
    row.refresh_from_db()
    assert row.revoked_at is None
    assert AgentKey.objects.count() == 1


def test_revoking_is_confirmed_and_is_for_good(root: Client) -> None:
    first, _ = make_key("start", name="first")
    second, _ = make_key("view", name="second")
    other, _ = make_key("view", name="other")
    chosen = {"action": "revoke", "index": "0", "_selected_action": [first.pk, second.pk]}
    page = root.post(LIST, chosen).content.decode()
    assert "Revoke 2 API keys" in page
    assert "first" in page
    assert "second" in page
    assert "other" not in page
    assert not AgentKey.objects.filter(revoked_at__isnull=False).exists()

    answer = root.post(REVOKE, {"_selected_action": [first.pk, second.pk], "confirmed": "yes"}, follow=True)
    assert "2 API keys were revoked" in answer.content.decode()
    for row in (first, second):
        row.refresh_from_db()
        assert row.revoked_at is not None
        assert row.revoked_by == "root"
    other.refresh_from_db()
    assert other.revoked_at is None
    # Again: nothing is left to do, and the first time stands.
    before = first.revoked_at
    assert "nothing to revoke" in root.post(LIST, {**chosen, "_selected_action": [first.pk]}).content.decode()
    root.post(REVOKE, {"_selected_action": [first.pk], "confirmed": "yes"})
    first.refresh_from_db()
    assert first.revoked_at == before
    assert LogEntry.objects.filter(action_flag=CHANGE).count() == 2


def test_the_button_of_a_keys_page_asks_first(root: Client) -> None:
    row, _ = make_key()
    page = root.post(REVOKE, {"_selected_action": [row.pk]}).content.decode()
    assert "Revoke 1 API key" in page
    row.refresh_from_db()
    assert row.revoked_at is None
    for nonsense in ({}, {"_selected_action": ["x", "-1", ""]}, {"_selected_action": [str(2**70)], "confirmed": "yes"}):
        assert root.post(REVOKE, nonsense).status_code == 302
    assert root.get(REVOKE).status_code == 302


def test_revoking_needs_the_csrf_token() -> None:
    row, _ = make_key()
    client = Client(enforce_csrf_checks=True)
    client.force_login(user("root", is_superuser=True, is_staff=True))
    assert client.post(REVOKE, {"_selected_action": [row.pk], "confirmed": "yes"}).status_code == 403
    assert client.post(ADD, form(owner=user().pk)).status_code == 403
    row.refresh_from_db()
    assert row.revoked_at is None
    assert AgentKey.objects.count() == 1


def test_who_made_and_revoked_a_key_is_in_the_audit_trail(root: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="visionagents_runner.auth.keys")
    plain = KEY.findall(root.post(ADD, form(owner=user("caller").pk)).content.decode())[0]
    row = AgentKey.objects.get()
    root.post(REVOKE, {"_selected_action": [row.pk], "confirmed": "yes"})
    entries = list(LogEntry.objects.order_by("pk"))
    assert [(entry.user.get_username(), entry.action_flag) for entry in entries] == [
        ("root", ADDITION),
        ("root", CHANGE),
    ]
    assert all(f"va_{row.prefix}" in entry.object_repr for entry in entries)
    secret = plain.rpartition("_")[2]
    assert not any(secret in f"{entry.object_repr}{entry.change_message}" for entry in entries)
    assert f"va_{row.prefix} (backend) of caller was made by root" in caplog.text
    assert f"va_{row.prefix} (backend) was revoked by root" in caplog.text
    assert secret not in caplog.text
    page = root.get(f"{LIST}{row.pk}/change/").content.decode()
    assert "revoked" in page
    assert "by root" in page


def test_revoking_counts_at_once_in_this_process(root: Client) -> None:
    row, _ = make_key()
    generation = keys._valid.generation
    root.post(REVOKE, {"_selected_action": [row.pk], "confirmed": "yes"})
    assert keys._valid.generation > generation


def test_the_list_is_found_by_name_and_by_the_beginning_of_a_key(root: Client) -> None:
    first, plain = make_key(name="billing")
    second, _ = make_key(name="monitor")
    for term in ("bill", f"va_{first.prefix}", plain, first.prefix[:8]):
        page = root.get(LIST, {"q": term}).content.decode()
        assert "billing" in page
        assert "monitor" not in page
    AgentKey.objects.filter(pk=second.pk).revoke("root")
    for state, shown in (("valid", {"billing"}), ("revoked", {"monitor"}), ("expired", set())):
        page = root.get(LIST, {"state": state}).content.decode()
        assert {name for name in ("billing", "monitor") if f">{name}<" in page} == shown


def test_the_list_costs_no_query_a_row(root: Client, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        make_key(owner=f"caller{number}")
    with django_assert_max_num_queries(10):
        root.get(LIST)


def test_an_empty_list_says_how_to_make_one(root: Client) -> None:
    assert "createagentkey" in root.get(LIST).content.decode()


def test_a_key_outlives_its_owner_in_the_list(root: Client) -> None:
    row, _ = make_key(owner="gone")
    user("gone").delete()
    row.refresh_from_db()
    assert row.owner is None
    assert "owner inactive" in root.get(LIST).content.decode()
    assert root.get(f"{LIST}{row.pk}/change/").status_code == 200


def test_an_owner_can_be_deleted_in_the_admin(root: Client) -> None:
    row, _ = make_key(owner="gone")
    assert root.post(f"/admin/auth/user/{user('gone').pk}/delete/", {"post": "yes"}).status_code == 302
    row.refresh_from_db()
    assert row.owner is None
