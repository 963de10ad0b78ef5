"""What can go wrong, as data: the error codes, the close codes, and the exceptions that carry them.

The hierarchy::

    WsockError
    ├── Refused        one request is answered with an error; the connection lives
    │   ├── Malformed  the text of the request cannot be understood; too many of them end the connection
    │   ├── Conflict   what is stored does not allow a change
    │   └── Unavailable  a store is away or full; the same request may be repeated
    ├── Gone           a position can no longer be proved complete
    └── ConfigError    a setting is wrong; the process does not start

Both tables follow protocol.md I.4. Texts are for people, codes are for programs.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = [
    "HTTP_STATUS",
    "CloseCode",
    "Code",
    "ConfigError",
    "Conflict",
    "Gone",
    "Malformed",
    "Refused",
    "Unavailable",
    "WsockError",
]


class Code(StrEnum):
    """The ``code`` of an error, on the WebSocket and over HTTP alike."""

    BAD_REQUEST = "bad_request"
    """The text is not a valid request: not a JSON object, a wrong type, invalid UTF-8, too deep."""
    UNKNOWN_ACTION = "unknown_action"
    """The ``action`` is none that this server knows."""
    CHANNEL_NAME = "channel_name"
    """The channel name is empty, too long, or holds control characters."""
    TOO_LARGE = "too_large"
    """The message or the presence data is larger than its limit."""
    UNAUTHORIZED = "unauthorized"
    """The credential is missing, unknown or invalid."""
    TOKEN_EXPIRED = "token_expired"
    """The JWT has expired; the connection ends unless it is renewed with ``auth``."""
    FORBIDDEN = "forbidden"
    """The credential lacks the permission that the text names."""
    NOT_FOUND = "not_found"
    """HTTP only: there is nothing at this path."""
    CONFLICT = "conflict"
    """HTTP only: it was changed meanwhile, or something that must be unique is taken; read again, then decide."""
    RATE_LIMITED = "rate_limited"
    """Too many requests; ``retryAfter`` says when to try again."""
    QUOTA_EXCEEDED = "quota_exceeded"
    """The plan's quota is used up."""
    LIMIT_EXCEEDED = "limit_exceeded"
    """A limit of this server, named in the text, is reached."""
    UNAVAILABLE = "unavailable"
    """A store is away or the server is ending; repeat the request with the same id."""
    RECOVERY_FAILED = "recovery_failed"
    """Messages of the named channel may have been missed; read its history."""
    INTERNAL = "internal"
    """A fault of the server. The details are in its log only."""


HTTP_STATUS: dict[Code, int] = {
    Code.BAD_REQUEST: 400,
    Code.UNKNOWN_ACTION: 400,
    Code.CHANNEL_NAME: 400,
    Code.TOO_LARGE: 413,
    Code.UNAUTHORIZED: 401,
    Code.TOKEN_EXPIRED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.RATE_LIMITED: 429,
    Code.QUOTA_EXCEEDED: 429,
    Code.LIMIT_EXCEEDED: 422,
    Code.UNAVAILABLE: 503,
    Code.RECOVERY_FAILED: 410,
    Code.INTERNAL: 500,
}
"""The HTTP status that goes with each code."""


class CloseCode(IntEnum):
    """The WebSocket close codes that this server sends (RFC 6455 §7.4.1; 4xxx are its own)."""

    NORMAL = 1000
    """The answer to a close that the client started without a code."""
    GOING_AWAY = 1001
    """The server shuts down and no other takes over."""
    PROTOCOL_ERROR = 1002
    """The bytes are not WebSocket frames that a client may send."""
    INVALID_DATA = 1007
    """A compressed message that can't be decompressed."""
    POLICY = 1008
    """Too many malformed requests, or the client is blocked."""
    TOO_BIG = 1009
    """A frame is larger than the server reads."""
    SERVICE_RESTART = 1012
    """The server restarts; connect again (for browsers behind TLS)."""
    TOKEN_EXPIRED = 4401
    """The JWT expired and was not renewed in time."""
    DISCONNECTED = 4403
    """An administrator ended the connection, or its credential was revoked."""


class WsockError(Exception):
    """The base of all errors that wsock raises on purpose."""


class Refused(WsockError):
    """One request is refused; the connection lives.

    ``code`` is from :class:`Code`; ``retry_after`` is in seconds.
    """

    def __init__(self, code: Code, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.retry_after = retry_after


class Malformed(Refused):
    """The text of a request cannot be understood.

    ``channel`` and ``id`` are what could be read of it all the same, so that the client can tell which one it was.
    """

    def __init__(
        self, text: str, code: Code = Code.BAD_REQUEST, *, channel: str | None = None, id: str | None = None
    ) -> None:
        super().__init__(code, text)
        self.channel = channel
        self.id = id


class Conflict(Refused):
    """What is stored does not allow a change: it was changed or deleted meanwhile, or something unique is taken."""

    def __init__(self, text: str) -> None:
        super().__init__(Code.CONFLICT, text)


class Unavailable(Refused):
    """A store is away or full: nothing was accepted, and the same request may be repeated."""

    def __init__(self, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(Code.UNAVAILABLE, text, retry_after=retry_after)


class Gone(WsockError):
    """Messages after a position can no longer be proved complete."""


class ConfigError(WsockError):
    """A setting is wrong. The text names its key and what it takes."""
