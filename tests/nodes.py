"""One node in memory, for tests: a broker, the hub, and journals and brokers that take their time or fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer

from tests.outlets import RecordingOutlet
from wsock.backends.memory_broker import MemoryBroker
from wsock.backends.memory_store import MemoryMessages
from wsock.interfaces import ChannelTail, IBroker, IJournal, IReceiver, JournalRecord, Outcome
from wsock.protocol.messages import Located, Message, Publication, Receipt
from wsock.protocol.position import Position
from wsock.services.hub import Hub, Topic
from wsock.services.turn import Turn
from wsock.testing.contracts.broker import make_publication, published
from wsock.testing.fakes import Now

__all__ = ["HeldJournal", "LateBroker", "Node", "epochs"]

_T = TypeVar("_T")


def epochs() -> Callable[[], str]:
    """Names e1, e2, ..."""
    numbers = count(1)
    return lambda: f"e{next(numbers)}"


class HeldJournal(MemoryMessages):
    """A journal whose commits wait for ``release`` while it ``is_held``, and fail while there is ``trouble``.

    So do its tails, which wait for ``release`` too while ``holds_tails``. ``commits`` are all that were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_held = False
        self.holds_tails = False
        self.trouble: Exception | None = None
        self.tail_trouble: Exception | None = None
        self.commits: list[list[str]] = []
        self.tails = 0
        self._held: list[Deferred[None]] = []

    def commit(self, records: list[JournalRecord]) -> Deferred[None]:
        """Commits now or when it is released."""
        self.commits.append([record.message.id for record in records])
        return self._wait(self.is_held).addCallback(lambda _: self._commit(records))

    def _commit(self, records: list[JournalRecord]) -> Deferred[None]:
        return fail(self.trouble) if self.trouble is not None else super().commit(records)

    async def tail(self, app: str, channel: str, cutoff: int, limit: int) -> ChannelTail | None:
        """Answers now or when it is released."""
        self.tails += 1
        await self._wait(self.holds_tails)
        if self.tail_trouble is not None:
            raise self.tail_trouble
        return await super().tail(app, channel, cutoff, limit)

    def release(self) -> None:
        """What waits goes on."""
        held, self._held = self._held, []
        for waiting in held:
            waiting.callback(None)

    def _wait(self, is_held: bool) -> Deferred[None]:
        if not is_held:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._held.append(waiting)
        return waiting


@implementer(IBroker)
class LateBroker:
    """A broker over another one whose answers come a millisecond later; ``reads`` are the limits of reads.

    ``trouble`` is what reads raise. Delivery is the other's, at once.
    """

    def __init__(self, broker: MemoryBroker, clock: IReactorTime) -> None:
        self._broker = broker
        self._clock = clock
        self.is_late = True
        self.reads: list[int] = []
        self.trouble: Exception | None = None

    def listen(self, receiver: IReceiver) -> None:
        """Names the receiver."""
        self._broker.listen(receiver)

    def publish(self, publication: Publication, outcome: Outcome) -> None:
        """Publishes at once."""
        self._broker.publish(publication, outcome)

    async def attach(self, app: str, channel: str) -> Position:
        """Attaches at once, answers later."""
        return await self._later(self._broker.attach(app, channel))

    def detach(self, app: str, channel: str) -> None:
        """Detaches at once."""
        self._broker.detach(app, channel)

    def occupy(self, app: str, channel: str) -> None:
        """Occupies at once."""
        self._broker.occupy(app, channel)

    async def occupied(self, app: str) -> int:
        """See IBroker."""
        return await self._broker.occupied(app)

    async def is_occupied(self, app: str, channel: str) -> bool:
        """See IBroker."""
        return await self._broker.is_occupied(app, channel)

    def vacate(self, app: str, channel: str) -> None:
        """Vacates at once."""
        self._broker.vacate(app, channel)

    async def position(self, app: str, channel: str) -> Position:
        """Answers later."""
        return await self._later(self._broker.position(app, channel))

    async def read(self, app: str, channel: str, after: Position, limit: int) -> list[Message]:
        """Reads at once, answers later."""
        self.reads.append(limit)
        messages = await self._later(self._broker.read(app, channel, after, limit))
        if self.trouble is not None:
            raise self.trouble
        return messages

    async def locate(self, app: str, channel: str, timestamp: int) -> Located:
        """Answers later."""
        return await self._later(self._broker.locate(app, channel, timestamp))

    async def _later(self, answer: Awaitable[_T]) -> _T:
        result = await answer
        if self.is_late:
            await deferLater(self._clock, 0.001)
        return result


class Node:
    """A broker and a hub on a clock of their own. The app is "app" unless told otherwise."""

    def __init__(self, journal: IJournal | None = None, *, is_late: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.now = Now(self.clock)
        self.journal: IJournal = journal if journal is not None else MemoryMessages()
        self.memory_broker = MemoryBroker(self.journal, self.now, epochs(), **options)
        self.broker = LateBroker(self.memory_broker, self.clock)
        self.broker.is_late = is_late
        self.turn = Turn(self.clock)
        self.hub = Hub(self.broker, self.turn)

    def end_turn(self) -> None:
        """What was collected is written."""
        self.clock.advance(0)

    def open(self, channel: str, app: str = "app") -> Topic:
        """The channel's topic."""
        return _result(self.hub.open(app, channel), self.clock)

    def subscribe(self, outlet: RecordingOutlet, *channels: str, app: str = "app") -> None:
        """The outlet is live on the channels."""
        for channel in channels:
            self.hub.join(self.open(channel, app), outlet)

    def publish(
        self, channel: str, id: str | None = None, *, data: bytes = b"{}", app: str = "app", step: float = 0.001
    ) -> Deferred[Receipt]:
        """Publishes; the wall clock goes on by ``step`` without the reactor's noticing."""
        self.now.set(self.now() + step)
        return published(self.memory_broker, make_publication(id, app=app, channel=channel, data=data))


def _result(answer: Awaitable[_T], clock: Clock) -> _T:
    async def wait() -> _T:
        return await answer

    results: list[_T] = []
    Deferred.fromCoroutine(wait()).addCallback(results.append)
    clock.pump([0.001] * 4)
    [result] = results
    return result
