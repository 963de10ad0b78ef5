"""One-time passwords by time (RFC 6238) for the second factor: six digits, 30 seconds, SHA-1, as apps make them."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from urllib.parse import quote

__all__ = ["accepted_step", "code_at", "new_secret", "secret_uri"]

_STEP_SECONDS = 30
_SLACK_STEPS = 1
_SECRET_BYTES = 20


def new_secret(random: Callable[[int], bytes]) -> str:
    """A new secret in base32: 160 bits (RFC 4226 §4)."""
    return base64.b32encode(random(_SECRET_BYTES)).decode()


def secret_uri(secret: str, email: str, issuer: str) -> str:
    """What an app reads from a QR code."""
    return f"otpauth://totp/{quote(issuer, safe='')}:{quote(email, safe='')}?secret={secret}&issuer={quote(issuer)}"


def code_at(secret: str, step: int) -> str:
    """The code of a time step (RFC 4226 §5.3)."""
    digest = hmac.digest(base64.b32decode(secret), step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def accepted_step(secret: str, code: str, now: float, last_step: int) -> int | None:
    """The time step that the code is of, if it is good now and no code of that step or a later one was accepted.

    One step of difference between the clocks is allowed for (RFC 6238 §5.2).
    """
    given = code.replace(" ", "").encode("utf-8", "replace")
    current = int(now) // _STEP_SECONDS
    steps = range(max(current - _SLACK_STEPS, 0), current + _SLACK_STEPS + 1)
    right = [step for step in steps if hmac.compare_digest(code_at(secret, step).encode(), given)]
    return next((step for step in right if step > last_step), None)
