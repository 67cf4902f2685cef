"""`ScriptedLLM`: answers by rules, calls registered functions the way a model does."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from vision_agents.core.edge.types import Participant
from vision_agents.core.llm.llm import LLM, LLMResponseDelta, LLMResponseFinal
from vision_agents.core.llm.llm_types import NormalizedToolCallItem

from .numbers import with_digits

TOOL_TIMEOUT_SECONDS = 10.0
MAX_MATCHED = 400
"""Characters that rules look at: a pattern with a gap in it takes the square of them, and the loop carries audio."""
_WORD = re.compile(r"\s*\S+\s*")


class ToolFailed(Exception):
    """A registered function raised or took too long; the message is a clause for people to read."""


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody said, and the rule's match in it."""

    text: str
    said: str
    """Its beginning, with numbers as digits: what rules are for."""

    match: re.Match[str]
    user_id: str
    _llm: ScriptedLLM

    async def call(self, name: str, /, **arguments: Any) -> Any:
        """Call a registered function; it shows in events and metrics as a model's tool call does.

        Raises:
            ToolFailed: it raised or took too long.
        """
        return await self._llm.call_tool(name, arguments)


Rule = Callable[[Question], Awaitable[str]]


class ScriptedLLM(LLM):
    """No model: the first rule whose pattern is found in the text gives the answer.

    A rule that raises anything but `ToolFailed` is a bug: it is reported as an LLM error, and the turn has no answer.
    """

    provider_name = "scripted"
    model = "rules"
    note = "scripted answers, no language model"
    """What the call page says beside the agent's name."""

    def __init__(self, *, word_seconds: float = 0.0) -> None:
        """``word_seconds`` is the pause between two words of a reply, after the first sentence."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._word_seconds = word_seconds
        self._rules: list[tuple[re.Pattern[str], Rule]] = []

    def rule(self, pattern: str) -> Callable[[Rule], Rule]:
        """Register the decorated handler for texts in which ``pattern`` is found, in any case. Earlier rules win."""

        def register(handler: Rule) -> Rule:
            self._rules.append((re.compile(pattern, re.IGNORECASE), handler))
            return handler

        return register

    async def simple_response(
        self, text: str, participant: Participant | None = None
    ) -> AsyncIterator[LLMResponseDelta | LLMResponseFinal]:
        began = time.perf_counter()
        try:
            answer = await self._answer(text, participant)
        except Exception as error:
            self.on_llm_error(error=error)
            raise
        item_id = str(uuid.uuid4())
        first_ms = _ms_since(began)
        pause = 0.0
        for index, word in enumerate(_WORD.findall(answer)):
            if index:
                await asyncio.sleep(pause)
            if word.rstrip().endswith((".", "!", "?")):
                pause = self._word_seconds
            yield LLMResponseDelta(
                delta=word,
                content_index=index,
                item_id=item_id,
                sequence_number=index,
                is_first_chunk=index == 0,
                time_to_first_token_ms=first_ms if index == 0 else None,
            )
        # No token counts: there are none. The turn that runs this records the times as the model's metrics.
        yield LLMResponseFinal(
            text=answer,
            item_id=item_id,
            model=self.model,
            latency_ms=_ms_since(began),
            time_to_first_token_ms=first_ms if answer else None,
        )

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        call = NormalizedToolCallItem(
            type="tool_call", id=f"call-{uuid.uuid4().hex[:12]}", name=name, arguments_json=arguments
        )
        [(_, result, error)] = await self._execute_tools([call], timeout_s=TOOL_TIMEOUT_SECONDS)
        if isinstance(error, TimeoutError):
            raise ToolFailed(f"{name} took longer than {TOOL_TIMEOUT_SECONDS:g} seconds") from error
        if error is not None:
            raise ToolFailed(str(error) or type(error).__name__) from error
        return result

    async def _answer(self, text: str, participant: Participant | None) -> str:
        user_id = participant.user_id if participant is not None else ""
        said = with_digits(text[:MAX_MATCHED])
        for pattern, handler in self._rules:
            if match := pattern.search(said):
                try:
                    return await handler(Question(text, said, match, user_id, self))
                except ToolFailed as error:
                    return f"That did not work: {error}."
        return "I have no rule for that."


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
