"""The numbers of one app on this node, which whatever serves the app adds to, and how long its publishes take.

Who gathers and keeps them is :mod:`wsock.services.meters`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from wsock.interfaces import Outcome, Sample
from wsock.measures import SECONDS, Histogram
from wsock.protocol.messages import Receipt

if TYPE_CHECKING:
    from wsock.services.quotas import Quota

__all__ = ["AppMeter", "AppMeters", "Timed"]

_TIMED_PER_FLUSH = 128


class AppMeter:
    """What one app does on this node since the process began. Whoever counts adds to the numbers.

    ``messages_in`` are those accepted and ``bytes_in`` their data; ``messages_out`` those handed to subscribers, once
    for each, and ``bytes_out`` their frames. ``connections`` and ``channels`` are those of this moment. The ``quota``
    is ``None`` when the app's plan limits nothing that is looked at here.
    """

    __slots__ = (
        "_peak",
        "_told",
        "_told_mark",
        "_told_peak",
        "app",
        "bytes_in",
        "bytes_out",
        "channels",
        "closes",
        "connections",
        "events",
        "idle_since",
        "latency",
        "mask",
        "messages_in",
        "messages_out",
        "opens",
        "push",
        "quota",
        "refused",
        "submitted",
        "timed",
        "webhooks",
    )

    def __init__(self, app: str) -> None:
        self.app = app
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0
        self.opens = self.connections = self.channels = 0
        self.events = 0
        self.closes: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.webhooks: dict[str, int] = {}
        self.push: dict[str, int] = {}
        self.latency = Histogram(SECONDS)
        self.submitted = 0
        self.mask = 0
        self.timed = 0
        self.quota: Quota | None = None
        self.idle_since: float | None = None
        self._peak = 0
        self._told: dict[str, int] = {}
        self._told_mark = 0
        self._told_peak = (0, 0)

    # Counting.

    def opened(self) -> None:
        """A connection opened."""
        self.opens += 1
        self.connections += 1
        self._peak = max(self._peak, self.connections)

    def closed(self, why: str) -> None:
        """A connection ended."""
        self.connections -= 1
        self._count(self.closes, why)

    def refuse(self, code: str) -> None:
        """A publish was refused."""
        self._count(self.refused, code)

    def webhook(self, outcome: str) -> None:
        """A webhook was told, or not."""
        self._count(self.webhooks, outcome)

    def pushed(self, outcome: str) -> None:
        """A push message was sent, or not."""
        self._count(self.push, outcome)

    def time_one(self) -> None:
        """A publish is timed. When there are more of them than the rate of the last second promised, fewer are."""
        self.timed += 1
        if self.timed > _TIMED_PER_FLUSH:
            self.timed = 0
            self.mask = 2 * self.mask + 1

    def _count(self, counts: dict[str, int], name: str) -> None:
        counts[name] = counts.get(name, 0) + 1
        self.events += 1

    # Telling.

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected and nothing happened that is not taken yet."""
        return not self.connections and not self.channels and self._told_mark == self._mark()

    @property
    def unflushed(self) -> int:
        """Messages accepted that were not taken yet."""
        return self.messages_in - self._told.get("messages_in", 0)

    @property
    def unflushed_push(self) -> int:
        """Push messages that were not taken yet."""
        return sum(self.push.values()) - sum(n for name, n in self._told.items() if name.startswith("push:"))

    def take(self, minute: int, elsewhere: int) -> Sample | None:
        """What happened since the last time, if anything did; ``elsewhere`` are the connections of other nodes.

        In each ``minute`` the connections are told at least once.
        """
        counts = self._taken()
        peak, self._peak = self._peak + elsewhere, self.connections
        told_minute, told_peak = self._told_peak
        peaks: dict[str, int] = {}
        if peak > elsewhere and (minute != told_minute or peak > told_peak):
            self._told_peak = (minute, peak)
            peaks["connections"] = peak
        return Sample(self.app, counts, peaks) if counts or peaks else None

    def _taken(self) -> dict[str, int]:
        mark = self._mark()
        if mark == self._told_mark:
            return {}
        before, now = self._told, dict(self._counts())
        submitted = now.pop("submitted") - before.pop("submitted", 0)
        # As many are timed as tell the percentiles, whatever the rate is; each stands for all between two.
        self.timed = 0
        self.mask = (1 << (submitted // _TIMED_PER_FLUSH).bit_length()) - 1
        self._told_mark, self._told = mark, {**now, "submitted": self.submitted}
        return {name: count - before.get(name, 0) for name, count in now.items() if count != before.get(name, 0)}

    def _mark(self) -> int:
        """A number that is another one when something happened."""
        return self.messages_in + self.messages_out + self.submitted + self.opens + self.events

    def _counts(self) -> Iterator[tuple[str, int]]:
        for name in ("messages_in", "messages_out", "bytes_in", "bytes_out", "opens", "submitted"):
            yield name, getattr(self, name)
        for kind in ("closes", "refused", "webhooks", "push"):
            for label, count in getattr(self, kind).items():
                yield f"{kind}:{label}", count
        for number, count in enumerate(self.latency.counts):
            yield f"latency:{number}", count


class Timed:
    """The outcome of a publish whose time to the acknowledgement is measured; passes it on."""

    __slots__ = ("_began", "_meter", "_outcome", "_seconds", "_weight")

    def __init__(self, outcome: Outcome, meter: AppMeter, seconds: Callable[[], float]) -> None:
        self._outcome = outcome
        self._meter = meter
        self._weight = meter.mask + 1
        meter.time_one()
        self._seconds = seconds
        self._began = seconds()

    def callback(self, result: Receipt) -> None:
        """It was accepted."""
        self._outcome.callback(result)
        # Set back, the clock tells nothing but that it was not long ago.
        self._meter.latency.observe_many(max(0.0, self._seconds() - self._began), self._weight)

    def errback(self, fail: Failure) -> None:
        """It was not, and counts among the refused."""
        self._outcome.errback(fail)


class AppMeters:
    """The meters of the apps in use: those are ``known``. ``seconds`` is the clock that publishes are timed by.

    ``on_new`` is called with the meter of each app that comes into use.
    """

    def __init__(self, seconds: Callable[[], float] = lambda: 0.0) -> None:
        self.seconds = seconds
        self.on_new: Callable[[AppMeter], None] = lambda meter: None
        self.known: dict[str, AppMeter] = {}

    def __len__(self) -> int:
        return len(self.known)

    def app(self, id: str) -> AppMeter:
        """The meter of the app. It counts for as long as the app is in use; don't keep it beyond that."""
        meter = self.known.get(id)
        if meter is None:
            meter = self.known[id] = AppMeter(id)
            self.on_new(meter)
        return meter

    def meters(self) -> list[AppMeter]:
        """Those of all apps in use."""
        return list(self.known.values())
