"""What can go wrong for a user of the client."""

from __future__ import annotations

from enum import StrEnum

from wsock.errors import WsockError
from wsock.protocol.frames import ErrorEvent

__all__ = ["ClientCode", "ClientError", "error_of"]


class ClientCode(StrEnum):
    """The codes that the client adds to those of the server (:class:`wsock.errors.Code`)."""

    TIMEOUT = "timeout"
    """No answer in the time given. A publish may have been accepted all the same: repeat it with its id."""
    CLOSED = "closed"
    """The client is closed, or was closed before the answer came."""
    CONNECTION = "connection"
    """The server could not be reached, or answered something that is no WebSocket."""
    GAP = "gap"
    """The server skipped messages of a channel; the client asks for them again by itself."""
    BAD_FRAME = "bad_frame"
    """The server sent what the client does not understand."""
    TOKEN = "token"
    """The callable that was to supply a token failed."""


class ClientError(WsockError):
    """A request failed, or the client tells of a fault.

    ``code`` is one of :class:`wsock.errors.Code` or :class:`ClientCode`; ``channel`` is the channel concerned,
    ``retry_after`` is in seconds, ``status`` is the HTTP status of a refused upgrade.
    """

    def __init__(
        self,
        code: str,
        text: str,
        *,
        channel: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.channel = channel
        self.retry_after = retry_after
        self.status = status


def error_of(event: ErrorEvent) -> ClientError:
    """The exception that an error frame is."""
    return ClientError(
        event.code,
        event.error,
        channel=event.channel or None,
        retry_after=event.retry_after if isinstance(event.retry_after, int | float) else None,
    )
