"""An HTTP/2 client as Twisted's :class:`IAgent`, with one connection for each origin.

Twisted has no HTTP/2 client (twisted#8489), and Apple's push service speaks nothing else. Whatever is built on agents
works on this one unchanged. Request bodies are read whole before anything is sent, so a request that the peer surely
did not act on is sent again by itself, on a new connection where it has to be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from wsock.providers.h2connection import Link
from wsock.providers.h2exchange import ConnectionFailed, Exchange, Limits, NotProcessed
from wsock.providers.h2response import ClientRequest

__all__ = ["BytesProducer", "ConnectTo", "H2Agent"]

ConnectTo = Callable[[bytes, int], IStreamClientEndpoint]
"""Makes the endpoint, TLS with ALPN ``h2`` included, of a host and a port."""

_MAX_REFUSALS = 6
_FIRST_DELAY = 0.05
_SLICE = 16
# RFC 9113 §8.2.2: what only concerns one connection of HTTP/1.1 has no place in HTTP/2; the length is written anew.
_DROPPED = frozenset(
    (b"connection", b"content-length", b"host", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_WITH_LENGTH = frozenset((b"POST", b"PUT", b"PATCH"))


@implementer(IAgent)
class H2Agent:
    """Asks servers by HTTP/2 over TLS, ``https:`` only.

    Two agents never share a connection. ``connect_to`` and ``trust_root`` are for servers that are not found, or not
    trusted, in the usual way.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        limits: Limits | None = None,
        trust_root: Any = None,
        connect_to: ConnectTo | None = None,
        max_body: int = 4_194_304,
    ) -> None:
        self._reactor = reactor
        self._limits = limits or Limits()
        self._trust_root = trust_root
        self._connect_to = connect_to or self._endpoint
        self._max_body = max_body
        self._origins: dict[tuple[bytes, int], _Origin] = {}

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803
    ) -> Deferred[IResponse]:
        """See IAgent. Cancelling takes the request back, and leaves the connection to the others.

        Fails with :class:`ConnectionFailed`, :class:`NotProcessed`, :class:`StreamFailed`, or with what kept it from
        connecting.
        """
        parsed = URI.fromBytes(uri)
        if parsed.scheme != b"https":
            return fail(SchemeNotSupported(f"HTTP/2 is spoken by https: only, not by {parsed.scheme!r}"))
        exchange = self._exchange(method, uri, headers or Headers())
        origin = self._origin(parsed)
        if bodyProducer is None:
            exchange.head = _head(exchange, parsed)
            origin.add(exchange)
            return exchange.answered
        reading = _read(bodyProducer, self._max_body)
        exchange.stop = reading.cancel

        def has_body(body: bytes) -> None:
            exchange.stop = None
            exchange.body = body
            exchange.head = _head(exchange, parsed)
            origin.add(exchange)

        reading.addCallbacks(has_body, exchange.fail)
        return exchange.answered

    async def close(self) -> None:
        """Ends all connections, and has when it returns; what is on its way fails. May be used again."""
        origins, self._origins = self._origins, {}
        await gatherResults([origin.close() for origin in origins.values()], consumeErrors=True)

    def _exchange(self, method: bytes, uri: bytes, headers: Headers) -> Exchange:
        def cancel(_: object) -> None:
            stop, exchange.stop = exchange.stop, None
            if stop is not None:
                stop()

        exchange = Exchange(request=ClientRequest(method, uri, headers), head=[], body=b"", answered=Deferred(cancel))
        return exchange

    def _origin(self, uri: URI) -> _Origin:
        key = (uri.host, uri.port)
        origin = self._origins.get(key)
        if origin is None:
            endpoint = self._connect_to(uri.host, uri.port)
            origin = self._origins[key] = _Origin(self._reactor, endpoint, self._limits)
        return origin

    def _endpoint(self, host: bytes, port: int) -> IStreamClientEndpoint:
        options = optionsForClientTLS(host.decode("ascii"), trustRoot=self._trust_root, acceptableProtocols=[b"h2"])
        return wrapClientTLS(options, HostnameEndpoint(self._reactor, host, port, self._limits.setup_seconds))


class _Origin:
    """The requests to one server, and the connection that they go over."""

    def __init__(self, clock: Any, endpoint: IStreamClientEndpoint, limits: Limits) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._limits = limits
        self._waiting: deque[Exchange] = deque()
        self._delayed: dict[Exchange, IDelayedCall] = {}
        self._link: Link | None = None
        self._links: set[Link] = set()
        self._is_connecting = False
        self._connecting: Deferred[Any] | None = None
        self._later: IDelayedCall | None = None
        self._ended: Deferred[None] | None = None

    def add(self, exchange: Exchange) -> None:
        """Sends it when there is room."""
        self._wait(exchange, self._waiting.append)
        self.pump()

    def close(self) -> Deferred[None]:
        """Ends everything; fires when no connection is left."""
        self._fail_waiting(Failure(ConnectionFailed("the client ended the connection")))
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._is_connecting and self._connecting is not None:
            self._connecting.cancel()
        if not self._links:
            return succeed(None)
        ended = self._ended = Deferred()
        for link in list(self._links):
            link.close()
        return ended

    # What a connection tells.

    def pump(self) -> None:
        """See :class:`Owner`."""
        if self._later is not None:
            return
        if self._link is not None and self._link.is_draining:
            self._link = None
        if self._link is None:
            if self._waiting and not self._is_connecting:
                self._connect()
            return
        link, started = self._link, 0
        while self._waiting and link.has_room and started < _SLICE:
            started += 1
            link.start(self._waiting.popleft())
        if link.is_draining:
            self.pump()
        elif self._waiting and link.has_room:
            # Others do something in between.
            self._later = self._clock.callLater(0, self._pump_later)

    def _pump_later(self) -> None:
        self._later = None
        self.pump()

    def refused(self, exchange: Exchange) -> None:
        """See :class:`Owner`: it goes first, at once the first time, then after a while."""
        exchange.refusals += 1
        if exchange.refusals > _MAX_REFUSALS:
            exchange.fail(Failure(NotProcessed("the server keeps refusing the request without acting on it")))
        elif exchange.refusals == 1:
            self._wait(exchange, self._waiting.appendleft)
        else:
            self._delay(exchange, _FIRST_DELAY * 2**exchange.refusals)

    def lost(self, link: Link) -> None:
        """See :class:`Owner`."""
        self._links.discard(link)
        self.pump()
        if self._ended is not None and not self._links:
            ended, self._ended = self._ended, None
            ended.callback(None)

    # Waiting.

    def _wait(self, exchange: Exchange, put: Callable[[Exchange], None]) -> None:
        exchange.stop = lambda: self._waiting.remove(exchange)
        put(exchange)

    def _delay(self, exchange: Exchange, seconds: float) -> None:
        def again() -> None:
            del self._delayed[exchange]
            self._wait(exchange, self._waiting.appendleft)
            self.pump()

        self._delayed[exchange] = self._clock.callLater(seconds, again)
        exchange.stop = lambda: self._delayed.pop(exchange).cancel()

    def _fail_waiting(self, reason: Failure) -> None:
        waiting, self._waiting = self._waiting, deque()
        delayed, self._delayed = self._delayed, {}
        for call in delayed.values():
            call.cancel()
        for exchange in (*waiting, *delayed):
            # Whoever hears of the first failure may cancel the others.
            exchange.stop = None
        for exchange in (*waiting, *delayed):
            exchange.fail(reason)

    # Connecting.

    def _connect(self) -> None:
        self._is_connecting = True
        connecting = self._endpoint.connect(Factory.forProtocol(lambda: self._new_link()))
        self._connecting = connecting
        connecting.addCallback(lambda protocol: self._ready_of(protocol))
        connecting.addCallbacks(self._connected, self._not_connected)

    def _new_link(self) -> Link:
        link = Link(self, self._clock, self._limits)
        self._links.add(link)
        return link

    def _ready_of(self, protocol: Any) -> Deferred[Link]:
        # TLS wraps the protocol for the endpoint's caller, where the endpoint is one of TLS.
        return getattr(protocol, "wrappedProtocol", protocol).ready  # type: ignore[no-any-return]

    def _connected(self, link: Link) -> None:
        self._is_connecting = False
        self._link = link
        self.pump()

    def _not_connected(self, reason: Failure) -> None:
        self._is_connecting = False
        self._fail_waiting(reason)


@implementer(IBodyProducer)
class BytesProducer:
    """A request's body that is there already."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802
        """See IBodyProducer."""
        done: Deferred[None] = Deferred()
        consumer.write(self._body)
        done.callback(None)
        return done

    def pauseProducing(self) -> None:  # noqa: N802
        """See IBodyProducer: it is written in one go."""

    def resumeProducing(self) -> None:  # noqa: N802
        """See IBodyProducer."""

    def stopProducing(self) -> None:  # noqa: N802
        """See IBodyProducer."""


class _Gathered:
    """A consumer that keeps what it is given, up to so many bytes; then ``whole`` fails."""

    def __init__(self, producer: IBodyProducer, most: int) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: producer.stopProducing())
        self._producer = producer
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if self.whole.called:
            return
        self._size += len(data)
        self._parts.append(data)
        if self._size > self._most:
            self._parts.clear()
            self._producer.stopProducing()
            self.whole.errback(Failure(ValueError(f"the request's body has more than {self._most} bytes")))

    def finish(self, _: object) -> None:
        if not self.whole.called:
            self.whole.callback(b"".join(self._parts))

    def fail(self, reason: Failure) -> None:
        if not self.whole.called:
            self.whole.errback(reason)


def _read(producer: IBodyProducer, most: int) -> Deferred[bytes]:
    # A producer that was told to stop may never say that it is done.
    gathered = _Gathered(producer, most)
    producer.startProducing(gathered).addCallbacks(gathered.finish, gathered.fail)
    return gathered.whole


def _head(exchange: Exchange, uri: URI) -> list[tuple[bytes, bytes]]:
    """The header fields in HTTP/2's form: pseudo-fields first, all names in lower case."""
    request = exchange.request
    head = [
        (b":method", request.method),
        (b":scheme", uri.scheme),
        (b":authority", uri.netloc),
        (b":path", uri.originForm),
    ]
    if exchange.body or request.method in _WITH_LENGTH:
        head.append((b"content-length", str(len(exchange.body)).encode("ascii")))
    for name, values in request.headers.getAllRawHeaders():
        lower = name.lower()
        if lower not in _DROPPED and (lower != b"te" or values == [b"trailers"]):
            head.extend((lower, value) for value in values)
    return head
