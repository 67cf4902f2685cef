"""``/sessions/{session_id}/say`` and ``/respond``: speaking into a call from outside."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router

from ..auth.permissions import Action
from ..dispatch.remote_commands import ask
from ..models import CommandKind
from ..sessions import commands
from ..utils.validation import call_key
from .bodies import authorize_and_parse
from .errors import APIError, json_response
from .lookup import call_of, find_visible
from .operations import json_body, operation, take_share
from .schemas import Error, Respond, Say, Success

router = Router(tags=["live operations"])

_ANSWERS: dict[int, tuple[Any, str]] = {
    202: (Success, "The agent was asked."),
    409: (
        Error,
        "The session has ended, has not joined yet, or its worker is silent; or the agent cannot. Says which.",
    ),
    502: (Error, "The agent failed."),
    504: (Error, "The agent did not take it in time."),
}
_ERRORS = (401, 403, 404, 413, 422, 503)


@operation(
    router,
    "POST",
    "/sessions/{session_id}/say",
    answers=_ANSWERS,
    errors=_ERRORS,
    body=json_body(Say.model_json_schema(), required=True),
    summary="Have the agent say a text",
)
async def say(request: HttpRequest, session_id: str) -> HttpResponse:
    """Word for word, past its model. The history of the session keeps who asked."""
    return await _ask(request, session_id, Say, CommandKind.SAY)


@operation(
    router,
    "POST",
    "/sessions/{session_id}/respond",
    answers=_ANSWERS,
    errors=_ERRORS,
    body=json_body(Respond.model_json_schema(), required=True),
    summary="Have the agent respond to an instruction",
)
async def respond(request: HttpRequest, session_id: str) -> HttpResponse:
    """The model makes the words. Nobody on the call sees the instruction; the history of the session keeps it."""
    return await _ask(request, session_id, Respond, CommandKind.RESPOND)


async def _ask(request: HttpRequest, session_id: str, model: type[Say | Respond], kind: CommandKind) -> HttpResponse:
    find_call_id = partial(call_of, request, session_id)
    access, body = await authorize_and_parse(
        request, Action.SPEAK, model, session_id=session_id, find_call_id=find_call_id
    )
    session = await find_visible(request, session_id, access)
    take_share(request, access, "turns", call=call_key(session.call_type, session.call_id))
    try:
        if session.live is not None:
            await commands.speak(session.live, kind, body.text, interrupt=body.interrupt, by=access.name)
        else:
            await ask(session.key, kind, body.text, interrupt=body.interrupt, by=access.name)
    except commands.CannotSpeak as error:
        raise APIError(409, str(error)) from None
    except TimeoutError:
        raise APIError(504, f"The agent did not take it within {commands.SPEAK_SECONDS:g} seconds") from None
    except commands.AgentFailed as error:
        raise APIError(502, str(error)) from None
    return json_response({"success": True}, 202)
