"""The grammar of channel names, and patterns over them."""

from __future__ import annotations

import unicodedata

from wsock.errors import Code, Refused

__all__ = ["MAX_NAME_BYTES", "Pattern", "check_channel"]

MAX_NAME_BYTES = 255
"""Bytes of UTF-8 that a channel name may have; the C SDK keeps no more."""


def check_channel(name: str) -> None:
    """Refuses a name that is no channel name.

    A name has 1 to 255 bytes of UTF-8, none of them of a control character, a line separator or a
    surrogate. Nothing is reserved; a colon separates namespaces by convention only.
    """
    if not name:
        raise Refused(Code.CHANNEL_NAME, "the channel name is empty: it takes 1 to 255 bytes")
    if name.isascii():
        if name.isprintable() and len(name) <= MAX_NAME_BYTES:
            return
    elif not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        if len(name.encode()) <= MAX_NAME_BYTES:
            return
    else:
        raise Refused(Code.CHANNEL_NAME, "the channel name holds a control character")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise Refused(Code.CHANNEL_NAME, f"the channel name has more than {MAX_NAME_BYTES} bytes")
    raise Refused(Code.CHANNEL_NAME, "the channel name holds a control character")


class Pattern:
    """A pattern in which ``*`` stands for any run of characters, none included.

    Matching takes time linear in the name for each part, whatever the pattern: no backtracking.
    """

    __slots__ = ("_first", "_last", "_middle", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._first, *rest = text.split("*")
        self._last = rest.pop() if rest else None
        self._middle = [part for part in rest if part]

    def matches(self, name: str) -> bool:
        """Whether the whole name fits."""
        if self._last is None:
            return name == self._first
        if not name.startswith(self._first):
            return False
        at, end = len(self._first), len(name) - len(self._last)
        for part in self._middle:
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return at <= end and name.endswith(self._last)
