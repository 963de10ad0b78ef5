"""Stand-ins for what surrounds a service or a backend: a receiver that records, and a wall clock to set."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from wsock.errors import Code, Refused
from wsock.interfaces import (
    Device,
    IPushProvider,
    IReceiver,
    IVapidKeys,
    PushCredentials,
    PushMessage,
    PushOutcome,
    PushStatus,
    VapidCredentials,
)
from wsock.protocol.messages import Message
from wsock.protocol.position import Position
from wsock.protocol.presence import PresenceChange

__all__ = [
    "ChangeHeard",
    "LossHeard",
    "MessageHeard",
    "MoveHeard",
    "Now",
    "Pushed",
    "RecordingPushProvider",
    "RecordingReceiver",
    "RecordingWebPush",
]


class MessageHeard(NamedTuple):
    """A message, and the app it is of."""

    app: str
    message: Message


class ChangeHeard(NamedTuple):
    """A presence change, and the app it is of."""

    app: str
    change: PresenceChange


class LossHeard(NamedTuple):
    """Messages of a channel are missing; it is at this position now."""

    app: str
    channel: str
    position: Position


class MoveHeard(NamedTuple):
    """A channel has a new epoch, and nothing is missing; it is at this position now."""

    app: str
    channel: str
    position: Position


@implementer(IReceiver)
class RecordingReceiver:
    """Keeps what it is told: by kind, and all of it in ``heard``, in order."""

    def __init__(self) -> None:
        self.heard: list[MessageHeard | ChangeHeard | LossHeard | MoveHeard] = []

    @property
    def messages(self) -> list[MessageHeard]:
        """The messages, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, MessageHeard)]

    @property
    def changes(self) -> list[ChangeHeard]:
        """The presence changes, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, ChangeHeard)]

    @property
    def losses(self) -> list[LossHeard]:
        """The losses, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, LossHeard)]

    @property
    def moves(self) -> list[MoveHeard]:
        """The new epochs, in the order in which they came."""
        return [heard for heard in self.heard if isinstance(heard, MoveHeard)]

    def message(self, app: str, message: Message) -> None:
        """Records a message."""
        self.heard.append(MessageHeard(app, message))

    def presence(self, app: str, change: PresenceChange) -> None:
        """Records a presence change."""
        self.heard.append(ChangeHeard(app, change))

    def lost(self, app: str, channel: str, position: Position) -> None:
        """Records a loss."""
        self.heard.append(LossHeard(app, channel, position))

    def moved(self, app: str, channel: str, position: Position) -> None:
        """Records a new epoch."""
        self.heard.append(MoveHeard(app, channel, position))


class Now:
    """A wall clock in seconds since the epoch: goes with the clock, and can be set to any time."""

    def __init__(self, clock: IReactorTime, seconds: float = 1_700_000_000.0) -> None:
        self._clock = clock
        self.set(seconds)

    def __call__(self) -> float:
        """The time."""
        return self._start + self._clock.seconds()

    def set(self, seconds: float) -> None:
        """It is this time now, whatever it was; the clock is left alone."""
        self._start = seconds - self._clock.seconds()


class Pushed(NamedTuple):
    """A push that was sent: to which device, and with what."""

    device: Device
    message: PushMessage
    credentials: PushCredentials


@implementer(IPushProvider)
class RecordingPushProvider:
    """Keeps what is sent in ``sent``, and answers with the ``outcomes`` one after the other, then that it is done.

    ``held`` are Deferreds to wait for before an answer, one for each push as long as there are any. ``most_at_once``
    is how many were on their way together.
    """

    def __init__(self, platform: str) -> None:
        self.platform = platform
        self.sent: list[Pushed] = []
        self.outcomes: deque[PushOutcome] = deque()
        self.held: deque[Deferred[None]] = deque()
        self.most_at_once = 0
        self.is_closed = False
        self._on_their_way = 0

    def check_credentials(self, credentials: PushCredentials) -> None:
        """Refuses those of another platform."""
        self._check(credentials.__struct_config__.tag)

    def check_device(self, device: Device) -> None:
        """Refuses those of another platform."""
        self._check(device.__struct_config__.tag)

    async def send(self, credentials: PushCredentials, device: Device, message: PushMessage) -> PushOutcome:
        """Records the push."""
        self.sent.append(Pushed(device, message, credentials))
        outcome = self.outcomes.popleft() if self.outcomes else PushOutcome(status=PushStatus.OK)
        self._on_their_way += 1
        self.most_at_once = max(self.most_at_once, self._on_their_way)
        try:
            if self.held:
                await self.held.popleft()
        finally:
            self._on_their_way -= 1
        return outcome

    async def close(self) -> None:
        """Records that it was closed."""
        self.is_closed = True

    def _check(self, platform: object) -> None:
        if platform != self.platform:
            raise Refused(Code.BAD_REQUEST, f"'{platform}' is not for {self.platform}")


@implementer(IVapidKeys)
class RecordingWebPush(RecordingPushProvider):
    """The same for browsers: its keys are texts that tell nothing."""

    def __init__(self) -> None:
        super().__init__("web")
        self._count = 0

    def create(self, subject: str) -> VapidCredentials:
        """Other keys each time."""
        if not subject.startswith(("mailto:", "https:")):
            raise Refused(Code.BAD_REQUEST, f"the subject '{subject}' is no mailto: or https: URL")
        self._count += 1
        return VapidCredentials(
            private_key=f"private-{self._count}", public_key=f"public-{self._count}", subject=subject
        )
