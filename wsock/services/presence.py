"""Presence: what clients may say of themselves, and what becomes of a member whose connection ends.

The members are the store's, and the store announces every change to its receiver: nothing here fans out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import msgspec
from msgspec import Raw
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import IPresenceStore, Stray
from wsock.protocol.frames import Member
from wsock.protocol.presence import LeaveReason
from wsock.services.tenants import Tenants

__all__ = ["Presence"]

_REAP_SECONDS = 1.0
_EMPTY = b"{}"
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


class Presence(Service):
    """Enters, updates and leaves members, and lets those go who do not come back.

    A connection that ends lets go of its members even while the store is away: this is done when it is back,
    before anything is reaped. ``grace_seconds`` is how long a member stays whose connection was lost; ``now``
    is the wall clock.
    """

    _log = Logger()

    def __init__(
        self,
        store: IPresenceStore,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        grace_seconds: float = 10.0,
        max_data_bytes: int = 16_384,
        tenants: Tenants | None = None,
    ) -> None:
        self._store = store
        self._now = now
        self._grace_seconds = grace_seconds
        self._max_data_bytes = max_data_bytes
        self._tenants = tenants
        self._homes: dict[tuple[str, str], dict[str, Callable[[], Awaitable[None]]]] = {}
        self._owed: deque[Callable[[], Awaitable[None]]] = deque()
        self._is_failing = False
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock
        self._looping: Deferred[LoopingCall] | None = None

    # What clients ask for.

    async def enter(
        self, app: str, channel: str, client_id: str, connection: str, data: bytes | Raw | None = None
    ) -> None:
        """The connection holds the member from now on: an update where the client is present already.

        Raises :class:`Refused` with ``forbidden`` where presence is switched off.
        """
        self._require(app, channel)
        text = self.check_data(data)
        await self._store.enter(app, channel, client_id, connection, text, self._now())

    async def update(
        self, app: str, channel: str, client_id: str, connection: str, data: bytes | Raw | None = None
    ) -> None:
        """Replaces the member's data. Raises :class:`Refused` when this connection did not enter."""
        self._require(app, channel)
        text = self.check_data(data)
        if not await self._store.update(app, channel, client_id, connection, text, self._now()):
            advice = "send presence.enter first"
            raise Refused(Code.BAD_REQUEST, f"this connection is not present in '{channel}': {advice}")

    def _require(self, app: str, channel: str) -> None:
        rules = None if self._tenants is None else self._tenants.rules(app, channel)
        if rules is not None:
            rules.require_presence(channel)

    async def leave(self, app: str, channel: str, client_id: str, connection: str) -> None:
        """The connection lets go of the member. Without effect when it did not enter."""
        await self._store.leave(app, channel, client_id, connection, "left")

    async def members(self, app: str, channel: str) -> list[Member]:
        """The members, in the order in which they entered."""
        return await self._store.members(app, channel)

    async def counts(self, app: str, channels: Sequence[str]) -> list[int]:
        """How many members each of the channels has."""
        return await self._store.counts(app, channels)

    def check_data(self, data: bytes | Raw | None) -> bytes:
        """What a client says of itself, as the text of an object: absent, ``null`` and ``[]`` are an empty one.

        It shares no memory with the request. That nested texts are UTF-8 is for the codec to check. Raises
        :class:`Refused`: ``too_large``, or ``bad_request`` for anything but an object.
        """
        text = bytes(data or b"").strip(b" \t\r\n")
        if len(text) > self._max_data_bytes:
            limit = f"more than the limit of {self._max_data_bytes} (limits.presence_bytes)"
            raise Refused(Code.TOO_LARGE, f"the presence data has {len(text)} bytes, {limit}")
        if text in (b"", b"null", b"[]"):
            return _EMPTY
        try:
            if text.startswith(b"[") and not _decode_array(text):
                return _EMPTY
            _decode_object(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise Refused(Code.BAD_REQUEST, f"the presence data must be a JSON object: {e}") from e
        return text

    # What happens to connections.

    async def lost(self, app: str, client_id: str, connection: str, channels: Iterable[str]) -> None:
        """The connection ended without a word: in these channels its member stays for the grace period."""
        for channel in channels:
            seconds = self._grace(app, channel)
            if seconds:
                until = self._now() + seconds
                await self._release(partial(self._store.suspend, app, channel, client_id, connection, until))
            else:
                await self.closed(app, client_id, connection, [channel], "disconnected")

    def _grace(self, app: str, channel: str) -> float:
        rules = None if self._tenants is None else self._tenants.rules(app, channel)
        if rules is None:
            return self._grace_seconds
        return rules.presence_grace_seconds if rules.presence else 0.0

    async def closed(
        self, app: str, client_id: str, connection: str, channels: Iterable[str], reason: LeaveReason = "left"
    ) -> None:
        """The connection ended for good: it leaves these channels at once."""
        for channel in channels:
            await self._release(partial(self._store.leave, app, channel, client_id, connection, reason))

    def arrived(self, app: str, client_id: str, connection: str, come_home: Callable[[], Awaitable[None]]) -> None:
        """The client has this connection. ``come_home`` is called when another one of its connections has ended.

        A client may be back before its old connection is known to be dead; its members then pass to the newest one.
        """
        self._homes.setdefault((app, client_id), {})[connection] = come_home

    async def gone(self, app: str, client_id: str, connection: str) -> None:
        """The connection has ended and let go of its members: the client's newest one takes over what it left."""
        homes = self._homes.get((app, client_id), {})
        homes.pop(connection, None)
        if not homes:
            self._homes.pop((app, client_id), None)
            return
        await list(homes.values())[-1]()

    async def returned(self, app: str, client_id: str, connection: str) -> list[str]:
        """The connection takes over what the client's lost ones held. Returns the channels."""
        await self._settle()
        return await self._store.adopt(app, client_id, connection)

    async def _bring_home(self, stray: Stray) -> None:
        """A client lost a connection on another node and has one here: that takes over what the lost one held."""
        homes = self._homes.get((stray.app, stray.client_id))
        if not homes:
            return
        try:
            await list(homes.values())[-1]()
        except Unavailable:
            # The store tells of the client again; the others of this time must not be forgotten for it.
            self._log.debug("members of {client_id} can't come home now", client_id=stray.client_id)
        except Exception:
            self._log.failure("a client's members could not be brought to its other connection")

    async def _release(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Unavailable:
            self._owed.append(act)

    async def _settle(self) -> None:
        """Does what could not be done while the store was away, or raises when it still is."""
        while self._owed:
            act = self._owed.popleft()
            try:
                await act()
            except (Unavailable, CancelledError):
                self._owed.appendleft(act)
                raise

    # The timer.

    def startService(self) -> None:
        """Starts to let members go whose grace period is over."""
        super().startService()
        self._looping = self._loop.start(_REAP_SECONDS, now=False)

    def stopService(self) -> Deferred[None]:
        """Fires when the last look at the members has ended."""
        super().stopService()
        looping, self._looping = self._looping, None
        if looping is None:
            return succeed(None)
        self._loop.stop()
        return looping.addCallback(lambda _: None)

    def _tick(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._reap())

    async def _reap(self) -> None:
        """Never raises, since a LoopingCall ends for good with the first exception.

        Nobody cancels it: a CancelledError comes from the store, of a query it gave up, and is survived too.
        """
        try:
            await self._settle()
            for stray in await self._store.strays():
                await self._bring_home(stray)
            await self._store.reap(self._now())
        except Unavailable as e:
            if not self._is_failing:
                self._log.warn("the presence store is away, members can't leave: {reason}", reason=e.text)
            self._is_failing = True
        except Exception:
            if not self._is_failing:
                self._log.failure("the presence store failed, members can't leave")
            self._is_failing = True
        else:
            if self._is_failing:
                self._log.info("the presence store is back")
            self._is_failing = False
