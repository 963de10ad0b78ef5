"""Subscribers in processes of their own, for a load that one core can't take: ``--processes N``.

The publishers stay in the first process. It and the others exchange lines of JSON over pipes; a process whose input
ends closes its connections and ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.protocol import ProcessProtocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from wsock.bench.awaiting import all_of
from wsock.bench.connection import Dialler, endpoints, tls_options
from wsock.bench.errors import BenchError
from wsock.bench.listeners import Audience, Listeners, Published, Verdict
from wsock.bench.load import Load, Plan, target
from wsock.bench.tally import Sent
from wsock.kept import importing_alike, python

__all__ = ["Crew", "CrewMember"]

_COMMAND = "from wsock.cli import main; main(['bench-member'])"
_TELL_SECONDS = 0.005
_MOST_BYTES = 1 << 28


class _Open(msgspec.Struct, tag="open"):
    load: Load
    plan: Plan
    first: int
    step: int


class _Measure(msgspec.Struct, tag="measure"):
    pass


class _Settle(msgspec.Struct, tag="settle"):
    sent: dict[int, dict[int, Sent]]
    patience_seconds: float


class _Opened(msgspec.Struct, tag="opened"):
    pass


class _AllOpen(msgspec.Struct, tag="all_open"):
    pass


class _Received(msgspec.Struct, tag="received"):
    count: int


class _Settled(msgspec.Struct, tag="settled"):
    verdict: Verdict


class _Failed(msgspec.Struct, tag="failed"):
    text: str


_orders = msgspec.json.Decoder(_Open | _Measure | _Settle)
_news = msgspec.json.Decoder(_Opened | _AllOpen | _Received | _Settled | _Failed)
_encode = msgspec.json.Encoder().encode


class Crew:
    """Subscribers dealt out to processes. See :class:`wsock.bench.listeners.Audience`."""

    def __init__(self, load: Load, plan: Plan, *, reactor: Any) -> None:
        count = min(load.processes, plan.subscribers)
        self._members = [_Member(reactor) for _ in range(count)]
        self._orders = [_Open(load, plan, number, count) for number in range(count)]

    @property
    def received(self) -> int:
        """Deliveries so far, as far as the processes have told."""
        return sum(member.received for member in self._members)

    async def open(self, opened: Callable[[], None]) -> None:
        """Starts the processes, which connect and subscribe. Raises :class:`BenchError`."""
        await all_of([m.start(order, opened) for m, order in zip(self._members, self._orders, strict=True)])

    def measure(self) -> None:
        """From now on they count how long deliveries take."""
        for member in self._members:
            member.tell(_Measure())

    async def settle(self, sent: Published, patience_seconds: float) -> Verdict:
        """What they heard, added up."""
        order = _Settle({channel: dict(sources) for channel, sources in sent.items()}, patience_seconds)
        total = Verdict()
        for verdict in await all_of([member.ask(order) for member in self._members]):
            total.add(verdict)
        return total

    async def close(self) -> None:
        """Ends the processes."""
        await gatherResults([member.end() for member in self._members])


class _Member(ProcessProtocol):
    """One process, seen from the first."""

    def __init__(self, reactor: Any) -> None:
        self.received = 0
        self._reactor = reactor
        self._opened: Callable[[], None] = lambda: None
        self._rest = b""
        self._waiting: Deferred[Any] | None = None
        self._failure: str | None = None
        self._ended: Deferred[None] = Deferred()

    def start(self, order: _Open, opened: Callable[[], None]) -> Deferred[Any]:
        """Starts it. Fires when its subscribers are subscribed, fails with :class:`BenchError`."""
        self._opened = opened
        arguments = python("-c", _COMMAND)
        self._reactor.spawnProcess(
            self, arguments[0], arguments, env=importing_alike(os.environ), childFDs={0: "w", 1: "r", 2: 2}
        )
        return self.ask(order)

    def ask(self, order: msgspec.Struct) -> Deferred[Any]:
        """Gives it an order that has an answer."""
        if self._failure is not None:
            return fail(BenchError(self._failure))
        self.tell(order)
        self._waiting = Deferred()
        return self._waiting

    def tell(self, order: msgspec.Struct) -> None:
        """Gives it an order."""
        if self.transport is not None:
            self.transport.write(_encode(order) + b"\n")

    def end(self) -> Deferred[None]:
        """Lets it end. Fires when it has."""
        if self.transport is None:
            return succeed(None)
        self.transport.closeStdin()
        return self._ended

    def outReceived(self, data: bytes) -> None:  # noqa: N802  # Twisted's name
        """Hears its news."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(_news.decode(line))

    def processEnded(self, reason: Failure) -> None:  # noqa: N802  # Twisted's name
        """It is gone; who still waits for it hears that."""
        self._fail(f"a process of the load generator has ended: {reason.getErrorMessage()}")
        self._ended.callback(None)

    def _hear(self, news: _Opened | _AllOpen | _Received | _Settled | _Failed) -> None:
        match news:
            case _Opened():
                self._opened()
            case _AllOpen():
                self._answer(None)
            case _Received():
                self.received = news.count
            case _Settled():
                self.received = news.verdict.deliveries
                self._answer(news.verdict)
            case _Failed():
                self._fail(news.text)

    def _answer(self, value: Verdict | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(value)

    def _fail(self, text: str) -> None:
        self._failure = text
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(BenchError(text))


class CrewMember(LineOnlyReceiver):
    """Such a process from within: it takes orders from its input until that ends, and then stops the reactor."""

    delimiter = b"\n"
    MAX_LENGTH = _MOST_BYTES

    def __init__(self, *, reactor: Any, clock: Callable[[], int], cpu: Callable[[], float], mask: bytes) -> None:
        self._reactor = reactor
        self._clock = clock
        self._cpu = cpu
        self._mask = mask
        self._audience: Audience | None = None
        self._telling = LoopingCall(self._tell_received)
        self._telling.clock = reactor
        self._told = 0
        self._since = (0, 0.0)
        self._working: Deferred[None] | None = None

    def lineReceived(self, line: bytes) -> None:  # noqa: N802  # Twisted's name
        """Carries out an order."""
        match _orders.decode(line):
            case _Open() as order:
                self._working = Deferred.fromCoroutine(self._open(order))
            case _Measure():
                self._since = (self._clock(), self._cpu())
                assert self._audience is not None
                self._audience.measure()
            case _Settle() as order:
                self._working = Deferred.fromCoroutine(self._settle(order))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The first process is done, or gone."""
        if self._telling.running:
            self._telling.stop()
        closing = Deferred.fromCoroutine(self._close())
        closing.addBoth(lambda _: self._reactor.stop())

    async def _open(self, order: _Open) -> None:
        load, plan = order.load, order.plan
        where = target(load.url, load.key, load.token)
        through = endpoints(where, self._reactor, tls_options(where, load.ca))
        dialler = Dialler(where, through, reactor=self._reactor, clock=self._clock, mask=self._mask)
        numbers = range(order.first, plan.subscribers, order.step)
        self._audience = Listeners(plan, numbers, dialler, reactor=self._reactor, clock=self._clock)
        try:
            await self._audience.open(lambda: self._tell(_Opened()))
        except BenchError as e:
            self._tell(_Failed(str(e)))
            return
        self._tell(_AllOpen())
        self._telling.start(_TELL_SECONDS)

    async def _settle(self, order: _Settle) -> None:
        assert self._audience is not None
        at, cpu = self._since
        share = (self._cpu() - cpu) / max((self._clock() - at) / 1e9, 1e-9)
        verdict = await self._audience.settle(order.sent, order.patience_seconds)
        verdict.cpu = share
        self._tell(_Settled(verdict))

    async def _close(self) -> None:
        if self._working is not None:
            self._working.cancel()
        if self._audience is not None:
            await self._audience.close()

    def _tell_received(self) -> None:
        assert self._audience is not None
        received = self._audience.received
        if received != self._told:
            self._told = received
            self._tell(_Received(received))

    def _tell(self, news: msgspec.Struct) -> None:
        self.sendLine(_encode(news))
