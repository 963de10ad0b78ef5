"""How many logins have failed, and until when there are no more to be tried.

They are counted by e-mail address, whether it has an account or not: otherwise the lock told who has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import ceil

from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import IRecords
from wsock.records import Attempts

__all__ = ["FREE_FAILURES", "LoginAttempts"]

FREE_FAILURES = 5
"""Logins that may fail before the address is locked for a while."""

_FIRST_LOCK_SECONDS, _LONGEST_LOCK_SECONDS = 30, 3600
_FORGET_SECONDS = 86_400
_ATTEMPTS = 20


def _id(email: str) -> str:
    return hashlib.sha256(email.casefold().encode("utf-8", "surrogatepass")).hexdigest()[:32]


class LoginAttempts:
    """Counts logins, each before it is known whether it succeeds: many at once are no way around the lock."""

    def __init__(self, records: IRecords, now: Callable[[], float]) -> None:
        self._records = records
        self._now = now

    async def begin(self, email: str) -> Attempts:
        """Counts a login with this address as failed until it has succeeded; returns what stood before it.

        Raises :class:`Refused` with ``rate_limited`` while the address is locked: for 30 s after 5 failures, and twice
        as long after each further one, up to an hour.
        """
        for _ in range(_ATTEMPTS):
            known = await self._known(email)
            self._check_lock(known)
            failures = known.failures + 1
            now = self._milliseconds()
            counted = replace(
                known,
                failures=failures,
                locked_until=now + _lock_seconds(failures) * 1000,
                expires_at=now + _FORGET_SECONDS * 1000,
            )
            if await self._store(counted, known):
                return known
        raise Refused(Code.RATE_LIMITED, "too many logins with this address at once: try again in 1 s", retry_after=1.0)

    async def take_back(self, email: str) -> None:
        """The login was neither right nor wrong: as if it had not begun."""
        await self._change(email, lambda known: replace(known, failures=max(known.failures - 1, 0), locked_until=0))

    async def succeed(self, email: str) -> None:
        """The login succeeded: there were no failures, and there is no lock."""
        await self._change(email, lambda known: replace(known, failures=0, locked_until=0))

    async def take_step(self, email: str, step_after: Callable[[int], int | None]) -> bool:
        """Notes the time step of a code, so that no code is accepted twice.

        ``step_after`` gives the step of the code, if it is good after the last one that was accepted.
        """
        for _ in range(_ATTEMPTS):
            known = await self._known(email)
            step = step_after(known.totp_step)
            if step is None:
                return False
            if await self._store(replace(known, totp_step=step, expires_at=self._forgotten_at()), known):
                return True
        return False

    async def _change(self, email: str, how: Callable[[Attempts], Attempts]) -> None:
        for _ in range(_ATTEMPTS):
            known = await self._known(email)
            if await self._store(how(known), known):
                return

    async def _known(self, email: str) -> Attempts:
        id = _id(email)
        known = await self._records.find(Attempts, id)
        if known is None:
            return Attempts(id=id, version=0, expires_at=self._forgotten_at())
        if known.expires_at <= self._milliseconds():
            return replace(known, failures=0, locked_until=0)
        return known

    async def _store(self, new: Attempts, known: Attempts) -> bool:
        try:
            if known.version == 0:
                await self._records.add([replace(new, version=1)])
            else:
                await self._records.replace(new)
        except Conflict:
            return False
        return True

    def _check_lock(self, known: Attempts) -> None:
        seconds = ceil((known.locked_until - self._milliseconds()) / 1000)
        if seconds > 0:
            text = f"{known.failures} logins with this address have failed: try again in {seconds} s"
            raise Refused(Code.RATE_LIMITED, text, retry_after=float(seconds))

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)

    def _forgotten_at(self) -> int:
        return self._milliseconds() + _FORGET_SECONDS * 1000


def _lock_seconds(failures: int) -> int:
    if failures < FREE_FAILURES:
        return 0
    return int(min(_FIRST_LOCK_SECONDS * 2 ** min(failures - FREE_FAILURES, 20), _LONGEST_LOCK_SECONDS))
