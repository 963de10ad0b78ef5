"""What the outboxes of all databases have in common: kinds of rows, the bounds of a batch, the log of attempts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from wsock.interfaces import Attempt, OutboxRow

__all__ = [
    "BATCHED",
    "BATCH_SECONDS",
    "KEPT_ATTEMPTS",
    "LANES_LOOKED_AT",
    "ORDERED",
    "PLAIN",
    "batch_of",
    "decode_log",
    "due_of",
    "encode_log",
    "first_batch",
    "flags_of",
    "kind_of",
    "log_of",
    "number_of",
]

PLAIN, ORDERED, BATCHED = 0, 1, 2

BATCH_SECONDS = 0.1
"""So long a row waits for others to be told with."""

LANES_LOOKED_AT = 256
"""So many channels of an ordered endpoint are looked at in one claim."""

_BATCH_ROWS, _BATCH_BYTES = 100, 100_000
KEPT_ATTEMPTS = 20


def kind_of(row: OutboxRow) -> int:
    """How a row is given out."""
    if row.ordered:
        return ORDERED
    return BATCHED if row.batched else PLAIN


def flags_of(kind: int) -> tuple[bool, bool]:
    """Whether a row of this kind is ordered, and whether it is batched."""
    return kind == ORDERED, kind == BATCHED


def due_of(row: OutboxRow) -> float:
    """When a new row is due."""
    return row.created + (BATCH_SECONDS if kind_of(row) == BATCHED else 0.0)


def first_batch(rows: Iterable[tuple[int, int]], limit: int) -> list[int]:
    """The numbers of the rows that are told at once, from the numbers and sizes of those that wait."""
    numbers: list[int] = []
    room = _BATCH_BYTES
    for number, size in rows:
        if numbers and (size > room or len(numbers) >= min(limit, _BATCH_ROWS)):
            break
        numbers.append(number)
        room -= size
    return numbers


def batch_of(owner: str, first: int, now: float) -> str:
    """A name for a batch that no other one has had."""
    return f"{owner}.{first}.{now:.6f}"


def log_of(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """The newest attempts: older ones are not kept."""
    return tuple(attempts)[-KEPT_ATTEMPTS:]


def number_of(text: str) -> int | None:
    """The number that an id or a cursor stands for; ``None`` where it is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return int(text)


encode_log = msgspec.json.Encoder().encode
decode_log = msgspec.json.Decoder(tuple[Attempt, ...]).decode
