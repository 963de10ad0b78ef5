"""A request of an HTTP/2 client on its way to an answer, and how it can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock.providers.h2response import ClientRequest

__all__ = ["ConnectionFailed", "Exchange", "Limits", "NotProcessed", "StreamFailed"]


class ConnectionFailed(Exception):
    """The connection ended, or can't be used. A request that was on its way may have been acted on."""


class NotProcessed(ConnectionFailed):
    """The peer refused the request, again and again, without acting on it."""


class StreamFailed(Exception):
    """The peer ended the request's stream with an error; ``code`` is one of RFC 9113 §7."""

    def __init__(self, code: int) -> None:
        name = next((known.name for known in ErrorCodes if known == code), str(code))
        super().__init__(f"the server ended the request with {name}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how many. A connection is checked after ``ping_after`` seconds of silence."""

    setup_seconds: float = 10.0
    ping_after: float = 60.0
    ping_within: float = 10.0
    idle_seconds: float = 3600.0
    max_streams: int = 256
    """The most requests at once on a connection; h2 looks at all of them whenever one begins."""


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """A request with its whole body, so that it can be sent again, and who waits for the answer."""

    request: ClientRequest
    head: list[tuple[bytes, bytes]]
    body: bytes
    answered: Deferred[Any]
    refusals: int = 0
    stop: Callable[[], None] | None = None
    """Takes the request back from wherever it is now."""

    def fail(self, reason: Failure) -> None:
        """There is no answer."""
        self.stop = None
        if not self.answered.called:
            self.answered.errback(reason)
