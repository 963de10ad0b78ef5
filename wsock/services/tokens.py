"""Random tokens: shown once, kept as their hash. With 256 bits a plain SHA-256 is enough."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

__all__ = ["hash_token", "new_secret", "new_token"]

_BYTES = 32


def new_token(random: Callable[[int], bytes], prefix: str) -> str:
    """A token in letters, digits, ``-`` and ``_``; the prefix tells people what it is for."""
    return f"{prefix}_{new_secret(random, _BYTES)}"


def new_secret(random: Callable[[int], bytes], size: int) -> str:
    """So many random bytes, in letters, digits, ``-`` and ``_``."""
    return base64.urlsafe_b64encode(random(size)).rstrip(b"=").decode()


def hash_token(text: str) -> str:
    """What is kept of a token: its SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
