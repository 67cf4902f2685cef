"""What takes queued sessions for a worker, with the engine that the project has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .claimer import Claimer
from .procrastinate import load_engine

if TYPE_CHECKING:
    from ..worker.worker import AgentWorker


def make_claimer(worker: AgentWorker) -> Claimer:
    return Claimer(worker, load_engine)
