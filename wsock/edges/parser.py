"""Autobahn's frame parser, for every frame that is not a complete masked text frame.

A parser exists only while it is needed: from the first byte of something unusual (a control frame, a fragment, a frame
that no client may send) until it is at rest between two messages. So its strictness costs nothing at rest. What it
finds, it tells the connection; it never writes.
"""

from __future__ import annotations

from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.compress_deflate import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketProtocol

from wsock.errors import CloseCode

__all__ = ["FrameParser", "FrameReceiver"]

_MAX_FRAGMENTS = 16384
_UNMASKED_PONG = 0x8A


class FrameReceiver(Protocol):
    """Whom the parser tells."""

    def received_message(self, payload: bytes, is_binary: bool) -> None:
        """A complete message."""

    def received_ping(self, payload: bytes) -> None:
        """A ping, to be answered."""

    def received_close(self, code: int | None) -> None:
        """The client closes."""

    def fail(self, code: CloseCode, reason: str) -> None:
        """The client broke the protocol."""


class _Factory:
    """What the parser asks of Autobahn's factory."""

    isServer = True  # noqa: N815


class FrameParser(WebSocketServerProtocol):
    """Feed it bytes with :meth:`feed`; it may be dropped when :attr:`is_at_rest`.

    ``limit`` is that of a message, decompressed if ``is_compressing``, that is, if compression was agreed upon.
    """

    # Set here, so that Autobahn copies (and formats for its log) no options for each instance.
    CONFIG_ATTRS = []
    applyMask = True  # noqa: N815
    autoFragmentSize = 0  # noqa: N815
    autoPingInterval = 0  # noqa: N815
    autoPingRestartOnAnyTraffic = False  # noqa: N815
    failByDrop = True  # noqa: N815
    logFrames = False  # noqa: N815
    logOctets = False  # noqa: N815
    openHandshakeTimeout = 0  # noqa: N815
    requireMaskedClientFrames = True  # noqa: N815
    trackTimings = False  # noqa: N815
    # The text of every message is checked as a whole, in one place: wsock.protocol.codec.
    utf8validateIncoming = False  # noqa: N815
    websocket_version = 13
    factory = _Factory()

    def __init__(self, receiver: FrameReceiver, limit: int, *, is_compressing: bool = False) -> None:
        super().__init__()
        self._receiver = receiver
        self.maxFramePayloadSize = limit
        self.maxMessagePayloadSize = limit
        WebSocketProtocol._connectionMade(self)
        if is_compressing:
            # Without a context that is taken over; any window is within the largest, which zlib can read.
            self._perMessageCompress: Any = PerMessageDeflate(True, True, True, 0, 0, 0)
        self.state = WebSocketProtocol.STATE_OPEN
        self.inside_message = False
        self.current_frame: Any = None

    @property
    def is_at_rest(self) -> bool:
        """Whether it stands between two messages with nothing left over."""
        return self.current_frame is None and not self.inside_message and not self.data

    def feed(self, data: bytes) -> None:
        """Parses the bytes and tells the receiver what they are."""
        self._dataReceived(data)

    def processData(self) -> bool:  # noqa: N802
        """Autobahn's step. PHP's library answers pings with unmasked pongs (protocol.md II.1): they are let pass."""
        if self.current_frame is None:
            self._skip_pongs()
            if self._is_pong_cut():
                return False
        return bool(super().processData())

    def _skip_pongs(self) -> None:
        data, at = self.data, 0
        while len(data) - at >= 2 and data[at] == _UNMASKED_PONG and len(data) - at >= 2 + data[at + 1] < 128:
            at += 2 + data[at + 1]
        self.data = data[at:]

    def _is_pong_cut(self) -> bool:
        data = self.data
        return len(data) >= 2 and data[0] == _UNMASKED_PONG and data[1] < 126

    def onMessageFrameBegin(self, length: int) -> None:
        """Autobahn's hook. Empty fragments count for no limit of Autobahn's, and are kept all the same."""
        super().onMessageFrameBegin(length)
        if len(self.message_data) >= _MAX_FRAGMENTS:
            self._fail_connection(CloseCode.TOO_BIG, f"a message of more than {_MAX_FRAGMENTS} fragments")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        """Autobahn's hook."""
        self._receiver.received_message(payload, isBinary)

    def onPing(self, payload: bytes) -> None:
        """Autobahn's hook."""
        self._receiver.received_ping(payload)

    def onPong(self, payload: bytes) -> None:
        """Autobahn's hook. A pong needs no answer."""

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:  # noqa: N803
        """Autobahn's hook."""
        self.state = WebSocketProtocol.STATE_CLOSED
        self._receiver.received_close(code)
        return True

    def _fail_connection(self, code: int = CloseCode.PROTOCOL_ERROR, reason: str = "", *_: Any) -> None:
        if self.state != WebSocketProtocol.STATE_CLOSED:
            self.state = WebSocketProtocol.STATE_CLOSED
            self._receiver.fail(CloseCode(code), reason)
