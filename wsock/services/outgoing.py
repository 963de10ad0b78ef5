"""The server's one HTTP client for URLs that are not its own: webhooks, push services, sets of keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult

import msgspec
from OpenSSL.SSL import Error as TlsError
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HostnameCachingHTTPSPolicy,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from wsock.interfaces import Blocked, NotSent, Reply
from wsock.services.addresses import Guard, Lookup, Resolve, split_url

__all__ = ["Blocked", "NotSent", "Outgoing", "Reply"]

_USER_AGENT = b"wsock"
_MAX_ATTEMPTS = 3
_BODY_SECONDS = 5.0
_DRAINED = 16_384
"""So much of a body is read without being kept: a connection that is cut off is not used again."""
_KEPT_SECONDS = 30
_HOSTS = 1000
_FEW_HOSTS = frozenset({"push"})
"""Kinds whose hosts are a few that serve everybody: there no single one is to be spared, or kept from taking all."""
_REFUSED_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class Outgoing:
    """Sends requests to URLs that are not the server's own.

    Redirects are answers like others, cookies are not kept, nothing is unpacked, certificates are always verified.
    There is a pool of kept connections for each ``kind`` of destination (``"webhooks"``, ``"push"``, ...), with as
    many requests under way as ``per_host`` (not for ``"push"``) and ``overall`` say; others wait for their turn.
    ``guard`` says what may be connected to. An exchange that brings more than ``max_exchange`` bytes is cut off.
    """

    def __init__(
        self,
        reactor: Any,
        guard: Guard,
        *,
        resolve: Resolve | None = None,
        per_host: int = 20,
        overall: int = 200,
        connect_seconds: float = 5.0,
        max_exchange: int = 524_288,
        trust_root: Any = None,
    ) -> None:
        self._reactor = reactor
        self._guard = guard
        self._lookup = Lookup(reactor)
        self._network = _Network(
            reactor=reactor,
            resolve=resolve or self._lookup,
            # Reading the trust store takes 9 ms, of which every connection would make the reactor wait.
            tls=HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(trust_root), cacheSize=_HOSTS),
            connect_seconds=connect_seconds,
            max_exchange=max_exchange,
        )
        self._per_host = per_host
        self._overall = overall
        self._doors: dict[tuple[str, Guard | None], _Door] = {}

    def check_url(self, url: str, *, guard: bool | Guard = True) -> None:
        """Raises :class:`Blocked` for a URL that would never be asked, as far as its text tells."""
        self._checked(url, self._guarded_by(guard))

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        guard: bool | Guard = True,
        kind: str = "webhooks",
        timeout_seconds: float = 20.0,
        max_body: int = 16_384,
    ) -> Reply:
        """Sends the body, and returns the answer, with the first ``max_body`` bytes of its body.

        ``guard``: the URL is somebody else's choice, so only what the guard allows is connected to, this client's or
        the one that is given. Without one, anything may be. The answer's head is awaited for ``timeout_seconds``, its
        body for a few more at most: of one that comes late or is cut off there is as much as came, for the status is
        known by then. Raises :class:`Blocked` and :class:`NotSent`.
        """
        asked = _Asked(b"POST", url, _headers(headers), body, timeout_seconds, max_body)
        return await self._ask(asked, self._guarded_by(guard), kind)

    async def get(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        guard: bool | Guard = True,
        kind: str = "webhooks",
        timeout_seconds: float = 20.0,
        max_body: int = 16_384,
    ) -> Reply:
        """Gets what is there, as :meth:`post` does."""
        asked = _Asked(b"GET", url, _headers(headers), None, timeout_seconds, max_body)
        return await self._ask(asked, self._guarded_by(guard), kind)

    async def stop(self) -> None:
        """Closes the connections that are kept."""
        for door in self._doors.values():
            await door.close()
        self._lookup.stop()

    def _guarded_by(self, guard: bool | Guard) -> Guard | None:
        return (self._guard if guard else None) if isinstance(guard, bool) else guard

    def _checked(self, url: str, guard: Guard | None) -> SplitResult:
        parts = split_url(url)
        if parts is None:
            raise Blocked("a URL like https://host/path is needed, in ASCII, without user and fragment")
        refusal = guard.refusal_of_url(parts) if guard is not None else None
        if refusal is not None:
            raise Blocked(refusal)
        return parts

    async def _ask(self, asked: _Asked, guard: Guard | None, kind: str) -> Reply:
        parts = self._checked(asked.url, guard)
        door = self._doors.get((kind, guard))
        if door is None:
            per_host = self._overall if kind in _FEW_HOSTS else self._per_host
            door = self._doors[kind, guard] = _Door(self._network, guard, per_host, self._overall)
        with door.place(parts.netloc) as place:
            await place.acquire()
            try:
                await door.overall.acquire()
                try:
                    return await self._exchange(door, asked)
                finally:
                    door.overall.release()
            finally:
                place.release()

    async def _exchange(self, door: _Door, asked: _Asked) -> Reply:
        began = self._reactor.seconds()
        try:
            response = await self._head(door, asked)
        except (CancelledError, Blocked, NotSent):
            raise
        except Exception as e:
            # Whatever the network, TLS or HTTP had to say; it is all the same to who waits.
            raise NotSent(_reason(e)) from e
        body = await self._body(response, asked.max_body)
        seconds = self._reactor.seconds() - began
        headers = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Reply(status=response.code, headers=headers, body=body.content, seconds=seconds, is_whole=body.is_whole)

    async def _head(self, door: _Door, asked: _Asked) -> IResponse:
        asking = Deferred.fromCoroutine(door.ask(asked))
        seconds = asked.timeout_seconds
        response: IResponse = await asking.addTimeout(
            seconds, self._reactor, lambda *_: Failure(NotSent(f"there is no answer within {seconds:g} s"))
        )
        return response

    async def _body(self, response: IResponse, most: int) -> _Body:
        body = _Body(most)
        response.deliverBody(body)
        if not body.done.called:
            late = self._reactor.callLater(_BODY_SECONDS, body.give_up)
            try:
                await body.done
            finally:
                if late.active():
                    late.cancel()
        return body


class _Asked(msgspec.Struct, frozen=True):
    """A request."""

    method: bytes
    url: str
    headers: Headers
    body: bytes | None
    timeout_seconds: float
    max_body: int


class _Network(msgspec.Struct, frozen=True):
    """What connections are made with."""

    reactor: Any
    resolve: Any
    tls: Any
    connect_seconds: float
    max_exchange: int


class _Door:
    """The way to one kind of destination: connections that are kept, and places for requests."""

    def __init__(self, network: _Network, guard: Guard | None, per_host: int, overall: int) -> None:
        self.overall = DeferredSemaphore(overall)
        self._per_host = per_host
        self._places: dict[str, tuple[DeferredSemaphore, int]] = {}
        self._endpoints = _Endpoints(network, guard)
        self._kept = HTTPConnectionPool(network.reactor)
        self._kept.maxPersistentPerHost = per_host
        self._kept.cachedConnectionTimeout = _KEPT_SECONDS
        self._kept.retryAutomatically = False
        self._agent = Agent.usingEndpointFactory(network.reactor, self._endpoints, self._kept)
        fresh = HTTPConnectionPool(network.reactor, persistent=False)
        self._fresh_agent = Agent.usingEndpointFactory(network.reactor, self._endpoints, fresh)

    @contextmanager
    def place(self, host: str) -> Iterator[DeferredSemaphore]:
        """What requests to the host wait at for their turn; it is forgotten when nobody needs it."""
        place, users = self._places.get(host) or (DeferredSemaphore(self._per_host), 0)
        self._places[host] = place, users + 1
        try:
            yield place
        finally:
            place, users = self._places[host]
            if users == 1:
                del self._places[host]
            else:
                self._places[host] = place, users - 1

    async def ask(self, asked: _Asked) -> IResponse:
        """The answer, when its head is there. A kept connection that turns out to be dead is replaced, once."""
        asking = self._request(self._agent, asked)
        endpoint = self._endpoints.last
        try:
            return await asking
        except (ResponseNeverReceived, RequestTransmissionFailed) as e:
            if endpoint.was_used or not _is_lost(e):
                raise
        return await self._request(self._fresh_agent, asked)

    async def close(self) -> None:
        """Closes the connections that are kept."""
        await self._kept.closeCachedConnections()

    def _request(self, agent: Agent, asked: _Asked) -> Deferred[IResponse]:
        producer = None if asked.body is None else _Bytes(asked.body)
        # The agent asks for the endpoint before this returns, so what it got is the factory's last one.
        asking: Deferred[IResponse] = agent.request(asked.method, asked.url.encode("ascii"), asked.headers, producer)
        return asking


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Makes endpoints, each for one request; remembers the ``last``."""

    last: _Endpoint

    def __init__(self, network: _Network, guard: Guard | None) -> None:
        self._network = network
        self._guard = guard

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802
        """Twisted's hook."""
        self.last = _Endpoint(self._network, self._guard, uri)
        return self.last


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects to an address of the host that was looked at. ``was_used``: a connection was asked of it."""

    def __init__(self, network: _Network, guard: Guard | None, uri: URI) -> None:
        self._network = network
        self._guard = guard
        self._uri = uri
        self.was_used = False

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803
        """Twisted's hook."""
        self.was_used = True
        return Deferred.fromCoroutine(self._connect(_Measured(protocolFactory, self._network.max_exchange)))

    async def _connect(self, factory: _Measured) -> IProtocol:
        host = self._uri.host.decode("ascii")
        addresses = await self._network.resolve(host, self._uri.port)
        refusal = self._guard.refusal_of(host, addresses) if self._guard is not None else None
        if refusal is not None:
            raise Blocked(refusal)
        error: Exception = NotSent(f"the host {host} has no address")
        for address in addresses[:_MAX_ATTEMPTS]:
            try:
                wrapper: Any = await self._towards(address).connect(factory)
            except ConnectError as e:
                error = e
            else:
                protocol: IProtocol = wrapper.wrappedProtocol
                return protocol
        raise error

    def _towards(self, address: str) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        network = self._network
        endpoint: IStreamClientEndpoint = kind(
            network.reactor, address, self._uri.port, timeout=network.connect_seconds
        )
        if self._uri.scheme != b"https":
            return endpoint
        return wrapClientTLS(network.tls.creatorForNetloc(self._uri.host, self._uri.port), endpoint)


class _Exchange(ProtocolWrapper):
    """A connection that is cut off when an answer is too large: Twisted reads heads without an end."""

    factory: _Measured

    def connectionMade(self) -> None:
        """Twisted's hook."""
        self._received = 0
        super().connectionMade()

    def write(self, data: bytes) -> None:
        """A request begins, or goes on: what was received before it belongs to an earlier one."""
        self._received = 0
        super().write(data)

    def writeSequence(self, data: Any) -> None:
        """As :meth:`write`."""
        self._received = 0
        super().writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        self._received += len(data)
        if self._received > self.factory.most:
            self.transport.abortConnection()  # type: ignore[union-attr]  # TCP and TLS have it
        else:
            super().dataReceived(data)


class _Measured(WrappingFactory):
    """Wraps the connections of another factory."""

    protocol = _Exchange
    noisy = False

    def __init__(self, wrapped: Any, most: int) -> None:
        super().__init__(wrapped)
        self.most = most


@implementer(IBodyProducer)
class _Bytes:
    """A body that is there as a whole."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802
        """See IBodyProducer."""
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:  # noqa: N802
        """See IBodyProducer."""

    def resumeProducing(self) -> None:  # noqa: N802
        """See IBodyProducer."""

    def stopProducing(self) -> None:  # noqa: N802
        """See IBodyProducer."""


class _Body(Protocol):
    """Keeps the beginning of a body; ``done`` fires when there will be no more of it, however it ends."""

    def __init__(self, most: int) -> None:
        self.done: Deferred[None] = Deferred(lambda _: self._stop())
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._has_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether this was all."""
        return self._has_ended and self._size <= self._most

    @property
    def content(self) -> bytes:
        """As much as was wanted, or came."""
        return b"".join(self._parts)[: self._most]

    def dataReceived(self, data: bytes) -> None:
        """Twisted's hook."""
        if self._size < self._most:
            self._parts.append(data[: self._most - self._size])
        self._size += len(data)
        if self._size > self._most + _DRAINED:
            self.give_up()

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008  # Twisted's signature
        """Twisted's hook."""
        if not self.done.called:
            self._has_ended = reason.check(ResponseDone, PotentialDataLoss) is not None
        self._end()

    def give_up(self) -> None:
        """No more is wanted."""
        self._stop()
        self._end()

    def _stop(self) -> None:
        # Over TLS nothing else closes a connection whose peer goes on sending.
        if self.transport is not None:
            self.transport.stopProducing()  # type: ignore[attr-defined]  # a response's transport has it

    def _end(self) -> None:
        if not self.done.called:
            self.done.callback(None)


def _headers(headers: Mapping[str, str]) -> Headers:
    result = Headers({b"user-agent": [_USER_AGENT]})
    for name, value in headers.items():
        if name.lower() not in _REFUSED_HEADERS:
            result.setRawHeaders(name, [value])
    return result


def _causes(error: Exception) -> Iterator[Exception]:
    """The error, or those that Twisted wraps in it."""
    wrapped = [one.value for one in getattr(error, "reasons", ()) if isinstance(one.value, Exception)]
    for one in wrapped:
        yield from _causes(one)
    if not wrapped:
        yield error


def _is_lost(error: Exception) -> bool:
    return any(isinstance(cause, ConnectionClosed) for cause in _causes(error))


def _reason(error: Exception) -> str:
    """What went wrong, in words."""
    cause = next(_causes(error))
    if isinstance(cause, TlsError):
        details = cause.args[0] if cause.args else ()
        words = ", ".join(detail[2] for detail in details if detail[2]) if isinstance(details, list) else ""
        return f"TLS failed: {words or 'the connection was closed'}"
    if "VerificationError" in type(cause).__name__:
        return "TLS failed: the certificate is not one of this host"
    return str(cause) or type(cause).__name__
