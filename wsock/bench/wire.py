"""WebSocket frames as bytes, client side (RFC 6455 §5.2): masked frames out, frames of a server in.

Only what a server may send to a client that asked for no extension. A message that goes to many subscribers reaches
them as the same bytes, so :class:`Reader` reads bytes that it has just read for another connection only once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from wsock.bench.errors import BenchError

__all__ = ["Ack", "Chunk", "ErrorFrame", "Masker", "Reader", "Run", "Stamp", "Subscribed"]

_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89


class Stamp(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the data of a message begins with; padding follows. ``at`` is in nanoseconds of the generator's clock."""

    source: int
    channel: int
    number: int
    at: int


class _Message(msgspec.Struct, tag_field="action", tag="message", gc=False):
    data: Stamp


class Ack(msgspec.Struct, tag_field="action", tag="ack", gc=False):
    """A publish was accepted."""

    id: str


class ErrorFrame(msgspec.Struct, tag_field="action", tag="error", gc=False):
    """A request was refused, or the server has to tell of a fault."""

    error: str = ""
    code: str = ""
    id: str = ""


class Subscribed(msgspec.Struct, tag_field="action", tag="subscribed", gc=False):
    """A channel is subscribed."""

    channel: str


Answer = Ack | ErrorFrame | Subscribed
_decode = msgspec.json.Decoder(_Message | Ack | ErrorFrame | Subscribed).decode
_decode_action = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(slots=True)
class Run:
    """Messages of one publisher in one channel whose numbers follow one another."""

    source: int
    channel: int
    first: int
    count: int


@dataclass(slots=True)
class Chunk:
    """What stands in the bytes that were read at once. ``end`` is where a frame begins that is not complete yet."""

    runs: list[Run] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    strays: int = 0
    """Messages that are none of this benchmark's."""
    pings: list[bytes] = field(default_factory=list)
    close: bytes | None = None
    count: int = 0
    """Messages in all runs."""
    end: int = 0


class Reader:
    """Reads what servers send; one for all connections of a process."""

    __slots__ = ("_chunk", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._chunk = Chunk()

    def read(self, data: bytes) -> Chunk:
        """What the bytes hold. The chunk may be another connection's too: it is not to be changed."""
        if data != self._data:
            self._chunk = _chunk(data)
            self._data = data
        return self._chunk


def _chunk(data: bytes) -> Chunk:
    chunk, at, end = Chunk(), 0, len(data)
    while end - at >= 2:
        size, start = data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if size > 127:
                raise BenchError("the server sent a masked frame, which a server must not (RFC 6455 §5.1)")
            if start + width > end:
                break
            size, start = int.from_bytes(data[start : start + width], "big"), start + width
        stop = start + size
        if stop > end:
            break
        _add(chunk, data[at], data[start:stop])
        at = stop
    chunk.end = at
    return chunk


def _add(chunk: Chunk, first: int, payload: bytes) -> None:
    if first == _TEXT:
        _add_text(chunk, payload)
    elif first == _PING:
        chunk.pings.append(payload)
    elif first == _CLOSE:
        chunk.close = payload
    elif first != 0x8A:
        raise BenchError(f"the server sent a frame that begins with {first:#04x}, which this client did not ask for")


def _add_text(chunk: Chunk, payload: bytes) -> None:
    try:
        frame = _decode(payload)
    except msgspec.ValidationError:
        chunk.strays += _is_message(payload)
        return
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise BenchError(f"the server sent a text that is not JSON: {e}") from e
    if type(frame) is not _Message:
        chunk.answers.append(frame)
        return
    stamp = frame.data
    chunk.count += 1
    chunk.times.append(stamp.at)
    run = chunk.runs[-1] if chunk.runs else None
    if run and run.source == stamp.source and run.channel == stamp.channel and run.first + run.count == stamp.number:
        run.count += 1
    else:
        chunk.runs.append(Run(stamp.source, stamp.channel, stamp.number, 1))


def _is_message(payload: bytes) -> bool:
    """Whether it is a message, and not one of the frames that a client passes over."""
    try:
        return _decode_action(payload).get("action") == msgspec.Raw(b'"message"')
    except msgspec.MsgspecError:
        return False


class Masker:
    """Makes frames of a client, all masked with one key.

    RFC 6455 §5.3 wants a new unpredictable key for each frame, against scripts that attack proxies through a browser.
    Here the sender measures a server of its own: one key, random for each run, saves it most of the work.
    """

    __slots__ = ("_key", "_keys")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._keys: dict[int, int] = {}

    def frame(self, payload: bytes, first: int = _TEXT) -> bytes:
        """The payload as a frame."""
        size = len(payload)
        if size < 126:
            head = b"%c%c" % (first, 0x80 | size)
        elif size < 0x10000:
            head = b"%c\xfe%b" % (first, size.to_bytes(2, "big"))
        else:
            head = b"%c\xff%b" % (first, size.to_bytes(8, "big"))
        return head + self._key + self._masked(payload, size)

    def _masked(self, payload: bytes, size: int) -> bytes:
        key = self._keys.get(size)
        if key is None:
            key = self._keys[size] = int.from_bytes((self._key * (size // 4 + 1))[:size], "little")
        return (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")
