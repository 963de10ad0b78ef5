"""A connected client, as the verbs see it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import IBroker
from wsock.protocol.codec import encode
from wsock.protocol.frames import Ack, Event, Subscribed, Token, Unsubscribed
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import LeaveReason
from wsock.protocol.session import Session, error_event
from wsock.protocol.wire import text_frame
from wsock.services.app_meter import AppMeters
from wsock.services.auth import Auth, Credential
from wsock.services.events import Events
from wsock.services.hub import Hub, Topic
from wsock.services.messages import Messages
from wsock.services.presence import Presence
from wsock.services.quotas import Quotas
from wsock.services.replay import Cursor, Paced, Replay
from wsock.services.tenants import Tenants
from wsock.services.turn import Turn

__all__ = ["Peer", "Services"]

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the verbs work with."""

    auth: Auth
    broker: IBroker
    hub: Hub
    messages: Messages
    presence: Presence
    turn: Turn
    clock: IReactorTime
    now: Callable[[], float]
    max_channels: int
    tenants: Tenants | None = None
    meters: AppMeters = field(default_factory=AppMeters)
    quotas: Quotas | None = None
    events: Events | None = None


class Peer:
    """One connected client: its credential, its channels, and a way to send it events.

    ``channels`` are the topics it is subscribed to, ``present`` those in which this connection holds its member;
    each of them is held open in the hub.
    """

    __slots__ = (
        "_leave_reason",
        "_owed",
        "_paying",
        "_replay",
        "_replaying",
        "_rewound",
        "_token_timestamp",
        "channels",
        "client_id",
        "credential",
        "id",
        "is_closed",
        "meter",
        "outlet",
        "present",
        "services",
        "session",
    )

    _log = Logger()

    def __init__(self, services: Services, id: str, credential: Credential, session: Session, outlet: Paced) -> None:
        self.services = services
        self.id = id
        self.credential = credential
        self.meter = services.meters.app(credential.app)
        self.client_id = credential.client_id or f"conn-{id}"
        self.session = session
        self.outlet = outlet
        self.channels: dict[str, Topic] = {}
        self.present: dict[str, Topic] = {}
        self.is_closed = False
        self._leave_reason: LeaveReason | None = None
        self._rewound: set[str] | None = None
        self._owed: dict[str, Callable[[], Awaitable[None]]] | None = None
        self._paying: Deferred[None] | None = None
        self._replay: Replay | None = None
        self._replaying: Deferred[None] | None = None
        self._token_timestamp: int | None = None

    @property
    def app(self) -> str:
        """The app that the client belongs to."""
        return self.credential.app

    def expiry(self) -> float | None:
        """When the credential expires, on the services' clock."""
        at = self.credential.expires_at
        return None if at is None else self.services.clock.seconds() + at - self.services.now()

    def send(self, event: Event) -> None:
        """The client gets the event at the end of this turn."""
        self.services.turn.send(self.outlet, text_frame(encode(event)))

    async def send_large(self, event: Event) -> None:
        """The client gets the event once it has read what it was sent before: it may be as large as the queue."""
        drained = self.outlet.drained()
        if drained is not None:
            await drained
        self.send(event)

    def refuse(self, refused: Refused, *, channel: str | None = None, id: str | None = None) -> None:
        """The client gets an error frame."""
        self.send(error_event(refused, channel=channel, id=id))

    # Presence.

    async def return_home(self) -> None:
        """Takes over the members that a lost connection of the same client left behind (protocol.md I.5.6)."""
        channels = await self.services.presence.returned(self.app, self.client_id, self.id)
        try:
            for channel in channels:
                topic = await self.services.hub.open(self.app, channel)
                if self.is_closed or channel in self.present:
                    self.services.hub.close(topic)
                else:
                    self.is_present(topic)
        finally:
            await self.release([channel for channel in channels if channel not in self.present])

    def is_present(self, topic: Topic) -> None:
        """The connection holds its member in the topic, which is held open for it."""
        self.present[topic.channel] = topic
        self.services.hub.watch(topic, self.outlet)

    def is_absent(self, topic: Topic) -> None:
        """The connection holds its member there no more."""
        self.present.pop(topic.channel, None)
        if self._replay is None or topic.channel not in self.channels:
            self.services.hub.unwatch(topic, self.outlet)
        self.services.hub.close(topic)

    async def release(self, channels: list[str]) -> None:
        """Lets go of the member in these channels in the way in which the connection ended."""
        if not channels:
            return
        presence = self.services.presence
        if self._leave_reason is None:
            await presence.lost(self.app, self.client_id, self.id, channels)
        else:
            await presence.closed(self.app, self.client_id, self.id, channels, self._leave_reason)

    # Subscriptions.

    async def open(self, channel: str) -> Topic:
        """The channel's topic, held until the hub closes it.

        Raises :class:`Refused` with ``quota_exceeded`` when the app's plan allows no further channel.
        """
        hub, quotas = self.services.hub, self.services.quotas
        if quotas is not None and self.meter.quota is not None and hub.topic(self.app, channel) is None:
            await quotas.admit_channel(self.meter, channel)
        return await hub.open(self.app, channel)

    def require_room(self) -> None:
        """Refuses to subscribe to one more channel beyond the limit."""
        self._require_room(self.channels, "subscribed to")

    def require_room_to_enter(self) -> None:
        """Refuses to be present in one more channel beyond the limit."""
        self._require_room(self.present, "present in")

    def _require_room(self, held: dict[str, Topic], how: str) -> None:
        limit = self.services.max_channels
        if len(held) >= limit:
            text = f"this connection is {how} {limit} channels already (limits.channels_per_connection)"
            raise Refused(Code.LIMIT_EXCEEDED, text)

    def may_rewind(self, channel: str) -> bool:
        """Whether the channel was not rewound on this connection yet (protocol.md I.2). Asking counts."""
        if self._rewound is None:
            self._rewound = set()
        if channel in self._rewound or len(self._rewound) >= self.services.max_channels:
            return False
        self._rewound.add(channel)
        return True

    def subscribed(self, topic: Topic, start: Position, rewound: list[Message]) -> None:
        """The topic, held open for this client, is subscribed: delivery starts behind the position.

        ``rewound`` messages go first.
        """
        self.channels[topic.channel] = topic
        topic.subscribers += 1
        self.send(Subscribed(topic.channel, start.epoch, start.sequence))
        if self._replay is None and not rewound and start == topic.position:
            self.services.hub.join(topic, self.outlet)
        else:
            self._replay_with(Cursor(topic, start, rewound))

    def owe(self, channel: str, subscribe: Callable[[], Awaitable[None]]) -> None:
        """The channel could not be subscribed now: it will be, as soon as that works again.

        No more are owed than may be subscribed; beyond that the refusal is all that the client gets.
        """
        if self._owed is None:
            self._owed = {}
        if len(self._owed) + len(self.channels) >= self.services.max_channels and channel not in self._owed:
            return
        self._owed[channel] = subscribe
        if self._paying is None:
            self._paying = Deferred.fromCoroutine(self._pay())

    async def _pay(self) -> None:
        try:
            while self._owed:
                await deferLater(self.services.clock, _RETRY_SECONDS)
                for channel, subscribe in list(self._owed.items()):
                    if self._owed.get(channel) is subscribe and not await self._has_paid(channel, subscribe):
                        break
        except CancelledError:
            # The client has gone, and owes and is owed nothing.
            return
        self._paying = None

    async def _has_paid(self, channel: str, subscribe: Callable[[], Awaitable[None]]) -> bool:
        """Tries once; ``False`` when the store is still away."""
        try:
            await subscribe()
        except CancelledError:
            raise
        except Unavailable:
            return False
        except Refused as e:
            self.refuse(e, channel=channel)
        except Exception:
            self._log.failure("a subscription could not be made up for")
        if self._owed is not None:
            self._owed.pop(channel, None)
        return True

    def subscribed_again(self, topic: Topic) -> None:
        """Tells the client so; neither delivery nor a replay starts again."""
        self.send(Subscribed(topic.channel, topic.epoch, topic.sequence))

    def unsubscribe(self, channel: str) -> None:
        """Delivery of the channel ends; the client is told in any case."""
        if self._owed is not None:
            self._owed.pop(channel, None)
        topic = self.channels.pop(channel, None)
        if topic is not None:
            topic.subscribers -= 1
            if self._replay is not None:
                self._replay.drop(channel)
            if channel not in self.present:
                self.services.hub.unwatch(topic, self.outlet)
            self.services.hub.part(topic, self.outlet)
            self.services.hub.close(topic)
        self.send(Unsubscribed(channel))

    def start_replay(self) -> None:
        """Runs the replay that :meth:`subscribed` prepared, unless one runs already."""
        if self._replay is not None and self._replaying is None:
            replaying = Deferred.fromCoroutine(self._replay.run())
            replaying.addErrback(self._replay_failed)
            if self._replay is not None:  # else it has ended without waiting
                self._replaying = replaying

    def _replay_with(self, cursor: Cursor) -> None:
        s = self.services
        if self._replay is None:
            self._replay = Replay(s.hub, s.broker, s.turn, s.clock, self.outlet, self._replayed)
            for topic in self.channels.values():
                self._hold_back(topic)
        self._replay.add(cursor)
        # Its presence changes are not held back: a replay does not bring them.
        s.hub.watch(cursor.topic, self.outlet)

    def _hold_back(self, topic: Topic) -> None:
        """A live channel goes on with the replay: its newer timestamps must not overtake what is replayed."""
        position = topic.delivered_to(self.outlet)
        if position is not None:
            self.services.hub.part(topic, self.outlet)
            self._replay_with(Cursor(topic, position))

    def _replayed(self) -> None:
        self._replay = self._replaying = None
        for channel, topic in self.channels.items():
            if channel not in self.present:
                self.services.hub.unwatch(topic, self.outlet)

    def _replay_failed(self, failure: Failure) -> None:
        """A replay that can't go on must not leave its channels silent: the client is made to resume them."""
        self._replayed()
        if self.is_closed:
            return
        if not failure.check(Refused):
            self._log.failure("a replay failed", failure=failure)
        self.outlet.abort()

    # The resume token of a client whose own could not be made (protocol.md I.5.4).

    def renew_token(self, *, is_forced: bool = False) -> None:
        """Sends a token to a client with a channel name that its ``btoa`` can't encode, when anything changed."""
        if not is_forced and self._token_timestamp is None:
            return
        if not any(max(channel) > "\xff" for channel in self.channels):
            return
        if self._replay is not None:
            # A token must not claim what is still to be replayed: the next tick after it makes one.
            self._token_timestamp = -1
            return
        timestamp = max(topic.timestamp for topic in self.channels.values())
        if is_forced or timestamp != self._token_timestamp:
            self._token_timestamp = timestamp
            # Without a message yet: the next one may still get the timestamp of this very millisecond.
            since = timestamp or int(self.services.now() * 1000) - 1
            content = encode({"channels": list(self.channels), "lastTs": since})
            self.send(Ack("resume", data=Token(base64.urlsafe_b64encode(content).decode())))

    # The end.

    async def close(self, reason: LeaveReason | None) -> None:
        """Gives back what the client held. ``reason`` is that of its leaves; ``None`` when it may return."""
        self.is_closed = True
        self._leave_reason = reason
        self._owed = None
        for running in (self._replaying, self._paying):
            if running is not None:
                running.cancel()
        self._replaying = self._paying = None
        if self._replay is not None:
            self._replay.stop()
        hub = self.services.hub
        channels, self.channels = self.channels, {}
        for topic in channels.values():
            topic.subscribers -= 1
            hub.unwatch(topic, self.outlet)
            hub.part(topic, self.outlet)
            hub.close(topic)
        present, self.present = self.present, {}
        for topic in present.values():
            self.is_absent(topic)
        await self.release(list(present))
        if self.credential.client_id is not None:
            await self.services.presence.gone(self.app, self.client_id, self.id)
