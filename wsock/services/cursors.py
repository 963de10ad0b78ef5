"""Cursors that tell nothing: a list's place may be a name that who reads the list must not know."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wsock.errors import Code, Refused, Unavailable

__all__ = ["Cursors"]

_NONCE_BYTES = 12
_SIZE = 256


class Cursors:
    """Encrypts the places of lists. All nodes with the same master keys read each other's."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._ciphers: list[AESGCM] = []

    def unlock(self, master_keys: Sequence[bytes]) -> None:
        """Gives it the master keys, the newest last: that one encrypts, all of them decrypt."""
        self._ciphers = [AESGCM(_derive(key)) for key in reversed(master_keys)]

    def seal(self, place: str, *of: str) -> str:
        """The cursor of a place in the list that is ``of`` this; of how long the place is it tells nothing either."""
        nonce = self._random(_NONCE_BYTES)
        padded = (place.encode() + b"\x80").ljust(_SIZE, b"\0")
        return base64.urlsafe_b64encode(nonce + self._unlocked()[0].encrypt(nonce, padded, _bound(of))).decode()

    def open(self, cursor: str, *of: str) -> str:
        """The place. Raises :class:`Refused` with ``bad_request`` for what is no cursor of that list."""
        try:
            data = base64.b64decode(cursor.encode("ascii"), b"-_", validate=True)
        except ValueError as e:
            raise _foreign() from e
        for cipher in self._unlocked():
            try:
                padded = cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(of))
            except (InvalidTag, ValueError):
                continue
            return padded.rstrip(b"\0")[:-1].decode()
        raise _foreign()

    def _unlocked(self) -> list[AESGCM]:
        if not self._ciphers:
            raise Unavailable("the server is starting: try again", retry_after=1.0)
        return self._ciphers


def _derive(master_key: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"wsock cursor").derive(master_key)


def _bound(of: Sequence[str]) -> bytes:
    return "\0".join(f"{len(part)} {part}" for part in of).encode("utf-8", "surrogatepass")


def _foreign() -> Refused:
    return Refused(Code.BAD_REQUEST, "'cursor' takes the 'next' of the part before, of the same app and prefix")
