"""``publish`` and ``history``."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import Any, ClassVar, Literal, TypeGuard

from msgspec import Raw
from twisted.python.failure import Failure

from wsock.errors import Code, Refused
from wsock.protocol.channels import check_channel
from wsock.protocol.codec import encode
from wsock.protocol.frames import NULL, Ack, History, HistoryPage, Request
from wsock.protocol.messages import HistoryQuery, Message, Receipt
from wsock.verbs.peer import Peer

__all__ = ["ENVELOPE", "MAX_FRAME", "HistoryRequest", "Publish", "Publishing", "history", "history_pages", "publish"]

MAX_FRAME = 1 << 20
"""Bytes that no frame exceeds (protocol.md I.3)."""
ENVELOPE = 1024
"""Bytes that are left for what surrounds the entries of a frame."""

_END = 1 << 53
"""Later than any timestamp."""


class Publish(Request, frozen=True, tag="publish"):
    """Publishes a message. ``data`` may be anything, or absent (null). With ``persist`` false it is no history."""

    in_order: ClassVar[bool] = False

    channel: str
    data: Raw = NULL
    id: str | None = None
    persist: bool | None = None


class Publishing:
    """A publish of data of that ``size``, which is under way: acknowledged when it is accepted, and then over.

    The outcome of a message, and what the connection waits for: a Deferred for each message would be a tenth of a
    publish's cost. ``failure`` is why it was not accepted.
    """

    is_client: ClassVar[bool] = True

    __slots__ = ("_done", "_how", "_peer", "_size", "failure", "is_over")

    def __init__(self, peer: Peer, size: int = 0) -> None:
        self._peer = peer
        self._size = size
        self._done: Callable[..., None] | None = None
        self._how: tuple[Any, ...] = ()
        self.failure: Failure | None = None
        self.is_over = False

    def callback(self, receipt: Receipt) -> None:
        """It was accepted."""
        if not receipt.is_duplicate:
            meter = self._peer.meter
            meter.messages_in += 1
            meter.bytes_in += self._size
        self._peer.send(Ack(receipt.id, receipt.channel, receipt.timestamp, receipt.sequence))
        self._end()

    def errback(self, failure: Failure) -> None:
        """It was not."""
        self.failure = failure
        self._end()

    def when_over(self, done: Callable[..., None], *how: Any) -> None:
        """Calls ``done(failure or None, *how)`` when it is over, which it is not yet."""
        self._done, self._how = done, how

    def _end(self) -> None:
        self.is_over = True
        if self._done is not None:
            self._done(self.failure, *self._how)


def publish(peer: Peer, request: Publish) -> Publishing:
    """Answered by ``ack`` when the broker has accepted the message."""
    credential = peer.credential
    check_channel(request.channel)
    credential.permissions.require("publish", request.channel)
    size = len(memoryview(request.data))
    publishing = Publishing(peer, size)
    peer.services.messages.submit(
        credential.app,
        request.channel,
        request.data,
        publishing,
        id=request.id,
        identity=credential.identity,
        publisher_id=peer.client_id,
        persist=request.persist is not False,
        user=peer.client_id,
        size=size,
    )
    return publishing


class HistoryRequest(Request, frozen=True, tag="history"):
    """Asks for a page of the past. ``before`` and ``after`` are timestamps in milliseconds, exclusive."""

    in_order: ClassVar[bool] = False

    channel: str
    limit: float | None = None
    before: float | None = None
    after: float | None = None
    direction: str | None = None


async def history(peer: Peer, request: HistoryRequest) -> None:
    """Answered by ``history``."""
    check_channel(request.channel)
    peer.credential.permissions.require("history", request.channel)
    query = _query(request)
    page = await peer.services.messages.history(peer.app, request.channel, query)
    for messages, has_more in history_pages(page.messages, page.has_more, MAX_FRAME // 2):
        entries = [m.entry() for m in messages]
        nested = HistoryPage(request.channel, entries, has_more)
        await peer.send_large(History(request.channel, nested, entries, has_more))


def _query(request: HistoryRequest) -> HistoryQuery:
    direction: Literal["forward", "backward"] = "forward" if request.direction == "forward" else "backward"
    if request.direction not in (None, "", "forward", "backward"):
        raise Refused(Code.BAD_REQUEST, "history: 'direction' takes forward or backward")
    limit = 50 if request.limit is None else int(max(1, min(request.limit, 1000)))
    return HistoryQuery(
        limit=limit,
        before=ceil(min(request.before, _END)) if _is_bound(request.before) else None,
        after=floor(min(request.after, _END)) if _is_bound(request.after) else None,
        direction=direction,
    )


def _is_bound(value: float | None) -> TypeGuard[float]:
    """0 and less, which some SDKs send for "none", are no bound."""
    return value is not None and value > 0


def history_pages(messages: list[Message], has_more: bool, room: int) -> list[tuple[list[Message], bool]]:
    """The page cut to ``room`` bytes of JSON, never between equal timestamps.

    It is one page that says ``hasMore``, unless the first run of equal timestamps alone is larger: then that run is
    sent as several.
    """
    fitting = _fitting(messages, room)
    if fitting == len(messages):
        return [(messages, has_more)]
    end = fitting
    while end and messages[end - 1].timestamp == messages[fitting].timestamp:
        end -= 1
    if end:
        return [(messages[:end], True)]
    run = [m for m in messages if m.timestamp == messages[0].timestamp]
    is_more_behind = has_more or len(messages) > len(run)
    pages: list[tuple[list[Message], bool]] = []
    while run:
        count = _fitting(run, room)
        pages.append((run[:count], is_more_behind or len(run) > count))
        run = run[count:]
    return pages


def _fitting(messages: list[Message], room: int) -> int:
    """How many of the messages, at least one, take no more than ``room`` bytes."""
    left = room - ENVELOPE
    for number, message in enumerate(messages):
        left -= len(encode(message.entry())) + 1
        if left < 0:
            return max(1, number)
    return len(messages)
