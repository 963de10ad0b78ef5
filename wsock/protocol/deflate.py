"""Compression of messages, server side (RFC 7692): what is agreed upon, and text frames made into compressed ones.

Neither side carries a context over from one message to the next. So a connection keeps nothing for it, and a
compressed frame is the same for all who agreed upon its window.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wsock.protocol.wire import text_frame

__all__ = ["Agreement", "Deflater", "agree", "split_frames"]

_EXTENSION = "permessage-deflate"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_name = re.compile(rf"[ \t,]*({_TOKEN})[ \t]*").match
_parameter = re.compile(rf";[ \t]*({_TOKEN})(?:=(?:({_TOKEN})|\"({_TOKEN})\"))?[ \t]*").match

_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
_SERVER_WINDOW, _CLIENT_WINDOW = "server_max_window_bits", "client_max_window_bits"
_WINDOWS = {str(bits): bits for bits in range(8, 16)}

_TAIL = b"\x00\x00\xff\xff"
_LEVEL = 3
_LEAST = 256
"""Payloads below it are not worth the time."""

_REMEMBERED = 1 << 20
_TEXT, _RSV1 = 0x81, 0x40


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed upon: the answer's header, and the largest window that the server may use."""

    response: str
    window_bits: int = 15


def agree(offers: str) -> Agreement | None:
    """The first of the client's offers that can be accepted; ``None`` without one, or if the header is malformed.

    ``offers`` is ``Sec-WebSocket-Extensions``. An offer is declined for a parameter that is unknown, repeated or has a
    value that it can't have (RFC 7692 §7.1), and for a window of 256 bytes, which zlib can't make.
    """
    try:
        accepted = [_accept(offer.parameters) for offer in _offers(offers) if offer.name == _EXTENSION]
    except ValueError:
        return None
    return next((agreement for agreement in accepted if agreement is not None), None)


@dataclass(frozen=True, slots=True)
class _Offer:
    name: str
    parameters: list[tuple[str, str | None]]


def _offers(text: str) -> Iterator[_Offer]:
    """The offers, in their order. Raises :class:`ValueError` where the text is none (RFC 6455 §9.1)."""
    text, at = text.rstrip(" \t,"), 0
    while at < len(text):
        if at and text[at] != ",":
            raise ValueError(text)
        name = _name(text, at)
        if name is None:
            raise ValueError(text)
        at, parameters = name.end(), []
        while parameter := _parameter(text, at):
            parameters.append((parameter[1], parameter[2] or parameter[3]))
            at = parameter.end()
        yield _Offer(name[1], parameters)


def _accept(parameters: list[tuple[str, str | None]]) -> Agreement | None:
    given = dict(parameters)
    if len(given) != len(parameters) or not given.keys() <= {*_FLAGS, _SERVER_WINDOW, _CLIENT_WINDOW}:
        return None
    if any(given.get(flag) is not None for flag in _FLAGS):
        return None
    if given.get(_CLIENT_WINDOW) is not None and given[_CLIENT_WINDOW] not in _WINDOWS:
        return None
    response = "; ".join((_EXTENSION, *_FLAGS))
    if _SERVER_WINDOW not in given:
        return Agreement(response)
    bits = _WINDOWS.get(given[_SERVER_WINDOW] or "", 0)
    return Agreement(f"{response}; {_SERVER_WINDOW}={bits}", bits) if bits > 8 else None


class Deflater:
    """Makes text frames into compressed ones, for all connections with this window.

    It remembers what it made last, so a frame that many get is compressed once, and what was joined of frames is split
    once: of either as much as takes a MiB, and the newest however large it is.
    """

    __slots__ = ("_frames", "_joined", "_window_bits")

    def __init__(self, window_bits: int = 15) -> None:
        self._window_bits = window_bits
        self._frames = _Memory()
        self._joined = _Memory()

    def deflated(self, frames: bytes) -> bytes:
        """The joined frames, with those compressed that are texts of some size and become shorter by it."""
        if len(frames) < _LEAST:
            return frames
        made = self._joined.recall(frames)
        if made is None:
            made = b"".join(map(self._deflated, split_frames(frames)))
            self._joined.keep(frames, made)
        return made

    def deflated_own(self, frames: Iterable[bytes]) -> bytes:
        """The same for frames that only one connection gets, joined."""
        return b"".join(map(self._deflated, frames))

    def _deflated(self, frame: bytes) -> bytes:
        if frame[0] != _TEXT or len(frame) < _LEAST:
            return frame
        made = self._frames.recall(frame)
        if made is None:
            made = self._compressed(frame)
            self._frames.keep(frame, made)
        return made

    def _compressed(self, frame: bytes) -> bytes:
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -self._window_bits)
        data = compressor.compress(_payload(frame)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        made = text_frame(data.removesuffix(_TAIL))
        return bytes((made[0] | _RSV1,)) + made[1:] if len(made) < len(frame) else frame


class _Memory:
    """What was made of what, the newest of it. To recall it for the very same object costs next to nothing."""

    __slots__ = ("_bytes", "_made")

    def __init__(self) -> None:
        self._made: dict[bytes, bytes] = {}
        self._bytes = 0

    def recall(self, source: bytes) -> bytes | None:
        """What was made of it, if that is remembered."""
        return self._made.get(source)

    def keep(self, source: bytes, made: bytes) -> None:
        """Remembers it, and forgets the oldest for it."""
        self._made[source] = made
        self._bytes += len(source) + len(made)
        while self._bytes > _REMEMBERED and len(self._made) > 1:
            oldest = next(iter(self._made))
            self._bytes -= len(oldest) + len(self._made.pop(oldest))


def split_frames(frames: bytes) -> Iterator[bytes]:
    """The frames that were joined: complete and unmasked ones."""
    at = 0
    while at < len(frames):
        end = at + _header(frames[at + 1]) + _size(frames, at)
        yield frames[at:end]
        at = end


def _payload(frame: bytes) -> bytes:
    return frame[_header(frame[1]) :]


def _header(length: int) -> int:
    return 2 if length < 126 else 4 if length == 126 else 10


def _size(frames: bytes, at: int) -> int:
    length = frames[at + 1]
    return length if length < 126 else int.from_bytes(frames[at + 2 : at + _header(length)], "big")
