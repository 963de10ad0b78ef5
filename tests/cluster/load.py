"""Publishers and subscribers that keep book: what was acknowledged, what was heard, and what must not have happened."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random  # noqa: TID251  # only its type: a seeded one is handed in
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.e2e.durability import Receipt

__all__ = ["Book", "ByPosition", "ByTimestamp", "Publisher", "Subscriber"]

_OPEN_SECONDS = 5.0
_RETRY_SECONDS = 0.3
_PAUSE_SECONDS = 0.05, 0.5
_LOST = (OSError, TimeoutError, WebSocketException)

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


@dataclass
class Book:
    """What all clients saw together. ``problems`` are promises that were broken, in words."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    places: dict[str, Receipt] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    heard: int = 0
    repeated: int = 0
    recovery_failed: int = 0
    reconnects: int = 0
    resumes: int = 0

    def accepted(self, ack: dict[str, Any]) -> None:
        """A publish was acknowledged; a repeated one as it was the first time."""
        receipt = Receipt(ack["channel"], ack["timestamp"], ack["sequence"])
        first = self.receipts.setdefault(ack["id"], receipt)
        if first != receipt:
            self.problems.append(f"{ack['id']}: acknowledged as {first}, then as {receipt}")

    def saw(self, message: dict[str, Any]) -> None:
        """A message was delivered; to everybody with the same place and time."""
        self.heard += 1
        place = Receipt(message["channel"], message["timestamp"], message["sequence"])
        first = self.places.setdefault(message["id"], place)
        if first != place:
            self.problems.append(f"{message['id']}: delivered as {first}, then as {place}")

    def expected(self) -> dict[str, set[str]]:
        """The ids that were acknowledged, by channel."""
        ids: dict[str, set[str]] = defaultdict(set)
        for id, receipt in self.receipts.items():
            ids[receipt.channel].add(id)
        return ids


class _Client:
    """Keeps a connection to a node that serves, whichever ``where`` names."""

    def __init__(self, where: Callable[[], str], book: Book, source: Random) -> None:
        self._where = where
        self._book = book
        self._source = source
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Connects, and again whenever the connection is lost; until it is cancelled."""
        while True:
            with suppress(*_LOST):
                # The library's pings would make a node that is slow look like one that is dead.
                how: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": 1 << 20, "proxy": None}
                async with connect(self._where(), open_timeout=_OPEN_SECONDS, close_timeout=0.1, **how) as socket:
                    self._socket = socket
                    await self._talk(socket)
            self._socket = None
            self._book.reconnects += 1
            await asyncio.sleep(self._source.uniform(*_PAUSE_SECONDS))

    async def _talk(self, socket: ClientConnection) -> None:
        await self._open(socket)
        async for text in socket:
            self._take(_decode(text))

    async def _open(self, socket: ClientConnection) -> None:
        raise AssertionError("each kind of client begins in its own way")

    def _take(self, event: dict[str, Any]) -> None:
        raise AssertionError("each kind of client reads in its own way")

    async def _say(self, **request: Any) -> None:
        if self._socket is not None:
            await self._socket.send(_encode(request).decode())


class Publisher(_Client):
    """Publishes bursts. What is not acknowledged is sent again with the same id, on whichever connection there is.

    ``is_amid`` is set with the first ack of a burst, when the others are on their way.
    """

    def __init__(self, name: str, channels: Sequence[str], is_amid: asyncio.Event, *who: Any) -> None:
        super().__init__(*who)
        self._name = name
        self._channels = channels
        self._is_amid = is_amid
        self._waiting: dict[str, str] = {}
        self._retries: set[asyncio.Task[None]] = set()
        self._is_idle = asyncio.Event()
        self._count = 0

    async def burst(self, size: int) -> None:
        """Publishes so many messages at once, and waits until all are acknowledged."""
        self._is_idle.clear()
        ids = [f"{self._name}-{self._count + n:06}" for n in range(size)]
        self._count += size
        self._waiting.update((id, self._source.choice(self._channels)) for id in ids)
        for id in ids:
            await self._send(id)
        await self._is_idle.wait()

    @property
    def waiting(self) -> int:
        """How many are not acknowledged."""
        return len(self._waiting)

    async def _open(self, socket: ClientConnection) -> None:
        for id in list(self._waiting):
            await self._send(id)

    async def _send(self, id: str) -> None:
        if id in self._waiting:
            with suppress(*_LOST):
                await self._say(action="publish", channel=self._waiting[id], id=id, data={"from": id})

    def _take(self, event: dict[str, Any]) -> None:
        if event["action"] == "ack":
            self._book.accepted(event)
            self._waiting.pop(event["id"], None)
            if self._waiting:
                self._is_amid.set()
            else:
                self._is_idle.set()
        elif event["action"] == "error":
            self._book.errors[event["code"]] += 1
            if event["code"] != "unavailable" or "id" not in event:
                self._book.problems.append(f"{self._name}: a publish was answered with {event}")
            task = asyncio.create_task(self._again(event.get("id", "")))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)

    async def _again(self, id: str) -> None:
        await asyncio.sleep(_RETRY_SECONDS)
        await self._send(id)


class Subscriber(_Client):
    """Takes all messages of its channels, resumes when it was cut off, and knows what it may be sent.

    On a connection a channel's messages follow one another without a gap, and timestamps never go back.
    """

    def __init__(self, name: str, channels: Sequence[str], *who: Any) -> None:
        super().__init__(*who)
        self._name = name
        self.channels = channels
        self.ids: dict[str, set[str]] = {channel: set() for channel in channels}
        self.is_ready = asyncio.Event()
        self._here: dict[str, int] = {}
        self._timestamp = 0

    def missing(self, expected: dict[str, set[str]]) -> int:
        """How many of these messages it was not sent."""
        return sum(len(expected[channel] - self.ids[channel]) for channel in self.channels)

    @property
    def has_heard(self) -> bool:
        """Whether it has had a message, from which it could resume."""
        return any(self.ids.values())

    async def _open(self, socket: ClientConnection) -> None:
        self._here = {}
        self._timestamp = 0
        if self.has_heard:
            self._book.resumes += 1
            await self._say(action="resume", **self._token())
        else:
            for channel in self.channels:
                await self._say(action="subscribe", channel=channel)

    def _token(self) -> dict[str, Any]:
        raise AssertionError("each kind of subscriber resumes in its own way")

    def _take(self, event: dict[str, Any]) -> None:
        match event["action"]:
            case "message":
                self._message(event)
            case "subscribed":
                self._subscribed(event)
            case "unsubscribed":
                self._problem(f"was unsubscribed from {event['channel']}")
            case "error":
                self._error(event)

    def _message(self, message: dict[str, Any]) -> None:
        self._book.saw(message)
        channel, sequence = message["channel"], message["sequence"]
        if sequence != self._here.get(channel, -1) + 1:
            self._problem(f"{channel}: {sequence} followed {self._here.get(channel)}")
        self._here[channel] = sequence
        if message["timestamp"] < self._timestamp:
            self._problem(f"{channel}: {sequence} has an earlier timestamp than the message before it")
        self._timestamp = message["timestamp"]
        if message["id"] in self.ids[channel]:
            self._book.repeated += 1
            if not self._may_repeat(message):
                self._problem(f"{channel}: {sequence} came twice")
        self.ids[channel].add(message["id"])

    def _may_repeat(self, message: dict[str, Any]) -> bool:
        return False

    def _subscribed(self, event: dict[str, Any]) -> None:
        channel, sequence = event["channel"], event["sequence"]
        if self._here.get(channel, sequence) != sequence:
            self._problem(f"{channel}: moved from {self._here[channel]} to {sequence}")
        self._here[channel] = sequence
        if len(self._here) == len(self.channels):
            self.is_ready.set()

    def _error(self, event: dict[str, Any]) -> None:
        self._book.errors[event["code"]] += 1
        if event["code"] == "recovery_failed":
            self._book.recovery_failed += 1
            self._here.pop(event["channel"], None)

    def _problem(self, text: str) -> None:
        self._book.problems.append(f"{self._name}: {text}")


class ByTimestamp(Subscriber):
    """As the published SDKs: it resumes from its highest timestamp, and reacts to no error.

    ``is_flat`` chooses the dialect.
    """

    def __init__(self, is_flat: bool, *who: Any) -> None:
        super().__init__(*who)
        self._is_flat = is_flat
        self._last = 0
        self._resumed_from = 0

    def _token(self) -> dict[str, Any]:
        self._resumed_from = self._last
        names = ("token", "since") if self._is_flat else ("resumeToken", "lastTs")
        text = json.dumps({"channels": list(self.channels), names[1]: self._last})
        return {names[0]: base64.urlsafe_b64encode(text.encode()).decode()}

    def _message(self, message: dict[str, Any]) -> None:
        super()._message(message)
        self._last = max(self._last, message["timestamp"])

    def _may_repeat(self, message: dict[str, Any]) -> bool:
        """Where several messages share the timestamp of the resume, all of them are sent again."""
        return bool(message["timestamp"] == self._resumed_from)


class ByPosition(Subscriber):
    """As ``wsock.client``: it resumes each channel behind its last message, and nothing may come twice."""

    def __init__(self, *who: Any) -> None:
        super().__init__(*who)
        self._positions: dict[str, dict[str, Any]] = {}
        self._is_resuming = False

    def _token(self) -> dict[str, Any]:
        self._is_resuming = True
        # What is resumed goes on where it ended, whatever the server calls that place.
        self._here = {channel: position["sequence"] for channel, position in self._positions.items()}
        return {"positions": self._positions}

    def _take(self, event: dict[str, Any]) -> None:
        if event["action"] == "ack" and event["id"] == "resume":
            self._is_resuming = False
        super()._take(event)

    def _message(self, message: dict[str, Any]) -> None:
        super()._message(message)
        self._positions[message["channel"]]["sequence"] = message["sequence"]

    def _subscribed(self, event: dict[str, Any]) -> None:
        super()._subscribed(event)
        self._positions[event["channel"]] = {"epoch": event["epoch"], "sequence": event["sequence"]}
