"""One reactor turn's output: collected, then written once to each connection, so much in a turn and no more.

A connection that is subscribed to just one of the turn's active channels gets that channel's frames joined, the same
bytes for all of its subscribers. Any other gets the frames of its channels merged in the order in which they arrived,
so that timestamps never go back on a connection: a resume by timestamp depends on it.

What is more than a slice of writes becomes a fan-out that goes on in the next turns, with the reactor's other work in
between. There is one at a time: meanwhile frames gather in their feeds, and begin together when it is finished. It
notes at its beginning who is still to get what, and takes everybody off that list with the write; so who joins is not
on it, and one outlet can be brought up to date ahead of the others. That is done with whoever parts, ends or gets
frames of its own, in the order of turns: what is left of the fan-out, what gathered in earlier turns, its own frames,
what gathered in this turn. What somebody had already of the frames that gather, or must not have since it joined after
them, the feed notes as ``late``; so neither a join nor a part cuts in two what the others get at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from wsock.measures import MANY, Histogram

__all__ = ["Feed", "Outlet", "Turn"]

_SLICE = 2_000
"""Writes in a turn: about ten milliseconds, at some microseconds each."""

_MAX_GATHERED = 1 << 18
"""Bytes that gather during a fan-out. An outlet gets them in one write, which should fit into its transport."""

_Key = tuple[tuple[int, int], ...]
"""What an outlet gets: numbers of feeds, and of how many frames of each it gets the ones behind."""


class Outlet(Protocol):
    """The writing end of a connection."""

    pending: list[bytes] | None
    """Frames of this connection alone, to be written before the turn's shared ones; the turn's to fill."""

    def write(self, frames: bytes) -> None:
        """Writes what is pending and then these frames, at once. Must not raise; may end the connection."""


class Feed:
    """What several outlets get alike: the frames of one channel.

    ``late`` are outlets that do not get the first so many of the frames.
    """

    __slots__ = ("arrivals", "frames", "late", "outlets")

    def __init__(self) -> None:
        self.outlets: dict[Outlet, None] = {}
        self.frames: list[bytes] = []
        self.arrivals: list[int] = []
        self.late: dict[Outlet, int] | None = None

    def skip(self, outlet: Outlet) -> int:
        """How many of the frames the outlet does not get."""
        return self.late.get(outlet, 0) if self.late is not None else 0

    def skip_all(self, outlet: Outlet) -> None:
        """The outlet gets none of the frames that are there."""
        if self.frames:
            if self.late is None:
                self.late = {}
            self.late[outlet] = len(self.frames)


class Turn:
    """Collects frames until the end of the reactor turn in which the first of them came.

    ``slice_writes`` bounds the writes of shared frames in one turn, ``max_gathered`` the bytes that gather meanwhile:
    beyond it the fan-out is finished at once, which only happens when far more is published than can be written.

    ``delivered`` counts frames of feeds times their outlets. ``frames`` tells how many frames of feeds were written at
    once, and ``writes`` to how many outlets.
    """

    __slots__ = (
        "_arrival",
        "_began",
        "_budget",
        "_clock",
        "_direct",
        "_fan_out",
        "_feeds",
        "_gathered",
        "_is_scheduled",
        "_max_gathered",
        "_slice",
        "delivered",
        "frames",
        "writes",
    )

    def __init__(self, clock: IReactorTime, *, slice_writes: int = _SLICE, max_gathered: int = _MAX_GATHERED) -> None:
        self._clock = clock
        self._slice = self._budget = slice_writes
        self._max_gathered = max_gathered
        self._feeds: list[Feed] = []
        self._direct: list[Outlet] = []
        self._fan_out: _FanOut | None = None
        self._gathered = 0
        self._arrival = 0
        self._began = 0
        self._is_scheduled = False
        self.delivered = 0
        self.frames = Histogram(MANY)
        self.writes = Histogram(MANY)

    # Collecting.

    def send(self, outlet: Outlet, frame: bytes) -> None:
        """The outlet gets the frame at the end of the turn."""
        if outlet.pending is None:
            outlet.pending = [frame]
            self._direct.append(outlet)
            self._schedule()
        else:
            outlet.pending.append(frame)

    def broadcast(self, feed: Feed, frame: bytes) -> None:
        """Every outlet of the feed gets the frame at the end of the turn, or after the fan-out that is going on."""
        if not feed.outlets:
            return
        if not feed.frames:
            self._feeds.append(feed)
            self._schedule()
        feed.frames.append(frame)
        feed.arrivals.append(self._arrival)
        self._arrival += 1
        if self._fan_out is not None:
            self._gathered += len(frame)
            if self._gathered > self._max_gathered:
                self._finish()

    def join(self, feed: Feed, outlet: Outlet) -> None:
        """From now on the outlet gets what is broadcast to the feed, and nothing from before."""
        if feed.frames:
            if self._is_little():
                self.flush()
            else:
                feed.skip_all(outlet)
        feed.outlets[outlet] = None

    def part(self, feed: Feed, outlet: Outlet) -> None:
        """The outlet has got what was broadcast to the feed up to now, and gets no more."""
        if feed.skip(outlet) < len(feed.frames) or self._is_overdue(outlet):
            self.settle(outlet)
        del feed.outlets[outlet]
        if feed.late is not None:
            feed.late.pop(outlet, None)

    # Writing.

    def settle(self, outlet: Outlet) -> None:
        """Writes what was collected for the outlet. When all that was collected is little, it is all written."""
        if self._is_little():
            self.flush()
        else:
            self._catch_up((outlet,))

    def flush(self) -> None:
        """Writes what was collected, as far as this turn's slice goes; the rest follows in the next turns."""
        direct, self._direct = self._direct, []
        if self._fan_out is not None:
            self._catch_up(_owed(direct))
            self._go_on()
            if self._fan_out is not None:
                return
        feeds, self._feeds = self._feeds, []
        if feeds:
            self._begin(feeds)
        for outlet in direct:
            if outlet.pending is not None:
                outlet.write(self._overdue(outlet))

    def _is_little(self) -> bool:
        """Whether all that was collected can be written in what is left of the slice."""
        return self._fan_out is None and sum(len(feed.outlets) for feed in self._feeds) <= self._budget

    def _begin(self, feeds: Sequence[Feed]) -> None:
        """Writes a slice of these feeds' frames, which is nearly always all of them."""
        self._count(feeds)
        if len(feeds) == 1 and feeds[0].late is None and len(feeds[0].outlets) <= self._budget:
            [feed] = feeds
            frames = b"".join(feed.frames)
            _clear(feed)
            self._budget -= len(feed.outlets)
            self.writes.observe(len(feed.outlets))
            for outlet in tuple(feed.outlets):
                outlet.write(frames)
            return
        fan_out = self._fan_out = _FanOut(feeds)
        # Before the writes: one that ends a connection may broadcast to these feeds.
        for feed in feeds:
            _clear(feed)
        self._gathered = 0
        self.writes.observe(len(fan_out.left))
        self._go_on()

    def _count(self, feeds: Sequence[Feed]) -> None:
        total = 0
        for feed in feeds:
            frames = len(feed.frames)
            total += frames
            self.delivered += frames * len(feed.outlets) - sum((feed.late or {}).values())
        self.frames.observe(total)

    def _go_on(self) -> None:
        """Goes on with the fan-out."""
        fan_out = self._fan_out
        assert fan_out is not None
        self._write_slice(fan_out)
        if not fan_out.left and self._fan_out is fan_out:
            self._fan_out = None

    def _write_slice(self, fan_out: _FanOut) -> None:
        """Writes as much as the slice allows."""
        left, joined = fan_out.left, fan_out.joined
        count = min(self._budget, len(left))
        self._budget -= count
        for _ in range(count):
            if not left:  # a write led to a flush
                break
            outlet, key = left.popitem()
            outlet.write(joined.get(key) or fan_out.bytes_for(key))

    def _finish(self) -> None:
        """Writes what is left of the fan-out, however long it takes; the end of the turn takes it away."""
        direct, self._direct = self._direct, []
        self._catch_up(_owed(direct))
        assert self._fan_out is not None
        self._budget += len(self._fan_out.left)
        self._gathered = 0
        self._write_slice(self._fan_out)

    def _is_overdue(self, outlet: Outlet) -> bool:
        """Whether something of the fan-out is left for the outlet."""
        return self._fan_out is not None and outlet in self._fan_out.left

    def _overdue(self, outlet: Outlet) -> bytes:
        """What is left of the fan-out for the outlet, which is not on the list any longer."""
        fan_out = self._fan_out
        key = fan_out.left.pop(outlet, None) if fan_out is not None else None
        return fan_out.bytes_for(key) if fan_out is not None and key is not None else b""

    def _catch_up(self, outlets: Iterable[Outlet]) -> None:
        """Writes what was collected for these outlets, in the order of turns, ahead of all others."""
        behind: dict[Outlet, _Key] = dict.fromkeys(outlets, ())
        feeds = [feed for feed in self._feeds if not behind.keys().isdisjoint(feed.outlets.keys())]
        for number, feed in enumerate(feeds):
            for outlet in behind.keys() & feed.outlets.keys():
                skip = feed.skip(outlet)
                feed.skip_all(outlet)
                self.delivered += len(feed.frames) - skip
                behind[outlet] += ((number, skip),)
        earlier, later = _Cut(feeds, 0, self._began), _Cut(feeds, self._began, self._arrival)
        for outlet, key in behind.items():
            own, outlet.pending = outlet.pending or (), None
            frames = b"".join((self._overdue(outlet), earlier.bytes_for(key), *own, later.bytes_for(key)))
            if frames:
                outlet.write(frames)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._clock.callLater(0, self._end)

    def _end(self) -> None:
        self._is_scheduled = False
        self.flush()
        self._budget = self._slice
        self._began = self._arrival
        if self._fan_out is not None:
            self._schedule()


class _Cut:
    """The frames of feeds that arrived within bounds, ``joined`` for those who get them; each combination once."""

    __slots__ = ("_arrivals", "_frames", "_since", "_until", "joined")

    def __init__(self, feeds: Sequence[Feed], since: int = 0, until: int | None = None) -> None:
        self._arrivals = [feed.arrivals for feed in feeds]
        self._frames = [feed.frames for feed in feeds]
        self._since = since
        self._until = until
        self.joined: dict[_Key, bytes] = {(): b""}

    def bytes_for(self, key: _Key) -> bytes:
        """In the order in which they arrived."""
        frames = self.joined.get(key)
        if frames is None:
            arrived = sorted(chain.from_iterable(self._behind(number, skip) for number, skip in key))
            frames = self.joined[key] = b"".join(frame for _, frame in arrived)
        return frames

    def _behind(self, number: int, skip: int) -> Iterator[tuple[int, bytes]]:
        arrivals = self._arrivals[number]
        arrived = zip(arrivals, self._frames[number], strict=True)
        if self._until is None and not skip:
            return arrived
        end = len(arrivals) if self._until is None else bisect_left(arrivals, self._until)
        return islice(arrived, max(skip, bisect_left(arrivals, self._since)), end)


class _FanOut(_Cut):
    """A flush on its way, with who is ``left`` of those who get it."""

    __slots__ = ("left",)

    def __init__(self, feeds: Sequence[Feed]) -> None:
        super().__init__(feeds)
        self.left = _sort(feeds)


def _sort(feeds: Sequence[Feed]) -> dict[Outlet, _Key]:
    """What each of the outlets gets; who gets nothing is left out. Backwards, since it is taken from its end."""
    last = len(feeds) - 1
    # Not backwards: copying the keys as they are takes a third of the time, and most fan-outs are of one feed.
    key_of: dict[Outlet, _Key] = dict.fromkeys(feeds[last].outlets, ((last, 0),))
    for number in range(last - 1, -1, -1):
        one = ((number, 0),)
        for outlet in reversed(feeds[number].outlets):
            earlier = key_of.get(outlet)
            key_of[outlet] = one if earlier is None else earlier + one
    for number, feed in enumerate(feeds):
        for outlet, skip in (feed.late or {}).items():
            behind = ((number, skip),) if skip < len(feed.frames) else ()
            key = (*(part for part in key_of[outlet] if part[0] != number), *behind)
            if key:
                key_of[outlet] = key
            else:
                del key_of[outlet]
    return key_of


def _owed(outlets: Iterable[Outlet]) -> list[Outlet]:
    """Those with frames of their own: others have got theirs meanwhile, and are no more urgent than anybody."""
    return [outlet for outlet in outlets if outlet.pending is not None]


def _clear(feed: Feed) -> None:
    feed.frames = []
    feed.arrivals = []
    feed.late = None
