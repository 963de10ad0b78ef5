"""The work queue of one Redis server: what has to be persisted and told, at least once, by whichever node takes it.

A consumer group shares the entries out; one that a node took and did not finish is taken over by another when it has
been idle for a while. An entry of a message names its place in the channel's log, where the message itself stays
until it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from wsock.backends.redis_batch import entry_messages
from wsock.backends.redis_broker import RedisShard
from wsock.backends.redis_link import RedisConnection, Script
from wsock.interfaces import Event, IWorkQueue, Work

__all__ = ["RedisQueue"]

_QUEUE = "wsock:queue"
_DEAD = "wsock:dead"
_GROUP = "persist"
_BLOCK_MS = 2000
_FORGET_MS = 3_600_000
_MAX_DEAD = 10_000
_SLOW_SECONDS = 15.0
"""How long a piece of work may take to come: 500 messages of the largest size, over a slow network."""

_fetch, _done, _forget = map(Script.load, ("fetch", "done", "forget"))


@implementer(IWorkQueue)
class RedisQueue:
    """The queue of a shard, as the consumer ``node`` sees it.

    ``idle_seconds`` is how long an idle log is kept; work that another consumer has had for ``take_over_seconds`` is
    taken over.
    """

    _log = Logger()

    def __init__(self, shard: RedisShard, node: str, idle_seconds: float, *, take_over_seconds: float = 15.0) -> None:
        self._shard = shard
        self._node = node
        self._idle_ms = int(idle_seconds * 1000)
        self._take_over_ms = int(take_over_seconds * 1000)
        self._connection: RedisConnection = shard.connect(
            scripts=(_fetch, _done, _forget), prepare=self._create_group, timeout_seconds=_SLOW_SECONDS
        )
        self._take_over_from = "0-0"
        self._is_recovering = True

    async def start(self) -> None:
        """Connects."""
        self._connection.start()
        await self._connection.when_up()

    async def stop(self) -> None:
        """Disconnects; what was taken and not done will be taken by another node."""
        await self._connection.stop()

    async def take(self, limit: int) -> Work:
        """Work that nobody else has now: what was left undone first. Waits a while, and may be empty."""
        entries = await self._left_undone(limit) or await self._new(limit)
        return await self._work(entries)

    async def is_first(self, work: Work) -> bool:
        """Whether all work before this, whoever has it, is done."""
        found = await self._connection.call("XRANGE", _QUEUE, "-", "+", "COUNT", 1)
        return not found or not work.ids or _number(found[0][0].decode()) >= _number(work.ids[0])

    async def take_left(self, limit: int) -> Work:
        """Work that another consumer had for too long; perhaps none."""
        return await self._work(await self._left_undone(limit))

    async def done(self, work: Work) -> None:
        """The work will not be given out again."""
        if not work.ids:
            return
        channels = {(app, message.channel) for app, messages in work.messages.items() for message in messages}
        names = [name for channel in sorted(channels) for name in channel]
        await self._connection.run(_done, _GROUP, self._idle_ms, len(work.ids), *work.ids, *names)

    async def bury(self, work: Work, text: str, reason: str) -> None:
        """Keeps what can never be stored, for a person to look at (the stream ``wsock:dead``)."""
        self._log.error("a message can't be stored and is kept in wsock:dead: {reason}", reason=reason)
        await self._connection.call("XADD", _DEAD, "MAXLEN", "~", _MAX_DEAD, "*", "what", text, "why", reason)

    async def length(self) -> int:
        """How many entries wait."""
        length: int = await self._connection.call("XLEN", _QUEUE)
        return length

    async def _create_group(self, connection: RedisConnection) -> None:
        self._is_recovering = True
        try:
            await connection.call("XGROUP", "CREATE", _QUEUE, _GROUP, "0", "MKSTREAM")
        except Exception as e:
            if not str(e).startswith("BUSYGROUP"):
                raise
        await connection.run(_forget, _GROUP, _FORGET_MS)

    async def _left_undone(self, limit: int) -> list[Any]:
        """What this consumer had before it was interrupted, then what others left."""
        if self._is_recovering:
            entries = await self._read("0", limit)
            self._is_recovering = bool(entries)
            if entries:
                return entries
        answer = await self._grouped(
            "XAUTOCLAIM", _QUEUE, _GROUP, self._node, self._take_over_ms, self._take_over_from, "COUNT", limit
        )
        self._take_over_from = answer[0].decode()
        return [entry for entry in answer[1] if entry is not None and entry[1] is not None]

    async def _new(self, limit: int) -> list[Any]:
        return await self._read(">", limit, "BLOCK", _BLOCK_MS)

    async def _read(self, start: str, limit: int, *options: Any) -> list[Any]:
        command = ("XREADGROUP", "GROUP", _GROUP, self._node, "COUNT", limit, *options, "STREAMS", _QUEUE, start)
        answer = await self._grouped(*command)
        return [entry for entry in answer[0][1] if entry[1]] if answer else []

    async def _grouped(self, *command: Any) -> Any:
        """A command of the group, which is made again when somebody or a lost Redis took it away."""
        seconds = _BLOCK_MS / 1000 + 3
        try:
            return await self._connection.call(*command, timeout_seconds=seconds)
        except Exception as e:
            if not str(e).startswith(("NOGROUP", "UNBLOCKED")):
                raise
        await self._create_group(self._connection)
        return await self._connection.call(*command, timeout_seconds=seconds)

    async def _work(self, entries: Sequence[Any]) -> Work:
        ids = [entry[0].decode() for entry in entries]
        fields = [_fields(entry[1]) for entry in entries]
        events = [
            Event(id=_event_id(id, f), app=f["a"], channel=f["c"], type=f["t"], data=f["d"].encode())
            for id, f in zip(ids, fields, strict=True)
            if f["k"] == "e"
        ]
        return Work(ids, await self._messages([f for f in fields if f["k"] == "m"]), events)

    async def _messages(self, fields: list[dict[str, str]]) -> dict[str, list[Any]]:
        runs = _runs(sorted((f["a"], f["c"], int(f["s"])) for f in fields))
        if not runs:
            return {}
        arguments = [part for run in runs for part in run]
        found: dict[str, list[Any]] = {}
        for (app, channel, first, last), entries in zip(
            runs, await self._connection.run(_fetch, *arguments), strict=True
        ):
            messages = [message for entry in entries for message in entry_messages(channel, entry)]
            asked = [message for message in messages if first <= message.sequence <= last]
            found.setdefault(app, []).extend(asked)
            missing = last - first + 1 - len(asked)
            if missing:
                self._log.error(
                    "{missing} messages of {channel} are gone from Redis unpersisted", missing=missing, channel=channel
                )
        return found


def _event_id(id: str, fields: dict[str, str]) -> str:
    """The same each time the entry is worked off, and another for each event, on whatever server its channel lives."""
    content = "\0".join(fields[name] for name in ("a", "c", "t", "d"))
    return f"{id}-{blake2b(content.encode(), digest_size=8).hexdigest()}"


def _number(id: str) -> tuple[int, ...]:
    """Where an entry stands in the queue."""
    return tuple(map(int, id.split("-")))


def _fields(flat: Sequence[bytes]) -> dict[str, str]:
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}


def _runs(places: list[tuple[str, str, int]]) -> list[tuple[str, str, int, int]]:
    """The sequences of each channel, in runs without a gap."""
    numbered = enumerate(dict.fromkeys(places))
    runs = []
    for (app, channel, _), group in groupby(numbered, key=lambda item: (item[1][0], item[1][1], item[1][2] - item[0])):
        sequences = [place[2] for _, place in group]
        runs.append((app, channel, sequences[0], sequences[-1]))
    return runs
