"""A connected client, as the verbs see it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused
from wsock.interfaces import IBroker
from wsock.protocol.codec import encode
from wsock.protocol.frames import Ack, Event, Subscribed, Token, Unsubscribed
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import LeaveReason
from wsock.protocol.session import Session, error_event
from wsock.protocol.wire import text_frame
from wsock.services.auth import Auth, Credential
from wsock.services.hub import Hub, Topic
from wsock.services.messages import Messages
from wsock.services.presence import Presence
from wsock.services.replay import Cursor, Paced, Replay
from wsock.services.turn import Turn

__all__ = ["Peer", "Services"]


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


class Peer:
    """One connected client: its credential, its channels, and a way to send it events.

    ``channels`` are the topics it is subscribed to, ``present`` those in which this connection holds its member;
    each of them is held open in the hub.
    """

    __slots__ = (
        "_replay",
        "_replaying",
        "_token_timestamp",
        "channels",
        "client_id",
        "credential",
        "id",
        "is_closed",
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
        self.client_id = credential.client_id or f"conn-{id}"
        self.session = session
        self.outlet = outlet
        self.channels: dict[str, Topic] = {}
        self.present: dict[str, Topic] = {}
        self.is_closed = False
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

    def refuse(self, refused: Refused, *, channel: str | None = None, id: str | None = None) -> None:
        """The client gets an error frame."""
        self.send(error_event(refused, channel=channel, id=id))

    async def return_home(self) -> None:
        """Takes over the members that a lost connection of the same client left behind (protocol.md I.5.6)."""
        if self.credential.client_id is None:
            return
        for channel in await self.services.presence.returned(self.app, self.client_id, self.id):
            topic = await self.services.hub.open(self.app, channel)
            if self.is_closed or channel in self.present:
                self.services.hub.close(topic)
            else:
                self.present[channel] = topic
                self.services.hub.watch(topic, self.outlet)
        if self.is_closed:
            await self.services.presence.lost(self.app, self.client_id, self.id, list(self.present))

    # Subscriptions.

    def require_room(self) -> None:
        """Refuses one more channel beyond the limit."""
        limit = self.services.max_channels
        if len(self.channels) >= limit:
            text = f"this connection is subscribed to {limit} channels already (limits.channels_per_connection)"
            raise Refused(Code.LIMIT_EXCEEDED, text)

    def subscribed(self, topic: Topic, start: Position, rewound: list[Message]) -> None:
        """The topic, held open for this client, is subscribed: delivery starts behind the position.

        ``rewound`` messages go first.
        """
        self.channels[topic.channel] = topic
        self.send(Subscribed(topic.channel, start.epoch, start.sequence))
        if self._replay is None and not rewound and start == topic.position:
            self.services.hub.join(topic, self.outlet)
        else:
            self._replay_with(Cursor(topic, start, rewound))

    def subscribed_again(self, topic: Topic) -> None:
        """Tells the client so; neither delivery nor a replay starts again."""
        self.send(Subscribed(topic.channel, topic.epoch, topic.sequence))

    def unsubscribe(self, channel: str) -> None:
        """Delivery of the channel ends; the client is told in any case."""
        topic = self.channels.pop(channel, None)
        if topic is not None:
            if self._replay is not None:
                self._replay.drop(channel)
            self.services.hub.part(topic, self.outlet)
            self.services.hub.close(topic)
        self.send(Unsubscribed(channel))

    def start_replay(self) -> None:
        """Runs the replay that :meth:`subscribed` prepared, unless one runs already."""
        if self._replay is not None and self._replaying is None:
            self._replaying = Deferred.fromCoroutine(self._replay.run())
            self._replaying.addErrback(self._replay_failed)

    def _replay_with(self, cursor: Cursor) -> None:
        s = self.services
        if self._replay is None:
            self._replay = Replay(s.hub, s.broker, s.turn, s.clock, self.outlet, self._replayed)
        self._replay.add(cursor)

    def _replayed(self) -> None:
        self._replay = self._replaying = None

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
        if not any(max(channel) > "\xff" for channel in self.channels) or self._replay is not None:
            return
        timestamp = max(topic.timestamp for topic in self.channels.values())
        if is_forced or timestamp != self._token_timestamp:
            self._token_timestamp = timestamp
            content = encode({"channels": list(self.channels), "lastTs": timestamp or int(self.services.now() * 1000)})
            self.send(Ack("resume", data=Token(base64.urlsafe_b64encode(content).decode())))

    # The end.

    async def close(self, reason: LeaveReason | None) -> None:
        """Gives back what the client held. ``reason`` is that of its leaves; ``None`` when it may return."""
        self.is_closed = True
        hub, presence = self.services.hub, self.services.presence
        replaying, self._replaying = self._replaying, None
        if replaying is not None:
            replaying.cancel()
        for topic in self.channels.values():
            hub.part(topic, self.outlet)
            hub.close(topic)
        self.channels = {}
        present, self.present = self.present, {}
        for topic in present.values():
            hub.unwatch(topic, self.outlet)
            hub.close(topic)
        if not present:
            return
        if reason is None:
            await presence.lost(self.app, self.client_id, self.id, list(present))
        else:
            await presence.closed(self.app, self.client_id, self.id, list(present), reason)
