"""What goes in and out, as OpenAPI documents it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, get_args

import pydantic
from ninja import Schema
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ..auth.tokens import MAX_SEATS, MAX_TOKEN_SECONDS
from ..exceptions import InvalidInput
from ..models import EndReason, SessionStatus
from ..utils.text import MAX_NAME_LENGTH
from ..utils.validation import MAX_ID_LENGTH, MAX_METADATA_BYTES, clean_call_part, clean_metadata

Status = Literal["queued", "starting", "active", "closing", "unreachable", "closed", "failed", "lost"]
Reason = Literal[
    "finished",
    "requested",
    "idle",
    "max_duration",
    "drained",
    "cancelled",
    "create_failed",
    "join_failed",
    "error",
    "worker_lost",
    "expired",
]
# Written out because an enumeration would be a reference, and ninja documents no references as parameters.
assert set(get_args(Status)) == set(SessionStatus.values)
assert set(get_args(Reason)) == set(EndReason.values)

MAX_LIMIT = 200
MAX_EVENTS = 1000
MAX_SEQ = 2**31 - 1
MAX_SPOKEN_LENGTH = 4000

# A name of a call: no control characters, and neither "." nor "..". Surrogates, which JSON Schema's patterns cannot
# exclude alike everywhere, are refused too.
_NAME_PATTERN = r"^(?!\.\.?$)[^\u0000-\u001f\u007f-\u009f]+$"
NAME: dict[str, Any] = {"minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": _NAME_PATTERN}


def _cleaned(clean: Callable[[Any], Any]) -> AfterValidator:
    """Have pydantic tell of `InvalidInput` as of errors of its own."""

    def check(value: Any) -> Any:
        try:
            return clean(value)
        except InvalidInput as error:
            raise PydanticCustomError("value_error", "{message}", {"message": error.message}) from None

    return AfterValidator(check)


Name = Annotated[str, Field(json_schema_extra=NAME), _cleaned(partial(clean_call_part, "name"))]
# Of keys that are any, because pydantic would tell of each that is no valid Unicode.
Metadata = Annotated[dict[Any, Any], _cleaned(clean_metadata)]
Time = Annotated[datetime, Field(description="UTC, ISO 8601, with Z.")]
SessionId = Annotated[str, Field(description="The session's id, a UUID.")]


# Requests. Keys that are not known are ignored.


class StartCallSession(pydantic.BaseModel):
    """Starts an agent on the call that the path names."""

    call_type: Name = Field("default", description="The type of the call; what it means is the edge's business.")
    agent: str | None = Field(
        None, min_length=1, max_length=100, description="Which of the server's agents; the first one if left out."
    )
    metadata: Metadata | None = Field(
        None,
        description="Any JSON object: kept with the session, and handed to the agent. "
        f"At most {MAX_METADATA_BYTES} bytes, without NUL.",
    )


class StartSession(StartCallSession):
    """Starts an agent on a call."""

    call_id: Name = Field(description="The call that the agent joins.")


class Invite(pydantic.BaseModel):
    """Invites somebody to the call of a session."""

    role: Literal["speaker", "listener"] = Field("speaker", description="A listener hears and reads, and is not heard.")
    name: str = Field(
        "",
        max_length=MAX_NAME_LENGTH,
        description="What they are called on the call; left out, they say it themselves.",
    )
    expires_in: pydantic.StrictInt | None = Field(
        None, ge=1, le=MAX_TOKEN_SECONDS, description="Seconds in which they may join; left out, JOIN_TOKEN_SECONDS."
    )
    seats: pydantic.StrictInt | None = Field(
        None, ge=1, le=MAX_SEATS, description="How many may be there with it at once; left out, as many as LIMITS says."
    )


class Say(pydantic.BaseModel):
    """Has the agent say a text, as it is."""

    text: str = Field(min_length=1, max_length=MAX_SPOKEN_LENGTH, pattern=r"\S", description="What it says.")
    interrupt: bool = Field(False, description="Whether to cut what it is saying; else it says it after that.")


class Respond(pydantic.BaseModel):
    """Has the agent's model respond to an instruction, which nobody on the call sees."""

    text: str = Field(min_length=1, max_length=MAX_SPOKEN_LENGTH, pattern=r"\S", description="The instruction.")
    interrupt: bool = Field(
        True, description="Whether to cut an answer that is under way; else the instruction is ignored meanwhile."
    )


# Answers. Later versions may add keys.


class SessionInfo(Schema):
    session_id: SessionId
    call_id: str
    call_type: str
    agent: str
    status: Status = Field(description="closed, failed and lost are final.")
    end_reason: Reason | None = Field(description="Why it ended; null while it lives.")
    created_at: Time = Field(description="When it was asked for.")
    started_at: Time | None = Field(description="When the agent was built and its join began.")
    joined_at: Time | None = Field(description="When the agent was on the call.")
    ended_at: Time | None


class Cost(Schema):
    """By the operator's price table."""

    amount: str | None = Field(description="Exact decimal number, of all that is priced; null if nothing is.")
    currency: str
    unpriced: list[str] = Field(description="What the amount lacks, because it has no price.")


class SessionDetail(SessionInfo):
    metadata: dict[str, Any]
    due_at: Time | None = Field(
        description="While it is queued no worker takes it earlier; null if it was never queued."
    )
    restart_of: SessionId | None = Field(
        description="The session that this one goes on for, whose worker was lost; else null."
    )
    restarted_as: SessionId | None = Field(
        description="The session that goes on for this one, whose worker was lost; else null."
    )
    cost: Cost | None = Field(None, description="Only where prices are set, and for who may see metrics.")


class SessionStarted(SessionDetail):
    started_at: Time = Field(description="When the agent was built and its join began.")
    invitation: str | None = Field(
        default=None,
        description="A token to join the call by, for who is allowed to start by a rule of the project, and not known.",
    )


class SessionList(Schema):
    items: list[SessionInfo] = Field(description="Newest first.")
    next: str | None = Field(description="Give it as `cursor` to get the following page; null on the last page.")


class Invitation(Schema):
    token: str = Field(description="What a client says with `hello` on the WebSocket of the call.")
    url: str | None = Field(description="The page of the call, for a person; null where the project has none.")
    expires_at: Time = Field(description="Until when one may join. Whoever did stays until the session ends.")
    role: Literal["speaker", "listener"]


class Event(Schema):
    seq: int = Field(description="Counts from 1 within the session, in the order of writing.")
    kind: str = Field(description="What happened.")
    at: Time = Field(description="When it happened, which may be a little before what has a smaller `seq`.")
    data: dict[str, Any] = Field(description="Its keys depend on the kind.")


class EventList(Schema):
    items: list[Event] = Field(
        description="By `seq`. Where some are missing, they hold words that the asker may not read."
    )
    next: int | None = Field(description="Give it as `after` to get the following page; null on the last page.")


class Message(Schema):
    seq: int = Field(description="Of the event that this is.")
    at: Time = Field(description="When it was whole, or was cut.")
    message_id: str
    role: str = Field(description="`user` or `assistant`.")
    user_id: str
    text: str
    completed: bool = Field(description="False for what was cut short.")


class Transcript(Schema):
    session_id: SessionId
    call_id: str
    items: list[Message]
    next: int | None = Field(description="Give it as `after` to get what follows; null at the end.")


class SessionMetrics(Schema):
    session_id: SessionId
    call_id: str
    started_at: Time | None = Field(description="When the agent was built and its join began.")
    metrics_generated_at: Time
    metrics: dict[str, int | float | None] = Field(description="The agent's metrics by name; null is not measured yet.")
    cost: Cost | None = Field(None, description="Only where prices are set.")


class Success(Schema):
    success: Literal[True]


class CallSession(Schema):
    session_id: SessionId
    call_id: str
    session_started_at: Time


class CallSessionMetrics(CallSession):
    metrics_generated_at: Time
    metrics: dict[str, int | float | None] = Field(description="The agent's metrics by name; null is not measured yet.")


class Health(Schema):
    status: Literal["healthy"]
    warmed_up: bool
    running: bool


class Ready(Schema):
    status: Literal["ready"]


class AgentMetrics(Schema):
    active_sessions: int
    sessions_by_status: dict[str, int]
    total_sessions_started: int
    max_concurrent_sessions: int | None
    warmed_up: bool


class Metrics(Schema):
    """Of this process alone; every worker has its own."""

    active_sessions: int = Field(description="Sessions that this process runs, those that start or close included.")
    total_sessions_started: int = Field(description="Since this process began.")
    warmed_up: bool
    running: bool
    draining: bool
    agents: dict[str, AgentMetrics]


class Error(Schema):
    detail: str


class StartError(Error):
    session_id: str | None = Field(None, description="The session that failed, if there is one.")


class Problem(Schema):
    type: str
    loc: list[str | int] = Field(description="Where: path, query or body, and the field.")
    msg: str


class Problems(Schema):
    detail: list[Problem]


# Parameters


class Filters(Schema):
    """Which sessions to list."""

    status: Status | None = None
    agent: str | None = Field(None, json_schema_extra={"maxLength": 100})
    limit: int = Field(50, ge=1, le=MAX_LIMIT, description="Size of a page.")
    cursor: str | None = Field(None, description="`next` of the page before.")


class After(Schema):
    """Which part of a history."""

    after: int = Field(0, ge=0, le=MAX_SEQ, description="Only what has a larger `seq`.")
    limit: int = Field(200, ge=1, le=MAX_EVENTS, description="Most events of a page; it ends at 1 MiB, too.")


class TranscriptPart(Schema):
    after: int = Field(0, ge=0, le=MAX_SEQ, description="Only what has a larger `seq`.")
    limit: int = Field(
        MAX_EVENTS, ge=1, le=MAX_EVENTS, description="Most messages of an answer; it ends at 1 MiB, too."
    )
    format: Literal["json", "text", "vtt"] | None = Field(None, description="Counts before `Accept`.")


class AllFilters(Filters):
    call_id: str | None = Field(None, description="Of any call type.", json_schema_extra=NAME)
