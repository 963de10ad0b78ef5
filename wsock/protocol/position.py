"""Where a client stands in a channel, and the forms in which it says so when it resumes (protocol.md I.5, II.3.1)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any

import msgspec

from wsock.errors import Malformed

__all__ = ["Position", "ResumeToken", "decode_token"]


class Position(msgspec.Struct, frozen=True, gc=False, order=True):
    """The last message known of a channel: its ``sequence``, counted from 1 under an ``epoch``.

    A sequence alone proves nothing: a channel that lost its past counts from 1 again, under a new epoch. The
    position (E, 7) followed by (E, 8) is complete; followed by (F, 8) it is not. A client's is read only with a
    sequence that every store can count with.
    """

    epoch: str
    sequence: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class ResumeToken(msgspec.Struct, frozen=True):
    """The channels that an SDK wants back, and the largest timestamp it saw on any of them (milliseconds)."""

    channels: tuple[str, ...]
    since: int


_MAX_TOKEN = 1 << 18
_alphabet = bytes.maketrans(b"-_", b"+/")
_foreign = re.compile(r"[^A-Za-z0-9+/_-]")
_MAX_TIMESTAMP = 1 << 53


def decode_token(token: str) -> ResumeToken:
    """Reads a token that an SDK made.

    Leniently, since the SDKs differ: either base64 alphabet, any padding; UTF-8, else Latin-1 (the browser's
    ``btoa``); ``lastTs`` or ``since``, integer or float. Raises :class:`Malformed` when no channel can be read.
    """
    if len(token) > _MAX_TOKEN:
        raise Malformed(f"the resume token is longer than {_MAX_TOKEN} characters")
    raw = _foreign.sub("", token).encode("ascii").translate(_alphabet)
    try:
        data = base64.b64decode(raw + b"=" * (-len(raw) % 4))
        content = msgspec.json.decode(_text(data))
    except (binascii.Error, msgspec.DecodeError, RecursionError, UnicodeError) as e:
        raise Malformed("the resume token is not base64 of a JSON object") from e
    channels = content.get("channels") if isinstance(content, dict) else None
    if not isinstance(channels, list):
        raise Malformed("the resume token names no channels")
    names = tuple(dict.fromkeys(name for name in channels if isinstance(name, str)))
    if not names:
        raise Malformed("the resume token names no channels")
    return ResumeToken(names, _timestamp(content.get("lastTs", content.get("since"))))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _timestamp(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0
    return int(min(max(value, 0), _MAX_TIMESTAMP))
