"""What works beside the sessions of a worker, from its start to its end, and belongs to packages above this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from ..models import AgentSession
    from .worker import AgentWorker

S = TypeVar("S", bound="Service")


class Service:
    """One a worker, on its event loop. What a service does not override does nothing."""

    def __init__(self, worker: AgentWorker) -> None:
        self._worker = worker

    async def open(self) -> None:
        """The worker is registered and takes sessions."""

    async def drain(self) -> None:
        """The worker takes no new sessions from now on; those that it has go on."""

    async def close(self) -> None:
        """Its sessions have ended, and their histories are written."""

    def abandon(self) -> None:
        """Stop at once, for a worker that could not end in order; also after `close`."""

    @property
    def in_use(self) -> bool:
        """Whether it serves somebody for whom a drain should wait."""
        return False

    def session_ended(self, session: AgentSession) -> None:
        """A session has ended here: there may be headroom again."""

    def room_changed(self) -> None:
        """There may be more room for sessions here, or less."""


_registered: list[str] = []


def register_service(path: str) -> None:
    """Have every worker of this process run the `Service` at that dotted path; it is imported with the first of them.

    They are opened in the order of their registration, and closed in the opposite one.
    """
    if path not in _registered:
        _registered.append(path)


class Services:
    """Those of one worker."""

    def __init__(self, worker: AgentWorker) -> None:
        self._all: list[Service] = [import_string(path)(worker) for path in _registered]

    def get(self, kind: type[S]) -> S:
        """Return the one of that class.

        Raises:
            LookupError: it is not registered.
        """
        for service in self._all:
            if isinstance(service, kind):
                return service
        raise LookupError(f"No {kind.__name__} is registered as a service of workers")

    async def open(self) -> None:
        for service in self._all:
            await service.open()

    async def drain(self) -> None:
        for service in reversed(self._all):
            await service.drain()

    async def close(self) -> None:
        for service in reversed(self._all):
            await service.close()

    def abandon(self) -> None:
        for service in reversed(self._all):
            service.abandon()

    @property
    def in_use(self) -> bool:
        return any(service.in_use for service in self._all)

    def session_ended(self, session: AgentSession) -> None:
        for service in self._all:
            service.session_ended(session)

    def room_changed(self) -> None:
        for service in self._all:
            service.room_changed()
