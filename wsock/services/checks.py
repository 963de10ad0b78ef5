"""What texts that people give may be, in one place."""

from __future__ import annotations

from wsock.errors import Code, Refused
from wsock.protocol.channels import check_channel

__all__ = ["LAST_MILLISECOND", "check_future", "check_pattern", "check_text"]

LAST_MILLISECOND = 253_402_300_799_000
"""The end of the year 9999: behind it there are no dates."""


def check_pattern(field: str, pattern: str) -> str:
    """A pattern of channel names or clientIds, as it is. Raises :class:`Refused`."""
    try:
        check_channel(pattern)
    except Refused as e:
        raise Refused(Code.BAD_REQUEST, f"'{field}' takes 1 to 255 bytes without control characters") from e
    return pattern


def check_text(field: str, text: str, most: int = 255) -> str:
    """A text in one line, as it is. Raises :class:`Refused`."""
    if not 0 < len(text) <= most or not text.isprintable():
        raise Refused(Code.BAD_REQUEST, f"'{field}' takes 1 to {most} characters in one line")
    return text


def check_future(field: str, at: int | None, now: int) -> int | None:
    """A time in the future, or none; both in milliseconds. Raises :class:`Refused`."""
    if at is not None and not now < at <= LAST_MILLISECOND:
        raise Refused(Code.BAD_REQUEST, f"'{field}' takes a time in the future, in milliseconds since 1970")
    return at
