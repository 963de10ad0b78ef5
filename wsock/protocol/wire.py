"""WebSocket frames as bytes, server side (RFC 6455 §5.2): text frames out, complete small text frames in.

Only what the hot path needs. Everything unusual that a client may send (fragments, control frames, compression)
and everything that it may not goes through Autobahn's parser.
"""

from __future__ import annotations

import struct

__all__ = ["close_frame", "complete_texts", "pong_frame", "text_frame", "unmask", "wanted"]

_pack_medium = struct.Struct("!BBH").pack
_pack_large = struct.Struct("!BBQ").pack

_TEXT, _CLOSE, _PONG = 0x81, 0x88, 0x8A
_MEDIUM = 0xFE
"""The second byte of a masked frame whose size stands in the next two."""

_read = int.from_bytes
# For payloads of so many bytes: all bits set, and a 1 for each of its four bytes that begin.
_SHORT = 512
_all_bits = [(1 << 8 * size) - 1 for size in range(_SHORT)]
_ones = [((1 << 32 * (size // 4 + 1)) - 1) // 0xFFFFFFFF for size in range(_SHORT)]


def text_frame(payload: bytes) -> bytes:
    """The payload as one unfragmented text frame."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 0x10000:
        return _pack_medium(_TEXT, 126, size) + payload
    return _pack_large(_TEXT, 127, size) + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; the reason is cut to the 123 bytes that a control frame has room for."""
    text = reason.encode()[:123].decode("utf-8", "ignore").encode()
    return b"%c%c%b%b" % (_CLOSE, 2 + len(text), code.to_bytes(2, "big"), text)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping, with its payload (at most 125 bytes)."""
    return b"%c%c%b" % (_PONG, len(payload), payload)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """The payload XOR the four bytes of the mask, repeated (RFC 6455 §5.3)."""
    size = len(payload)
    if size < _SHORT:
        # The mask times 1, 1 << 32, 1 << 64, … is the mask repeated.
        key = _read(mask, "little") * _ones[size] & _all_bits[size]
    else:
        key = _read((mask * (size // 4 + 1))[:size], "little")
    return (_read(payload, "little") ^ key).to_bytes(size, "little")


def complete_texts(data: bytes, limit: int) -> tuple[list[bytes], int]:
    """The payloads of the complete, masked, unfragmented text frames that the data begins with, and where they end.

    Stops at the first frame that is anything else, longer than ``limit``, or cut.
    """
    texts: list[bytes] = []
    at, end = 0, len(data)
    while end - at >= 6 and data[at] == _TEXT:
        # The two usual sizes at once: a call costs as much as all of this.
        second = data[at + 1]
        if second < 0x80:
            break
        if second < _MEDIUM:
            size, body = second & 0x7F, at + 2
        elif second == _MEDIUM:
            size, body = data[at + 2] << 8 | data[at + 3], at + 4
            if size < 126:
                break
        else:
            whole, body = _size(data, at)
            if whole is None:
                break
            size = whole
        start = body + 4
        if size > limit or start + size > end:
            break
        at = start + size
        if size < _SHORT:
            key = _read(data[body:start], "little") * _ones[size] & _all_bits[size]
            texts.append((_read(data[start:at], "little") ^ key).to_bytes(size, "little"))
        else:
            texts.append(unmask(data[start:at], data[body:start]))
    return texts, at


def wanted(data: bytes, limit: int) -> int | None:
    """How many bytes the text frame takes that the data begins with, or its header while that is cut.

    ``None`` when it is no frame for :func:`complete_texts`, whatever follows.
    """
    if data[0] != _TEXT:
        return None
    if len(data) < 2:
        return 6
    if not data[1] & 0x80:
        return None
    length = data[1] & 0x7F
    header = 6 if length < 126 else 8 if length == 126 else 14
    if len(data) < header:
        return header
    size, body = _size(data, 0)
    return None if size is None or size > limit else body + 4 + size


def _size(data: bytes, at: int) -> tuple[int | None, int]:
    """The payload size of the frame, and where its mask begins; no size if cut or not in the shortest form."""
    size = data[at + 1] & 0x7F
    if size < 126:
        return size, at + 2
    width = 2 if size == 126 else 8
    body = at + 2 + width
    if body + 4 > len(data):
        return None, body
    size = int.from_bytes(data[at + 2 : body], "big")
    return (size if size >= (126 if width == 2 else 0x10000) else None), body
