"""What keeps a measurement from being made."""

from __future__ import annotations

from wsock.errors import WsockError

__all__ = ["BenchError"]


class BenchError(WsockError):
    """The measurement can't be made; the text says why, and what to do."""
