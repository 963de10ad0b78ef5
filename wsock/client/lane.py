"""One channel's requests, one after the other, and its subscription.

The answers to everything but a publish carry only the channel, errors do not even say which request they answer. So
only one request of a channel is under way at a time, and whatever comes is its answer.
"""

from __future__ import annotations

from collections import deque

from wsock.client import effects as fx
from wsock.client.effects import Call, Effect
from wsock.client.errors import ClientCode, ClientError
from wsock.client.frames import message, request, resume_requests
from wsock.client.subscription import Subscription, Verdict
from wsock.protocol.frames import MessageEvent

__all__ = ["Lane"]


class Lane:
    """What the client knows and wants of one channel."""

    __slots__ = (
        "calls",
        "current",
        "is_wanted",
        "name",
        "presence",
        "stale_losses",
        "stale_unsubscribed",
        "subscription",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: deque[Call] = deque()
        """What waits for its turn."""
        self.current: Call | None = None
        """What was sent, and waits for its answer."""
        self.subscription: Subscription | None = None
        """There from the first ``subscribed`` on."""
        self.is_wanted = False
        """Whether the user wants to be subscribed."""
        self.presence: bytes | None = None
        """The request that makes us a member again; ``None`` when we are not present."""
        self.stale_unsubscribed = 0
        """``unsubscribed`` frames still to come that answer requests of the client's own."""
        self.stale_losses = 0
        """``recovery_failed`` errors still to come whose fact is known already."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be forgotten with it."""
        has_calls = self.current is not None or self.calls
        return not (has_calls or self.is_wanted or self.subscription or self.presence or self.stale_unsubscribed)

    def ask(self, call: Call) -> None:
        """The call waits for its turn. What the user wants counts from now on."""
        self.calls.append(call)
        if call.kind == "subscribe":
            self.is_wanted = True
        elif call.kind == "unsubscribe":
            self.is_wanted = False
            self.subscription = None

    def start(self) -> Call | None:
        """The next call, if its turn has come."""
        while self.current is None and self.calls:
            call = self.calls.popleft()
            if not call.is_settled:
                self.current = call
                return call
        return None

    def answer(self, *kinds: str) -> Call | None:
        """The call under way, if it is one of these kinds: it has its answer."""
        call = self.current
        if call is None or call.kind not in kinds:
            return None
        self.current = None
        return call

    def give_up(self, call: Call) -> None:
        """The user does not want this call any more. Its answer, if it is under way, is still waited for."""
        call.is_settled = True
        if call.kind == "subscribe" and self.subscription is None:
            self.is_wanted = self._is_called("subscribe")

    def disconnected(self) -> None:
        """The connection is lost; the call under way is made again on the next one."""
        if self.current is not None:
            self.calls.appendleft(self.current)
            self.current = None
        self.stale_unsubscribed = self.stale_losses = 0
        if self.subscription is not None:
            self.subscription.disconnected()

    def enter_again(self) -> None:
        """Presence ends with the connection, so it is the first thing to be restored on the next one."""
        if self.presence is not None:
            text = self.presence
            self.calls.appendleft(Call(kind="present", channel=self.name, text=text, presence=text, is_restoring=True))

    def message(self, frame: MessageEvent) -> tuple[list[Effect], bool]:
        """What a message of the channel means, and whether that includes a resume."""
        subscription = self.subscription
        verdict = subscription.admit(frame) if subscription is not None else Verdict.DROP
        match verdict:
            case Verdict.DELIVER:
                return [fx.Deliver(message(frame, self.name))], False
            case Verdict.LOSS:
                return [fx.Lost(self.name), fx.Deliver(message(frame, self.name))], False
            case Verdict.REPAIR if subscription is not None:
                return self._repair(subscription, frame.sequence), True
        return [], False

    def recovery_failed(self) -> list[Effect]:
        """The server could not keep the channel complete. Subscribing again tells where it stands now."""
        if self.stale_losses:
            self.stale_losses -= 1
            return []
        if self.subscription is None:
            return []
        self.subscription.lost()
        return [fx.Lost(self.name), fx.Send(request("subscribe", channel=self.name))]

    def _repair(self, subscription: Subscription, sequence: int) -> list[Effect]:
        position = subscription.position
        text = f"'{self.name}': message {sequence} came after {position.sequence}; what is between is asked for again"
        subscription.repair()
        self.stale_unsubscribed += 1
        ((_, resume),) = resume_requests({self.name: position})
        return [
            fx.Fault(ClientError(ClientCode.GAP, text, channel=self.name)),
            fx.Send(request("unsubscribe", channel=self.name)),
            fx.Send(resume),
        ]

    def _is_called(self, kind: str) -> bool:
        return any(
            call.kind == kind and not call.is_settled for call in (*self.calls, self.current) if call is not None
        )
