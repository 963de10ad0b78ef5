"""One client's automaton: what each text and each tick of the clock means for its connection.

Theory of operation =================== A session is fed the payload of every text message, and a tick every few
seconds. It answers with what is to be done, and does nothing itself:

* a :class:`~wsock.protocol.frames.Request` is to be performed,
* an :class:`Answer` is to be sent,
* an :class:`End` is to be carried out: the event (if any) is sent, then a close frame, and the connection is aborted
  a second later whether the client answers or not.

It goes through three states::

    OPEN --(credential expired)--> EXPIRED --(30 s)--> ENDED
      ^                               |
      +--------(renewed)--------------+
    OPEN or EXPIRED --(too many malformed texts)--> ENDED

Nothing that arrives once it has ended means anything. The session has no clock: ``now`` is passed in, in seconds of
any clock that never goes back. What it can not know, it is told: that something was sent (``sent``), and when the
credential expires (``expires_at``, same clock).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from msgspec import UNSET

from wsock.errors import CloseCode, Code, Malformed, Refused
from wsock.protocol.codec import Codec
from wsock.protocol.frames import ErrorEvent, Event, Pong, Request
from wsock.protocol.rates import SlidingWindow

__all__ = ["Answer", "End", "Session", "SessionLimits", "error_event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """What one connection may do. Rates of 0 are no limit."""

    rate: float = 0.0
    """Requests a second, sustained."""
    burst: float = 0.0
    """Requests at once: so many in any time in which the rate allows as many; at least 1."""
    exceeded: Callable[[], bool] = lambda: True
    """Asked for each request beyond the rate: whether it is refused."""
    setting: str = "limits.connection_rate"
    """Where the rate is set, for people."""
    malformed: int = 10
    """Malformed texts in a minute that end the connection."""
    expiry_grace_seconds: float = 30.0
    """From the ``token_expired`` error to the close."""
    heartbeat_seconds: float = 20.0
    """Silence towards the client after which it is sent a pong."""


@dataclass(frozen=True, slots=True)
class Answer:
    """This event is to be sent."""

    event: Event


@dataclass(frozen=True, slots=True)
class End:
    """The connection is to be ended with this close code."""

    code: CloseCode
    reason: str
    event: Event | None = None


def error_event(refused: Refused, *, channel: str | None = None, id: str | None = None) -> ErrorEvent:
    """The frame that tells a client of a refusal."""
    return ErrorEvent(
        error=refused.text,
        code=refused.code.value,
        channel=UNSET if channel is None else channel,
        id=UNSET if id is None else id,
        retry_after=UNSET if refused.retry_after is None else refused.retry_after,
    )


_PONG = Answer(Pong())
_EXPIRED = Answer(
    ErrorEvent(
        error="the token has expired: send 'auth' with a new one, or the connection is closed",
        code=Code.TOKEN_EXPIRED,
    )
)


class Session:
    """The state of one connection, as far as the protocol sees it."""

    __slots__ = (
        "_codec",
        "_is_ended",
        "_limits",
        "_malformed",
        "_performed",
        "_quiet_since",
        "_warned_at",
        "expires_at",
        "sent",
    )

    def __init__(self, codec: Codec, limits: SessionLimits, now: float, expires_at: float | None = None) -> None:
        self._codec = codec
        self._limits = limits
        self.expires_at = expires_at
        self.sent = False
        self._quiet_since = now
        self._performed: SlidingWindow | None = None
        self._malformed: list[float] | None = None
        self._warned_at: float | None = None
        self._is_ended = False

    def receive(self, text: bytes, now: float) -> Request | Answer | End | None:
        """What a text message means; ``None`` when the session has ended."""
        if self._is_ended:
            return None
        try:
            request = self._codec.decode(text)
        except Malformed as e:
            return self._blame(e, now)
        if self._limits.rate:
            wait = self._wait(request, now)
            if wait and self._limits.exceeded():
                return Answer(self._throttled(request, wait))
        return request

    def tick(self, now: float) -> Answer | End | None:
        """What the passing of time means: a heartbeat, or the end of an expired credential."""
        if self._is_ended:
            return None
        if self.expires_at is not None and now >= self.expires_at:
            return self._expire(now)
        if self.sent:
            self.sent = False
            self._quiet_since = now
        elif now - self._quiet_since >= self._limits.heartbeat_seconds:
            self._quiet_since = now
            return _PONG
        return None

    def renew(self, expires_at: float | None) -> None:
        """The credential was replaced by one that expires then."""
        self.expires_at = expires_at
        self._warned_at = None

    def limit(self, limits: SessionLimits) -> None:
        """From now on the connection may do this; what it did counts."""
        self._limits = limits

    def end(self) -> None:
        """The connection is ending for a reason of its own."""
        self._is_ended = True

    def blame(self, refused: Malformed, now: float) -> Answer | End | None:
        """Counts a message that is malformed already as a message: a binary one, say."""
        return None if self._is_ended else self._blame(refused, now)

    def _blame(self, refused: Malformed, now: float) -> Answer | End:
        event = error_event(refused, channel=refused.channel, id=refused.id)
        if refused.code is Code.UNKNOWN_ACTION:
            return Answer(event)
        recent = [at for at in self._malformed or () if at > now - 60]
        recent.append(now)
        self._malformed = recent
        if len(recent) < self._limits.malformed:
            return Answer(event)
        self._is_ended = True
        return End(CloseCode.POLICY, f"{len(recent)} malformed messages in a minute", event)

    def _expire(self, now: float) -> Answer | End | None:
        if self._warned_at is None:
            self._warned_at = now
            return _EXPIRED
        if now - self._warned_at < self._limits.expiry_grace_seconds:
            return None
        self._is_ended = True
        return End(CloseCode.TOKEN_EXPIRED, "the token has expired")

    def _wait(self, request: Request, now: float) -> float:
        """Counts a request; 0, or the seconds to wait when there are too many."""
        if request.__struct_config__.tag == "ping":
            return 0.0
        if self._performed is None:
            self._performed = SlidingWindow()
        limit = max(1, ceil(self._limits.burst))
        seconds = limit / self._limits.rate
        if self._performed.take(1, limit, seconds, now):
            return 0.0
        return max(ceil(self._performed.wait(limit, seconds, now) * 1000), 1) / 1000

    def _throttled(self, request: Request, wait: float) -> ErrorEvent:
        text = f"more than {self._limits.rate:g} requests a second on this connection ({self._limits.setting})"
        return error_event(
            Refused(Code.RATE_LIMITED, text, retry_after=wait),
            channel=getattr(request, "channel", None),
            id=getattr(request, "id", None),
        )
