"""Passwords: which are good enough, and their argon2id hashes, made off the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from wsock.errors import Code, Refused, Unavailable

__all__ = ["MIN_CHARACTERS", "Passwords", "check_password"]

_T = TypeVar("_T")

MIN_CHARACTERS = 10
_MAX_BYTES = 1024
_LEAST_DIFFERENT = 5
_AT_ONCE, _MAX_WAITING = 2, 100
_COMMON = frozenset(
    (
        *("1234567890", "0123456789", "12345678910", "qwertyuiop", "qwertzuiop", "1q2w3e4r5t", "1qaz2wsx3edc"),
        *("password12", "password123", "password1234", "passw0rd123", "abcdefghij", "administrator"),
        *("iloveyou123", "welcome123", "letmein123", "changeme123"),
    )
)


def check_password(password: str, email: str) -> None:
    """Raises :class:`Refused` with ``bad_request`` for a password that is too easy to guess, and says why.

    Length counts, not kinds of characters (NIST SP 800-63B §5.1.1).
    """
    folded, address = password.casefold(), email.casefold()
    if len(password) < MIN_CHARACTERS:
        raise _weak(f"takes {MIN_CHARACTERS} characters or more")
    if len(password.encode("utf-8", "surrogatepass")) > _MAX_BYTES:
        raise _weak(f"takes {_MAX_BYTES} bytes at most")
    if len(set(password)) < _LEAST_DIFFERENT:
        raise _weak(f"takes {_LEAST_DIFFERENT} different characters or more")
    if folded in _COMMON:
        raise _weak("is one of those that are tried first")
    if folded in (address, address.partition("@")[0]):
        raise _weak("is the e-mail address")


def _weak(reason: str) -> Refused:
    return Refused(Code.BAD_REQUEST, f"the password {reason}: take another one")


class Passwords:
    """Hashes and verifies, two at once: each takes 64 MiB and a tenth of a second or so of a core.

    ``reactor`` is Twisted's, whose thread pool does it; ``hasher`` may be a cheaper one for tests.
    """

    def __init__(self, reactor: Any, hasher: PasswordHasher | None = None) -> None:
        self._reactor = reactor
        self._hasher = hasher or PasswordHasher()
        self._turns = DeferredSemaphore(_AT_ONCE)
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to keep, in argon2's encoded form."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether it is the password. ``None``, for nobody's, is never; that takes just as long."""
        if self._nobodys is None:
            self._nobodys = await self.hash("nobody has this password")
        usable = kept or self._nobodys
        return await self._in_thread(lambda: self._is_right(usable, password)) and bool(kept)

    def is_outdated(self, kept: str) -> bool:
        """Whether it was made with other parameters than hashes are made with now."""
        return self._hasher.check_needs_rehash(kept)

    def _is_right(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        if len(self._turns.waiting) >= _MAX_WAITING:
            raise Unavailable("too many logins at once; try again in some seconds", retry_after=5.0)
        result: Deferred[_T] = self._turns.run(deferToThreadPool, self._reactor, self._reactor.getThreadPool(), work)
        return await result
