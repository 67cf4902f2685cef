"""`WebhookSender`: sends what is due, tries again what failed, and never lets one endpoint hold up another.

It lives on an event loop, but what could hold that up happens elsewhere: queries in the threads of `store.database`,
names are resolved and certificates are read in threads of their own. Any number of processes may send at once: each
attempt is claimed by its row.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..conf.webhooks import Endpoint, endpoints
from ..models import AgentSession, WebhookDelivery
from ..models.delivery import CLAIM_SECONDS
from ..store import database, errors
from ..utils.loops import wait_for_event
from ..utils.tasks import spawn
from .backoff import seconds_before_next
from .message import build_body, sign

if TYPE_CHECKING:
    from .transport import Client

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Between two looks for what other processes enqueued, or whose time has come."""

_RELEASE_SECONDS = 2.0
_GONE = 410
_MAY_SAY_WHEN = frozenset({429, 503})


@dataclass(slots=True)
class Tally:
    """What became of the attempts of this sender."""

    delivered: int = 0
    to_be_tried_again: int = 0
    given_up: int = 0


class WebhookSender:
    def __init__(self, *, poll_seconds: float | None = None) -> None:
        self.tally = Tally()
        self._poll_seconds = POLL_SECONDS if poll_seconds is None else poll_seconds
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = False
        self._attempts: dict[asyncio.Task[None], WebhookDelivery] = {}
        self._clients: dict[Endpoint, Client] = {}
        self._context: ssl.SSLContext | None = None
        self._making = asyncio.Lock()

    def start(self) -> None:
        """Send from now on whatever is due. Without endpoints there is nothing to do, and nothing is done."""
        if endpoints():
            self._task = spawn(self._run(), name="webhook-sender")

    def wake(self) -> None:
        """A session has ended in this process: look now."""
        self._woken.set()

    async def close(self, timeout: float) -> None:
        """Send what is due, but for ``timeout`` seconds at most. What is not sent by then stays for others."""
        if self._task is None:
            return
        self._stopping = True
        self._woken.set()
        with suppress(TimeoutError, *errors.DATABASE_ERRORS):
            async with asyncio.timeout(timeout):
                # Not cancelled: what it claims this very moment would be nobody's until the claim is over.
                await asyncio.wait({self._task})
                await self.send_due()
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        await self.abandon()

    def cancel(self) -> None:
        """Break off everything at once, where nothing can be awaited any longer."""
        for task in (self._task, *self._attempts):
            if task is not None:
                task.cancel()

    async def send_due(self) -> Tally:
        """Send until nothing is due any more and every attempt has ended. What failed is not due for a while."""
        while True:
            await self._fill()
            if not self._attempts:
                return self.tally
            await asyncio.wait(set(self._attempts), return_when=asyncio.FIRST_COMPLETED)

    async def abandon(self) -> None:
        """Break off what is under way, so that others can make those attempts at once, and close all connections."""
        broken_off = dict(self._attempts)
        for task in broken_off:
            task.cancel()
        if broken_off:
            await asyncio.wait(set(broken_off))
            with suppress(TimeoutError, *errors.DATABASE_ERRORS):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    for delivery in broken_off.values():
                        await database.write(delivery.release)
        clients = list(self._clients.values())
        self._clients.clear()
        for client in clients:
            await client.close()

    async def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                await self._fill()
            except errors.DATABASE_ERRORS as error:
                logger.warning("Webhooks wait: the database does not answer: %s", errors.first_line(error))
            except Exception:
                logger.exception("Looking for webhooks to send failed; it goes on")
            await wait_for_event(self._woken, self._poll_seconds)

    async def _fill(self) -> None:
        """Begin as many attempts as there is room for at each endpoint."""
        from .transport import PARALLEL  # late, as below: httpcore is for those who have WEBHOOKS

        known = {endpoint.name: endpoint for endpoint in endpoints()}
        busy = Counter(delivery.endpoint for delivery in self._attempts.values())
        room = {name: PARALLEL - busy[name] for name in known if busy[name] < PARALLEL}
        due = await database.read(_endpoints_due, list(room))
        if not due:
            return
        for delivery in await database.write(WebhookDelivery.objects.claim, {name: room[name] for name in due}):
            task = spawn(self._attempt(known[delivery.endpoint], delivery), name=f"webhook-{delivery.pk}")
            self._attempts[task] = delivery
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._attempts.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("An attempt to send a webhook is made again in %d s: %r", CLAIM_SECONDS, error)
        self._woken.set()

    async def _attempt(self, endpoint: Endpoint, delivery: WebhookDelivery) -> None:
        from .transport import NotSent

        status, retry_after = None, None
        try:
            body = await database.read(build_body, delivery)
            client = await self._client(endpoint)
            answer = await client.post(sign(endpoint, delivery, body), body)
        except AgentSession.DoesNotExist:
            return
        except errors.DATABASE_ERRORS:
            raise
        except NotSent as failure:
            error = str(failure)
        except Exception as failure:  # it counts, or it would be tried for ever
            logger.exception("Webhook %s could not be sent", delivery)
            error = f"Not sent: {type(failure).__name__}, see the log"
        else:
            status, error = answer.status, _objection(answer.status)
            if status in _MAY_SAY_WHEN:
                retry_after = answer.retry_after
        # Whoever waits longer for the database than the claim lasts has lost it: the attempt is made again.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_SECONDS):
                await self._settle(delivery, status, error, retry_after)

    async def _settle(
        self, delivery: WebhookDelivery, status: int | None, error: str, retry_after: float | None
    ) -> None:
        if status is not None and not error:
            if await database.persist(delivery.mark_delivered, status):
                self.tally.delivered += 1
            return
        seconds = None if status == _GONE else seconds_before_next(delivery.attempts, retry_after)
        if not await database.persist(delivery.mark_failed, status=status, error=error, seconds=seconds):
            return
        about = {"session_id": str(delivery.session_id)}
        if seconds is None:
            self.tally.given_up += 1
            logger.error(
                "Webhook %s is given up after %d attempts: %s", delivery, delivery.attempts, error, extra=about
            )
        else:
            self.tally.to_be_tried_again += 1
            logger.warning("Webhook %s: %s; tried again in %.0f s", delivery, error, seconds, extra=about)

    async def _client(self, endpoint: Endpoint) -> Client:
        from .transport import Client, make_context

        async with self._making:
            if endpoint not in self._clients:
                if endpoint.is_https and self._context is None:
                    self._context = await asyncio.to_thread(make_context)
                self._clients[endpoint] = Client(endpoint, self._context)
            return self._clients[endpoint]


def _endpoints_due(names: list[str]) -> list[str]:
    return list(WebhookDelivery.objects.due(names).order_by().values_list("endpoint", flat=True).distinct())


def _objection(status: int) -> str:
    """What is wrong with such an answer, "" for nothing."""
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"Answered {status}: redirects are not followed; write the final address into the setting"
    return f"Answered {status}" + (": it wants no more of this" if status == _GONE else "")
