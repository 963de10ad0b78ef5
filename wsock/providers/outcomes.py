"""What became of a push, as values; and how long a service asks to be left alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from wsock.interfaces import PushOutcome, PushStatus

__all__ = ["OK", "gone", "misconfigured", "rejected", "retry", "retry_after"]

OK = PushOutcome(status=PushStatus.OK)

_LONGEST_WAIT = 86_400.0
_MAX_DETAIL = 300


def gone(detail: str, at: int | None = None) -> PushOutcome:
    """The device is no more, since ``at`` (milliseconds)."""
    return PushOutcome(status=PushStatus.GONE, detail=_short(detail), gone_at=at)


def retry(detail: str, after_seconds: float = 0.0, *, for_all: bool = False) -> PushOutcome:
    """To be sent again; with ``for_all``, nothing is sent to this platform until then."""
    return PushOutcome(
        status=PushStatus.RETRY, detail=_short(detail), after_seconds=after_seconds, holds_for_all=for_all
    )


def misconfigured(detail: str) -> PushOutcome:
    """The app's credentials are not accepted."""
    return PushOutcome(status=PushStatus.MISCONFIGURED, detail=_short(detail))


def rejected(detail: str, *, blames_device: bool = False) -> PushOutcome:
    """This message never reaches this device."""
    return PushOutcome(status=PushStatus.REJECTED, detail=_short(detail), blames_device=blames_device)


def retry_after(headers: Mapping[str, str], now: float, default: float = 0.0) -> float:
    """The seconds that a ``Retry-After`` asks for, which is a number or a date (RFC 9110 §10.2.3); a day at most."""
    given = headers.get("retry-after", "").strip()
    # Nobody waits for a number of more than 9 digits.
    seconds = float(given[:9]) if given.isascii() and given.isdigit() else _until(given, now, default)
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _until(date: str, now: float, default: float) -> float:
    try:
        when = parsedate_to_datetime(date)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return default


def _short(detail: str) -> str:
    """A foreign server's text is kept to a line that can be shown."""
    return "".join(c if c.isprintable() else " " for c in detail[:_MAX_DETAIL])
