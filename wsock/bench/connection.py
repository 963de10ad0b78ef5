"""One connection to the server, without anything that a benchmark does not need, and how many are made."""

from __future__ import annotations

import errno
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, Iterator
from hashlib import sha1
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectBindError, ConnectError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import implementer

from wsock.bench.awaiting import all_of
from wsock.bench.errors import BenchError
from wsock.bench.load import Target
from wsock.bench.wire import Chunk, Masker, Reader

__all__ = ["Connection", "Dialler", "close_all", "endpoints", "tls_options"]

_HANDSHAKE_SECONDS = 20.0
_CLOSE_SECONDS = 5.0
_AT_ONCE = 64
_MAX_HEAD_BYTES = 65_536
_NONCE = b64encode(b"wsock-bench-once")
_ACCEPT = b64encode(sha1(_NONCE + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
_CLOSE, _PONG = 0x88, 0x8A


class _Refusal(msgspec.Struct):
    error: str = ""


class Connection(Protocol):
    """A WebSocket connection from the upgrade on.

    ``opened`` fires when the server has accepted, and fails with :class:`BenchError` when not. ``on_chunk`` is told
    what arrives, ``on_end`` why the connection ended unless :meth:`close` was called.
    """

    def __init__(self, target: Target, reader: Reader, masker: Masker, asked_at: int = 0) -> None:
        self.asked_at = asked_at
        """When it was begun to be made."""
        self.opened: Deferred[None] = Deferred()
        self.on_chunk: Callable[[Chunk], None] | None = None
        self.on_end: Callable[[str], None] | None = None
        self.masker = masker
        self._target = target
        self._read = reader.read
        self._rest = b""
        self._is_open = False
        self._is_closing = False
        self._ended: Deferred[None] = Deferred()
        self._reason = ""

    # Twisted's hooks.

    def connectionMade(self) -> None:
        """Asks for the upgrade."""
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        head = (
            f"GET {self._target.resource} HTTP/1.1",
            f"Host: {self._target.authority}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {_NONCE.decode()}",
            "User-Agent: wsock-bench",
        )
        transport.write("\r\n".join([*head, "", ""]).encode())

    def dataReceived(self, data: bytes) -> None:
        """Reads what can be read."""
        if self._rest:
            data = self._rest + data
        if not self._is_open:
            self._rest = data
            self._hear_head()
            return
        try:
            chunk = self._read(data)
        except BenchError as e:
            self._fail(str(e))
            return
        self._rest = data[chunk.end :] if chunk.end != len(data) else b""
        if chunk.pings or chunk.close is not None:
            self._answer(chunk)
        if self.on_chunk is not None:
            self.on_chunk(chunk)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tells who wants to know."""
        text = self._reason or f"the connection was lost ({reason.getErrorMessage().rstrip('.')})"
        if not self._is_open and not self.opened.called:
            self.opened.errback(BenchError(f"the server ended the connection before it answered the upgrade: {text}"))
        elif self.on_end is not None and not self._is_closing:
            self.on_end(text)
        self._ended.callback(None)

    # What a benchmark does.

    def send(self, *payloads: bytes) -> None:
        """Sends texts, each a message."""
        frame = self.masker.frame
        self.write(b"".join([frame(payload) for payload in payloads]))

    def write(self, frames: bytes) -> None:
        """Sends frames that are masked already."""
        if self.transport is not None:
            self.transport.write(frames)

    def close(self) -> Deferred[None]:
        """Closes it as a client does that is done. Fires when it has ended."""
        if not self._is_closing and not self._ended.called and self.transport is not None:
            self._is_closing = True
            self.write(self.masker.frame((1000).to_bytes(2, "big"), _CLOSE))
            self.transport.loseConnection()
        return self._ended

    def abort(self) -> None:
        """Drops it."""
        transport: Any = self.transport
        transport.abortConnection()

    def _hear_head(self) -> None:
        head, end, rest = self._rest.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MAX_HEAD_BYTES:
                self._fail("the answer to the upgrade has no end")
            return
        status = _status(head)
        if status != 101:
            self._refused(status, head, rest)
            return
        if _header(head, b"sec-websocket-accept") != _ACCEPT:
            self._fail("the server answered the upgrade with another key's Sec-WebSocket-Accept")
            return
        self._is_open, self._rest = True, b""
        self.opened.callback(None)
        if rest:
            self.dataReceived(rest)

    def _refused(self, status: int, head: bytes, body: bytes) -> None:
        length = int(_header(head, b"content-length") or b"0")
        if len(body) < length:
            return  # the reason is still to come
        self._fail(_refusal(status, body, self._target))

    def _fail(self, text: str) -> None:
        self._reason = text
        if not self.opened.called:
            self.opened.errback(BenchError(text))
        if self.transport is not None:
            self.transport.loseConnection()

    def _answer(self, chunk: Chunk) -> None:
        for payload in chunk.pings:
            self.write(self.masker.frame(payload, _PONG))
        if chunk.close is not None and not self._is_closing:
            code = int.from_bytes(chunk.close[:2], "big")
            text = chunk.close[2:].decode("utf-8", "replace")
            self._reason = f"the server closed the connection with code {code}{': ' if text else ''}{text}"
            self.write(self.masker.frame(chunk.close[:2], _CLOSE))
            if self.transport is not None:
                self.transport.loseConnection()


class Dialler:
    """Makes connections to the target, each through the endpoint that it is given."""

    def __init__(
        self,
        target: Target,
        endpoints: Iterator[IStreamClientEndpoint],
        *,
        reactor: IReactorTime,
        clock: Callable[[], int],
        mask: bytes,
    ) -> None:
        self.target = target
        self._endpoints = endpoints
        self._reactor = reactor
        self._clock = clock
        self._reader = Reader()
        self._masker = Masker(mask)

    async def open(self) -> Connection:
        """A connection that is open. Raises :class:`BenchError`."""
        made: list[Connection] = []
        opening = Deferred.fromCoroutine(self._open(made))
        try:
            return await opening.addTimeout(_HANDSHAKE_SECONDS, self._reactor)
        except (CancelledError, DeferredTimeout) as e:
            for connection in made:
                connection.abort()
            if isinstance(e, CancelledError):
                raise
            text = f"{self.target.shown} did not answer within {_HANDSHAKE_SECONDS:g} seconds"
            raise BenchError(f"{text}: is the server overloaded, or is it no WebSocket server?") from e

    async def open_many(
        self,
        count: int,
        opened: Callable[[Connection], Awaitable[None] | None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Makes so many connections, some at once, and tells of each as soon as it is open.

        It makes no more when they are not wanted any more. Raises :class:`BenchError` as soon as one can't be made;
        those that are open stay so.
        """
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                if not is_wanted():
                    return
                waiting = opened(await self.open())
                if waiting is not None:
                    await waiting

        await all_of([Deferred.fromCoroutine(worker()) for _ in range(min(count, _AT_ONCE))])

    async def _open(self, made: list[Connection]) -> Connection:
        asked_at = self._clock()
        factory = _Upgrades(lambda: Connection(self.target, self._reader, self._masker, asked_at))
        try:
            connection: Any = await next(self._endpoints).connect(factory)
        except CancelledError:
            raise
        except Exception as e:
            raise BenchError(_unreachable(self.target, e)) from e
        made.append(connection)
        await made[0].opened
        return made[0]


class _Upgrades(Factory):
    """Makes one connection's protocol."""

    noisy = False

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make

    def buildProtocol(self, addr: Any) -> Any:
        """Twisted's hook."""
        return self._make()


async def close_all(connections: Iterable[Connection], reactor: IReactorTime) -> None:
    """Closes connections, and drops those that do not end within some seconds."""
    waiting = [(connection, connection.close()) for connection in connections]

    def drop() -> None:
        for connection, ended in waiting:
            if not ended.called:
                connection.abort()

    dropping = reactor.callLater(_CLOSE_SECONDS, drop)
    await all_of([ended for _, ended in waiting])
    if dropping.active():
        dropping.cancel()


def endpoints(target: Target, reactor: Any, options: Any) -> Iterator[IStreamClientEndpoint]:
    """An endpoint for each connection: the first looks the name up, the others use the address that answered.

    Looking a name up takes a thread each time, and would be what is measured. ``options`` are those of
    :func:`tls_options`.
    """
    pinned: list[Any] = []
    while True:
        endpoint = _plain(target, reactor, pinned)
        wrapped: Any = endpoint if options is None else wrapClientTLS(options, endpoint)
        yield wrapped if pinned else _Pinning(wrapped, pinned)


@implementer(IStreamClientEndpoint)
class _Pinning:
    """An endpoint that remembers which address answered."""

    def __init__(self, endpoint: Any, pinned: list[Any]) -> None:
        self._endpoint = endpoint
        self._pinned = pinned

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803  # Twisted's name
        """See IStreamClientEndpoint."""
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self._pinned.append(protocol.transport.getPeer())
        return protocol


def _plain(target: Target, reactor: Any, pinned: list[Any]) -> Any:
    if not pinned:
        return HostnameEndpoint(reactor, target.host, target.port)
    endpoint = TCP6ClientEndpoint if ":" in pinned[0].host else TCP4ClientEndpoint
    return endpoint(reactor, pinned[0].host, target.port)


def tls_options(target: Target, ca: str | None) -> Any:
    """How to speak TLS with the target; ``None`` for a target without. Raises :class:`BenchError`."""
    if not target.is_secure:
        return None
    if ca is None:
        return optionsForClientTLS(target.host)
    try:
        root = trustRootFromCertificates([Certificate.loadPEM(Path(ca).read_bytes())])
    except OSError as e:
        raise BenchError(f"--ca: {ca} can't be read: {e.strerror}") from e
    except Exception as e:  # OpenSSL's errors have no common public class
        raise BenchError(f"--ca: {ca} is no certificate in PEM form") from e
    return optionsForClientTLS(target.host, trustRoot=root)


def _unreachable(target: Target, error: Exception) -> str:
    number = getattr(error, "osError", None) if isinstance(error, ConnectError) else None
    if isinstance(error, ConnectBindError) and error.args and number is None:
        number = error.args[0]
    if number in (errno.EMFILE, errno.ENFILE):
        return "there are no file descriptors left for more connections: raise the limit with 'ulimit -n 65536'"
    if number == errno.EADDRNOTAVAIL:
        return (
            "there are no local ports left for more connections to one address: see net.ipv4.ip_local_port_range,"
            " or run the benchmark from several machines"
        )
    return f"{target.shown} can't be reached: {str(error).rstrip('.') or type(error).__name__}"


def _refusal(status: int, body: bytes, target: Target) -> str:
    try:
        text = msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = ""
    said = f"{target.shown} refused the upgrade with HTTP status {status}{': ' if text else ''}{text}"
    if status in (401, 403):
        return f"{said}; give another --key" if target.has_credential else f"{said}; give a --key or a --token"
    return said


def _status(head: bytes) -> int:
    parts = head.split(None, 2)
    return int(parts[1]) if len(parts) > 1 and parts[0].startswith(b"HTTP/") and parts[1].isdigit() else 0


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""
