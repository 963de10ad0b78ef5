"""Who on this node listens to which channel, and the fan-out to them.

A channel with anybody on this node has a :class:`Topic`. It is held open by subscriptions, by members who are
present, and by those who are on the way to either; when the last one lets go, the broker is told that this node needs
the channel no more.
"""

from __future__ import annotations

from collections import deque
from heapq import nsmallest
from itertools import islice
from operator import attrgetter

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.errors import Code
from wsock.interfaces import IBroker, IReceiver
from wsock.protocol.codec import encode
from wsock.protocol.frames import ErrorEvent, Subscribed
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import PresenceChange
from wsock.protocol.wire import text_frame
from wsock.services.app_meter import AppMeter, AppMeters
from wsock.services.turn import Feed, Outlet, Turn

__all__ = ["Hub", "Topic"]

_MAX_RECENT = 1000


class Topic(Feed):
    """A channel on this node: its subscribers (``outlets``), and who only follows its presence (``watchers``).

    ``epoch`` and ``sequence`` are the position up to which its subscribers were told; ``timestamp`` is the last
    message's. ``recent`` are the last messages, kept while somebody catches up; ``joiners`` become subscribers when the
    position is reached that each of them has already. ``subscribers`` counts the connections that are subscribed, those
    that still catch up too. The ``meter`` is the app's.
    """

    __slots__ = (
        "app",
        "channel",
        "epoch",
        "followers",
        "holders",
        "joiners",
        "meter",
        "opening",
        "recent",
        "sequence",
        "subscribers",
        "timestamp",
        "watchers",
    )

    def __init__(self, app: str, channel: str, meter: AppMeter | None = None) -> None:
        super().__init__()
        self.app = app
        self.meter = AppMeter(app) if meter is None else meter
        self.channel = channel
        self.epoch = ""
        self.sequence = 0
        self.timestamp = 0
        self.holders = 0
        self.subscribers = 0
        self.followers = 0
        self.recent: deque[Message] | None = None
        self.joiners: dict[Outlet, int] | None = None
        self.watchers: dict[Outlet, None] = {}
        self.opening: list[Deferred[None]] | None = []

    @property
    def position(self) -> Position:
        """Where its subscribers stand."""
        return Position(self.epoch, self.sequence)

    def delivered_to(self, outlet: Outlet) -> Position | None:
        """Where a subscriber stands, or one who is about to be; ``None`` when it is neither."""
        if outlet in self.outlets:
            return self.position
        sequence = (self.joiners or {}).get(outlet)
        return None if sequence is None else Position(self.epoch, sequence)

    def is_reached_by(self, position: Position) -> bool:
        """Whether somebody at this position has all that its subscribers were told."""
        return position.epoch == self.epoch and position.sequence >= self.sequence

    def follow(self) -> None:
        """Somebody catches up: what its subscribers are told is kept at hand for that, as far as there is room."""
        self.followers += 1
        if self.recent is None:
            self.recent = deque(maxlen=_MAX_RECENT)

    def unfollow(self) -> None:
        """Somebody does not catch up any longer."""
        self.followers -= 1
        if not self.followers:
            self.recent = None

    def told_behind(self, position: Position) -> list[Message]:
        """The messages behind the position that its subscribers were told; none when it is not known here."""
        recent = self.recent
        if not recent or position.epoch != recent[0].epoch or position.epoch != self.epoch:
            return []
        skip = position.sequence + 1 - recent[0].sequence
        return list(islice(recent, skip, None)) if skip >= 0 else []


@implementer(IReceiver)
class Hub:
    """Multiplexes the channels of this node onto its connections; the ``meters`` count what each app's get."""

    _log = Logger()

    def __init__(self, broker: IBroker, turn: Turn, meters: AppMeters | None = None) -> None:
        self._broker = broker
        self._turn = turn
        self._meters = AppMeters() if meters is None else meters
        # By app, so that a question about one app costs the others nothing.
        self._topics: dict[str, dict[str, Topic]] = {}
        broker.listen(self)

    def __len__(self) -> int:
        return sum(map(len, self._topics.values()))

    # The connections' side.

    async def open(self, app: str, channel: str) -> Topic:
        """The channel's topic, attached to the broker and held until :meth:`close`."""
        topic = self.topic(app, channel)
        if topic is None:
            topic = Topic(app, channel, self._meters.app(app))
            self._topics.setdefault(app, {})[channel] = topic
            topic.holders = 1
            topic.meter.channels += 1
            await self._attach(topic)
            return topic
        topic.holders += 1
        if topic.opening is not None:
            opened: Deferred[None] = Deferred()
            topic.opening.append(opened)
            try:
                await opened
            except CancelledError:
                self.close(topic)
                raise
        return topic

    def close(self, topic: Topic) -> None:
        """Lets go of a topic."""
        topic.holders -= 1
        if not topic.holders:
            self._drop(topic)
            self._broker.detach(topic.app, topic.channel)

    def join(self, topic: Topic, outlet: Outlet) -> None:
        """Live delivery to the outlet starts behind the topic's position, exactly."""
        is_first = not topic.outlets
        self._turn.join(topic, outlet)
        if is_first:
            self._broker.occupy(topic.app, topic.channel)

    def join_at(self, topic: Topic, outlet: Outlet, position: Position) -> None:
        """Live delivery starts behind this position, which the topic has reached or will."""
        if topic.sequence >= position.sequence or topic.epoch != position.epoch:
            self.join(topic, outlet)
            return
        if topic.joiners is None:
            topic.joiners = {}
        topic.joiners[outlet] = position.sequence

    def part(self, topic: Topic, outlet: Outlet) -> None:
        """Live delivery ends, after what was delivered up to now."""
        if topic.joiners is not None:
            topic.joiners.pop(outlet, None)
        if outlet in topic.outlets:
            self._turn.part(topic, outlet)
            if not topic.outlets:
                self._broker.vacate(topic.app, topic.channel)

    def watch(self, topic: Topic, outlet: Outlet) -> None:
        """The outlet gets the topic's presence changes, subscribed or not."""
        topic.watchers[outlet] = None

    def unwatch(self, topic: Topic, outlet: Outlet) -> None:
        """The outlet gets the presence changes as a subscriber only."""
        topic.watchers.pop(outlet, None)

    def subscribers(self, app: str, channel: str) -> int:
        """How many connections of this node are subscribed."""
        topic = self.topic(app, channel)
        return len(topic.outlets) if topic is not None else 0

    def topic(self, app: str, channel: str) -> Topic | None:
        """The channel's topic, if anybody on this node has to do with it."""
        topics = self._topics.get(app)
        return None if topics is None else topics.get(channel)

    def occupied(self, app: str, prefix: str, after: str, limit: int) -> list[Topic]:
        """The app's topics with subscribers whose names begin so and come behind ``after``: the first ones by name."""
        wanted = (
            topic
            for channel, topic in self._topics.get(app, {}).items()
            if channel > after and topic.subscribers and channel.startswith(prefix)
        )
        return nsmallest(limit, wanted, key=attrgetter("channel"))

    # The broker's side.

    def message(self, app: str, message: Message) -> None:
        """Fans a message out; it is encoded once."""
        try:
            topic = self._topics[app][message.channel]
        except KeyError:
            return
        topic.epoch = message.epoch
        topic.sequence = message.sequence
        topic.timestamp = message.timestamp
        if topic.outlets:
            frame = text_frame(encode(message.event()))
            receivers, meter = len(topic.outlets), topic.meter
            meter.messages_out += receivers
            meter.bytes_out += receivers * len(frame)
            self._turn.broadcast(topic, frame)
        if topic.recent is not None:
            topic.recent.append(message)
        if topic.joiners:
            self._admit(topic)

    def _admit(self, topic: Topic) -> None:
        """Lets those join who have what the topic's subscribers were told."""
        joiners = topic.joiners or {}
        for outlet in [outlet for outlet, sequence in joiners.items() if sequence <= topic.sequence]:
            del joiners[outlet]
            self.join(topic, outlet)

    def presence(self, app: str, change: PresenceChange) -> None:
        """Fans a presence change out, to subscribers and to present members."""
        topic = self.topic(app, change.channel)
        if topic is None:
            return
        frame = text_frame(encode(change.event()))
        self._turn.broadcast(topic, frame)
        for outlet in topic.watchers:
            if outlet not in topic.outlets:
                self._turn.send(outlet, frame)

    def lost(self, app: str, channel: str, position: Position) -> None:
        """Tells the subscribers that they may have missed something."""
        topic = self.topic(app, channel)
        if topic is None:
            return
        self._turn.broadcast(topic, text_frame(encode(recovery_failed(channel))))
        self.moved(app, channel, position)

    def moved(self, app: str, channel: str, position: Position) -> None:
        """Tells the subscribers where the channel goes on, so that they can resume from there."""
        topic = self.topic(app, channel)
        if topic is None:
            return
        joiners, topic.joiners = topic.joiners, None
        for outlet in joiners or ():
            self.join(topic, outlet)
        topic.epoch, topic.sequence = position.epoch, position.sequence
        self._turn.broadcast(topic, text_frame(encode(Subscribed(channel, position.epoch, position.sequence))))

    async def _attach(self, topic: Topic) -> None:
        try:
            position = await self._broker.attach(topic.app, topic.channel)
        except Exception:
            failure = Failure()
            self._opened(topic, failure)
            raise
        if not topic.sequence:
            topic.epoch, topic.sequence = position.epoch, position.sequence
        self._opened(topic, None)

    def _opened(self, topic: Topic, failure: Failure | None) -> None:
        waiting, topic.opening = topic.opening or [], None
        if failure is not None:
            self._drop(topic)
        for opened in waiting:
            if failure is None:
                opened.callback(None)
            else:
                opened.errback(failure)

    def _drop(self, topic: Topic) -> None:
        topics = self._topics[topic.app]
        del topics[topic.channel]
        if not topics:
            del self._topics[topic.app]
        topic.meter.channels -= 1


def recovery_failed(channel: str) -> ErrorEvent:
    """The frame that says so instead of losing silently."""
    text = f"messages of '{channel}' may have been missed and can't be replayed: read its history"
    return ErrorEvent(error=text, code=Code.RECOVERY_FAILED.value, channel=channel)
