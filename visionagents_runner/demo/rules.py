"""What the demo agent answers to what: each rule may call functions of `functions`."""

from __future__ import annotations

import re

from .llm import Question, ScriptedLLM

ABILITIES = (
    "I can tell the time, here or in a city: what time is it in Tokyo? I roll dice: roll 2 dice with 20 sides. "
    "I move a robot that is not really there: go forward 10 meters. I remember your name: my name is, and then yours. "
    "And I count the agent sessions on this call: how many sessions are live?"
)
SCRIPTED = "My answers are scripted: rules call functions, there is no language model."
MAX_HEARD = 60
"""Characters that are repeated of what no rule is for."""

_POLITE = re.compile(r"\s+(?:right now|now|today|please|at the moment)\s*$", re.IGNORECASE)
_FILLER = re.compile(r"^(?:(?:um+|uh+|erm?|like|well|actually)\b[\s,.]*)+", re.IGNORECASE)
_DIRECTIONS = {"ahead": "forward", "straight": "forward", "back": "backward"}
_METERS = {"f": 0.3048, "c": 0.01}
"""How many meters a unit is, by its first letter: feet, centimeters. Anything else is meters."""


def add_rules(llm: ScriptedLLM) -> None:
    """Add the rules to ``llm``, on which `register_functions` was called."""

    @llm.rule(r"\b(?:my name is|my name\'s|call me),?\s+(?P<name>\w[\w' ,.-]*)")
    async def introduce(question: Question) -> str:
        name = _POLITE.sub("", _FILLER.sub("", question.match["name"].strip(" ,.!"))).strip(" ,.!")
        return f"Nice to meet you, {await question.call('remember_name', person=question.user_id, name=name)}."

    @llm.rule(r"\bmy name\b|\bwho am i\b")
    async def recall(question: Question) -> str:
        name = await question.call("recall_name", person=question.user_id)
        return f"Your name is {name}." if name else 'You have not told me yet: say "my name is ...".'

    @llm.rule(
        r"\b(?:go|goes|move|drive|walk|step)\b[\s\w]*?\b(?P<way>forward|ahead|straight|backward|back|left|right)s?\b"
        r"(?:\D*?(?P<distance>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*))?"
    )
    async def move(question: Question) -> str:
        way = question.match["way"].lower()
        direction = _DIRECTIONS.get(way, way)
        meters = float(question.match["distance"] or 1) * _METERS.get((question.match["unit"] or "m")[0].lower(), 1.0)
        place = await question.call("move_robot", direction=direction, meters=meters)
        return f"The robot went {direction} {_meters(meters)}. {_place(place)}"

    @llm.rule(r"\bwhere\b.*\b(?:robot|it|you)\b|\brobot\b.*\b(?:position|place)\b")
    async def locate(question: Question) -> str:
        return _place(await question.call("locate_robot"))

    @llm.rule(r"\brol[le]\b|\bdice\b|\b\d*d\d+\b")
    async def roll(question: Question) -> str:
        return await _roll(question)

    @llm.rule(r"\btime\b(?:.*\bin\s+(?P<zone>[A-Za-z][A-Za-z_/+\-0-9 ]*))?")
    async def time(question: Question) -> str:
        zone = _POLITE.sub("", question.match["zone"] or "").strip()
        if zone:
            return (
                f"In {zone.title() if zone.islower() else zone} it is {await question.call('get_time', timezone=zone)}."
            )
        return f"It is {await question.call('get_time')}."

    @llm.rule(r"\bsessions?\b|\bcalls?\b.*\blive\b")
    async def sessions(question: Question) -> str:
        live = await question.call("count_sessions")
        return f"{live} {'session is' if live == 1 else 'sessions are'} live on this call."

    @llm.rule(r"\b(?:what can you do|help|abilities)\b")
    async def abilities(question: Question) -> str:
        return ABILITIES

    @llm.rule(r"\b(?:who|what) are you\b|\bare you (?:an? )?(?:ai|real|human|robot)\b|\blanguage model\b|\bscripted\b")
    async def identify(question: Question) -> str:
        return f"I am the demo agent. {SCRIPTED}"

    @llm.rule(r"\b(?:hello|hi|hey|good (?:morning|afternoon|evening))\b")
    async def greet(question: Question) -> str:
        name = await question.call("recall_name", person=question.user_id)
        return f"Hello{', ' + name if name else ''}! {ABILITIES}"

    @llm.rule(r"\b(?:thanks|thank you)\b")
    async def thank(question: Question) -> str:
        return "You are welcome."

    @llm.rule(r"\b(?:bye|goodbye)\b")
    async def bye(question: Question) -> str:
        return "Goodbye! Leave whenever you like."

    @llm.rule("")
    async def otherwise(question: Question) -> str:
        heard = " ".join(question.text.split())
        if len(heard) > MAX_HEARD:
            heard = f"{heard[:MAX_HEARD].rpartition(' ')[0] or heard[:MAX_HEARD]} ..."
        return f'Sorry, I have no rule for "{heard}". {SCRIPTED} Ask me what I can do.'


async def _roll(question: Question) -> str:
    text = question.said.lower()
    arguments: dict[str, int] = {}
    if notation := _first(r"\b(\d{0,9})d(\d{1,9})\b", text):
        count, sides = notation
        arguments = {"sides": int(sides), **({"count": int(count)} if count else {})}
    else:
        if sides_match := _first(r"\b(\d{1,9})[- ]?(?:sides?|sided)\b", text):
            arguments["sides"] = int(sides_match[0])
        if count_match := _first(r"\b(\d{1,9})\s+(?:\d{1,9}[- ]sided\s+)?(?:dice|die)\b", text):
            arguments["count"] = int(count_match[0])
    shown: list[int] = await question.call("roll_dice", **arguments)
    if len(shown) == 1:
        return f"You rolled {shown[0]}."
    return f"You rolled {', '.join(map(str, shown[:-1]))} and {shown[-1]}: {sum(shown)} in all."


def _place(place: dict[str, float]) -> str:
    parts = [
        f"{_meters(abs(place[axis]))} {positive if place[axis] > 0 else negative}"
        for axis, positive, negative in (
            ("forward", "ahead of", "behind"),
            ("right", "to the right of", "to the left of"),
        )
        if place[axis]
    ]
    return f"It is {' and '.join(parts)} where it started." if parts else "It is where it started."


def _meters(meters: float) -> str:
    return f"{meters:g} meter{'' if meters == 1 else 's'}"


def _first(pattern: str, text: str) -> tuple[str, ...] | None:
    match = re.search(pattern, text)
    return match.groups() if match else None
