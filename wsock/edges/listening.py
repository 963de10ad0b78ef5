"""What the listening sockets are set to. Accepted sockets inherit it, so a connection costs no system call for it."""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["tune_listener"]

_BACKLOG = 4096
_IDLE_SECONDS, _INTERVAL_SECONDS, _PROBES = 20, 10, 3
_UNACKNOWLEDGED_MS = 45_000


def tune_listener(port: Any) -> None:
    """Lets many connect at once, and finds a dead peer within 60 s whether anything is sent to it or not."""
    listener = getattr(port, "socket", None)
    if not isinstance(listener, socket.socket):
        return
    listener.listen(_BACKLOG)
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _IDLE_SECONDS),
        ("TCP_KEEPINTVL", _INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
