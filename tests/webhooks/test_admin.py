"""Webhooks in the admin: who sees them, who may send them again, and who did."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client

from tests.webhooks.conftest import delivery, ended
from tests.webhooks.receiver import SECRET
from visionagents_runner.models import WebhookDelivery

LIST = "/admin/visionagents_runner/webhookdelivery/"
REPLAY = f"{LIST}replay/"
TOKEN = "t0ken"
HOOK = {"URL": f"https://hooks.example/{TOKEN}", "SECRET": SECRET, "NAME": "crm"}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def one_endpoint(configure: Any) -> None:
    configure(HOOK)


def staff(*codenames: str, **fields: Any) -> Client:
    user = get_user_model().objects.create_user("operator", is_staff=True, **fields)  # type: ignore[attr-defined]
    permissions = Permission.objects.filter(content_type__app_label="visionagents_runner", codename__in=codenames)
    assert permissions.count() == len(codenames)
    user.user_permissions.set(permissions)
    client = Client()
    client.force_login(user)
    return client


def page_of(row: WebhookDelivery) -> str:
    return f"{LIST}{row.pk}/change/"


def failed() -> WebhookDelivery:
    ended(call_id="front-desk")
    [row] = WebhookDelivery.objects.claim({"crm": 1})
    row.mark_failed(status=500, error="Answered 500 <b>", seconds=None)
    return delivery(pk=row.pk)


def send_again(client: Client, *rows: WebhookDelivery, **more: Any) -> Any:
    return client.post(REPLAY, {"_selected_action": [str(row.pk) for row in rows], **more}, follow=True)


def test_the_list_says_who_was_told_and_why_not() -> None:
    row = failed()
    client = staff("view_webhookdelivery", "view_agentsession")
    text = client.get(LIST).content.decode()
    for words in ("crm", "front-desk", "Answered 500 &lt;b&gt;", "failed"):
        assert words in text
    assert f"/agentsession/{row.session_id}/change/" in text
    page = client.get(page_of(row)).content.decode()
    assert row.message_id in page
    for secret in (SECRET, TOKEN):
        assert secret not in text + page


@pytest.mark.parametrize("query", ["state=failed", "endpoint=crm", "q={session}", "q={message}"])
def test_rows_are_found(query: str) -> None:
    row = failed()
    client = staff("view_webhookdelivery")
    found = client.get(f"{LIST}?{query.format(session=row.session_id, message=row.message_id)}")
    assert found.context["cl"].result_count == 1


@pytest.mark.parametrize("query", ["state=pending", "endpoint=other%00", "q=nothing", "q=msg_", "q=msg_x"])
def test_rows_that_do_not_match_are_not_found(query: str) -> None:
    failed()
    found = staff("view_webhookdelivery").get(f"{LIST}?{query}")
    assert found.status_code == 200
    assert found.context["cl"].result_count == 0


def test_when_the_next_attempt_is_can_be_read(configure: Any) -> None:
    client = staff("view_webhookdelivery")
    ended()
    assert ">due<" in client.get(LIST).content.decode()
    [row] = WebhookDelivery.objects.claim({"crm": 1})
    assert "being sent" in client.get(LIST).content.decode()
    row.mark_failed(status=None, error="Timed out", seconds=7300)
    assert "in 2 h 01 min" in client.get(LIST).content.decode()
    configure()
    assert "No endpoint of this name" in client.get(LIST).content.decode()


def test_an_empty_list_says_what_would_be_there(configure: Any) -> None:
    client = staff("view_webhookdelivery")
    assert "each endpoint of the setting gets one" in client.get(LIST).content.decode()
    configure()
    assert "nobody to tell" in client.get(LIST).content.decode()


def test_a_webhook_is_sent_again_after_a_confirmation_and_that_is_logged() -> None:
    row = failed()
    client = staff("view_webhookdelivery", "replay_webhookdelivery")
    asked = client.post(LIST, {"action": "replay", "_selected_action": [str(row.pk)]})
    assert "Send 1 webhook again" in asked.content.decode()
    assert "front-desk" in asked.content.decode()
    assert delivery().state == "failed"
    assert "Send 1 webhook again" in send_again(client, row).content.decode()
    assert delivery().state == "failed"
    answer = send_again(client, row, confirmed="yes")
    assert "1 webhook is sent again." in answer.content.decode()
    again = delivery()
    assert (again.state, again.attempts, again.message_id) == ("pending", 0, row.message_id)
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message) == (str(row.pk), "Sent again.")
    assert entry.user.get_username() == "operator"


def test_one_that_is_being_sent_is_left_alone() -> None:
    ended()
    [row] = WebhookDelivery.objects.claim({"crm": 1})
    client = staff("view_webhookdelivery", "replay_webhookdelivery")
    answer = send_again(client, row, confirmed="yes")
    assert "1 was left alone" in answer.content.decode()
    assert row.mark_delivered(200)
    assert not LogEntry.objects.exists()


def test_the_page_of_one_has_the_button_for_who_may() -> None:
    row = failed()
    client = staff("view_webhookdelivery", "replay_webhookdelivery")
    assert f'action="{REPLAY}"' in client.get(page_of(row)).content.decode()


@pytest.mark.parametrize(
    "codenames",
    [
        ("view_webhookdelivery",),
        ("replay_webhookdelivery",),
        ("view_webhookdelivery", "view_agentsession", "close_agentsession", "force_close_agentsession"),
    ],
)
def test_nobody_sends_again_without_both_permissions(codenames: tuple[str, ...]) -> None:
    row = failed()
    client = staff(*codenames)
    assert send_again(client, row, confirmed="yes").status_code == 403
    page = client.get(page_of(row))
    assert "Send again" not in page.content.decode()
    listed = client.get(LIST)
    assert "Send again" not in listed.content.decode()
    client.post(LIST, {"action": "replay", "_selected_action": [str(row.pk)]})
    assert delivery().state == "failed"
    assert not LogEntry.objects.exists()


def test_nobody_sees_them_without_the_permission() -> None:
    row = failed()
    client = staff("view_agentsession", "view_transcript", "view_metrics")
    assert client.get(LIST).status_code == 403
    assert client.get(page_of(row)).status_code == 403
    assert client.get(REPLAY).status_code == 403
    outside = Client()
    assert outside.get(LIST).status_code == 302
    assert outside.post(REPLAY, {"_selected_action": [str(row.pk)], "confirmed": "yes"}).status_code == 302
    assert delivery().state == "failed"


def test_who_may_not_see_sessions_gets_no_link_to_one() -> None:
    row = failed()
    client = staff("view_webhookdelivery")
    for url in (LIST, page_of(row)):
        assert f"/agentsession/{row.session_id}/" not in client.get(url).content.decode()


def test_rows_are_neither_added_changed_nor_deleted_here() -> None:
    row = failed()
    client = staff("view_webhookdelivery", is_superuser=True)
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(page_of(row), {"state": "delivered"}).status_code == 403
    assert delivery().state == "failed"


@pytest.mark.parametrize("key", ["x", "", "00000000-0000-0000-0000-000000000000"])
def test_ids_that_are_none_do_no_harm(key: str) -> None:
    client = staff("view_webhookdelivery", "replay_webhookdelivery")
    assert client.post(REPLAY, {"_selected_action": [key], "confirmed": "yes"}, follow=True).status_code == 200
    answer = client.post(LIST, {"action": "replay", "_selected_action": [key]}, follow=True)
    assert answer.status_code == 200


def test_the_list_costs_the_same_for_many(django_assert_max_num_queries: Any) -> None:
    client = staff("view_webhookdelivery")
    for number in range(30):
        ended(call_id=str(number))
    with django_assert_max_num_queries(12):
        assert client.get(LIST).status_code == 200
