"""The publishers: so many publishes without an ack, or so many a second; each is numbered and accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsock.bench.connection import Connection
from wsock.bench.load import Plan
from wsock.bench.tally import Sent
from wsock.bench.wire import Ack, Chunk, ErrorFrame

__all__ = ["Publisher"]

_PAUSE_SECONDS = 0.002
_MOST_AT_ONCE = 256
_NANO = 1_000_000_000
_TIMER_NANOSECONDS = 2_000_000


class Publisher:
    """One publisher, which takes the channels in turns.

    ``may_go`` says whether subscribers keep up; while they do not, a window stays open: it is for deliveries as well.
    """

    def __init__(
        self,
        source: int,
        plan: Plan,
        connection: Connection,
        *,
        reactor: IReactorTime,
        clock: Callable[[], int],
        may_go: Callable[[], bool],
    ) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.end: str | None = None
        self.lateness = 0
        """The longest time, in nanoseconds, that a publish was sent after it was due."""
        self._plan = plan
        self._source = source
        self.connection = connection
        self._reactor = reactor
        self._clock = clock
        self._may_go = may_go
        self._count = 0
        self._waiting: set[int] = set()
        self._absent: set[int] = set()
        self._call: IDelayedCall | None = None
        self._is_running = False
        self._started_at = 0
        self._due = 0
        persist = "true" if plan.persist else "false"
        self._heads = [
            f'{{"action":"publish","channel":"{plan.channel(n)}","persist":{persist},"id":"{source}-'.encode()
            for n in range(plan.channels)
        ]
        self._padding = b"x" * plan.size
        connection.on_chunk = self._heard
        connection.on_end = self._ended

    def start(self) -> None:
        """Begins to publish."""
        self._is_running = True
        self._started_at = self._clock()
        self._go()

    def stop(self) -> None:
        """Publishes nothing more."""
        self._is_running = False
        if self._call is not None:
            self._call.cancel()
            self._call = None

    @property
    def published(self) -> int:
        """How many publishes it made."""
        return self._count

    @property
    def waiting(self) -> int:
        """How many have no answer yet."""
        return len(self._waiting)

    def sent(self) -> dict[int, Sent]:
        """What it published, by channel; what has no answer yet is not accepted."""
        channels = self._plan.channels
        absent: dict[int, set[int]] = {}
        for sequence in self._absent | self._waiting:
            absent.setdefault(sequence % channels, set()).add(sequence // channels)
        counts = {n: len(range(n, self._count, channels)) for n in range(channels)}
        return {n: Sent(count, frozenset(absent.get(n, ()))) for n, count in counts.items() if count}

    def _go(self) -> None:
        self._call = None
        if not self._is_running or self.end is not None:
            return
        if self._plan.rate is None:
            self._fill_window()
        else:
            self._keep_rate(self._plan.rate / self._plan.publishers)

    def _fill_window(self) -> None:
        room = self._plan.window - len(self._waiting)
        if room > 0 and not self._may_go():
            self._call = self._reactor.callLater(_PAUSE_SECONDS, self._go)
            return
        now = self._clock()
        self._publish([now] * room)

    def _keep_rate(self, rate: float) -> None:
        """Publishes what is due. The time of a message is when it was due, so that a stall makes the next ones late.

        Timers are late by up to a millisecond and more, which is none of the server's business: what is sent that soon
        after it was due has the time at which it was sent.
        """
        now = self._clock()
        dues: list[int] = []
        while len(dues) < _MOST_AT_ONCE and (due := self._due_at(rate)) <= now:
            late = now - due
            self.lateness = max(self.lateness, late)
            dues.append(now if late < _TIMER_NANOSECONDS else due)
            self._due += 1
        self._publish(dues)
        self._call = self._reactor.callLater(max(0.0, (self._due_at(rate) - self._clock()) / _NANO), self._go)

    def _due_at(self, rate: float) -> int:
        """When the next publish is due; the publishers take turns."""
        return self._started_at + int((self._due + self._source / self._plan.publishers) * _NANO / rate)

    def _publish(self, times: list[int]) -> None:
        if not times:
            return
        plan, frame = self._plan, self.connection.masker.frame
        frames, last = [], plan.size - 2
        for at in times:
            sequence = self._count
            self._count += 1
            channel = sequence % plan.channels
            head = b'[%d,%d,%d,%d,"' % (self._source, channel, sequence // plan.channels, at)
            frames.append(
                frame(
                    b'%b%d","data":%b%b"]}' % (self._heads[channel], sequence, head, self._padding[: last - len(head)])
                )
            )
            self._waiting.add(sequence)
        self.connection.write(b"".join(frames))

    def _heard(self, chunk: Chunk) -> None:
        for answer in chunk.answers:
            if isinstance(answer, Ack):
                self._answered(answer.id, None)
            elif isinstance(answer, ErrorFrame):
                self._answered(answer.id, answer)
        if self._is_running and self._plan.rate is None and self._call is None:
            # At the end of the reactor's turn: all answers of one turn make room for one write. Who is refused waits.
            was_refused = any(isinstance(answer, ErrorFrame) for answer in chunk.answers)
            self._call = self._reactor.callLater(_PAUSE_SECONDS if was_refused else 0, self._go)

    def _answered(self, id: str, error: ErrorFrame | None) -> None:
        number = id.rpartition("-")[2]
        if not number.isdecimal() or int(number) not in self._waiting:
            if error is not None:
                self.refused[error.code or "error"] += 1
            return
        self._waiting.remove(int(number))
        if error is None:
            self.accepted += 1
            return
        self._absent.add(int(number))
        self.refused[error.code] += 1

    def _ended(self, reason: str) -> None:
        self.end = reason
