"""How long the reactor is busy before it turns to what is next: the delay that everything on this node suffers.

Theory of operation
===================
Everything is done by one thread, one after the other, so whatever takes long makes all else wait. Twisted tells
nobody how long an iteration of its loop takes, but a timer notices. Ten times a second one is due, and how late it
fires is a sample of how long an event waits at any moment: its *lag*. That timer then asks to be called without
delay. Such a call is made when the iteration is over, and the reactor does not wait for events while one is pending:
the time until then is the length of one *turn*, without idle time.

Nothing that takes longer than the pause between two samples escapes: either the timer is late by it, less that pause
at most, or the turn that is measured contains it. A sample costs two timers and some additions, however busy the
server is.

Times come from a clock that nobody sets: by the reactor's, which is the wall clock, each correction of the time would
be a stall. The CPU time of the thread tells whether a stall was spent computing, or waiting for something.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from wsock.measures import SECONDS, Histogram, Peak

__all__ = ["ReactorProbe"]

_INTERVAL_SECONDS = 0.1
_PEAK_SECONDS = 60.0
_LONG_SECONDS = 1.0
_QUIET_SECONDS = 30.0


class ReactorProbe(Service):
    """Samples the reactor behind ``clock``.

    ``monotonic`` is a clock in seconds that never steps; ``cpu`` tells the CPU seconds that the calling thread has
    used. ``lag`` and ``turns`` are what was sampled, in seconds. A second or more is worth a warning, one in 30 s.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, monotonic: Callable[[], float], cpu: Callable[[], float]) -> None:
        self.lag = Histogram(SECONDS)
        self.turns = Histogram(SECONDS)
        self._clock = clock
        self._monotonic = monotonic
        self._cpu = cpu
        self._peak = Peak(_PEAK_SECONDS)
        self._call: IDelayedCall | None = None
        self._since = self._cpu_since = 0.0
        self._quiet_until = 0.0
        self._untold = 0

    @property
    def longest(self) -> float:
        """The largest sample of the last minute, in seconds."""
        return self._peak.at(self._monotonic())

    @property
    def cpu_seconds(self) -> float:
        """The CPU time that the reactor's thread has used. To be read in that thread."""
        return self._cpu()

    def startService(self) -> None:
        """Begins to sample."""
        super().startService()
        self._wait()

    def stopService(self) -> None:
        """Ends."""
        super().stopService()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _wait(self) -> None:
        self._mark()
        self._call = self._clock.callLater(_INTERVAL_SECONDS, self._fired)

    def _mark(self) -> None:
        self._since, self._cpu_since = self._monotonic(), self._cpu()

    def _fired(self) -> None:
        # Before it is due it fires only when the wall clock, by which the reactor goes, was put forward.
        self._sampled(self.lag, max(0.0, self._monotonic() - self._since - _INTERVAL_SECONDS))
        self._mark()
        self._call = self._clock.callLater(0, self._turned)

    def _turned(self) -> None:
        self._sampled(self.turns, self._monotonic() - self._since)
        self._wait()

    def _sampled(self, histogram: Histogram, seconds: float) -> None:
        histogram.observe(seconds)
        now = self._monotonic()
        self._peak.observe(seconds, now)
        if seconds >= _LONG_SECONDS:
            self._stalled(seconds, self._cpu() - self._cpu_since, now)

    def _stalled(self, seconds: float, computing: float, now: float) -> None:
        if now < self._quiet_until:
            self._untold += 1
            return
        self._quiet_until = now + _QUIET_SECONDS
        untold, self._untold = self._untold, 0
        self._log.warn(
            "the reactor was busy for {seconds} s, and nobody was served: {reason}{untold}",
            seconds=round(seconds, 1),
            reason=_reason(seconds, computing),
            untold=f"; {untold} more such pauses were not logged" if untold else "",
        )


def _reason(seconds: float, computing: float) -> str:
    if computing >= seconds / 2:
        return f"it computed for {computing:.1f} s, so one piece of work is too large"
    return f"it computed for {computing:.1f} s only, and waited: for a disk, for swapped memory, or for a CPU"
