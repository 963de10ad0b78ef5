"""Bytes to requests and events to bytes.

The decoder is one msgspec union, tagged by ``action``, of the requests in the verb table. What it does not look into
(``data`` stays :class:`msgspec.Raw` from the publisher's frame to the subscribers') is checked here for the three
things that would end a subscriber's SDK: invalid UTF-8, nesting that overflows a parser's stack, numbers of thousands
of digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Union

import msgspec

from wsock.errors import Code, Malformed
from wsock.protocol.frames import Request

__all__ = ["MAX_DEPTH", "MAX_DIGITS", "Codec", "check_text", "encode"]

MAX_DEPTH = 64
"""Levels of nesting that a text may have."""
MAX_DIGITS = 1000
"""Digits that may follow one another in a text."""

_long_digits = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1)).search
# An unterminated string ends with the text, and the quantifier is possessive: linear time whatever the text.
_strings = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_no_brackets = bytes(c for c in range(256) if c not in b"[]{}")

encode = msgspec.json.Encoder().encode
"""An event as the bytes of its JSON text."""


def check_text(text: bytes) -> None:
    """Refuses a JSON text that could hurt whoever parses it (protocol.md I.2)."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as e:
            raise Malformed(f"the text is not valid UTF-8 at byte {e.start}") from e
    if len(text) > MAX_DIGITS and _long_digits(text):
        raise Malformed(f"the text has a run of more than {MAX_DIGITS} digits")
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise Malformed(f"the text is nested deeper than {MAX_DEPTH} levels")


def _depth(text: bytes) -> int:
    depth = deepest = 0
    for c in _strings.sub(b"", text).translate(None, _no_brackets):
        depth += 1 if c in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


class _Glimpse(msgspec.Struct):
    """What can be told of a request whose fields are wrong."""

    action: Any = None
    channel: Any = None
    id: Any = None


_glimpse = msgspec.json.Decoder(_Glimpse).decode


class Codec:
    """Decodes the requests of the verb table."""

    __slots__ = ("_decode", "_tags")

    def __init__(self, requests: Iterable[type[Request]]) -> None:
        types = tuple(requests)
        self._tags = frozenset(t.__struct_config__.tag for t in types)
        self._decode = msgspec.json.Decoder(Union[types]).decode  # noqa: UP007

    def decode(self, text: bytes) -> Request:
        """The request that the text is, or :class:`Malformed`; nothing else is raised."""
        try:
            check_text(text)
            request: Request = self._decode(text)
        except Malformed as e:
            seen = self._explain(text, e.text)
            raise Malformed(e.text, channel=seen.channel, id=seen.id) from e
        except msgspec.ValidationError as e:
            raise self._explain(text, str(e)) from e
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
            raise Malformed(f"the text is not JSON: {e}") from e
        return request

    def _explain(self, text: bytes, reason: str) -> Malformed:
        try:
            seen = _glimpse(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return Malformed("the text is not a JSON object")
        channel = seen.channel if isinstance(seen.channel, str) else None
        id = seen.id if isinstance(seen.id, str) else None
        if not isinstance(seen.action, str):
            return Malformed("'action' is missing or not a string", channel=channel, id=id)
        if seen.action not in self._tags:
            unknown = f"unknown action '{seen.action[:64]}'"
            return Malformed(unknown, Code.UNKNOWN_ACTION, channel=channel, id=id)
        return Malformed(f"{seen.action}: {reason}", channel=channel, id=id)
