"""What the agent says of what it sees: one function, as one would register it with any model, and the rules for it."""

from __future__ import annotations

from typing import Any

from ..llm import Question, ScriptedLLM
from .processor import OutlineProcessor

ABILITIES = (
    "I look at your camera and outline what moves. Ask me: what do you see, is anything moving, how many faces, "
    "how bright is it, or what colour is it."
)
NO_CAMERA = "I see no camera yet: press Camera."
CAMERA_OFF = "Your camera is off: press Camera."
NO_FACES = (
    "I cannot find faces here: OpenCV 5 comes without its face detector. With opencv-python-headless 4 installed I can."
)


def add_vision(llm: ScriptedLLM, eyes: OutlineProcessor) -> None:
    """Register ``look`` with ``llm``, and add the rules that call it. Before other rules: earlier ones win."""

    @llm.register_function(description="What the camera shows now: faces, moving things, motion, brightness, colour")
    async def look() -> dict[str, Any]:
        sight = eyes.sight
        if sight is None:
            return {"camera": "off" if eyes.had_camera else "none yet"}
        return {"camera": "on" if sight.fresh else "frozen", "seconds_ago": round(sight.age, 1), **sight.seen.as_dict()}

    @llm.rule(r"\bfaces?\b|\bhow many people\b|\bpeople do you see\b")
    async def faces(question: Question) -> str:
        return await _tell(question, lambda seen: _faces(seen["faces"]))

    @llm.rule(r"\bmov(?:es?|ing|ement)\b|\bmotion\b")
    async def moving(question: Question) -> str:
        return await _tell(question, _moving)

    @llm.rule(r"\bcolou?rs?\b")
    async def colour(question: Question) -> str:
        return await _tell(question, _colour)

    @llm.rule(r"\b(?:bright|dark|light|dim)(?:ness|er)?\b")
    async def brightness(question: Question) -> str:
        return await _tell(question, lambda seen: f"The picture is {seen['brightness']}.")

    @llm.rule(r"\b(?:what|do|can) (?:do |can )?you (?:see|look)\b|\bsee me\b|\blook\b|\bcamera\b|\bpicture\b")
    async def everything(question: Question) -> str:
        return await _tell(question, _everything)

    @llm.rule(r"\b(?:what can you do|help|abilities)\b")
    async def abilities(question: Question) -> str:
        return f"{ABILITIES} I also tell the time, and roll dice."


async def _tell(question: Question, answer: Any) -> str:
    seen = await question.call("look")
    if seen["camera"] == "none yet":
        return NO_CAMERA
    if seen["camera"] == "off":
        return CAMERA_OFF
    words: str = answer(seen)
    if seen["camera"] == "frozen":
        return f"Your picture stands still since {seen['seconds_ago']:.0f} seconds. Before that: {words}"
    return words


def _everything(seen: dict[str, Any]) -> str:
    parts = [_moving(seen)]
    if seen["faces"] is not None:
        parts.insert(0, _faces(seen["faces"]))
    parts.append(f"The picture is {seen['brightness']}{_mostly(seen['colour'])}.")
    return " ".join(parts)


def _moving(seen: dict[str, Any]) -> str:
    number = seen["moving_things"]
    if not number:
        return "Nothing moves."
    things = "One thing moves" if number == 1 else f"{number} things move"
    return f"{things}, {seen['motion']}."


def _faces(number: int | None) -> str:
    if number is None:
        return NO_FACES
    if not number:
        return "I see no face: look straight at me."
    return "I see one face." if number == 1 else f"I see {number} faces."


def _colour(seen: dict[str, Any]) -> str:
    if not seen["colour"]:
        return "I see hardly any colour: hold something colourful close to the camera."
    return f"The strongest colour is {seen['colour']}."


def _mostly(colour: str) -> str:
    return f", and its strongest colour is {colour}" if colour else ""
