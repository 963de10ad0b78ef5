"""A client so small that every byte is in sight: it counts frames, writes several at once, stops reading, vanishes."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = ["Closed", "Wire", "connect", "over", "text_frame"]

PATIENCE_SECONDS = 20.0
_MASK = b"\x12\x34\x56\x78"


class Closed(Exception):
    """The connection has ended; ``code`` is that of the close frame, 0 when there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Frame:
    """A WebSocket frame as it came."""

    is_final: bool
    opcode: int
    payload: bytes


def text_frame(text: str) -> bytes:
    """A masked text frame."""
    return frame(1, text.encode())


def frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = int.from_bytes((_MASK * (size // 4 + 1))[:size], "big")
    return head + _MASK + (int.from_bytes(payload, "big") ^ mask).to_bytes(size, "big")


def connect(port: int, *, receive_buffer: int = 0, **query: str) -> Wire:
    """Connects over TCP, with this query."""
    plain = socket.socket()
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.settimeout(PATIENCE_SECONDS)
    plain.connect(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return over(plain, **query)


def over(transport: socket.socket, **query: str) -> Wire:
    """Does the opening handshake over a connected socket."""
    transport.settimeout(PATIENCE_SECONDS)
    wire = Wire(transport)
    target = "/?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())
    try:
        wire.open(target)
    except BaseException:
        transport.close()
        raise
    return wire


class Wire:
    """A connection. Events are dicts; each must be one unfragmented text frame of at most 1 MiB."""

    def __init__(self, transport: socket.socket) -> None:
        self.socket = transport
        self._data = bytearray()

    def open(self, target: str) -> None:
        """Upgrades the connection; raises :class:`Closed` with the HTTP status when it is refused."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._data:
            self._receive()
        head, _, rest = bytes(self._data).partition(b"\r\n\r\n")
        self._data[:] = rest
        status = int(head.split()[1])
        if status != 101:
            raise Closed(status, head.decode("latin-1"))

    # Saying.

    def say(self, **request: Any) -> None:
        """Sends a request."""
        self.write(text_frame(json.dumps(request)))

    def write(self, data: bytes) -> None:
        """Sends bytes as they are, in one write."""
        self.socket.sendall(data)

    # Hearing.

    def frame(self) -> Frame:
        """The next frame, of any kind."""
        head = self._take(2)
        size = head[1] & 0x7F
        assert not head[1] & 0x80, "a server masks nothing"
        if size == 126:
            size = int(struct.unpack("!H", self._take(2))[0])
        elif size == 127:
            size = int(struct.unpack("!Q", self._take(8))[0])
        return Frame(bool(head[0] & 0x80), head[0] & 0x0F, self._take(size))

    def event(self) -> dict[str, Any]:
        """The next event; heartbeats are skipped, pings answered."""
        while (event := self.any_event())["action"] == "pong":
            pass
        return event

    def any_event(self) -> dict[str, Any]:
        """The next event, a heartbeat or not."""
        while True:
            heard = self.frame()
            if heard.opcode == 8:
                code = int.from_bytes(heard.payload[:2], "big")
                raise Closed(code, heard.payload[2:].decode())
            if heard.opcode == 9:
                self.write(frame(10, heard.payload))
                continue
            assert (heard.is_final, heard.opcode) == (True, 1), "an event is one unfragmented text frame"
            assert len(heard.payload) <= 1 << 20, "an event is at most 1 MiB"
            return dict(json.loads(heard.payload))

    def hear(self, action: str) -> dict[str, Any]:
        """The next event, which must be of this action."""
        event = self.event()
        assert event["action"] == action, f"wanted {action}, heard {event}"
        return event

    def await_(self, action: str) -> dict[str, Any]:
        """The next event of this action; others are skipped."""
        while True:
            event = self.event()
            if event["action"] == action:
                return event

    def ask(self, answer: str, **request: Any) -> dict[str, Any]:
        """Sends a request and hears its answer."""
        self.say(**request)
        return self.hear(answer)

    def subscribe(self, *channels: str) -> None:
        """Subscribes to channels."""
        for channel in channels:
            self.ask("subscribed", action="subscribe", channel=channel)

    def rest(self) -> list[dict[str, Any]]:
        """All events that were on their way: those before the ack of a publish elsewhere, and those right behind it."""
        barrier = f"barrier-{os.urandom(6).hex()}"
        self.say(action="publish", channel=barrier, id=barrier, persist=False)
        events = [self.event()]
        while events[-1].get("id") != barrier:
            events.append(self.event())
        assert events.pop()["action"] == "ack"
        # The ack may be faster than messages of its turn: a ping that is sent now comes in a later one.
        self.say(action="ping")
        while (event := self.any_event())["action"] != "pong":
            events.append(event)
        return events

    # Ending.

    def close(self) -> None:
        """Ends the connection as a client does that says good-bye."""
        try:
            self.write(frame(8, b"\x03\xe8"))
            while self.frame().opcode != 8:
                pass
        except (OSError, Closed):
            pass
        self.socket.close()

    def vanish(self) -> None:
        """Resets the connection."""
        if not isinstance(self.socket, ssl.SSLSocket):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._receive()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise Closed(0, "the server ended the connection")
        self._data += data
