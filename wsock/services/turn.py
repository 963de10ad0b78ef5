"""One reactor turn's output: collected, then written once to each connection.

A connection that is subscribed to just one of the turn's active channels gets that channel's frames joined, the same
bytes for all of its subscribers. Any other gets the frames of its channels merged in the order in which they arrived,
so that timestamps never go back on a connection: a resume by timestamp depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

__all__ = ["Feed", "Outlet", "Turn"]


class Outlet(Protocol):
    """The writing end of a connection."""

    pending: list[bytes] | None
    """Frames of this connection alone, to be written before the turn's shared ones; the turn's to fill."""

    def write(self, frames: bytes) -> None:
        """Writes what is pending and then these frames, at once. Must not raise; may end the connection."""


class Feed:
    """What several outlets get alike: the frames of one channel."""

    __slots__ = ("arrivals", "frames", "outlets")

    def __init__(self) -> None:
        self.outlets: dict[Outlet, None] = {}
        self.frames: list[bytes] = []
        self.arrivals: list[int] = []


class Turn:
    """Collects frames until the end of the reactor turn in which the first of them came.

    ``delivered`` counts frames of feeds times their outlets.
    """

    __slots__ = ("_arrival", "_clock", "_direct", "_feeds", "_is_scheduled", "delivered")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._feeds: list[Feed] = []
        self._direct: list[Outlet] = []
        self._arrival = 0
        self._is_scheduled = False
        self.delivered = 0

    def send(self, outlet: Outlet, frame: bytes) -> None:
        """The outlet gets the frame at the end of the turn."""
        if outlet.pending is None:
            outlet.pending = [frame]
            self._direct.append(outlet)
            self._schedule()
        else:
            outlet.pending.append(frame)

    def broadcast(self, feed: Feed, frame: bytes) -> None:
        """Every outlet of the feed gets the frame at the end of the turn."""
        if not feed.outlets:
            return
        if not feed.frames:
            self._feeds.append(feed)
            self._schedule()
        feed.frames.append(frame)
        feed.arrivals.append(self._arrival)
        self._arrival += 1

    def flush(self) -> None:
        """Writes what was collected. Needed before the outlets of a feed change."""
        feeds, self._feeds = self._feeds, []
        for feed in feeds:
            self.delivered += len(feed.frames) * len(feed.outlets)
        direct, self._direct = self._direct, []
        if len(feeds) == 1:
            [feed] = feeds
            frames = b"".join(feed.frames)
            _clear(feed)
            for outlet in tuple(feed.outlets):
                outlet.write(frames)
        elif feeds:
            self._write_merged(feeds)
        for outlet in direct:
            if outlet.pending is not None:
                outlet.write(b"")

    def _write_merged(self, feeds: Sequence[Feed]) -> None:
        feeds_of: dict[Outlet, tuple[int, ...]] = {}
        for number, feed in enumerate(feeds):
            one = (number,)
            for outlet in feed.outlets:
                earlier = feeds_of.get(outlet)
                feeds_of[outlet] = one if earlier is None else earlier + one
        bytes_of = {numbers: _merge([feeds[n] for n in numbers]) for numbers in set(feeds_of.values())}
        # Before the writes: one that ends a connection may broadcast to these feeds.
        for feed in feeds:
            _clear(feed)
        for outlet, numbers in feeds_of.items():
            outlet.write(bytes_of[numbers])

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._clock.callLater(0, self._end)

    def _end(self) -> None:
        self._is_scheduled = False
        self.flush()


def _merge(feeds: Iterable[Feed]) -> bytes:
    [*several] = feeds
    if len(several) == 1:
        return b"".join(several[0].frames)
    arrived = chain.from_iterable(zip(feed.arrivals, feed.frames, strict=True) for feed in several)
    return b"".join(frame for _, frame in sorted(arrived))


def _clear(feed: Feed) -> None:
    feed.frames = []
    feed.arrivals = []
