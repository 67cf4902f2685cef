"""What stands between Procrastinate's worker and its tables: no job is fetched but for an agent that has room here."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from procrastinate.connector import BaseAsyncConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Notification, Status
from procrastinate.manager import JobManager, NotificationCallback

from .jobs import queue_name

if TYPE_CHECKING:
    from ..claimer import Claimer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_QUERY_SECONDS = 15.0
"""No query here takes that long: the connection is one that nobody answers any more."""
_FIRST_PAUSE_SECONDS = 0.5
_LAST_PAUSE_SECONDS = 30.0
_DEAF = 3
"""Vain attempts to listen after which that is worth a line: one restart of the database is told of elsewhere."""

_random = random.Random()  # noqa: S311 - only to have workers come back one after the other


def pause(attempt: int) -> float:
    """Return how long to wait, in seconds, after so many vain attempts before this one."""
    longest = min(_LAST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 16))
    return longest * _random.uniform(0.5, 1.0)


class RoomJobManager(JobManager):
    """The job manager of one worker of Procrastinate, which looks for a job when it starts, when it is notified of one,
    and each polling interval.

    That worker has no notion of room, ends if its connection for notifications cannot be had again, and forgets a
    notification that comes while it looks: seen to here.
    """

    def __init__(
        self, connector: BaseAsyncConnector, claimer: Claimer, *, listen: bool, on_answer: Callable[[], None]
    ) -> None:
        super().__init__(connector)
        self._claimer = claimer
        self._listen = listen
        self._on_answer = on_answer
        self._fetched: Counter[str] = Counter()
        self._looked_at: set[str] = set()
        self._missed = False
        self._more_room = asyncio.Event()

    # Room

    def room_changed(self) -> None:
        """Have jobs looked for again if there is room for an agent that had none when that was done last."""
        if self._open_queues() - self._looked_at:
            self._missed = True
            self._more_room.set()

    def _open_queues(self) -> set[str]:
        """Return the queues of the agents with more room than jobs for them that were fetched and go on."""
        room = {queue_name(agent): headroom for agent, headroom in self._claimer.room().items()}
        return {name for name, headroom in room.items() if headroom is None or headroom > self._fetched[name]}

    # What Procrastinate's worker asks for

    async def register_worker(self) -> int:
        self._fetched.clear()
        return await _in_time(super().register_worker())

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        while True:
            # Those with fewer sessions go first.
            await asyncio.sleep(self._claimer.deference())
            self._missed = False
            self._looked_at = self._open_queues()
            if not self._looked_at:
                return None
            job = await _in_time(super().fetch_job(queues=sorted(self._looked_at), worker_id=worker_id))
            self._on_answer()
            if job is not None:
                self._fetched[job.queue] += 1
                return job
            if not self._missed:
                return None

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        self._fetched[job.queue] -= 1
        self.room_changed()
        try:
            await _in_time(super().finish_job(job, status, delete_job))
        except (ConnectorException, TimeoutError) as error:
            # It is swept with those of workers that are gone; or it has been, while this one was slow.
            logger.debug("Job %s could not be ended: %s", job.id, cause_of(error))

    async def update_heartbeat(self, worker_id: int) -> None:
        # The worker would go on without its heartbeat if this failed once.
        with suppress(ConnectorException, TimeoutError):
            await _in_time(super().update_heartbeat(worker_id))

    async def unregister_worker(self, worker_id: int) -> None:
        # Others delete it if this fails; the error that ended the worker is the one to tell of.
        with suppress(ConnectorException, TimeoutError):
            await _in_time(super().unregister_worker(worker_id))

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on_room(on_notification))
            if self._listen:
                group.create_task(self._pass_on_news(on_notification, queues))

    async def _pass_on_room(self, on_notification: NotificationCallback) -> None:
        while True:
            await self._more_room.wait()
            self._more_room.clear()
            await on_notification(channel="room", notification={"type": "job_inserted", "job_id": 0})

    async def _pass_on_news(self, on_notification: NotificationCallback, queues: Iterable[str] | None) -> None:
        attempt = 0

        async def hear(*, channel: str, notification: Notification) -> None:
            nonlocal attempt
            attempt = 0
            self._missed = True
            await on_notification(channel=channel, notification=notification)

        while True:
            try:
                await super().listen_for_jobs(on_notification=hear, queues=queues)
            except (ConnectorException, OSError) as error:
                attempt += 1
                if attempt == _DEAF:
                    logger.warning(
                        "PostgreSQL cannot be listened to: sessions are found by polling for now (%s)", cause_of(error)
                    )
            await asyncio.sleep(pause(attempt))


async def _in_time(answer: Awaitable[T]) -> T:
    async with asyncio.timeout(_QUERY_SECONDS):
        return await answer


def cause_of(error: BaseException) -> str:
    """Return in one line what was wrong; Procrastinate's own errors say "Database error"."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split()) or type(cause).__name__
