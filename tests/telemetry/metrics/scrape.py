"""Reading what Prometheus reads, with the parsers of its own client library."""

from __future__ import annotations

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.asgi_client import Client

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Page:
    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        self.families = list((parse_openmetrics if openmetrics else parse)(text))
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"visionagents_{name}", frozenset(labels.items())))

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def labels_of(self, name: str) -> set[str]:
        return {label for each, labels in self.samples if each == name for label, _ in labels}


async def scrape(client: Client, **headers: Any) -> Page:
    answer = await client.get("/metrics", headers={"accept": "text/plain", **headers})
    assert answer.status == 200
    return Page(answer.body.decode())
