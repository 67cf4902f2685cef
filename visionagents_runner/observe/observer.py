"""`Observer`: one agent's events, in order, redacted, for whoever listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .bus import is_realtime, watch_bus
from .hooks import Undo, quietly
from .jsonsafe import json_safe
from .redaction import RedactionFailed, apply_redact
from .requests import watch_requests
from .streams import watch_streams
from .turns import TurnTracker
from .words import WordsWatch

if TYPE_CHECKING:
    from vision_agents.core import Agent

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_visionagents_runner_observer"


@dataclass(frozen=True, slots=True)
class Observed:
    """One thing that happened. Listeners share it: they must not change ``data``."""

    kind: str
    data: dict[str, Any]
    """JSON of at most 16 KB, redacted; its keys depend on ``kind``."""

    at: float
    """When it happened, as of ``time.time()``."""


Listener = Callable[[Observed], None]
"""Called on the event loop, often within the agent's own work: it must not block, only pass on."""


def observe(agent: Agent) -> Observer:
    """Return the observer of ``agent``, the same one each time, until it is closed.

    It may be made before the agent joins or after; what happened earlier is not told. Who only listens calls what
    `Observer.add_listener` returned when done; the session that runs the agent closes the observer.
    """
    # Kept on the agent, not in a weak dict: an observer refers to its agent by the hooks, and would never be collected.
    observer: Observer | None = vars(agent).get(_ATTRIBUTE)
    if observer is None or observer.closed:
        observer = Observer(agent)
        vars(agent)[_ATTRIBUTE] = observer
    return observer


class Observer:
    """Made by `observe`.

    Kinds and their data are those of `SessionEvent`; see ``SessionEvent.kind``. ``partial`` is for live viewers only.
    An event that ``REDACT`` fails on is told to nobody; a ``dropped`` event counts it instead.
    """

    def __init__(self, agent: Agent) -> None:
        self.session_id = ""
        """The id of the session that runs the agent, for ``REDACT``; "" for an agent without one."""
        self.closed = False

        self._listeners: list[Listener] = []
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._withheld: set[str] = set()
        self._words: WordsWatch | None = None
        self._turns: TurnTracker | None = None
        self._undo: list[Undo] = []
        if getattr(agent, "events", None) is not None:  # a stub has none, and costs no import
            self._watch(agent)

    def _watch(self, agent: Agent) -> None:
        speaks = getattr(agent, "tts", None) is not None
        turns = TurnTracker(lambda turn: self.tell("turn", turn), speaks=speaks, realtime=is_realtime(agent))
        words = WordsWatch(agent, self.tell, turns)
        self._turns, self._words = turns, words
        self._undo += watch_bus(agent, self.tell, turns, words)
        self._undo += watch_streams(agent, turns, words)
        self._undo += watch_requests(agent, self.tell, turns, words)

    def add_listener(self, listener: Listener) -> Undo:
        """Have ``listener`` told of everything from now on. Returns what ends that."""
        self._listeners.append(listener)

        def undo() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return undo

    def when(self, kind: str, call: Callable[[], None]) -> None:
        """Have ``call()`` called whenever an event of that kind happens, whatever ``REDACT`` makes of it."""
        self._watchers.setdefault(kind, []).append(call)

    def voiced(self, participant_id: str, at: float) -> None:
        """The last audible audio of a person arrived, at ``at`` as of ``time.monotonic()``. Cheap enough per frame."""
        if self._turns is not None:
            self._turns.voiced(participant_id, at)

    def played(self, at: float) -> None:
        """The first frame of the agent's voice after silence really went out, at ``at`` as of ``time.monotonic()``."""
        if self._turns is not None:
            self._turns.played(at)

    def redacted(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what may be shown of an event that does not come from here; None for nothing.

        For an edge that shows words to people by a way of its own.
        """
        safe = json_safe(data)
        try:
            result = apply_redact(self.session_id, kind, safe)
        except RedactionFailed as error:
            self._complain(kind, error)
            return None
        return result if result is None or result is safe else json_safe(result)

    def tell(self, kind: str, data: Mapping[str, Any], at: float | None = None) -> None:
        """Tell the listeners of an event, if ``REDACT`` lets it pass."""
        if self.closed:
            return
        for call in self._watchers.get(kind, ()):
            quietly(kind, call)
        if not self._listeners:
            return
        at = time.time() if at is None else at
        safe = json_safe(data)
        try:
            result = apply_redact(self.session_id, kind, safe)
        except RedactionFailed as error:
            self._complain(kind, error)
            self._pass_on(Observed("dropped", {"kinds": {kind: 1}, "reason": "REDACT failed"}, at))
            return
        if result is not None:
            self._pass_on(Observed(kind, result if result is safe else json_safe(result), at))

    def close(self) -> None:
        """Tell what is still open (a turn, an unfinished reply) and take back every hook. May be called twice."""
        if self.closed:
            return
        if self._words is not None:
            quietly("the last words", self._words.close)
        if self._turns is not None:
            quietly("the last turn", self._turns.close)
        for undo in reversed(self._undo):
            quietly("the end", undo)
        self._undo.clear()
        self.closed = True
        self._listeners.clear()

    def _complain(self, kind: str, error: RedactionFailed) -> None:
        """Say so once for each kind: there may be many a second."""
        if kind not in self._withheld:
            self._withheld.add(kind)
            logger.error("Events of kind %r of session %s are withheld: %s", kind, self.session_id or "none", error)

    def _pass_on(self, observed: Observed) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(observed)
            except Exception:
                logger.exception("A listener of the observer failed on %r", observed.kind)
