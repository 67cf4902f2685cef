"""The ``VISIONAGENTS_RUNNER`` setting: one dict, read lazily, every default in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

SETTING = "VISIONAGENTS_RUNNER"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """Deployment knobs. What the API allows is in `ServeOptions`; limits of one agent are on its `AgentLauncher`."""

    RUNNER: str = ""
    """Dotted path of the project's ``Runner``, for example ``"project.agents.runner"``."""

    ALLOW_LOCAL: bool | None = None
    """Whether a local request needs no sign-in. None: only with DEBUG, or in a script without a project."""

    LEAN_API: Literal["auto"] | bool = "auto"
    """Whether the API is served without the host's middleware. "auto": where MIDDLEWARE is Django's own."""

    API_MIDDLEWARE: tuple[str, ...] = ()
    """Dotted paths of the middleware that the lean API runs, outermost first."""

    MAX_BODY_BYTES: int = 1024 * 1024
    """Largest request body that the API reads, in bytes; larger ones are 413, while they stream in. No route needs more
    than 100 KB. Reading holds the interpreter for some milliseconds a MiB."""

    MAX_PROJECT_BODY_BYTES: int | None = 100 * 1024 * 1024
    """The same of the project's other paths, uploads included. None: what Django takes, which is files of any size."""

    MAX_MESSAGE_BYTES: int = 1024 * 1024
    """Largest message of a WebSocket that ``serveagents`` takes, in bytes; above it the connection ends (1009)."""

    HEAD_TIMEOUT: float = 10.0
    """Seconds that a client may take to send a request's first line and headers; 0 for any. This and the three below
    are for the servers of ``serveagents``. None of them ends an answer that takes its time, nor a call."""

    BODY_TIMEOUT: float = 30.0
    """Seconds that a request's body may come slower than 4 KiB a second; 0 for any."""

    SEND_TIMEOUT: float = 30.0
    """Seconds that a client may take less than 4 KiB a second of what waits to be sent to it; 0 for any."""

    KEEP_ALIVE_TIMEOUT: float = 60.0
    """Seconds that a connection may wait for its next request; 0 for any."""

    START_TIMEOUT: float = 60.0
    """Seconds that ``create_agent`` may take before the session is cancelled."""

    DRAIN_TIMEOUT: float = 30.0
    """Seconds that calls may go on after SIGTERM before they are closed."""

    HEARTBEAT_INTERVAL: float = 5.0
    """Seconds between two heartbeats of a worker."""

    WORKER_TTL: float = 30.0
    """Seconds without a heartbeat after which a worker's sessions are unreachable."""

    WORKER_GRACE: float = 60.0
    """Further seconds after which an unreachable session is lost for good."""

    POLL_INTERVAL: float = 1.0
    """Seconds between two looks for what other processes want of this worker's sessions, and for queued ones. With a
    channel layer it is told at once."""

    MAX_SESSIONS: int | None = None
    """Most live sessions on all workers together; None: no limit but each worker's. Limits of one agent are on its
    ``AgentLauncher``."""

    MAX_SESSIONS_PER_USER: int | None = None
    """Most live sessions of one signed-in user, on all workers together."""

    PLACE_TIMEOUT: float = 10.0
    """Seconds that a start waits for another worker to take it where this one is full; then the answer is 429."""

    DISPATCH_ENGINE: Literal["auto", "poll", "procrastinate"] = "auto"
    """What moves dispatched sessions to workers. "poll": a look each POLL_INTERVAL, and hints over the channel layer.
    "auto": Procrastinate where its Django app is installed and the database is PostgreSQL."""

    METRICS_INTERVAL: float = 5.0
    """Seconds between two snapshots of an agent's metrics to its row, where they changed."""

    LOG_FORMAT: Literal["text", "json"] = "text"
    """How ``serveagents`` and ``runagent`` log where the project has not configured logging: lines, or JSON objects."""

    LOOP_LAG_WARNING: float = 0.2
    """Seconds that something may hold the event loop before the log names it; 0 for never."""

    LOOP_LAG_LIMIT: float = 0.5
    """Seconds. While things had to wait longer than that for a fifth of the last ten seconds, in several pauses, the
    worker is overloaded and takes no new sessions; 0 for never."""

    ICE_SERVERS: tuple[dict[str, Any], ...] = ()
    """STUN and TURN servers of calls in the browser, as browsers take them: ``{"urls": ..., "username": ...,
    "credential": ...}``. None by default: nobody outside is asked, and a browser reaches the worker directly."""

    MAX_PEOPLE_PER_CALL: int = 20
    """How many people one call in the browser takes."""

    LIMITS: dict[str, Any] = field(default_factory=dict)
    """How much one person, invitation, user, API key, address or call may have of a worker, where it differs from the
    defaults: ``{"turns_per_person": "60/m burst 10", "seats_per_identity": 2}``."""

    TRUSTED_PROXIES: tuple[str, ...] = ()
    """Addresses or networks (``"10.0.0.0/8"``) of the project's own proxies. Behind them a client's address, by which
    LIMITS counts, is the last in X-Forwarded-For, or in Forwarded, that is none of theirs."""

    JOIN_TOKEN_SECONDS: int = 3600
    """How long an invitation to a call counts, unless it says otherwise. It is void when its session ends."""

    GUESTS_SEE_TOOLS: bool = False
    """Whether guests, who joined by an invitation, see which tools an agent calls, with arguments and results."""

    RECOGNITION_MODEL: str = ""
    """Path of the model of the local speech recognition (a folder for faster-whisper), or its name there. "": the one
    of an installed package, else the smallest English one is downloaded."""

    VOICE_MODEL: str = ""
    """Path of the local voice (a Piper ``.onnx`` file), or ``"espeak"``. "": the one of an installed package."""

    REDACT: str = ""
    """Dotted path of a callable that sees every event of a session before it is kept or shown."""

    FLUSH_INTERVAL: float = 0.25
    """Seconds between two writes of events to the database."""

    EVENT_QUEUE_SIZE: int = 20_000
    """How many events of this process may wait to be written; above it the least valuable are dropped, and counted."""

    WEBHOOKS: tuple[dict[str, Any], ...] = ()
    """Who is told that a session has ended, by a signed message: ``{"URL": "https://...", "SECRET": "whsec_...",
    "NAME": ..., "ALLOW_PRIVATE": False}``."""

    PRICES: dict[str, Any] = field(default_factory=dict)
    """What models cost, for the cost of each session: ``{"currency": "EUR", "llm": {"gpt-4o-mini": {"input_tokens":
    "0.15e-6", "output_tokens": "0.6e-6"}}, "tts": {"*": {"characters": "15e-6"}}, "session": {"seconds": "1e-5"}}``.
    None by default."""

    RETENTION: timedelta | float | None = None
    """How long ended sessions are kept, as a timedelta or in seconds: what ``manage.py pruneagentsessions`` goes by,
    unless told otherwise. None: for ever. Nothing is deleted unless that command runs."""


_cached: RunnerSettings | None = None


def known_keys() -> frozenset[str]:
    return frozenset(knob.name for knob in fields(RunnerSettings))


def unknown_keys() -> list[str]:
    """Keys of the setting that mean nothing here, sorted: a system check names them."""
    return sorted(set(_raw()) - known_keys())


def get_settings() -> RunnerSettings:
    global _cached
    if _cached is None:
        known = known_keys()
        _cached = RunnerSettings(**{key: _frozen(value) for key, value in _raw().items() if key in known})
    return _cached


def foreign_middleware() -> list[str]:
    """Return the middleware of the project that is neither Django's nor named in API_MIDDLEWARE.

    It might guard something, so the API does not run around it unless told to.
    """
    known = get_settings().API_MIDDLEWARE
    return [path for path in settings.MIDDLEWARE if not path.startswith("django.") and path not in known]


def _raw() -> dict[str, Any]:
    raw = getattr(settings, SETTING, None) or {}
    if not isinstance(raw, dict):
        raise ImproperlyConfigured(f"{SETTING} must be a dict, not a {type(raw).__name__}")
    return raw


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, set)) else value


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        global _cached
        _cached = None


setting_changed.connect(_forget, dispatch_uid="visionagents_runner.conf.settings")
