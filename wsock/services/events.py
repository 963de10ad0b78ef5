"""What happens on this node, told to the outbox: occupancy, presence, connections, quotas, push.

Theory of operation
===================
Whoever notices something calls a method here, which returns at once. What no endpoint of the app wants is dropped
there; all else waits in memory until the outbox has it, for as long as that is away, in the order of the calls.

In a cluster occupancy and presence change in Redis, which puts them into its work queue with the change itself, and
damps them; only what happens to this node alone goes through here. Messages never do: they are recorded with their
commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Raw
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from wsock.errors import Unavailable
from wsock.interfaces import Event, IReceiver, JournalRecord, OutboxRow
from wsock.protocol.codec import encode
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import PresenceChange
from wsock.services.damping import Damping
from wsock.services.outbox import Outbox

__all__ = ["EVENT_TYPES", "Events", "Overheard"]

EVENT_TYPES = {
    "channel.occupied": "A channel has its first subscriber.",
    "channel.vacated": "A channel has lost its last subscriber.",
    "presence.enter": "A member entered a channel.",
    "presence.update": "A member replaced its data.",
    "presence.leave": "A member left a channel.",
    "message.published": "A message was accepted.",
    "connection.opened": "A client connected.",
    "connection.closed": "A connection ended.",
    "quota.warning": "80 % of what the plan allows is used.",
    "quota.exceeded": "All that the plan allows is used.",
    "push.failed": "A push message did not reach a device.",
}
"""What endpoints can be told of."""

_BATCH = 500
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.2, 5.0


class Events(Service):
    """Tells the outbox of events.

    ``new_id`` makes names that never were. Ends (``channel.vacated``, ``presence.leave``) are held back for
    ``quiet_seconds``: who is back by then makes no noise. ``waiting`` are the events that are not in the outbox yet; of
    more than ``most`` the newest are lost, which the log says and ``lost`` counts.
    """

    _log = Logger()

    def __init__(
        self,
        outbox: Outbox,
        clock: IReactorTime,
        now: Callable[[], float],
        new_id: Callable[[], str],
        *,
        quiet_seconds: float = 3.0,
        most: int = 100_000,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._now = now
        self._new_id = new_id
        self._most = most
        self._vacated: Damping[tuple[str, str], Event] = Damping(clock, quiet_seconds, self._tell)
        self._left: Damping[tuple[str, str, str], tuple[Event, bytes]] = Damping(
            clock, quiet_seconds, lambda left: self._tell(left[0])
        )
        self.waiting: deque[Event] = deque()
        self.lost = 0
        self._writing: Deferred[None] | None = None

    # What happens.

    def occupancy(self, app: str, channel: str, is_occupied: bool) -> None:
        """A channel has its first subscriber, or has lost its last one."""
        if is_occupied:
            if self._vacated.began((app, channel)) is None:
                self._happened(app, "channel.occupied", channel, self._timestamped())
        elif self._is_wanted(app, "channel.", channel):
            event = self._event(app, "channel.vacated", channel, self._timestamped())
            self._vacated.ended((app, channel), event)

    async def rows(self, records: list[JournalRecord]) -> list[OutboxRow]:
        """What is to be told of messages that are about to be committed: see :meth:`Outbox.rows`."""
        return await self._outbox.rows(records)

    def kept(self, rows: list[OutboxRow]) -> None:
        """These were stored with their messages."""
        self._outbox.note(rows)

    def may_want(self, app: str, type: str, channel: str = "") -> bool:
        """Whether somebody wants such an event: see :meth:`Outbox.may_want`."""
        return self._outbox.may_want(app, type, channel)

    def presence(self, app: str, change: PresenceChange) -> None:
        """A member entered, changed its data or left."""
        if not self._is_wanted(app, "presence.", change.channel):
            return
        member, kind = change.member, change.kind
        who = (app, change.channel, member.client_id)
        data = bytes(member.data)
        if kind == "leave":
            event = self._event(app, "presence.leave", change.channel, self._member(change))
            self._left.ended(who, (event, data))
            return
        left = self._left.began(who)
        if left is not None:
            if left[1] == data:
                return
            kind = "update"
        self._happened(app, f"presence.{kind}", change.channel, self._member(change))

    def connection_opened(self, app: str, connection: str, **about: str | None) -> None:
        """A client connected; ``about`` are names and values of what is known of it."""
        self._happened(app, "connection.opened", "", {"connectionId": connection, **about, **self._timestamped()})

    def connection_closed(self, app: str, connection: str, **about: str | None) -> None:
        """A connection ended."""
        self._happened(app, "connection.closed", "", {"connectionId": connection, **about, **self._timestamped()})

    def quota_warning(self, app: str, metric: str, used: int, limit: int) -> None:
        """Much of what the app's plan allows is used."""
        self._happened(app, "quota.warning", "", {"metric": metric, "used": used, "limit": limit})

    def quota_exceeded(self, app: str, metric: str, used: int, limit: int) -> None:
        """All of what the app's plan allows is used."""
        self._happened(app, "quota.exceeded", "", {"metric": metric, "used": used, "limit": limit})

    def push_failed(self, app: str, data: Mapping[str, Any], channel: str = "") -> None:
        """A push message did not reach a device; ``data`` says which and why, and holds no token of it."""
        self._happened(app, "push.failed", channel, data)

    def _is_wanted(self, app: str, prefix: str, channel: str) -> bool:
        """Whether any event of these types is: what is damped needs both its beginning and its end."""
        types = (type for type in EVENT_TYPES if type.startswith(prefix))
        return any(self._outbox.may_want(app, type, channel) for type in types)

    def _happened(self, app: str, type: str, channel: str, data: Mapping[str, Any]) -> None:
        if self._outbox.may_want(app, type, channel):
            self._tell(self._event(app, type, channel, data))

    def _event(self, app: str, type: str, channel: str, data: Mapping[str, Any]) -> Event:
        return Event(id=f"evt_{self._new_id()}", app=app, channel=channel, type=type, data=encode(data))

    def _timestamped(self) -> dict[str, Any]:
        return {"timestamp": int(self._now() * 1000)}

    def _member(self, change: PresenceChange) -> dict[str, Any]:
        member = change.member
        # Its data stays the text that it was.
        data = {"clientId": member.client_id, "data": Raw(bytes(member.data)), "joinedAt": member.joined_at}
        if change.reason is not None:
            data["reason"] = change.reason
        return {**data, **self._timestamped()}

    # On the way to the outbox.

    def _tell(self, event: Event) -> None:
        if len(self.waiting) >= self._most:
            if not self.lost:
                self._log.error("the outbox was away for too long: events are lost that webhooks were to be told of")
            self.lost += 1
            return
        self.waiting.append(event)
        if self.running and self._writing is None:
            self._writing = Deferred.fromCoroutine(self._write())

    def startService(self) -> None:
        """Begins to tell the outbox."""
        super().startService()
        if self.waiting and self._writing is None:
            self._writing = Deferred.fromCoroutine(self._write())

    def stopService(self) -> Deferred[None]:
        """Tells of what is held back. Fires when all is in the outbox; cancelled, it gives up what is not."""
        self._vacated.flush()
        self._left.flush()
        super().stopService()
        return self._writing or succeed(None)

    async def _write(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        try:
            # What is told in the same turn goes together.
            await deferLater(self._clock, 0)
            while self.waiting:
                batch = [self.waiting[n] for n in range(min(_BATCH, len(self.waiting)))]
                try:
                    await self._outbox.record(batch)
                except Unavailable:
                    await deferLater(self._clock, delay)
                    delay = min(delay * 2, _LAST_DELAY_SECONDS)
                    continue
                except CancelledError:
                    raise
                except Exception:
                    self._log.failure("events could not be recorded, and are lost")
                for _ in batch:
                    self.waiting.popleft()
                delay = _FIRST_DELAY_SECONDS
        except CancelledError:
            self._log.error("the outbox is away: {count} events are lost", count=len(self.waiting))
        finally:
            self._writing = None


@implementer(IReceiver)
class Overheard:
    """A receiver that tells another one, and ``presence`` of what happens to members."""

    def __init__(self, receiver: IReceiver, presence: Callable[[str, PresenceChange], None]) -> None:
        self._receiver = receiver
        self._presence = presence

    def message(self, app: str, message: Message) -> None:
        """Told on."""
        self._receiver.message(app, message)

    def presence(self, app: str, change: PresenceChange) -> None:
        """Told on, and overheard."""
        self._receiver.presence(app, change)
        self._presence(app, change)

    def moved(self, app: str, channel: str, position: Position) -> None:
        """Told on."""
        self._receiver.moved(app, channel, position)

    def lost(self, app: str, channel: str, position: Position) -> None:
        """Told on."""
        self._receiver.lost(app, channel, position)
