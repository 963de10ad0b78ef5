"""The client's automaton: frames and calls in, effects out. It has no transport and no clock.

Theory of operation
===================
A conversation outlives its connections. On each one::

    opened -> positions are resumed -> (ack of the last resume) -> members enter again, waiting calls are made -> lost
              publishes without ack are sent again, at once

A publish is known by its channel and id, and any number may be under way. Everything else goes through its channel's
:class:`~wsock.client.lane.Lane`, one at a time. The server answers requests in order, so the acks of resumes, which
carry nothing to tell them apart, are matched in order (``_resumes``): those of a connection's start, those that
repair a gap, and those that only mark the end of a presence request (a fence).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from msgspec import UNSET

from wsock.client import effects as fx
from wsock.client import frames
from wsock.client.effects import Call, Effect
from wsock.client.errors import ClientError, error_of
from wsock.client.lane import Lane
from wsock.client.publishes import Publishes
from wsock.client.subscription import Subscription
from wsock.client.values import Receipt
from wsock.errors import Code
from wsock.protocol.frames import ErrorEvent, MessageEvent, Pong, Reconnect, Subscribed, Unsubscribed
from wsock.protocol.position import Position

__all__ = ["Conversation"]


@dataclass(frozen=True, slots=True)
class _Resume:
    """An ack to come: of a connection's start, or of a repair."""

    is_repair: bool = False


class Conversation:
    """All that a client knows of its channels. ``max_pending`` bounds the publishes, and the other calls, under way."""

    def __init__(self, max_pending: int = 1024) -> None:
        self._max_pending = max_pending
        self._publishes = Publishes(max_pending)
        self._lanes: dict[str, Lane] = {}
        self._waiting: set[Call] = set()
        self._resumes: deque[_Resume | Call] = deque()
        self._resuming = 0
        self._is_open = False

    @property
    def positions(self) -> dict[str, Position]:
        """Where the client stands in each channel that it is subscribed to."""
        return {name: lane.subscription.position for name, lane in self._lanes.items() if lane.subscription}

    # The connection's side.

    def opened(self) -> list[Effect]:
        """A connection is open."""
        self._is_open = True
        done: list[Effect] = []
        for names, text in frames.resume_requests(self.positions):
            for name in names:
                subscription = self._lanes[name].subscription
                assert subscription is not None
                subscription.resume()
            self._resumes.append(_Resume())
            self._resuming += 1
            done.append(fx.Send(text))
        done += [fx.Send(call.text) for call in self._publishes]
        return done if self._resuming else done + self._ready()

    def lost(self) -> None:
        """The connection is lost, or given up: nothing that was under way on it will be answered."""
        self._is_open = False
        self._resumes.clear()
        self._resuming = 0
        for lane in self._lanes.values():
            lane.disconnected()

    def received(self, text: bytes) -> list[Effect]:
        """A text message has come."""
        try:
            frame = frames.decode(text)
        except ClientError as e:
            return [fx.Fault(e)]
        return [] if frame is None else self._received(frame)

    # The user's side.

    def ask(self, call: Call) -> list[Effect]:
        """Makes a call: now, or as soon as its turn comes on an open connection."""
        if call.kind == "publish":
            refusal = self._publishes.add(call)
            if refusal is not None:
                return [fx.Failed(call, refusal)]
            return [fx.Send(call.text)] if self._is_open else []
        if len(self._waiting) >= self._max_pending:
            text = f"{self._max_pending} requests are waiting for their answers already (max_pending)"
            return [fx.Failed(call, ClientError(Code.LIMIT_EXCEEDED, text, channel=call.channel))]
        self._waiting.add(call)
        lane = self._lane(call.channel)
        lane.ask(call)
        return self._advance(lane)

    def give_up(self, call: Call) -> None:
        """The user waits no longer for this call."""
        self._publishes.remove(call.channel, call.id)
        self._waiting.discard(call)
        if call.channel in self._lanes:
            self._lanes[call.channel].give_up(call)

    def end(self, error: ClientError) -> list[Effect]:
        """Fails whatever is under way; nothing is kept for another connection."""
        self.lost()
        calls = [*self._publishes, *self._waiting]
        self._publishes.clear()
        self._waiting.clear()
        self._lanes.clear()
        return [fx.Failed(call, error) for call in calls]

    # Lanes.

    def _lane(self, name: str) -> Lane:
        return self._lanes.setdefault(name, Lane(name))

    def _ready(self) -> list[Effect]:
        done: list[Effect] = [fx.Ready()]
        for lane in list(self._lanes.values()):
            lane.enter_again()
            done += self._advance(lane)
        return done

    def _advance(self, lane: Lane) -> list[Effect]:
        done: list[Effect] = []
        while self._is_open and not self._resuming and (call := lane.start()):
            if call.kind == "subscribe" and lane.subscription is not None:
                done += self._settle(lane.answer("subscribe"), lane.subscription.position)
                continue
            done.append(fx.Send(call.text))
            if call.is_fenced:
                done.append(fx.Send(frames.FENCE))
                self._resumes.append(call)
        if lane.is_idle:
            self._lanes.pop(lane.name, None)
        return done

    def _settle(self, call: Call | None, value: object) -> list[Effect]:
        if call is None or call.is_settled:
            return []
        call.is_settled = True
        self._waiting.discard(call)
        return [fx.Failed(call, value)] if isinstance(value, ClientError) else [fx.Done(call, value)]

    # Frames.

    def _received(self, frame: frames.Incoming) -> list[Effect]:
        match frame:
            case MessageEvent():
                return self._message(frame)
            case frames.Acknowledged():
                return self._acknowledged(frame)
            case Subscribed():
                return self._subscribed(self._lane(frame.channel), Position(frame.epoch, frame.sequence))
            case Unsubscribed():
                return self._unsubscribed(self._lane(frame.channel))
            case frames.PresenceEntered() | frames.PresenceUpdated() | frames.PresenceLeft():
                return [fx.Changed(frames.change(frame))]
            case frames.MembersListed():
                return self._members(frame)
            case frames.PageRead():
                lane = self._lane(frame.channel)
                return self._settle(lane.answer("history"), frames.page(frame)) + self._advance(lane)
            case ErrorEvent():
                return self._error(frame)
            case Reconnect():
                return [fx.Move(max(0, frame.delay) / 1000)]
            case Pong():
                return []

    def _message(self, frame: MessageEvent) -> list[Effect]:
        lane = self._lanes.get(frame.channel)
        if lane is None:
            return []
        done, is_repair = lane.message(frame)
        if is_repair:
            self._resumes.append(_Resume(is_repair=True))
        return done

    def _subscribed(self, lane: Lane, position: Position) -> list[Effect]:
        subscription = lane.subscription
        if subscription is not None and subscription.is_resuming:
            subscription.resumed(position)
            return []
        call = lane.answer("subscribe")
        if call is None and subscription is not None:
            subscription.refreshed(position)
            return []
        done: list[Effect] = []
        if call is not None and lane.is_wanted:
            lane.subscription = Subscription(position, call.rewind)
        elif not lane.is_wanted and not any(c.kind == "unsubscribe" for c in lane.calls):
            # The call had failed or was given up before: what it did is undone.
            lane.stale_unsubscribed += 1
            done.append(fx.Send(frames.request("unsubscribe", channel=lane.name)))
        return done + self._settle(call, position) + self._advance(lane)

    def _unsubscribed(self, lane: Lane) -> list[Effect]:
        if lane.stale_unsubscribed:
            lane.stale_unsubscribed -= 1
            return self._advance(lane)
        call = lane.answer("unsubscribe")
        lane.subscription = None
        if call is None:
            # The server has ended the subscription; an error has said why.
            lane.is_wanted = any(c.kind == "subscribe" for c in lane.calls)
        return self._settle(call, None) + self._advance(lane)

    def _members(self, frame: frames.MembersListed) -> list[Effect]:
        lane = self._lane(frame.channel)
        call = lane.current
        if call is None or call.kind != "members":
            return self._advance(lane)
        call.members += [frames.member(m) for m in frame.data]
        if frame.has_more:
            return []
        return self._settle(lane.answer("members"), call.members) + self._advance(lane)

    def _acknowledged(self, frame: frames.Acknowledged) -> list[Effect]:
        if frame.channel is not None:
            call = self._publishes.remove(frame.channel, frame.id)
            return self._settle(call, Receipt(frame.id, frame.channel, frame.timestamp, frame.sequence))
        if frame.id != "resume" or frame.data is None or frame.data.recovered is None or not self._resumes:
            return []
        expected = self._resumes.popleft()
        if isinstance(expected, Call):
            return self._fence_reached(expected)
        done: list[Effect] = []
        for name in frame.data.lost:
            if name in self._lanes:
                self._lanes[name].stale_losses += 1
                done.append(fx.Lost(name))
        if not expected.is_repair:
            self._resuming -= 1
            done += [] if self._resuming else self._ready()
        return done

    def _fence_reached(self, call: Call) -> list[Effect]:
        lane = self._lane(call.channel)
        if lane.current is call:
            lane.current = None
            lane.presence = call.presence
        return self._settle(call, None) + self._advance(lane)

    def _error(self, frame: ErrorEvent) -> list[Effect]:
        error = error_of(frame)
        if frame.id is not UNSET:
            return self._settle(self._publishes.find(error.channel, frame.id), error)
        if error.channel is None:
            return self._general_error(error)
        lane = self._lane(error.channel)
        if error.code == Code.RECOVERY_FAILED:
            return lane.recovery_failed() + self._advance(lane)
        call, lane.current = lane.current, None
        if call is None:
            return [fx.Fault(error), *self._advance(lane)]
        if call.is_restoring:
            lane.presence = None
            return [fx.Fault(error), *self._advance(lane)]
        done = self._settle(call, error)
        lane.give_up(call)
        return done + self._advance(lane)

    def _general_error(self, error: ClientError) -> list[Effect]:
        if error.code == Code.TOKEN_EXPIRED:
            return [fx.Expiring(error)]
        if not self._resumes:
            return [fx.Fault(error)]
        expected = self._resumes[0]
        if not isinstance(expected, Call):
            return [fx.Restart(error)]
        self._resumes.popleft()
        lane = self._lane(expected.channel)
        lane.current = None if lane.current is expected else lane.current
        return self._settle(expected, error) + self._advance(lane)
