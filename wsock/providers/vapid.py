"""How a push service knows who sends (VAPID, RFC 8292): an app's key, and the header that shows it has it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key

from wsock.interfaces import VapidCredentials
from wsock.providers.encryption import public_bytes
from wsock.providers.payloads import from_base64url, to_base64url

__all__ = ["Vapid", "private_key_of", "subject_problem"]

_GOOD_FOR = 12 * 3600
"""The most is a day (RFC 8292 §2), which a service whose clock is behind would refuse."""

_RENEWED_BEFORE = 3600
_MAX_KEPT = 1000


class Vapid:
    """Makes the ``Authorization`` of pushes. A header serves for hours; signing one for every push costs 80 times."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._headers: OrderedDict[tuple[VapidCredentials, str], tuple[str, float]] = OrderedDict()

    def authorization(self, credentials: VapidCredentials, origin: str) -> str:
        """The header for a push service. Raises ``ValueError`` for keys that are none."""
        kept = self._headers.get((credentials, origin))
        now = self._now()
        if kept is not None and now < kept[1]:
            return kept[0]
        header = self._sign(credentials, origin, now)
        self._headers[credentials, origin] = (header, now + _GOOD_FOR - _RENEWED_BEFORE)
        self._headers.move_to_end((credentials, origin))
        if len(self._headers) > _MAX_KEPT:
            self._headers.popitem(last=False)
        return header

    def _sign(self, credentials: VapidCredentials, origin: str, now: float) -> str:
        claims = {"aud": origin, "exp": int(now) + _GOOD_FOR, "sub": credentials.subject}
        token = jwt.encode(claims, private_key_of(credentials), algorithm="ES256")
        return f"vapid t={token}, k={credentials.public_key.rstrip('=')}"


def private_key_of(credentials: VapidCredentials) -> EllipticCurvePrivateKey:
    """The signing key. Raises ``ValueError`` when it is none, or not that of the public key."""
    scalar = from_base64url(credentials.private_key)
    if len(scalar) != 32:
        raise ValueError("the private key is not 32 octets in base64url")
    key = derive_private_key(int.from_bytes(scalar, "big"), SECP256R1())
    if to_base64url(public_bytes(key)) != credentials.public_key.rstrip("="):
        raise ValueError("the private key and the public key are not of one pair")
    return key


def subject_problem(subject: str) -> str | None:
    """What is wrong with the URL at which a push service reaches the sender (RFC 8292 §2.1)."""
    try:
        parts = urlsplit(subject)
        host = parts.hostname
    except ValueError:
        return "it is no URL"
    if not subject.isascii() or not subject.isprintable() or len(subject) > 255 or " " in subject:
        return "it takes at most 255 printable characters of ASCII without spaces"
    if parts.scheme == "mailto" and "@" in parts.path.strip("@"):
        return None
    if parts.scheme == "https" and host:
        return None
    return "it takes a mailto: or https: URL"
