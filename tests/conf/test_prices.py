"""The setting PRICES: what a session cost, exactly, and what could not be told."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.test import Client as DjangoClient

from tests.agents import StubAgent
from tests.api.fixtures import mount, serve  # noqa: F401
from tests.api.test_history import signed_in  # noqa: F401
from tests.api.test_sessions import elsewhere
from tests.conftest import row_of
from visionagents_runner.conf.prices import Cost, cost_of
from visionagents_runner.models import AgentSession
from visionagents_runner.worker.current import current_worker

LLM = {"llm": {"small": {"input_tokens": 0.15e-6, "output_tokens": "0.6e-6"}}}
TALKED = {"llm_input_tokens__total": 1_000_003, "llm_output_tokens__total": 7, "llm_latency_ms__avg": 9.0}


def part(model: str = "small", provider: str = "acme") -> Any:
    return SimpleNamespace(model=model, provider_name=provider)


AGENT = SimpleNamespace(llm=part(), stt=part("ear"), tts=part("voice"))


@pytest.fixture
def prices(settings: Any) -> Any:
    def give(**table: Any) -> None:
        settings.VISIONAGENTS_RUNNER = {
            **settings.VISIONAGENTS_RUNNER,
            "PRICES": {"currency": "EUR", **table} if table else {},
        }

    return give


def cost(metrics: dict[str, Any], agent: Any = AGENT, seconds: float = 10.0) -> Cost:
    told = cost_of(agent, metrics, seconds)
    assert told is not None
    return told


def test_without_prices_nothing_has_a_cost(prices: Any) -> None:
    prices()
    assert cost_of(AGENT, TALKED, 10) is None


def test_a_float_in_the_table_counts_as_it_was_written(prices: Any) -> None:
    prices(**LLM)
    assert cost(TALKED) == Cost(Decimal("0.1500046500"), "EUR", [])


def test_a_model_without_a_price_adds_nothing_and_is_named(prices: Any) -> None:
    prices(**LLM)
    metrics = {**TALKED, "tts_characters__total": 50}
    assert cost(metrics) == Cost(Decimal("0.1500046500"), "EUR", ["tts acme/voice"])
    assert cost(metrics, SimpleNamespace(llm=part("large"))) == Cost(None, "EUR", ["llm acme/large", "tts"])


def test_half_a_price_is_no_price(prices: Any) -> None:
    prices(llm={"small": {"input_tokens": 1}})
    assert cost(TALKED) == Cost(None, "EUR", ["llm acme/small"])


def test_what_was_used_but_not_counted_is_named_unless_it_is_free(prices: Any) -> None:
    used = {"llm_latency_ms__avg": 9.0, "llm_input_tokens__total": 0}
    prices(**LLM)
    assert cost(used) == Cost(None, "EUR", ["llm acme/small"])
    prices(llm={"*": {"input_tokens": 0, "output_tokens": 0}})
    assert cost(used) == Cost(Decimal(0), "EUR", [])


@pytest.mark.parametrize("name", ["acme/small", "small", "acme/*", "*"])
def test_the_most_exact_name_counts(prices: Any, name: str) -> None:
    order = ["acme/small", "small", "acme/*", "*"]
    later = order[order.index(name) :]
    prices(llm={key: {"input_tokens": order.index(key) + 1, "output_tokens": 0} for key in later})
    assert cost({"llm_input_tokens__total": 2}).amount == 2 * (order.index(name) + 1)


def test_speech_counts_by_the_unit_that_is_priced(prices: Any) -> None:
    prices(stt={"ear": {"audio_seconds": "0.01"}}, tts={"voice": {"characters": "0.001"}})
    heard = {"stt_audio_duration_ms__total": 2500, "tts_audio_duration_ms__total": 900, "tts_characters__total": 30}
    assert cost(heard).amount == Decimal("0.055")


def test_realtime_models_count_by_their_audio_and_a_session_by_its_time(prices: Any) -> None:
    prices(realtime={"*": {"input_audio_seconds": 1, "output_audio_seconds": 2}}, session={"seconds": "0.5"})
    audio = {"realtime_audio_input_duration_ms__total": 3000, "realtime_audio_output_duration_ms__total": 500}
    assert cost(audio, seconds=1.5).amount == Decimal("4.75")


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({"currency": 5}, "['currency'] must name"),
        ({"lim": {}}, "['lim'] is none of"),
        ({"llm": {"a": {"tokens": 1}}}, "['llm']['a']['tokens'] is no unit there"),
        ({"llm": {"a": {"input_tokens": -1}}}, "must be a number that is not negative"),
        ({"llm": {"a": {"input_tokens": True}}}, "must be a number that is not negative"),
        ({"llm": {"a": {"input_tokens": float("nan")}}}, "must be a number that is not negative"),
        ({"llm": {"a": {"input_tokens": "cheap"}}}, "must be a number that is not negative"),
        ({"llm": {"a": 5}}, "['llm']['a'] must be a dict with a price"),
        ({"session": {"minutes": 1}}, "['session']['minutes'] is no unit there"),
    ],
)
def test_a_table_that_is_wrong_is_said_and_never_used(prices: Any, table: dict[str, Any], where: str) -> None:
    prices(**{**LLM, **table})
    (found,) = (message for message in run_checks() if message.id == "visionagents_runner.E016")
    assert where in found.msg
    assert cost_of(AGENT, TALKED, 10) is None


def test_a_sound_table_passes(prices: Any) -> None:
    prices(**LLM, session={"seconds": Decimal("0.1")})
    assert not [message for message in run_checks() if message.id == "visionagents_runner.E016"]


async def test_a_running_session_keeps_its_cost_on_the_row_and_its_last_at_the_end(launch: Any, prices: Any) -> None:
    prices(llm={"*": {"input_tokens": "0.00001", "output_tokens": 0}})
    tokens = [10]

    async def create(**kwargs: Any) -> StubAgent:
        agent = StubAgent()
        agent.metrics = SimpleNamespace(to_dict=lambda: {"llm_input_tokens__total": tokens[0]})  # type: ignore
        return agent

    launcher = await launch(create)
    session = await launcher.start_session("call")
    worker = current_worker()
    assert worker is not None
    await worker._save_metrics()
    row = await row_of(session)
    assert (row.cost, row.cost_currency, row.cost_unpriced) == (Decimal("0.0001"), "EUR", [])
    tokens[0] = 25
    await launcher.close_session(session.id)
    await session.wait()
    assert (await row_of(session)).cost == Decimal("0.00025")


async def test_who_may_not_see_metrics_is_told_no_cost(signed_in: Any) -> None:  # noqa: F811
    row = await elsewhere(cost=Decimal("0.25"), cost_currency="EUR", cost_unpriced=["tts acme/voice"])
    path = f"/sessions/{row.pk}"
    viewer = await signed_in("view_agentsession")
    assert "cost" not in (await viewer.get(path)).json()
    accountant = await signed_in("view_agentsession", "view_metrics")
    told = {"amount": "0.2500000000", "currency": "EUR", "unpriced": ["tts acme/voice"]}
    assert (await accountant.get(path)).json()["cost"] == told
    assert (await accountant.get(f"{path}/metrics")).json()["cost"] == told


async def test_the_page_of_a_session_shows_it(transactional_db: None) -> None:
    row = await elsewhere(cost=Decimal("0.00042"), cost_currency="EUR", cost_unpriced=["tts acme/voice"])

    def page() -> str:
        client = DjangoClient()
        client.force_login(get_user_model().objects.create_superuser("root"))
        return client.get(f"/admin/visionagents_runner/agentsession/{row.pk}/change/").content.decode()

    text = await sync_to_async(page)()
    assert "0.00042 EUR" in text
    assert "without tts acme/voice" in text
    assert AgentSession._meta.get_field("cost").null
