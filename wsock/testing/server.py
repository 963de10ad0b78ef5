"""A whole server in memory, for the tests of whoever uses one: no sockets, no files, no real time.

::

    server = InMemoryServer()
    bob = server.connect(client_id="bob")
    bob.says({"action": "subscribe", "channel": "news"})
    assert bob.take()[0]["action"] == "subscribed"
    server.advance(25)
    assert bob.take() == [{"action": "pong"}]

It is the real server (:class:`wsock.server.Server`) as ``--dev`` starts it, with everything but the sockets: the app
``demo``, whose API key and key id are ``demo``, and memory instead of disk. All that a call sets in motion has happened
when the call returns; only :meth:`InMemoryServer.advance` moves the clock.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import urlencode

import jwt
import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wsock.config import Config, Mongo, Redis
from wsock.interfaces import Account, App, Key
from wsock.protocol.wire import unmask
from wsock.server import Server
from wsock.testing.fakes import Now, RecordingPushProvider, RecordingWebPush
from wsock.testing.transport import Ending, MemoryTransport

__all__ = ["InMemoryClient", "InMemoryServer", "client_frame"]

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_MASK = b"\x37\xfa\x21\x3d"
_DEV_SECRET = "demo-secret-for-development-only"


def client_frame(payload: bytes, opcode: int = _TEXT, *, is_final: bool = True) -> bytes:
    """A masked WebSocket frame, as a client sends it (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 0x10000:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([opcode | 0x80 * is_final]) + length + _MASK + unmask(payload, _MASK)


async def _nowhere(host: str, port: int) -> Sequence[str]:
    return []


class InMemoryServer:
    """A server with the settings of ``config``, which has started and serves.

    ``config`` is taken as it is but for ``dev``, ``listen``, ``redis`` and ``mongo``: it is always in memory and never
    listens. ``clock`` is its time; the wall clock goes with it. ``server`` is the server inside, for publishing and
    reading in process. What it pushes goes no further than to ``push``, by platform; no host has an address for it.
    """

    def __init__(self, config: Config | None = None, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.now = Now(self.clock)
        config = msgspec.structs.replace(config or Config(), dev=True, listen=(), redis=Redis(), mongo=Mongo())
        number = count(1)
        self.push = {"web": RecordingWebPush(), **{name: RecordingPushProvider(name) for name in ("fcm", "apns")}}
        self.server = Server(
            config,
            reactor=self.clock,
            now=self.now,
            random=lambda size: next(number).to_bytes(size, "big"),
            monotonic=lambda: 0.0,  # here, nothing takes time
            cpu=lambda: 0.0,
            push=self.push,
            resolve=_nowhere,
        )
        self.server.startService()
        self.settle()

    def connect(
        self,
        *,
        key: str | None = None,
        token: str | None = None,
        client_id: str | None = None,
        path: str = "/",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "192.0.2.1",
    ) -> InMemoryClient:
        """A client that asked for WebSocket; its ``status`` says whether it got it.

        Without a key, a token and an ``Authorization`` header the key is ``demo``. ``query`` and ``headers`` are added
        to those of the handshake; ``address`` is the client's.
        """
        headers = dict(headers or {})
        if key is None and token is None and not any(name.lower() == "authorization" for name in headers):
            key = "demo"
        given = {"key": key, "token": token, "clientId": client_id, **(query or {})}
        text = urlencode({name: value for name, value in given.items() if value is not None})
        lines = [
            f"GET {path}{'?' if text else ''}{text} HTTP/1.1",
            "Host: wsock.example",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        client = self.accept(address)
        client.says_bytes("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return client

    def accept(self, address: str = "192.0.2.1") -> InMemoryClient:
        """A connection on which nothing was said yet, not even the handshake."""
        client = InMemoryClient(self.clock, address)
        protocol = self.server.doors.buildProtocol(IPv4Address("TCP", address, 50000))
        client.transport.protocol = protocol
        protocol.makeConnection(client.transport)
        return client

    def create(self, app: App, *keys: Key) -> None:
        """Makes another app, with its keys."""
        owner = Account(id=f"owner-{app.id}", email=f"{app.id}@wsock.example", password_hash="", created_at=0)
        self.wait_for(self.server.stores.directory.create(app, list(keys), owner))

    def token(self, *, kid: str = "demo", secret: str = _DEV_SECRET, **claims: Any) -> str:
        """A JWT that the key signs: ``server.token(sub="bob", permissions={"news": ["subscribe"]})``."""
        return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": kid})

    def settle(self) -> None:
        """Lets everything happen that needs no time to pass."""
        self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Lets time pass, a second at a time at most."""
        while seconds > 0:
            self.clock.advance(min(seconds, 1.0))
            seconds -= 1.0
        self.settle()

    def wait_for(self, work: Any) -> Any:
        """The result of a coroutine or Deferred of the server's that needs no time to pass."""
        results: list[Any] = []
        waiting: Deferred[Any] = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        waiting.addBoth(results.append)
        self.settle()
        if not results:
            raise RuntimeError("this needs time to pass: advance() the server")
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

    def stop(self) -> None:
        """Stops the server, with all the time that it takes."""
        stopped: list[Any] = []
        self.server.stopService().addBoth(stopped.append)
        limit = 5 * self.server.config.shutdown.seconds + 1
        while not stopped and limit > 0:
            self.clock.advance(0.1)
            limit -= 0.1


class InMemoryClient:
    """A client of an :class:`InMemoryServer`: what it says arrives at once, what it hears is kept until taken.

    ``status`` is the HTTP status of the handshake's answer (101: it is connected), ``headers`` and ``body`` belong to
    it. ``texts`` are the JSON texts heard since the last :meth:`take`, ``pongs`` the payloads of WebSocket pongs. It
    understands compression (``permessage-deflate``), if the headers of its handshake offer it and the server agrees.
    """

    def __init__(self, clock: Clock, address: str) -> None:
        self._clock = clock
        self.transport = MemoryTransport(clock, self._hear, self._ended, peer=address)
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.texts: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self.ending: Ending | None = None
        self._data = b""

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was heard since the last :meth:`take`."""
        return [json.loads(text) for text in self.texts]

    @property
    def body(self) -> Any:
        """The JSON with which the handshake was refused; ``None`` without any."""
        return json.loads(self._data) if self.status != 101 and self._data else None

    @property
    def closed(self) -> int | Ending | None:
        """``None`` while the connection lives; else the code of the close frame heard, or how it ended without."""
        return self.close_code if self.close_code is not None else self.ending

    def take(self) -> list[dict[str, Any]]:
        """What was heard since the last time; it is forgotten."""
        events, self.texts = self.events, []
        return events

    def says(self, *requests: Mapping[str, Any]) -> None:
        """Sends requests, a frame each; the server reads them all at once."""
        self.says_bytes(b"".join(client_frame(json.dumps(request).encode()) for request in requests))

    def says_text(self, text: bytes | str) -> None:
        """Sends a text message with this content, be it JSON or not."""
        self.says_bytes(client_frame(text if isinstance(text, bytes) else text.encode()))

    def says_bytes(self, data: bytes) -> None:
        """Sends bytes as they are: parts of frames, or no frames at all."""
        self.transport.send(data)
        self._clock.advance(0)

    def pings(self, payload: bytes = b"") -> None:
        """Sends a WebSocket ping; the answer is in ``pongs``."""
        self.says_bytes(client_frame(payload, _PING))

    def closes(self, code: int | None = 1000) -> None:
        """Sends a close frame."""
        self.says_bytes(client_frame(b"" if code is None else code.to_bytes(2, "big"), _CLOSE))

    def disappears(self) -> None:
        """The network loses the connection, without a close frame."""
        self.transport.lose()
        self._clock.advance(0)

    def stops_reading(self) -> None:
        """What the server sends piles up, first in the transport's buffer and then in the server."""
        self.transport.stop_reading()

    def reads(self) -> None:
        """Reads everything that piled up, and goes on reading."""
        self.transport.start_reading()
        self._clock.advance(0)

    def _hear(self, data: bytes) -> None:
        self._data += data
        if self.status is None and not self._hear_head():
            return
        while self.status == 101 and self._hear_frame():
            pass

    def _hear_head(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self._data = rest
        return True

    def _hear_frame(self) -> bool:
        data = self._data
        if len(data) < 2:
            return False
        width = {126: 2, 127: 8}.get(data[1], 0)
        start = 2 + width
        size = int.from_bytes(data[2:start], "big") if width else data[1]
        if len(data) < start or len(data) < start + size:
            return False
        self._data = data[start + size :]
        self._heard(data[0], data[start : start + size])
        return True

    def _heard(self, first: int, payload: bytes) -> None:
        hearing: dict[int, Callable[[bytes], None]] = {
            0x80 | _TEXT: self.texts.append,
            0x80 | _PONG: self.pongs.append,
            0x80 | _CLOSE: self._hear_close,
        }
        if "sec-websocket-extensions" in self.headers:
            hearing[0xC0 | _TEXT] = lambda data: self.texts.append(zlib.decompressobj(-15).decompress(data))
        if self.close_code is not None:
            raise ValueError("the server sent a frame after its close frame")
        if first not in hearing:
            raise ValueError(f"the server sent a frame that begins with {first:#04x}")
        hearing[first](payload)

    def _hear_close(self, payload: bytes) -> None:
        self.close_code = int.from_bytes(payload[:2], "big")
        self.close_reason = payload[2:].decode()

    def _ended(self, ending: Ending) -> None:
        self.ending = ending
