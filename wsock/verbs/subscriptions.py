"""``subscribe``, ``unsubscribe`` and ``resume``."""

from __future__ import annotations

from dataclasses import dataclass

from wsock.errors import Code, Gone, Refused, Unavailable
from wsock.protocol.channels import check_channel
from wsock.protocol.frames import Ack, Request, Resumed, Unsubscribed
from wsock.protocol.messages import HistoryQuery, Message
from wsock.protocol.position import Position, decode_token
from wsock.services.hub import Topic, recovery_failed
from wsock.services.messages import MAX_HISTORY
from wsock.verbs.peer import Peer

__all__ = ["Resume", "Subscribe", "Unsubscribe", "resume", "subscribe", "unsubscribe"]


class Subscribe(Request, frozen=True, tag="subscribe"):
    """Subscribes to a channel; ``rewind`` asks for its last messages first. Asking again changes nothing."""

    channel: str
    rewind: float | None = None


async def subscribe(peer: Peer, request: Subscribe) -> None:
    """Answered by ``subscribed``, whether the channel was subscribed before or not.

    While a store is away the answer is ``unavailable``, and ``subscribed`` follows when it is back: an SDK does nothing
    about the error, and would hear nothing for as long as it is connected.
    """
    try:
        await _subscribe(peer, request)
    except Unavailable:
        peer.owe(request.channel, lambda: _subscribe(peer, request))
        raise


async def _subscribe(peer: Peer, request: Subscribe) -> None:
    channel = request.channel
    topic = peer.channels.get(channel)
    if topic is None:
        topic = await _open(peer, channel)
        start = topic.position
        rewound = await _rewound(peer, topic, request.rewind) if request.rewind and peer.may_rewind(channel) else []
        if peer.is_closed or channel in peer.channels:
            peer.services.hub.close(topic)
            return
        peer.subscribed(topic, start if rewound else topic.position, rewound)
        peer.start_replay()
    else:
        peer.subscribed_again(topic)
    peer.renew_token(is_forced=True)


async def _open(peer: Peer, channel: str) -> Topic:
    check_channel(channel)
    peer.credential.permissions.require("subscribe", channel)
    peer.require_room()
    return await peer.open(channel)


async def _rewound(peer: Peer, topic: Topic, rewind: float) -> list[Message]:
    """The last messages up to where the topic stands now. Without the permission for history there are none."""
    if rewind < 1:
        return []
    if not peer.credential.permissions.allows("history", topic.channel):
        text = f"rewind: this credential lacks the permission 'history' on '{topic.channel}'"
        peer.refuse(Refused(Code.FORBIDDEN, text), channel=topic.channel)
        return []
    after = peer.services.messages.recoverable_after(topic.app, topic.channel)
    query = HistoryQuery(limit=int(min(rewind, MAX_HISTORY)), after=after)
    epoch, sequence = topic.epoch, topic.sequence
    try:
        page = await peer.services.messages.history(topic.app, topic.channel, query)
    except BaseException:
        peer.services.hub.close(topic)
        raise
    behind = [m for m in page.messages if m.epoch != epoch or m.sequence <= sequence]
    return sorted(behind, key=lambda m: (m.timestamp, m.epoch, m.sequence))


class Unsubscribe(Request, frozen=True, tag="unsubscribe"):
    """Ends a subscription."""

    channel: str


async def unsubscribe(peer: Peer, request: Unsubscribe) -> None:
    """Answered by ``unsubscribed``, whether the channel was subscribed or not."""
    check_channel(request.channel)
    peer.unsubscribe(request.channel)
    peer.renew_token(is_forced=True)


class Resume(Request, frozen=True, tag="resume"):
    """Subscribes again to what a lost connection was subscribed to, with all that was missed (protocol.md I.5).

    ``resumeToken`` and ``token`` are the forms of the two generations of SDKs; ``positions`` names for each channel
    the last message that was received.
    """

    resume_token: str | None = None
    token: str | None = None
    positions: dict[str, Position] | None = None


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a channel's replay begins, and whether that is all the client missed."""

    topic: Topic
    position: Position
    is_complete: bool


async def resume(peer: Peer, request: Resume) -> None:
    """Answered by ``subscribed`` for each channel, then ``ack`` with the id ``resume``, then all that was missed.

    While a store is away the connection is reset instead: an SDK does nothing about a resume that fails, and would
    hear nothing from then on; after a reset it comes back and resumes.
    """
    try:
        await _resume(peer, request)
    except Unavailable:
        peer.outlet.abort()


async def _resume(peer: Peer, request: Resume) -> None:
    positions = request.positions
    since = 0
    if positions is not None:
        names = tuple(positions)
    else:
        token = decode_token(request.resume_token or request.token or "")
        names, since = token.channels, token.since
    topics = await _open_all(peer, names)
    try:
        starts = await (
            _from_timestamp(peer, topics, since) if positions is None else _from_positions(peer, topics, positions)
        )
        starts = [await _bounded(peer, start) for start in starts]
    except BaseException:
        _close_all(peer, topics)
        raise
    if peer.is_closed:
        _close_all(peer, topics)
    else:
        _resumed(peer, names, starts)


async def _bounded(peer: Peer, start: _Start) -> _Start:
    """The start, not before what the app's setting recovery_seconds lets a client have.

    What is older counts as gone, as if it had left the window.
    """
    topic, position = start.topic, start.position
    after = peer.services.messages.recoverable_after(topic.app, topic.channel)
    if after is None:
        return start
    bound = (await peer.services.broker.locate(topic.app, topic.channel, after)).start
    if position.epoch == bound.epoch and position.sequence >= bound.sequence:
        return start
    return _Start(topic, bound, is_complete=False)


def _close_all(peer: Peer, topics: list[Topic]) -> None:
    for topic in topics:
        peer.services.hub.close(topic)


async def _open_all(peer: Peer, names: tuple[str, ...]) -> list[Topic]:
    """The topics of the channels that may be subscribed and are not yet; the client is told of each refusal."""
    topics: list[Topic] = []
    room = peer.services.max_channels - len(peer.channels)
    for name in names:
        if name in peer.channels:
            continue
        try:
            if len(topics) >= room:
                text = f"this connection would have more than {peer.services.max_channels} channels"
                raise Refused(Code.LIMIT_EXCEEDED, f"{text} (limits.channels_per_connection)")
            topics.append(await _open(peer, name))
        except Unavailable:
            _close_all(peer, topics)
            raise
        except Refused as e:
            peer.refuse(e, channel=name)
            peer.send(Unsubscribed(name))
        except BaseException:
            _close_all(peer, topics)
            raise
    return topics


async def _from_positions(peer: Peer, topics: list[Topic], positions: dict[str, Position]) -> list[_Start]:
    return [await _from_position(peer, topic, positions[topic.channel]) for topic in topics]


async def _from_position(peer: Peer, topic: Topic, position: Position) -> _Start:
    broker = peer.services.broker
    try:
        await broker.read(topic.app, topic.channel, position, 1)
    except Gone:
        located = await broker.locate(topic.app, topic.channel, 0)
        return _Start(topic, located.start, is_complete=False)
    if not position.sequence:
        # Before the first message the epoch says nothing, and may have changed since.
        position = (await broker.locate(topic.app, topic.channel, 0)).start
    return _Start(topic, position, is_complete=True)


async def _from_timestamp(peer: Peer, topics: list[Topic], since: int) -> list[_Start]:
    """Behind the messages of that timestamp; but if it has several, any may be missing, and all are sent again."""
    broker = peer.services.broker
    located = [await broker.locate(t.app, t.channel, since) for t in topics]
    received = 1 if sum(at.ties for at in located) == 1 else 0
    return [
        _Start(topic, Position(at.start.epoch, at.start.sequence + at.ties * received), at.is_complete)
        for topic, at in zip(topics, located, strict=True)
    ]


def _resumed(peer: Peer, names: tuple[str, ...], starts: list[_Start]) -> None:
    lost = [s.topic.channel for s in starts if not s.is_complete]
    for name in names:
        if name in peer.channels:
            peer.subscribed_again(peer.channels[name])
    # First those with something to replay: the others join the replay, lest their live messages overtake it.
    for start in sorted(starts, key=lambda s: s.position == s.topic.position):
        peer.subscribed(start.topic, start.position, [])
    recovered = [name for name in names if name in peer.channels and name not in lost]
    peer.send(Ack("resume", data=Resumed(recovered, lost)))
    for channel in lost:
        peer.send(recovery_failed(channel))
    peer.start_replay()
    peer.renew_token(is_forced=True)
