"""What passes through the output streams of speech recognition and Realtime models, and nowhere else.

In vision-agents 0.6.9 partial transcripts and the moment at which a turn ends are told by no event: a speech
recognition puts them into its ``output`` stream, a turn detector's are forwarded there, and a Realtime model has one
like it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .bus import is_realtime
from .hooks import Undo, hook, quietly

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from .turns import TurnTracker
    from .words import WordsWatch


class _Hooked:
    """The hook of one component's stream; a component may make a new stream when it starts."""

    def __init__(self, component: Any, on_item: Callable[[Any], None]) -> None:
        self._component = component
        self._on_item = on_item
        self._stream: Any = None
        self._undo: Undo | None = None

    def renew(self) -> None:
        stream = getattr(self._component, "output", None)
        if stream is self._stream or not hasattr(stream, "send_nowait"):
            return
        self.undo()

        def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
            def send_nowait(item: Any) -> None:
                original(item)
                quietly("a stream", self._on_item, item)

            return send_nowait

        self._stream = stream
        self._undo = hook(stream, "send_nowait", make)  # Stream.send() ends in it too

    def undo(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = self._stream = None


def watch_streams(agent: Agent, turns: TurnTracker, words: WordsWatch) -> list[Undo]:
    """Hook the streams now, and again when the conversation is made, which is just before they are read."""
    watched: list[_Hooked] = []
    if getattr(agent, "stt", None) is not None:
        watched.append(_Hooked(agent.stt, _recognition(turns, words)))
    if is_realtime(agent):
        watched.append(_Hooked(agent.llm, _realtime(turns, words)))
    for hooked in watched:
        hooked.renew()
    undo = [hooked.undo for hooked in watched]
    edge = getattr(agent, "edge", None)
    if edge is None or not hasattr(edge, "create_conversation"):
        return undo

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        async def create_conversation(*args: Any, **kwargs: Any) -> Any:
            conversation = await original(*args, **kwargs)
            for hooked in watched:
                quietly("a stream", hooked.renew)
            if conversation is not None:
                quietly("a conversation", words.watch, conversation)
            return conversation

        return create_conversation

    return [*undo, hook(edge, "create_conversation", make)]


def _recognition(turns: TurnTracker, words: WordsWatch) -> Callable[[Any], None]:
    from vision_agents.core.stt.stt import Transcript
    from vision_agents.core.turn_detection import TurnEnded, TurnStarted

    def on_item(item: Any) -> None:
        now = time.monotonic()
        if isinstance(item, Transcript):
            words.heard(item.participant, item.text, item.mode)
            if item.final:
                turns.recognised(str(item.participant.id), now, item.processing_time_ms)
        elif isinstance(item, TurnStarted):
            turns.user_started(str(item.participant.id), now)
        elif isinstance(item, TurnEnded) and not item.eager:
            turns.user_ended(str(item.participant.id), now, item.trailing_silence_ms)

    return on_item


def _realtime(turns: TurnTracker, words: WordsWatch) -> Callable[[Any], None]:
    from vision_agents.core.llm import realtime

    def on_item(item: Any) -> None:
        now = time.monotonic()
        if isinstance(item, realtime.RealtimeAudioOutput):
            turns.voice(now, item.data.duration if item.data is not None else 0.0)
        elif isinstance(item, realtime.RealtimeUserSpeechStarted):
            turns.user_started(str(item.participant.id), now)
        elif isinstance(item, realtime.RealtimeUserSpeechEnded):
            turns.user_ended(str(item.participant.id), now, None)
        elif isinstance(item, realtime.RealtimeUserTranscript):
            turns.said(str(item.participant.id), now)
        elif isinstance(item, realtime.RealtimeAudioOutputDone):
            if item.interrupted:
                turns.interrupted(now)
                words.interrupted()
            else:
                turns.reply_completed("", now)

    return on_item
