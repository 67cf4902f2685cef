"""`Relay`: a worker's side of relayed calls: clients here whose agents run elsewhere, and the other way round."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from ...auth.tokens import ROLES
from ...messaging.layer import Link, Message, deliver, get_layer, get_link, worker_group
from ...utils.tasks import HeldTasks, spawn
from ...worker.services import Service
from ..protocol import Code
from .other_worker import BEAT_SECONDS, SILENCE_SECONDS, End, Lane, OtherWorker

if TYPE_CHECKING:
    from ...worker.worker import AgentWorker
    from .member import Guest

logger = logging.getLogger(__name__)

_LAST_SECONDS = 2.0
_KEYS_KEPT = 512
_GOING_AWAY = "The process of the server that runs the agent of this call is going away"
_GONE = "The process of the server that runs the agent of this call is gone"
_NOT_UNDERSTOOD = "The processes of the server are of different versions: join again in a moment"


class Relay(Service):
    """One a worker. Where no channel layer reaches other processes it does nothing."""

    def __init__(self, worker: AgentWorker) -> None:
        super().__init__(worker)
        self._id = worker.id
        self._link: Link | None = None
        self._undo: Callable[[], None] | None = None
        self._others: dict[uuid.UUID, OtherWorker] = {}
        self._members = HeldTasks()
        self._came: deque[str] = deque(maxlen=_KEYS_KEPT)
        """Keys of those who came last, whether they are still here or not."""
        self._beating: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._undo is not None

    @property
    def lanes(self) -> int:
        """How many people are relayed, either way."""
        return sum(len(other.lanes) for other in self._others.values())

    @property
    def in_use(self) -> bool:
        return self.lanes > 0

    async def open(self) -> None:
        self._link = link = get_link()
        if link is not None:
            self._undo = link.join(worker_group(self._id), self._on_message)

    async def close(self) -> None:
        """Tell the other workers that all is over here, and those clients whose agents are elsewhere."""
        if self._link is None or self._undo is None:
            return
        layer, others = get_layer(), list(self._others.values())
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                byes = [(worker_group(other.id), other.bye()) for other in others]
                while self._link.waiting and others:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                for group, bye in byes:  # once more, because the link may close in the middle of the last one
                    await deliver(layer, group, bye)
        except Exception as error:
            logger.debug("Other workers were not told that this one ends: %r", error)
        members = list(self._members)
        self.abandon()
        if members:
            await asyncio.wait(members, timeout=_LAST_SECONDS)

    def abandon(self) -> None:
        """End all here, without a word to others."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        for other in list(self._others.values()):
            self._lose(other, "The server is going away")
        for task in self._members:
            task.cancel()
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    # A client of this worker

    def knock(self, home: uuid.UUID, end: End, guest: Guest) -> Lane:
        """Ask another worker to let somebody into its room."""
        other = self._other(home)
        lane = other.open(uuid.uuid4().hex, end, confirmed=False)
        told = {"call": list(guest.call), "admission": asdict(guest.admission), "name": guest.name}
        other.send({"type": "relay.open", "key": lane.key, "agents": list(guest.agents), **told})
        return lane

    # Messages

    def _on_message(self, message: Message) -> None:
        kind: str = message["type"]
        if not kind.startswith("relay."):
            return
        sender = uuid.UUID(message["from"])
        if kind == "relay.open":
            self._let_in(self._other(sender), message)
        elif (other := self._others.get(sender)) is not None:
            if kind == "relay.bundle":
                other.receive(message)
            elif kind == "relay.over":
                if (lane := other.lanes.get(message["key"])) is not None:
                    other.forget(lane)
                    lane.end.over(message["code"], message["detail"])
            elif kind in {"relay.vet", "relay.vouched"}:
                if (lane := other.lanes.get(message["key"])) is not None:
                    (lane.end.asked if kind == "relay.vet" else lane.end.vouched)(message["n"])
            elif kind == "relay.bye":
                self._lose(other, _GOING_AWAY)

    def _let_in(self, other: OtherWorker, message: Message) -> None:
        from .relayed_member import RelayedMember

        key: str = message["key"]
        if key in other.lanes or key in self._came:
            return  # the layer delivers a message twice now and then
        self._came.append(key)
        try:
            guest = _read_guest(message)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("Worker %s sent somebody whom this version does not understand: %r", other.id, error)
            over = {"code": Code.GOING_AWAY.value, "detail": _NOT_UNDERSTOOD}
            other.send({"type": "relay.over", "key": key, **over})
            return
        member = RelayedMember(guest)
        self._members.hold(member.open(other.open(key, member, confirmed=True)))

    # Peers

    def _other(self, worker_id: uuid.UUID) -> OtherWorker:
        assert self._link is not None
        other = self._others.get(worker_id)
        if other is None:
            other = self._others[worker_id] = OtherWorker(self._link, self._id, worker_id)
        if self._beating is None:
            self._beating = spawn(self._beat(), name="call-relay-beat")
        return other

    def _lose(self, other: OtherWorker, why: str) -> None:
        self._others.pop(other.id, None)
        other.dispose()
        for lane in list(other.lanes.values()):
            other.forget(lane)
            lane.end.broken(why)

    async def _beat(self) -> None:
        beaten_at = time.monotonic()
        while self._others:
            await asyncio.sleep(BEAT_SECONDS)
            now = time.monotonic()
            late = now - beaten_at > 2 * BEAT_SECONDS
            beaten_at = now
            for other in list(self._others.values()):
                if not other.lanes:
                    self._others.pop(other.id, None)
                    other.dispose()
                    continue
                if late:  # it was this process that was held up: what they sent meanwhile is about to be read
                    other.heard_at = now
                if now - other.heard_at > SILENCE_SECONDS:
                    logger.warning("Worker %s does not answer: %d relayed people leave", other.id, len(other.lanes))
                    self._lose(other, _GONE)
                else:
                    other.beat()
        self._beating = None


def _read_guest(message: Message) -> Guest:
    """Return whom another worker, perhaps of another version, asks to let in.

    Raises:
        KeyError, TypeError, ValueError: something is missing, or is not what it should be.
    """
    from .access import Admission
    from .member import Guest

    call_type, call_id = message["call"]
    told = message["admission"]
    admission = Admission(**{each.name: told[each.name] for each in fields(Admission) if each.name in told})
    if admission.role not in ROLES:
        raise ValueError(f"role is {admission.role!r}")
    if (judged := told["judged"]) is not None and not isinstance(judged, (list, tuple)):
        raise ValueError(f"judged is {judged!r}")
    return Guest((call_type, call_id), admission, message["name"], tuple(message["agents"]))
