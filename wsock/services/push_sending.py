"""Sends a push to devices, each by its platform's service, and draws the consequences of what that says.

Theory of operation
===================
A provider tells of each device what became of it. One that is no more is forgotten. Where the service wants the whole
app to wait, nothing is asked of it until then; where it does not take the app's credentials, not until those are
others, or a minute is over. What is not asked counts as what was answered last.

Making a push ready costs the reactor a tenth of a millisecond, so some are begun at a time, and others have their turn
in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wsock.errors import Refused, Unavailable
from wsock.interfaces import (
    Audience,
    IDeviceStore,
    IPushProvider,
    PushCredentials,
    PushMessage,
    PushOutcome,
    PushStatus,
    Registration,
)
from wsock.services.app_meter import AppMeters
from wsock.services.push_access import PushAccesses
from wsock.services.quotas import Quotas

__all__ = ["BEGUN_AT_ONCE", "PushSender"]

BEGUN_AT_ONCE = 10
"""Pushes that are begun in one turn of the reactor."""

_BROKEN_SECONDS = 60.0
_AWAY_SECONDS = 5.0

Failed = Callable[[str, Registration, PushOutcome], None]
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Hold:
    """Nothing is sent by the app to the platform until then, unless its credentials are others."""

    outcome: PushOutcome
    until: float
    credentials: PushCredentials | None


class PushSender:
    """Sends by ``providers``, with the credentials of each app. ``failed`` hears of each device that is not reached.

    Without ``quotas`` nothing is limited.
    """

    _log = Logger()

    def __init__(
        self,
        providers: Mapping[str, IPushProvider],
        accesses: PushAccesses,
        devices: IDeviceStore,
        meters: AppMeters,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        quotas: Quotas | None = None,
        failed: Failed = lambda app, registration, outcome: None,
    ) -> None:
        self._providers = providers
        self._accesses = accesses
        self._devices = devices
        self._meters = meters
        self._clock = clock
        self._now = now
        self._quotas = quotas
        self._failed = failed
        self._holds: dict[Place, _Hold] = {}

    async def deliver(self, registrations: Sequence[Registration], message: PushMessage) -> list[PushOutcome]:
        """What became of each, in their order."""
        begun: list[Deferred[PushOutcome]] = []
        try:
            for registration in registrations:
                if begun and len(begun) % BEGUN_AT_ONCE == 0:
                    await deferLater(self._clock, 0.0)
                begun.append(Deferred.fromCoroutine(self._send(registration, message)))
            return await gatherResults(begun, consumeErrors=True)
        finally:
            # Where this was cancelled, or one failed for a fault of ours, the others are not left alone.
            for one in begun:
                one.addErrback(lambda _: None)
                one.cancel()

    async def _send(self, registration: Registration, message: PushMessage) -> PushOutcome:
        app = registration.app
        outcome, was_asked = await self._ask(registration, message)
        if outcome.status is PushStatus.RETRY:
            return outcome
        if was_asked:
            self._meters.app(app).pushed(_OUTCOMES[outcome.status])
        if outcome.status is not PushStatus.OK:
            self._failed(app, registration, outcome)
        if outcome.status is PushStatus.GONE:
            await self._forget(registration, outcome)
        return outcome

    async def _ask(self, registration: Registration, message: PushMessage) -> tuple[PushOutcome, bool]:
        place = (registration.app, registration.platform)
        provider = self._providers.get(registration.platform)
        if provider is None:
            return _misconfigured(f"this server sends nothing to '{registration.platform}'"), False
        try:
            credentials = await self._accesses.get(*place)
        except Unavailable as e:
            return PushOutcome(status=PushStatus.RETRY, detail=e.text, after_seconds=_AWAY_SECONDS), False
        if credentials is None:
            return _misconfigured(f"the app has no credentials for '{registration.platform}'"), False
        held = self._held(place, credentials)
        if held is not None:
            return held, False
        try:
            if self._quotas is not None:
                self._quotas.check_push(registration.app)
        except Refused as e:
            return PushOutcome(status=PushStatus.REJECTED, detail=e.text), False
        outcome = await provider.send(credentials, registration.device, message)
        self._hold(place, credentials, outcome)
        return outcome, True

    def _held(self, place: Place, credentials: PushCredentials) -> PushOutcome | None:
        """What is known without asking."""
        hold = self._holds.get(place)
        if hold is None:
            return None
        left = hold.until - self._now()
        if left <= 0 or hold.credentials not in (None, credentials):
            del self._holds[place]
            return None
        if hold.outcome.status is not PushStatus.RETRY:
            return hold.outcome
        return PushOutcome(status=PushStatus.RETRY, detail=hold.outcome.detail, after_seconds=left, holds_for_all=True)

    def _hold(self, place: Place, credentials: PushCredentials, outcome: PushOutcome) -> None:
        if outcome.status is PushStatus.MISCONFIGURED:
            self._holds[place] = _Hold(outcome, self._now() + _BROKEN_SECONDS, credentials)
        elif outcome.status is PushStatus.RETRY and outcome.holds_for_all:
            until = self._now() + outcome.after_seconds
            known = self._holds.get(place)
            if known is None or known.until < until:
                self._holds[place] = _Hold(outcome, until, None)

    async def _forget(self, registration: Registration, outcome: PushOutcome) -> None:
        """Forgets a device, unless it has come again since."""
        until = registration.updated_at if outcome.gone_at is None else outcome.gone_at
        try:
            await self._devices.remove(registration.app, Audience(ids=(registration.id,)), 1, until)
        except Unavailable:
            self._log.warn("the device {id} is gone and can't be forgotten now", id=registration.id)


_OUTCOMES = {
    PushStatus.OK: "sent",
    PushStatus.GONE: "gone",
    PushStatus.REJECTED: "rejected",
    PushStatus.MISCONFIGURED: "misconfigured",
}
"""What the meters call them."""


def _misconfigured(detail: str) -> PushOutcome:
    return PushOutcome(status=PushStatus.MISCONFIGURED, detail=detail)
