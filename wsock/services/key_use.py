"""When keys were last used: noted at once in memory, written down now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wsock.errors import Unavailable
from wsock.interfaces import IRecords
from wsock.records import Key
from wsock.services.auth import Credential

__all__ = ["KeyUse"]

_PRECISE_SECONDS = 1.0


class KeyUse(Service):
    """Keeps ``last_used_at`` of keys, at most ``seconds`` behind, in one write for all uses of a key in that time.

    A key that has a successor is to go as soon as nobody uses it: of that it is written within a second. ``live`` tells
    the credentials of the connections that are open: those use their keys as long as they live.

    What was not written down when the process dies is lost; the next use is noted again.
    """

    _log = Logger()

    def __init__(
        self,
        records: IRecords,
        now: Callable[[], float],
        clock: IReactorTime,
        *,
        seconds: float = 60.0,
        live: Callable[[], Iterable[Credential]] = lambda: (),
    ) -> None:
        self._records = records
        self._now = now
        self._seconds = seconds
        self.live = live
        self._used: dict[str, int] = {}
        self._urgent: set[str] = set()
        self._written_at = now()
        self._writing: Deferred[None] = succeed(None)
        self._loop = LoopingCall(self._start_round)
        self._loop.clock = clock

    def note(self, credential: Credential) -> None:
        """The credential was accepted now, or is in use."""
        self._used[credential.key_id] = int(self._now() * 1000)
        if credential.is_replaced:
            self._urgent.add(credential.key_id)

    def startService(self) -> None:
        """Begins to write."""
        super().startService()
        self._loop.start(_PRECISE_SECONDS, now=False)

    async def _end(self) -> None:
        await self._writing
        await self._safely(list(self._used))

    def stopService(self) -> Deferred[None]:
        """Fires when all that was noted is written, as far as that can be."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return Deferred.fromCoroutine(self._end())

    def _start_round(self) -> Deferred[None]:
        self._writing = Deferred.fromCoroutine(self._go_round())
        return self._writing

    async def _go_round(self) -> None:
        if 0 <= self._now() - self._written_at < self._seconds:
            await self._safely(list(self._urgent))
            return
        self._written_at = self._now()
        for credential in self.live():
            self.note(credential)
        await self._safely(list(self._used))

    async def _safely(self, keys: list[str]) -> None:
        try:
            await self._write(keys)
        except (CancelledError, Unavailable):
            pass  # the store has said so in the log; what was not written is written the next time
        except Exception:
            self._log.failure("the last uses of keys could not be written")

    async def _write(self, keys: list[str]) -> None:
        for key in keys:
            at = self._used[key]
            await self._records.used(Key, key, at)
            if self._used.get(key) == at:
                del self._used[key]
                self._urgent.discard(key)
