"""What a session cost, by the setting ``PRICES``: exact, and never a guess.

What has no price, or was used without being counted, adds nothing and is named in `Cost.unpriced` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from .settings import RunnerSettings, get_settings

DECIMAL_PLACES = 10
MAX_DIGITS = 20
_SMALLEST = Decimal(1).scaleb(-DECIMAL_PLACES)
_TOO_MUCH = Decimal(10) ** (MAX_DIGITS - DECIMAL_PLACES)


@dataclass(frozen=True, slots=True)
class Component:
    """``units`` maps a unit to the metric that counts it and how many of the metric make one unit."""

    part: str
    """Attribute of the agent that holds the model."""
    units: dict[str, tuple[str, int]]
    signs: tuple[str, ...]
    """Metrics that tell that it was used, counted or not."""
    all_units: bool = False
    """Whether its bill is the sum of all units; else they are ways to bill the same work, and one price will do."""


COMPONENTS: dict[str, Component] = {
    "llm": Component(
        "llm",
        {"input_tokens": ("llm_input_tokens__total", 1), "output_tokens": ("llm_output_tokens__total", 1)},
        ("llm_latency_ms__avg",),
        all_units=True,
    ),
    "vlm": Component(
        "llm",
        {"input_tokens": ("vlm_input_tokens__total", 1), "output_tokens": ("vlm_output_tokens__total", 1)},
        ("vlm_inferences__total",),
        all_units=True,
    ),
    "realtime": Component(
        "llm",
        {
            "input_audio_seconds": ("realtime_audio_input_duration_ms__total", 1000),
            "output_audio_seconds": ("realtime_audio_output_duration_ms__total", 1000),
        },
        ("realtime_audio_input_bytes__total", "realtime_audio_output_bytes__total"),
        all_units=True,
    ),
    "stt": Component("stt", {"audio_seconds": ("stt_audio_duration_ms__total", 1000)}, ("stt_latency_ms__avg",)),
    "tts": Component(
        "tts",
        {"characters": ("tts_characters__total", 1), "audio_seconds": ("tts_audio_duration_ms__total", 1000)},
        ("tts_latency_ms__avg",),
    ),
}


@dataclass(frozen=True, slots=True)
class Cost:
    amount: Decimal | None
    """Of all that is priced; None if nothing is."""
    currency: str
    unpriced: list[str]
    """What the amount lacks, as ``"llm openai/gpt-4o-mini"``."""

    def values(self) -> dict[str, Any]:
        """Return the fields of `AgentSession`."""
        return {"cost": self.amount, "cost_currency": self.currency, "cost_unpriced": self.unpriced}


def cost_of(agent: Any, metrics: Mapping[str, Any], seconds: float) -> Cost | None:
    """Return what an agent with these metrics cost in that time; None without a sound price table. Needs no I/O."""
    table = _sound_table()
    if table is None:
        return None
    amounts: list[Decimal] = []
    unpriced: list[str] = []
    for name, component in COMPONENTS.items():
        counts = {unit: _count(metrics.get(metric), per) for unit, (metric, per) in component.units.items()}
        if not any(counts.values()) and not any(metrics.get(sign) for sign in component.signs):
            continue
        names = _names(getattr(agent, component.part, None))
        amount = _amount(_find(table.get(name, {}), names), counts, component)
        if amount is None:
            unpriced.append(f"{name} {names[0] if names else ''}".strip())
        else:
            amounts.append(amount)
    if (price := table.get("session", {}).get("seconds")) is not None:
        amounts.append(_decimal(price) * max(Decimal(0), Decimal(str(seconds))))
    total = sum(amounts, Decimal(0)).quantize(_SMALLEST) if amounts else None
    if total is not None and total >= _TOO_MUCH:
        total, unpriced = None, [*unpriced, "more than can be stored"]
    return Cost(total, table["currency"], unpriced)


def _amount(prices: Mapping[str, Any] | None, counts: Mapping[str, Decimal], component: Component) -> Decimal | None:
    if prices is None:
        return None
    if component.all_units and any(count and unit not in prices for unit, count in counts.items()):
        return None
    known = {unit: _decimal(price) for unit, price in prices.items()}
    # A price for what nobody counted is no price: unless it is nothing anyway.
    if any(known.values()) and not any(counts[unit] for unit in known):
        return None
    return sum((price * counts[unit] for unit, price in known.items()), Decimal(0))


def _find(models: Mapping[str, Any], names: list[str]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = next((models[name] for name in [*names, "*"] if name in models), None)
    return found


def _names(part: Any) -> list[str]:
    """Return how the table may call a model, the most exact first: provider/model, model, provider/*."""
    if part is None:
        return []
    provider = str(getattr(part, "provider_name", None) or type(part).__name__)
    model = getattr(part, "model", None) or getattr(part, "model_name", None)
    if isinstance(model, str) and model:
        return [f"{provider}/{model}", model, f"{provider}/*"]
    return [f"{provider}/*"]


def _count(value: Any, per: int) -> Decimal:
    return Decimal(str(value)) / per if isinstance(value, (int, float)) and value > 0 else Decimal(0)


def _decimal(price: Any) -> Decimal:
    return Decimal(str(price))  # of a float the number that was written, not its nearest binary fraction


_cached: tuple[RunnerSettings, dict[str, Any] | None] | None = None


def _sound_table() -> dict[str, Any] | None:
    global _cached
    settings = get_settings()
    if not settings.PRICES:
        return None
    if _cached is None or _cached[0] is not settings:
        _cached = settings, None if any(find_problems(settings.PRICES)) else settings.PRICES
    return _cached[1]


def find_problems(table: Any) -> Iterator[tuple[str, str]]:
    """Yield (where in the table, what is wrong with it)."""
    if not isinstance(table, dict):
        yield "", f"must be a dict, not a {type(table).__name__}"
        return
    if not table:
        return
    currency = table.get("currency")
    if not isinstance(currency, str) or not 1 <= len(currency) <= 8:
        yield "['currency']", 'must name a currency in at most 8 characters, as in "EUR"'
    for name, models in table.items():
        where = f"[{name!r}]"
        if name == "currency":
            continue
        if name != "session" and name not in COMPONENTS:
            yield where, f"is none of currency, {', '.join(COMPONENTS)}, session"
        elif not isinstance(models, dict):
            yield where, f"must be a dict, not a {type(models).__name__}"
        elif name == "session":
            yield from _price_problems(where, models, ("seconds",))
        else:
            for model, prices in models.items():
                yield from _price_problems(f"{where}[{model!r}]", prices, tuple(COMPONENTS[name].units))


def _price_problems(where: str, prices: Any, units: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if not isinstance(prices, dict) or not prices:
        yield where, f"must be a dict with a price for {' or '.join(units)}"
        return
    for unit, price in prices.items():
        if unit not in units:
            yield f"{where}[{unit!r}]", f"is no unit there: use {' or '.join(units)}"
        elif not _is_price(price):
            yield f"{where}[{unit!r}]", f"must be a number that is not negative, not {price!r}"


def _is_price(price: Any) -> bool:
    if isinstance(price, bool) or not isinstance(price, (int, float, str, Decimal)):
        return False
    try:
        number = _decimal(price)
    except InvalidOperation:
        return False
    return number.is_finite() and number >= 0
