from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import until
from tests.observe.parts import Ears, on_call
from visionagents_runner.conf.settings import SETTING
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.observe import load_redact, observe
from visionagents_runner.observe.redaction import redacted_error
from visionagents_runner.testing import stub_agent


def mask(session_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any] | None:
    if kind == "tool_started":
        return None
    if "text" in data:
        data["text"] = data["text"].replace("1234", "****")
    return data


def explode(session_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any] | None:
    if kind in {"message", "partial"}:
        raise ValueError(f"cannot handle {data}")
    return data


def forgetful(session_id: str, kind: str, data: dict[str, Any]) -> Any:
    return [data] if kind in {"message", "partial"} else data


@pytest.fixture(autouse=True)
def _redact(settings: Any, request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("parametrize")
    if marker is None:
        settings.VISIONAGENTS_RUNNER = {"REDACT": f"{__name__}.mask"}


async def test_words_are_masked_before_anybody_hears_of_them_partial_ones_too() -> None:
    ears = Ears()
    async with on_call(stt=ears) as (_, diary):
        ears.murmurs("my pin is 1234")
        ears.says("My pin is 1234.")
        ears.ends()
        await diary.wait_for("message", 2)
    assert "****" in str(list(diary))
    assert "1234" not in str(list(diary))


@pytest.mark.parametrize("name", ["explode", "forgetful", "there_is_no_such_function"])
async def test_what_cannot_be_redacted_is_told_to_nobody_and_counted(
    settings: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    settings.VISIONAGENTS_RUNNER = {"REDACT": f"{__name__}.{name}"}
    withheld = {"kinds": {"message": 1}, "reason": "REDACT failed"}
    async with on_call() as (agent, diary):
        await agent.edge.person().say("a secret")
        await until(lambda: diary.of("dropped").count(withheld) == 2)  # the question and the answer
    assert not diary.of("message")
    assert "a secret" not in str(list(diary))
    assert caplog.text.count("Events of kind 'message'") == 1
    assert "a secret" not in caplog.text


async def test_an_edge_can_ask_what_it_may_show() -> None:
    agent = stub_agent()
    observer = observe(agent)
    assert observer.redacted("message", {"text": "1234 and more"}) == {"text": "**** and more"}
    assert observer.redacted("tool_started", {}) is None
    await agent.close()
    observer.close()


def hide_errors(session_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any] | None:
    assert (session_id, kind, data["component"]) == ("12", "error", "session")
    return None if "nothing" in data["message"] else {"message": data["message"].replace("1234", "****")}


@pytest.mark.parametrize(
    ("function", "text", "kept"),
    [
        ("hide_errors", "Traceback: pin 1234", "Traceback: pin ****"),
        ("hide_errors", "nothing of this", "The error is withheld by REDACT."),
        ("there_is_no_such_function", "pin 1234", "The error is withheld: "),
        ("", "pin 1234", "pin 1234"),
    ],
)
def test_the_traceback_that_a_row_keeps_is_redacted_too(settings: Any, function: str, text: str, kept: str) -> None:
    settings.VISIONAGENTS_RUNNER = {"REDACT": function and f"{__name__}.{function}"}
    shown = redacted_error("12", text)
    assert shown.startswith(kept)
    assert "1234" not in shown or not function


@pytest.mark.parametrize("path", ["no.such.module", f"{__name__}.SETTING"])
def test_a_setting_that_names_nothing_callable_says_so(settings: Any, path: str) -> None:
    settings.VISIONAGENTS_RUNNER = {"REDACT": path}
    with pytest.raises(RunnerConfigurationError, match=SETTING):
        load_redact()
