"""What waits for a client that reads too slowly, where its messages may be lost instead of its connection.

Of a channel with the policy ``latest`` only the newest message waits. Those of channels with ``drop_oldest`` wait as
long as there is room; then the oldest go. Nothing else is ever dropped. In the place of the first message that was
dropped of a channel stands an error that says so; when that has left and another is dropped, there is another one. So
whoever reads the frames finds an error wherever messages of a channel are missing.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

import msgspec

from wsock.errors import Code
from wsock.protocol.codec import encode
from wsock.protocol.deflate import split_frames
from wsock.protocol.frames import ErrorEvent
from wsock.protocol.wire import text_frame
from wsock.records import SlowConsumer

__all__ = ["LossyQueue"]

_OVERHEAD = 128
"""Bytes that a frame takes here beside its own."""
_CHUNK_BYTES = 1 << 16

# A message, as msgspec writes it: the action first, then the channel.
_channel = re.compile(rb'.{2,10}?\{"action":"message","channel":("(?:[^"\\]|\\.)*")', re.DOTALL).match
_decode = msgspec.json.Decoder(str).decode


class LossyQueue:
    """Frames for one client, in order. ``policy`` is asked once for each channel of which something waits.

    ``size`` is the memory that they take, ``dropped`` how many messages were.
    """

    __slots__ = (
        "_droppable",
        "_frames",
        "_newest",
        "_next",
        "_noticed",
        "_notices",
        "_policies",
        "_policy",
        "dropped",
        "size",
    )

    def __init__(self, policy: Callable[[str], SlowConsumer]) -> None:
        self._policy = policy
        self._policies: dict[str, SlowConsumer] = {}
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._next = 0
        self._droppable: deque[tuple[int, str]] = deque()
        self._newest: dict[str, int] = {}
        self._noticed: dict[str, int] = {}
        self._notices: dict[int, str] = {}
        self.size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._frames)

    def keep(self, frames: Iterable[bytes]) -> None:
        """Adds frames that are never dropped."""
        for frame in frames:
            self._put(frame)
            found = _channel(frame)
            if found is not None and self._noticed:
                # What is dropped behind it is another gap.
                self._noticed.pop(_decode(found[1]), None)

    def add(self, frames: bytes) -> None:
        """Adds joined frames, of which messages may be dropped."""
        for frame in split_frames(frames):
            found = _channel(frame)
            number = self._put(frame)
            if found is not None:
                self._message(number, _decode(found[1]))

    def shed(self, limit: int) -> bool:
        """Drops the oldest messages that may be until there is room; whether there is."""
        while self.size > limit and self._droppable:
            number, channel = self._droppable.popleft()
            if number in self._frames:
                self._drop(number, channel)
        return self.size <= limit

    def take(self) -> list[bytes]:
        """The first frames, about as much as a transport takes at once."""
        frames: list[bytes] = []
        size = 0
        while self._frames and size < _CHUNK_BYTES:
            number, frame = self._frames.popitem(last=False)
            self.size -= len(frame) + _OVERHEAD
            size += len(frame)
            frames.append(frame)
            told = self._notices.pop(number, None)
            if told is not None and self._noticed.get(told) == number:
                del self._noticed[told]
        while self._droppable and self._droppable[0][0] not in self._frames:
            self._droppable.popleft()
        return frames

    def _put(self, frame: bytes) -> int:
        number = self._next
        self._next += 1
        self._frames[number] = frame
        self.size += len(frame) + _OVERHEAD
        return number

    def _message(self, number: int, channel: str) -> None:
        policy = self._policies.get(channel)
        if policy is None:
            policy = self._policies[channel] = self._policy(channel)
        if policy == "drop_oldest":
            self._droppable.append((number, channel))
        elif policy == "latest":
            before = self._newest.get(channel)
            self._newest[channel] = number
            if before is not None and before in self._frames:
                self._drop(before, channel)

    def _drop(self, number: int, channel: str) -> None:
        """Drops a message; what waits of its channel before it was dropped already."""
        self.dropped += 1
        dropped = self._frames[number]
        if channel in self._noticed:
            del self._frames[number]
            self.size -= len(dropped) + _OVERHEAD
            return
        self._frames[number] = notice = text_frame(encode(_left_out(channel)))
        self.size += len(notice) - len(dropped)
        self._noticed[channel] = number
        self._notices[number] = channel


def _left_out(channel: str) -> ErrorEvent:
    text = f"messages of '{channel}' were left out, since this client reads too slowly: read the channel's history"
    return ErrorEvent(error=text, code=Code.RECOVERY_FAILED.value, channel=channel)
