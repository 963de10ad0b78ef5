"""Sends webhooks: what is due in the outbox goes out, and is tried again until it arrives or is given up.

Whoever is ready takes its turn: the apps one after the other, and in an app its endpoints. An endpoint has a bounded
number of requests under way, and no more than a few that were claimed for them, so that what one receiver makes
others wait for is bounded, and so is memory. Nothing is lost with the process: what it had claimed is due again when
the lease ends.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Conflict, Unavailable
from wsock.interfaces import (
    Attempt,
    Blocked,
    Delivery,
    DeliveryState,
    IOutboxStore,
    IRecords,
    NotSent,
    Reply,
    Verdict,
)
from wsock.records import Endpoint
from wsock.services.signing import body_of, headers_of, message_id, secrets_of

__all__ = ["RETRY_SECONDS", "Delivering", "Sending", "Terms"]

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 300.0, 1800.0, 7200.0, 18e3, 36e3, 50_400.0, 72e3, 86_400.0)
"""After how long something is tried again, each time."""

_DAY = 86_400.0
_GONE = 410
_BUSY = (429, 503)
_AHEAD = 8
"""So many times as many as may be under way are claimed for an endpoint."""
_ALL_AHEAD = 4
"""The same for all endpoints together."""
_CLAIMS = 8
_SLICE = 1000
_SCAN_SECONDS = 5.0
_SCAN_PAUSE_SECONDS = 0.1
_STORE_PAUSE_SECONDS = 1.0
_RECORD_SECONDS = 5.0
_MARGIN_SECONDS = 10.0
_LEASE_SECONDS = 60.0
_SLOTS = 10
"""Times to come are known by the tenth of a second, and as far ahead as this:"""
_FORESEEN_SECONDS = 60.0
_END_SECONDS = 3.0
_BODY = 1024
_WINDOW = 20
_FAILED_OF_WINDOW = 18
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 10.0, 900.0
_FOREVER = float("inf")


class Sending(Protocol):
    """Posts to foreign URLs."""

    async def post(
        self,
        url: str,
        headers: dict[str, str],
        body: bytes,
        *,
        guard: bool,
        kind: str,
        timeout_seconds: float,
        max_body: int,
    ) -> Reply:
        """See :meth:`wsock.services.outgoing.Outgoing.post`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How much is sent at once, how long an answer may take, and when it is tried again."""

    retry_seconds: tuple[float, ...] = RETRY_SECONDS
    timeout_seconds: float = 20.0
    per_endpoint: int = 4
    at_once: int = 100
    kept_seconds: float = 7 * _DAY

    @property
    def lease_seconds(self) -> float:
        """How long what was claimed is this node's: for its turn, and for the attempt."""
        return _LEASE_SECONDS + self.timeout_seconds + _MARGIN_SECONDS


@dataclass(slots=True, eq=False)
class _Claimed:
    """What goes out in one request."""

    deliveries: list[Delivery]
    until: float


@dataclass(slots=True, eq=False)
class _Target:
    """An endpoint, as far as this node has to do with it.

    ``is_due``: there may be something to claim. ``slots`` are the times at which there will be. ``open_until`` is when
    the breaker lets a probe through; 0 while it is closed.
    """

    app: str
    id: str
    is_due: bool = False
    slots: set[int] = field(default_factory=set)
    queue: deque[_Claimed] = field(default_factory=deque)
    flying: int = 0
    is_claiming: bool = False
    endpoint: Endpoint | None = None
    found_at: float = -_FOREVER
    window: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    open_until: float = 0.0
    pause: float = _FIRST_PAUSE_SECONDS
    used_at: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is known of it that could not be found out again."""
        return not (self.queue or self.flying or self.is_claiming or self.is_due or self.slots or self.open_until)


class _Turns:
    """Who is ready takes its turn: the apps one after the other, and in each app its endpoints."""

    def __init__(self) -> None:
        self._apps: OrderedDict[str, deque[_Target]] = OrderedDict()
        self._ready: set[_Target] = set()

    def __bool__(self) -> bool:
        return bool(self._ready)

    def add(self, target: _Target) -> None:
        """It is ready; once is enough."""
        if target not in self._ready:
            self._ready.add(target)
            self._apps.setdefault(target.app, deque()).append(target)

    def take(self) -> _Target:
        """Whose turn it is."""
        app, targets = self._apps.popitem(last=False)
        target = targets.popleft()
        self._ready.discard(target)
        if targets:
            self._apps[app] = targets
        return target


class Delivering(Service):
    """Delivers what is in the outbox, as the node ``owner``, whose name no other process has.

    ``switch_off`` is told of an endpoint whose receiver says that it is gone, and why; by default it is disabled.
    ``random`` gives bytes. With ``is_alone`` no other process delivers from this outbox: what one before had claimed is
    due at once. ``delivered`` and ``failed`` count requests that arrived and those that did not, ``dead``
    deliveries that were given up.
    """

    _log = Logger()

    def __init__(
        self,
        store: IOutboxStore,
        records: IRecords,
        sending: Sending,
        clock: IReactorTime,
        now: Callable[[], float],
        owner: str,
        random: Callable[[int], bytes],
        terms: Terms,
        *,
        is_alone: bool = False,
        switch_off: Callable[[Endpoint, str], Awaitable[object]] | None = None,
    ) -> None:
        self._store = store
        self._records = records
        self._sending = sending
        self._clock = clock
        self._now = now
        self._owner = owner
        self._terms = terms
        self._switch_off = switch_off or self._disable
        self._random = random
        self._has_begun = not is_alone
        self.delivered = 0
        self.failed = 0
        self.dead = 0
        self._targets: dict[str, _Target] = {}
        self._room = _ALL_AHEAD * terms.at_once
        self._to_claim = _Turns()
        self._to_send = _Turns()
        self._claiming = 0
        self._claimed = 0
        self._flying = 0
        self._waiting: list[tuple[int, int, _Target]] = []
        self._numbers = count()
        self._timer: IDelayedCall | None = None
        self._scan_timer: IDelayedCall | None = None
        self._is_scanning = False
        self._scan_again = False
        self._scanned_at = -_FOREVER
        self._scan_pause = _SCAN_PAUSE_SECONDS
        self._verdicts: list[tuple[_Target, Verdict, bool]] = []
        self._is_settling = False
        self._work: set[Deferred[None]] = set()
        self._ended: Deferred[None] | None = None
        self._is_turning = False

    # Running.

    def startService(self) -> None:
        """Begins to deliver."""
        super().startService()
        self._scan_at(0.0)

    def stopService(self) -> Deferred[None]:
        """Ends: what was not sent yet is put back; what is under way has a few seconds. Fires when all is settled."""
        super().stopService()
        return Deferred.fromCoroutine(self._end())

    def wake(self) -> None:
        """Something was added to the outbox, or is due again."""
        if self.running:
            self._scan_at(max(0.0, self._scanned_at + self._scan_pause - self._clock.seconds()))

    async def forget(self) -> None:
        """The directory was changed: endpoints are looked up again."""
        for target in self._targets.values():
            target.found_at = -_FOREVER

    async def expire(self) -> None:
        """Deletes what was settled long ago."""
        while await self._store.expire(self._now() - self._terms.kept_seconds, _SLICE) == _SLICE:
            await deferLater(self._clock, 0)

    async def _end(self) -> None:
        for timer in (self._timer, self._scan_timer):
            if timer is not None and timer.active():
                timer.cancel()
        for target in self._targets.values():
            self._put_back(target, self._now())
        await self._wait()
        for work in list(self._work):
            work.cancel()
        # What was cancelled has been put back, of which the outbox is to be told.
        await self._wait()
        for work in list(self._work):
            work.cancel()

    async def _wait(self) -> None:
        """Returns when nothing is under way, or after some seconds."""
        if self._work:
            self._ended = Deferred()
            await self._ended.addTimeout(_END_SECONDS, self._clock, lambda *_: None)
            self._ended = None

    def _do(self, work: Awaitable[None]) -> None:
        """Does it, beside all else."""
        doing: Deferred[None] = Deferred.fromCoroutine(work)  # type: ignore[arg-type]  # it is a coroutine
        if doing.called:
            doing.addErrback(self._broken)
            return
        self._work.add(doing)
        doing.addErrback(self._broken)
        doing.addBoth(lambda _: self._done(doing))

    def _broken(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("delivering webhooks failed", failure=failure)

    def _done(self, doing: Deferred[None]) -> None:
        self._work.discard(doing)
        if self._ended is not None and not self._work:
            ended, self._ended = self._ended, None
            ended.callback(None)

    # What there is to do.

    def _scan_at(self, seconds: float) -> None:
        """Looks for what is due, that many seconds from now, or sooner if that is planned."""
        if self._scan_timer is not None and self._scan_timer.active():
            if self._scan_timer.getTime() <= self._clock.seconds() + seconds:
                return
            self._scan_timer.cancel()
        self._scan_timer = self._clock.callLater(seconds, self._scan)

    def _scan(self) -> None:
        if self._is_scanning:
            self._scan_again = True
            return
        self._is_scanning = True
        self._do(self._look())

    async def _look(self) -> None:
        began = self._clock.seconds()
        self._scan_again = False
        try:
            if not self._has_begun:
                await self._store.release(self._now())
                self._has_begun = True
            after = ""
            while True:
                agenda = await self._store.agenda(after, _SLICE)
                for agendum in agenda:
                    self._wake_at(self._target(agendum.app, agendum.endpoint), agendum.due)
                if len(agenda) < _SLICE:
                    break
                after = agenda[-1].endpoint
        except Unavailable:
            # The store has said so in the log.
            pass
        finally:
            self._is_scanning = False
            self._scanned_at = self._clock.seconds()
            # With many endpoints a scan takes its time, of which it must not take all.
            self._scan_pause = max(_SCAN_PAUSE_SECONDS, 10 * (self._scanned_at - began))
            if self.running:
                self._scan_at(self._scan_pause if self._scan_again else max(_SCAN_SECONDS, self._scan_pause))
        self._drop_idle()

    def _target(self, app: str, id: str) -> _Target:
        target = self._targets.get(id)
        if target is None:
            target = self._targets[id] = _Target(app, id)
        target.used_at = self._clock.seconds()
        return target

    def _drop_idle(self) -> None:
        """Forgets endpoints for which there was nothing to do for some rounds."""
        before = self._clock.seconds() - 10 * _SCAN_SECONDS
        for target in [one for one in self._targets.values() if one.is_idle and one.used_at < before]:
            del self._targets[target.id]

    def _wake_at(self, target: _Target, due: float) -> None:
        """There is something to be claimed for the endpoint then. What is far off is found by a scan."""
        wait = due - self._now()
        if wait <= 0:
            self._is_due(target)
        elif wait <= _FORESEEN_SECONDS:
            slot = math.ceil(due * _SLOTS)
            if slot not in target.slots:
                target.slots.add(slot)
                self._wait_for(target, slot)

    def _is_due(self, target: _Target) -> None:
        target.is_due = True
        self._offer(target)

    def _wait_for(self, target: _Target, slot: int) -> None:
        heappush(self._waiting, (slot, next(self._numbers), target))
        if self._waiting[0][0] == slot:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._waiting and self.running:
            seconds = self._waiting[0][0] / _SLOTS - self._now()
            self._timer = self._clock.callLater(max(0.0, seconds), self._ring)

    def _ring(self) -> None:
        while self._waiting and self._waiting[0][0] / _SLOTS <= self._now():
            slot, _, target = heappop(self._waiting)
            target.slots.discard(slot)
            self._is_due(target)
        self._set_timer()

    # Turns.

    def _offer(self, target: _Target) -> None:
        """Gives the endpoint its turns, if there is something that it can do."""
        if self._can_claim(target):
            self._to_claim.add(target)
        if self._can_send(target):
            self._to_send.add(target)
        self._take_turns()

    def _can_send(self, target: _Target) -> bool:
        return bool(target.queue) and target.flying < self._allowed(target)

    def _can_claim(self, target: _Target) -> bool:
        if not target.is_due or target.is_claiming:
            return False
        taken = len(target.queue) + (target.flying if target.open_until else 0)
        return taken < self._allowed(target)

    def _allowed(self, target: _Target) -> int:
        """How many requests may be under way: none while the breaker is open, then a probe."""
        if not target.open_until:
            return self._terms.per_endpoint
        return 1 if target.open_until <= self._now() else 0

    def _take_turns(self) -> None:
        if self._is_turning:
            return
        self._is_turning = True
        try:
            while self._take_turn():
                pass
        finally:
            self._is_turning = False

    def _take_turn(self) -> bool:
        """The next endpoint claims, or sends; ``False`` when nobody can."""
        if not self.running:
            return False
        if self._to_send and self._flying < self._terms.at_once:
            target = self._to_send.take()
            if self._can_send(target):
                target.flying += 1
                self._flying += 1
                self._do(self._send(target, self._next(target)))
                if self._can_send(target):
                    self._to_send.add(target)
            if self._can_claim(target):
                self._to_claim.add(target)
            return True
        if self._to_claim and self._claiming < _CLAIMS and self._claimed < self._room:
            target = self._to_claim.take()
            if self._can_claim(target):
                target.is_claiming = True
                self._claiming += 1
                self._do(self._claim(target))
            return True
        return False

    def _next(self, target: _Target) -> _Claimed:
        claimed = target.queue.popleft()
        self._claimed -= len(claimed.deliveries)
        return claimed

    async def _claim(self, target: _Target) -> None:
        target.is_due = False
        now = self._now()
        limit = self._claimable(target)
        lease = self._terms.lease_seconds
        try:
            claimed = await self._store.claim(self._owner, target.id, now, lease, limit)
        except Unavailable:
            # The store has said so in the log.
            self._wake_at(target, now + _STORE_PAUSE_SECONDS)
        else:
            target.queue.extend(_Claimed(group, now + lease) for group in _groups(claimed))
            self._claimed += len(claimed)
            # Where there was as much as was asked for, or a whole batch, there may be more.
            target.is_due |= len(claimed) >= limit or any(one.batch for one in claimed)
        finally:
            target.is_claiming = False
            self._claiming -= 1
        if not self.running or not self._allowed(target):
            self._put_back(target, max(now, target.open_until))
        self._offer(target)

    def _claimable(self, target: _Target) -> int:
        """How many to claim. The last of the room for all is given out in small pieces, to whoever's turn it is."""
        if target.open_until:
            return 1
        few = self._terms.per_endpoint
        return max(few, min(few * _AHEAD, self._room - self._claimed))

    def _put_back(self, target: _Target, due: float) -> None:
        """What was claimed and not sent waits in the outbox again; nothing is counted."""
        while target.queue:
            self._say(target, self._next(target).deliveries, "pending", due)

    # Attempts.

    async def _send(self, target: _Target, claimed: _Claimed) -> None:
        try:
            await self._attempt(target, claimed)
        except Unavailable:
            # The directory is away, and says so in the log; the outbox mostly is as well.
            self._say(target, claimed.deliveries, "pending", self._now() + _STORE_PAUSE_SECONDS)
        except CancelledError:
            self._say(target, claimed.deliveries, "pending", self._now())
            raise
        except Exception as e:
            # What no attempt can be made of must not be tried for ever, nor hold up what comes behind it.
            self._log.failure("a webhook of {endpoint} can't be sent", endpoint=target.id)
            self._give_up(target, claimed.deliveries, f"it can't be sent: {type(e).__name__}")
        finally:
            target.flying -= 1
            self._flying -= 1
            target.used_at = self._clock.seconds()
            self._offer(target)

    async def _attempt(self, target: _Target, claimed: _Claimed) -> None:
        endpoint = await self._find(target)
        deliveries = claimed.deliveries
        if endpoint is None or endpoint.app != target.app:
            await self._clear(target)
            return
        if not endpoint.is_enabled:
            await self._bury(target, endpoint, deliveries)
            return
        seconds = claimed.until - self._now() - _MARGIN_SECONDS
        if seconds < self._terms.timeout_seconds:
            # Its turn came too late: by the time of an answer it would be somebody else's.
            self._say(target, deliveries, "pending", self._now())
            return
        began = self._now()
        try:
            reply = await Deferred.fromCoroutine(self._post(endpoint, deliveries)).addTimeout(
                seconds, self._clock, lambda *_: Failure(NotSent("the receiver's host had no time for it"))
            )
        except Blocked as e:
            self._give_up(target, deliveries, e.reason)
        except NotSent as e:
            attempt = Attempt(began, round((self._now() - began) * 1000), 0, "", e.reason)
            self._failed(target, deliveries, attempt)
        else:
            await self._answered(target, endpoint, deliveries, began, reply)

    async def _post(self, endpoint: Endpoint, deliveries: Sequence[Delivery]) -> Reply:
        body = body_of(deliveries)
        now = self._now()
        headers = headers_of(message_id(deliveries), now, body, secrets_of(endpoint, now))
        return await self._sending.post(
            endpoint.url,
            headers,
            body,
            guard=True,
            kind="webhooks",
            timeout_seconds=self._terms.timeout_seconds,
            max_body=_BODY,
        )

    async def _answered(
        self, target: _Target, endpoint: Endpoint, deliveries: Sequence[Delivery], began: float, reply: Reply
    ) -> None:
        text = reply.body[:_BODY].decode("utf-8", "replace").replace("\0", "")
        attempt = Attempt(began, round(reply.seconds * 1000), reply.status, text, _error_of(reply.status))
        if not attempt.error:
            self.delivered += 1
            self._heard(target, True)
            self._say(target, deliveries, "done", 0.0, attempt)
        elif reply.status == _GONE:
            await self._gone(target, endpoint, deliveries, attempt)
        else:
            wanted = _retry_after(reply.headers, self._now()) if reply.status in _BUSY else 0.0
            self._failed(target, deliveries, attempt, wanted)

    def _failed(self, target: _Target, deliveries: Sequence[Delivery], attempt: Attempt, wanted: float = 0.0) -> None:
        """It is tried again later, ``wanted`` seconds at least, or given up after the last time."""
        self.failed += 1
        tries = max(delivery.tries for delivery in deliveries)
        if tries < len(self._terms.retry_seconds):
            delay = self._terms.retry_seconds[tries] * (0.8 + 0.4 * self._random(1)[0] / 255)
            self._say(target, deliveries, "pending", self._now() + max(delay, wanted), attempt)
        else:
            self.dead += len(deliveries)
            self._say(target, deliveries, "dead", 0.0, attempt)
        self._heard(target, False)

    def _give_up(self, target: _Target, deliveries: Sequence[Delivery], reason: str) -> None:
        self.dead += len(deliveries)
        self._say(target, deliveries, "dead", 0.0, Attempt(self._now(), 0, 0, "", reason))

    # Endpoints.

    async def _find(self, target: _Target) -> Endpoint | None:
        if self._clock.seconds() - target.found_at > _RECORD_SECONDS:
            target.endpoint = await self._records.find(Endpoint, target.id)
            target.found_at = self._clock.seconds()
        return target.endpoint

    async def _gone(
        self, target: _Target, endpoint: Endpoint, deliveries: Sequence[Delivery], attempt: Attempt
    ) -> None:
        """The receiver wants no more: nothing is sent to it until somebody switches it on again."""
        self.failed += 1
        self.dead += len(deliveries)
        self._say(target, deliveries, "dead", 0.0, attempt)
        reason = "the receiver answered 410: it is gone"
        self._log.info("the webhook {endpoint} is switched off: {reason}", endpoint=target.id, reason=reason)
        await self._switch_off(endpoint, reason)
        target.found_at = -_FOREVER

    async def _disable(self, endpoint: Endpoint, reason: str) -> None:
        at = int(self._now() * 1000)
        # Where somebody changed it at this moment, the next answer will tell whether that has helped.
        with contextlib.suppress(Conflict):
            await self._records.replace(replace(endpoint, is_enabled=False, disabled_at=at, disabled_reason=reason))

    async def _clear(self, target: _Target) -> None:
        """The endpoint is no more, and so is what was to be told there."""
        while target.queue:
            self._next(target)
        target.open_until = 0.0
        while await self._store.remove(target.id, _SLICE) == _SLICE:
            pass

    async def _bury(self, target: _Target, endpoint: Endpoint, deliveries: Sequence[Delivery]) -> None:
        """The endpoint is switched off: what is due is given up, and can be asked for again."""
        reason = f"the webhook is switched off: {endpoint.disabled_reason or 'no reason was given'}"
        self._give_up(target, deliveries, reason)
        while target.queue:
            self._give_up(target, self._next(target).deliveries, reason)
        target.open_until = 0.0
        while await self._store.bury(target.id, reason, self._now(), _SLICE) == _SLICE:
            pass

    # The breaker.

    def _heard(self, target: _Target, is_good: bool) -> None:
        """An attempt ended. Where nearly all of the last ones failed, the receiver is left alone for a while."""
        target.window.append(is_good)
        if target.open_until:
            self._probed(target, is_good)
        elif target.window.count(False) >= _FAILED_OF_WINDOW and len(target.window) == _WINDOW:
            target.pause = _FIRST_PAUSE_SECONDS
            self._open(target)
            self._log.info(
                "the webhook {endpoint} fails: it is left alone for {seconds} s",
                endpoint=target.id,
                seconds=target.pause,
            )

    def _probed(self, target: _Target, is_good: bool) -> None:
        if is_good:
            target.open_until = 0.0
            target.window.clear()
            target.is_due = True
        elif target.open_until <= self._now():
            target.pause = min(target.pause * 2, _LAST_PAUSE_SECONDS)
            self._open(target)

    def _open(self, target: _Target) -> None:
        target.open_until = self._now() + target.pause
        self._put_back(target, target.open_until)
        slot = math.ceil(target.open_until * _SLOTS)
        target.slots.add(slot)
        self._wait_for(target, slot)

    # Verdicts.

    def _say(
        self,
        target: _Target,
        deliveries: Sequence[Delivery],
        state: DeliveryState,
        due: float,
        attempt: Attempt | None = None,
    ) -> None:
        """Says what becomes of deliveries; the store is told as soon as it has taken what was said before."""
        at = self._now()
        for one in deliveries:
            verdict = Verdict(id=one.id, state=state, at=at, due=due, attempt=attempt)
            self._verdicts.append((target, verdict, one.row.ordered))
        if not self._is_settling:
            self._is_settling = True
            self._do(self._settle())

    async def _settle(self) -> None:
        try:
            while self._verdicts:
                saying, self._verdicts = self._verdicts[:_SLICE], self._verdicts[_SLICE:]
                await self._tell([verdict for _, verdict, _ in saying])
                for target, verdict, is_ordered in saying:
                    if verdict.state == "pending":
                        self._wake_at(target, verdict.due)
                    elif is_ordered:
                        # The next one of its channel may go now.
                        self._is_due(target)
        finally:
            self._is_settling = False

    async def _tell(self, verdicts: list[Verdict]) -> None:
        while True:
            try:
                await self._store.settle(self._owner, verdicts)
            except Unavailable:
                # The store has said so in the log.
                await deferLater(self._clock, _STORE_PAUSE_SECONDS)
            else:
                return


def _groups(deliveries: Sequence[Delivery]) -> list[list[Delivery]]:
    """What goes out together: the rows of a batch, and every other one by itself."""
    batches: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        batches.setdefault(delivery.batch or delivery.id, []).append(delivery)
    return list(batches.values())


def _error_of(status: int) -> str:
    """What is wrong with an answer; nothing, where the receiver has taken it."""
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"the receiver answered {status}: redirects are not followed"
    return f"the receiver answered {status}"


def _retry_after(headers: Mapping[str, str], now: float) -> float:
    """How many seconds a receiver wants to be left alone, a day at most."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), _DAY)
