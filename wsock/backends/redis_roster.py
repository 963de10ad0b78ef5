"""What a node knows of the members of its attached channels, and how it finds out when it missed a change.

Every change of a channel's members has a version and names the one before. A change that does not follow what is known
here, a reconnect, and now and then a look at all channels, show that something was missed; then the members are read,
and what is different is told as changes. So whoever listens on this node hears of every member that came or went.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.backends.redis_broker import IAttached
from wsock.backends.redis_nodes import Lease, LeaseTimes, node_script
from wsock.errors import Unavailable
from wsock.protocol.frames import Member
from wsock.protocol.presence import LeaveReason, PresenceChange

__all__ = ["LOOK", "Roster", "members_of"]

LOOK = node_script("presence_look")

_PAGE = 100
_FULL_LOOK_SECONDS = 30.0
_NOBODY = b"0"


class _Announced(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A change as the scripts publish it."""

    kind: str
    client_id: str
    data: Raw
    joined_at: int
    reason: LeaveReason | None = None

    @property
    def member(self) -> Member:
        return Member(self.client_id, self.data, self.joined_at)


_decode = msgspec.json.Decoder(_Announced).decode


def members_of(flat: Sequence[bytes]) -> list[Member]:
    """The members that ``HGETALL`` of a channel gave, in the order in which they entered."""
    found = []
    for i in range(0, len(flat), 2):
        number, joined_at, data = flat[i + 1].split(b" ", 2)
        found.append((int(number), Member(flat[i].decode(), Raw(data), int(joined_at))))
    return [member for _, member in sorted(found, key=lambda item: item[0])]


class _Known:
    """The members of an attached channel up to a version. While they are read, ``held`` keeps what arrives."""

    __slots__ = ("attached", "held", "is_unsettled", "members", "version")

    def __init__(self, attached: IAttached) -> None:
        self.attached = attached
        self.version: bytes | None = None
        self.members: dict[str, Member] = {}
        self.held: list[bytes] | None = []
        self.is_unsettled = False


class Roster:
    """The members of the attached channels of one Redis server. ``tell`` is told of each change, with its app."""

    _log = Logger()

    def __init__(
        self, lease: Lease, reactor: Any, times: LeaseTimes, tell: Callable[[str, PresenceChange], None]
    ) -> None:
        self._lease = lease
        self._reactor = reactor
        self._times = times
        self._tell = tell
        self._known: dict[bytes, _Known] = {}
        self._looking: set[Deferred[None]] = set()
        self._looks_at: float = 0.0

    # What the broker says.

    async def attach(self, attached: IAttached, version: bytes) -> None:
        """Learns the members; what changes from now on is told. Raises :class:`Unavailable`."""
        known = self._of(attached)
        if version == _NOBODY:
            self._learn(known, version, [], is_settled=True)
        else:
            await self._look([known])

    def announced(self, attached: IAttached, payload: bytes) -> None:
        """A change arrived."""
        known = self._of(attached)
        if known.held is not None:
            known.held.append(payload)
            return
        version, before, text = payload.split(b" ", 2)
        if before == known.version:
            known.version = version
            self._apply(known, _decode(text))
        elif known.version is None or not _is_later(known.version, version):
            known.held = [payload]
            self._look_soon([known])

    def detach(self, topic: bytes) -> None:
        """Forgets a channel."""
        self._known.pop(topic, None)

    def reconnected(self) -> None:
        """Looks at all channels: changes may have been missed."""
        self._look_soon([known for known in self._known.values() if known.held is None])

    # Looking.

    def check(self) -> None:
        """Looks at what could not be told for sure, and now and then at all: the last change may be lost silently."""
        now = self._reactor.seconds()
        is_full = now >= self._looks_at
        if is_full:
            self._looks_at = now + _FULL_LOOK_SECONDS
        self._look_soon([k for k in self._known.values() if k.held is None and (is_full or k.is_unsettled)])

    async def stop(self) -> None:
        """Waits for what is under way."""
        for looking in list(self._looking):
            await looking

    def _look_soon(self, channels: list[_Known]) -> None:
        if not channels:
            return
        for known in channels:
            known.held = known.held or []
        looking = Deferred.fromCoroutine(self._look(channels)).addErrback(self._could_not_look)
        if not looking.called:
            self._looking.add(looking)
            looking.addBoth(lambda _: self._looking.discard(looking))

    def _could_not_look(self, failure: Failure) -> None:
        if not failure.check(Unavailable):
            self._log.failure("the members of channels could not be read", failure=failure)

    async def _look(self, channels: list[_Known]) -> None:
        for start in range(0, len(channels), _PAGE):
            some = channels[start : start + _PAGE]
            try:
                answers = await self._lease.run(LOOK, self._times.lease_ms, *_questions(some))
            except BaseException:
                for known in channels[start:]:
                    # Known as before: the next change, or the next look, shows what was missed.
                    known.held = None
                raise
            for known, (version, is_settled, *flat) in zip(some, answers, strict=True):
                if self._known.get(known.attached.topic) is known:
                    self._learn(known, version, flat[0] if flat else None, is_settled=bool(is_settled))

    def _learn(self, known: _Known, version: bytes, flat: Sequence[bytes] | None, *, is_settled: bool) -> None:
        if flat is not None:
            members = {member.client_id: member for member in members_of(flat)}
            if known.version is None:
                known.members = members
            else:
                self._tell_difference(known, members, may_leave=is_settled)
        known.version = version
        held, known.held = known.held or [], None
        for payload in held:
            self.announced(known.attached, payload)

    def _tell_difference(self, known: _Known, members: dict[str, Member], *, may_leave: bool) -> None:
        """Tells what happened between what is known and these members.

        ``may_leave``: else those who are missing may only have to be entered again by their nodes, after Redis lost
        its data; they are kept until that is sure.
        """
        known.is_unsettled = False
        for member in list(known.members.values()):
            now = members.get(member.client_id)
            if now is not None and now.joined_at == member.joined_at:
                continue
            if now is None and not may_leave:
                known.is_unsettled = True
            else:
                self._leave(known, member, "disconnected")
        for member in members.values():
            self._enter(known, member)

    # Telling.

    def _apply(self, known: _Known, change: _Announced) -> None:
        if change.kind == "leave":
            self._leave(known, change.member, change.reason or "left")
        else:
            self._enter(known, change.member, is_update=change.kind == "update")

    def _enter(self, known: _Known, member: Member, *, is_update: bool = False) -> None:
        before = known.members.get(member.client_id)
        if before is not None and before.joined_at == member.joined_at:
            if bytes(before.data) == bytes(member.data) and not is_update:
                return  # entered again by its node: here it never was away
            is_update = True
        known.members[member.client_id] = member
        self._change(known, PresenceChange(known.attached.channel, "update" if is_update else "enter", member))

    def _leave(self, known: _Known, member: Member, reason: LeaveReason) -> None:
        known.members.pop(member.client_id, None)
        self._change(known, PresenceChange(known.attached.channel, "leave", member, reason))

    def _change(self, known: _Known, change: PresenceChange) -> None:
        if known.attached.is_wanted:
            self._tell(known.attached.app, change)

    def _of(self, attached: IAttached) -> _Known:
        known = self._known.get(attached.topic)
        if known is None or known.attached is not attached:
            known = self._known[attached.topic] = _Known(attached)
        return known


def _questions(channels: list[_Known]) -> list[Any]:
    """The arguments of the script; where it may answer that nothing changed, with the version."""
    return [
        part
        for k in channels
        for part in (k.attached.app, k.attached.channel, b"" if k.is_unsettled else k.version or b"")
    ]


def _is_later(version: bytes, other: bytes) -> bool:
    """Whether the version is the other one or comes after it, for sure."""
    generation, _, number = version.rpartition(b".")
    other_generation, _, other_number = other.rpartition(b".")
    return generation == other_generation and bool(generation) and int(number) >= int(other_number)
