"""A WebSocket upgrade that reaches a resource: on a connection that was kept alive, or in somebody else's site.

The head was parsed by twisted.web. It is checked as the door would have checked it and is not written out and parsed
again: that is how a header with a line separator in it becomes two.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Request

from wsock.edges.doorway import Gate, take_over
from wsock.edges.http.answers import internal_error, refused_answer, send
from wsock.errors import Malformed, Refused
from wsock.protocol.handshake import Handshake, Head, HeadError, upgrade

__all__ = ["Upgrades", "asks_for_websocket"]

_forbidden = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f\x85]").search
"""What no header value may hold; see :func:`wsock.protocol.handshake.parse_head`."""


def asks_for_websocket(request: Request) -> bool:
    """Whether the request is an upgrade to WebSocket, valid or not."""
    values = b",".join(request.requestHeaders.getRawHeaders(b"upgrade", []))
    return any(part.strip().lower() == b"websocket" for part in values.split(b","))


class Upgrades:
    """Opens connections on the transports of HTTP requests."""

    _log = Logger()

    def __init__(self, gate: Gate, trusted_proxies: int) -> None:
        self._gate = gate
        self._trusted_proxies = trusted_proxies

    def accept(self, request: Request) -> None:
        """Answers the request: with 101 and a connection, or with a refusal and the end of the connection."""
        gone = request.notifyFinish()
        admission = Deferred.fromCoroutine(self._admit(request))
        gone.addCallbacks(lambda _: None, lambda _: admission.cancel())
        admission.addErrback(self._failed, request)

    async def _admit(self, request: Request) -> None:
        try:
            handshake = upgrade(_head(request))
            opens = await self._gate.admit(handshake, self._address(handshake, request))
        except HeadError as e:
            _refuse(request, Malformed(f"bad request head: {e}"))
            return
        except Refused as e:
            _refuse(request, e)
            return
        transport, rest = _detach(request)
        connection = opens(transport)
        take_over(_owner(transport), connection)
        if rest:
            connection.dataReceived(rest)

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):
            return
        self._log.failure("an upgrade failed", failure=failure)
        # After a hand-over the channel has no transport any more.
        channel: Any = request.channel
        transport: Any = request.transport
        if channel is not None and channel.transport is not None:
            _refuse(request, internal_error())
        else:
            transport.abortConnection()

    def _address(self, handshake: Handshake, request: Request) -> str:
        forwarded = [part.strip() for part in handshake.headers.get("x-forwarded-for", "").split(",")]
        trusted = self._trusted_proxies
        if trusted and len(forwarded) >= trusted and forwarded[-trusted]:
            return forwarded[-trusted]
        host: str = getattr(request.client, "host", "local")
        return host


def _head(request: Request) -> Head:
    if not isinstance(request.channel, HTTPChannel):
        raise HeadError("an upgrade takes GET and HTTP/1.1")
    headers: dict[str, str] = {}
    repeated = set()
    for raw, values in request.requestHeaders.getAllRawHeaders():
        name = raw.decode("ascii").lower()
        if any(_forbidden(value) for value in values):
            raise HeadError("malformed header line or a control character in a header")
        if len(values) > 1:
            repeated.add(name)
        headers[name] = ", ".join(value.decode("latin-1") for value in values)
    method, target = request.method.decode("latin-1"), request.uri.decode("latin-1")
    return Head(method, target, request.clientproto == b"HTTP/1.1", headers, frozenset(repeated))


def _refuse(request: Request, refused: Refused) -> None:
    if isinstance(request.channel, HTTPChannel):
        request.setHeader(b"Connection", b"close")
        request.channel.persistent = False
    send(request, refused_answer(request, refused))


def _detach(request: Request) -> tuple[Any, bytes]:
    """The transport, free of HTTP, and what was read from it already.

    Twisted has no public way to do this: the channel is its transport's producer, keeps what arrives during a request,
    and may have paused the transport for it. To the channel the connection is lost.
    """
    channel: Any = request.channel
    transport = channel.transport
    channel._networkProducer.unregisterProducer()
    channel._networkProducer.resumeProducing()
    rest = b"".join(channel._dataBuffer) + channel.clearLineBuffer()
    channel._dataBuffer = []
    channel.requests = []
    channel.connectionLost(Failure(ConnectionDone()))
    channel.transport = None
    return transport, rest


def _owner(transport: Any) -> Any:
    """Whose protocol is to be replaced: after STARTTLS the wrapper stands between the transport and its protocol."""
    inner = None if isinstance(transport, ProtocolWrapper) else getattr(transport, "protocol", None)
    return inner if isinstance(inner, ProtocolWrapper) else transport
