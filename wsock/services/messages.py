"""Publishing, and the past."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import IBroker, IMessageStore, Outcome
from wsock.protocol.channels import check_channel
from wsock.protocol.codec import check_text, encode
from wsock.protocol.messages import HistoryQuery, Page, Publication, Receipt
from wsock.services.app_meter import AppMeter, AppMeters, Timed
from wsock.services.push_rules import PushTriggers
from wsock.services.quotas import Quota
from wsock.services.rates import RateLimiter
from wsock.services.rules import ChannelRules, Tenant
from wsock.services.tenants import Tenants

__all__ = ["MAX_HISTORY", "Messages"]

MAX_HISTORY = 1000
"""Messages that one page of history may have (a run of equal timestamps is not cut, so it may be a little longer)."""

_MAX_ID = 255


class Messages:
    """The messages of all channels.

    ``max_bytes`` bounds the JSON text of a message's data; with ``keeps_history`` off, messages are recoverable for
    the recovery window and are no history. The ``limiter`` says what is too much; without one nothing is. What
    ``tenants`` have settings of their own is held to these; ``now`` is the wall clock in seconds. The ``meters``
    count for each app, and hold it to its plan. The ``triggers`` push messages to who is not there. ``published``
    counts what was handed to the broker.
    """

    def __init__(
        self,
        broker: IBroker,
        store: IMessageStore,
        new_id: Callable[[], str],
        *,
        max_bytes: int = 65536,
        keeps_history: bool = True,
        limiter: RateLimiter | None = None,
        tenants: Tenants | None = None,
        now: Callable[[], float] = lambda: 0.0,
        meters: AppMeters | None = None,
        triggers: PushTriggers | None = None,
    ) -> None:
        self._triggers = triggers
        self._broker = broker
        self._store = store
        self._new_id = new_id
        self._max_bytes = max_bytes
        self._keeps_history = keeps_history
        self._tenants = tenants
        # Where no app is limited but by settings of its own, those without any do not pay for it.
        self._limiter = limiter if tenants is None or tenants.defaults.rates is not None else None
        self._tenant_limiter = limiter
        self._special: Mapping[str, Tenant] = {} if tenants is None else tenants.special
        self._now = now
        self._meters = AppMeters() if meters is None else meters
        self._meter_of = self._meters.known.get
        self.published = 0

    def publish(
        self,
        app: str,
        channel: str,
        data: Any,
        *,
        id: str | None = None,
        identity: str = "server",
        publisher_id: str = "server",
        persist: bool = True,
        user: str | None = None,
        is_client: bool = False,
    ) -> Deferred[Receipt]:
        """Accepts a message; fires with its receipt when it is as durable as the broker makes it.

        ``data`` is anything that JSON can say, or its text as :class:`msgspec.Raw`, which must have been through
        :func:`~wsock.protocol.codec.check_text` and is passed on byte for byte. With an ``id`` a repeated publish by
        the same ``identity`` within the deduplication window gets the first receipt and is delivered once. The
        ``user`` is whose rate it counts for; an app's and a channel's it counts for in any case. ``is_client`` says
        that a client publishes, which a setting may forbid. Raises :class:`Refused` at once for what can't be
        published; the Deferred fails with a :class:`Refused` when that turns out later, and
        :class:`~wsock.errors.Unavailable` when nothing was accepted.
        """
        check_channel(channel)
        data = _raw(data)
        accepted: Deferred[Receipt] = _OfClient() if is_client else Deferred()
        accepted.addCallbacks(self._accepted, self._refused, (app, len(memoryview(data))), errbackArgs=(app,))
        submit = partial(
            self.submit,
            app,
            channel,
            data,
            accepted,
            id=id,
            identity=identity,
            publisher_id=publisher_id,
            persist=persist,
            user=user,
        )
        tenants = self._tenants
        if tenants is None or tenants.get(app) is not None:
            try:
                submit()
            except Refused as e:
                self._meters.app(app).refuse(e.code.value)
                raise
        else:
            self._submit_later(tenants, app, submit, accepted)
        return accepted

    def _submit_later(
        self, tenants: Tenants, app: str, submit: Callable[[], None], accepted: Deferred[Receipt]
    ) -> None:
        """Submits when the app's settings are known; while they can't be had, by the server's."""

        def loaded(result: Tenant | None | Failure) -> None:
            if isinstance(result, Failure) and not result.check(Unavailable):
                result.raiseException()
            submit()

        Deferred.fromCoroutine(tenants.load(app)).addBoth(loaded).addErrback(accepted.errback)

    def submit(
        self,
        app: str,
        channel: str,
        data: Any,
        outcome: Outcome,
        *,
        id: str | None = None,
        identity: str = "server",
        publisher_id: str = "server",
        persist: bool = True,
        user: str | None = None,
        size: int | None = None,
    ) -> None:
        """As :meth:`publish`, of a channel whose name is known to be valid; tells the outcome without a Deferred.

        An outcome that ``is_client`` is one of a client, which a setting may forbid to publish. ``size`` is the data's
        in bytes, for who knows it.
        """
        if not isinstance(data, Raw):
            data = _raw(data)
        if size is None:
            size = len(memoryview(data))
        tenant = self._special.get(app)
        if tenant is None:
            limiter = self._limiter
            if size > self._max_bytes:
                raise _too_large(size, self._max_bytes, "limits.message_bytes")
        else:
            limiter = self._tenant_limiter
            rules = tenant.channel(channel)
            # Not an argument: for the many without settings one more would cost a tenth of all this.
            if getattr(outcome, "is_client", False):
                rules.require_client_publish(channel)
            if size > rules.message_bytes:
                raise _too_large(size, rules.message_bytes, rules.message_bytes_by)
            persist = persist and rules.history
        if id is not None and len(id) > _MAX_ID:
            raise Refused(Code.BAD_REQUEST, f"the id has more than {_MAX_ID} characters")
        admission = None if limiter is None else limiter.admit(app, channel, user)
        publication = Publication(
            app=app,
            channel=channel,
            data=data,
            id=id or self._new_id(),
            has_id=bool(id),
            identity=identity,
            publisher_id=publisher_id,
            persist=persist and self._keeps_history,
        )
        if tenant is not None and tenant.pushed and self._triggers is not None:
            outcome = self._triggers.heard(tenant, publication, outcome)
        if admission is None:
            self._accept(publication, outcome)
        else:
            admission.addCallback(lambda _: self._accept(publication, outcome)).addErrback(outcome.errback)

    def _accept(self, publication: Publication, outcome: Outcome) -> None:
        """Hands the message to the broker, as soon as the app's plan allows it."""
        meter = self._meter_of(publication.app) or self._meters.app(publication.app)
        quota = meter.quota
        if quota is not None:
            self._accept_under(quota, publication, outcome, meter)
            return
        # As _hand_over does: most come this way, and a call is a part of what all this costs.
        meter.submitted += 1
        if not meter.submitted & meter.mask:
            outcome = Timed(outcome, meter, self._meters.seconds)
        self.published += 1
        self._broker.publish(publication, outcome)

    def _accept_under(self, quota: Quota, publication: Publication, outcome: Outcome, meter: AppMeter) -> None:
        admission = quota.admit_message()
        counted = _UnderQuota(outcome, quota)
        if admission is None:
            self._hand_over(publication, counted, meter)
        else:
            admission.addCallbacks(lambda _: self._hand_over(publication, counted, meter), outcome.errback)

    def _hand_over(self, publication: Publication, outcome: Outcome, meter: AppMeter) -> None:
        meter.submitted += 1
        if not meter.submitted & meter.mask:
            outcome = Timed(outcome, meter, self._meters.seconds)
        self.published += 1
        self._broker.publish(publication, outcome)

    def _accepted(self, receipt: Receipt, app: str, size: int) -> Receipt:
        if not receipt.is_duplicate:
            meter = self._meters.app(app)
            meter.messages_in += 1
            meter.bytes_in += size
        return receipt

    def _refused(self, failure: Failure, app: str) -> Failure:
        if isinstance(failure.value, Refused):
            self._meters.app(app).refuse(failure.value.code.value)
        return failure

    async def history(self, app: str, channel: str, query: HistoryQuery) -> Page:
        """A page of the channel's past. The query's limit is clamped to 1 to :data:`MAX_HISTORY`."""
        check_channel(channel)
        limit = max(1, min(query.limit, MAX_HISTORY))
        after = query.after
        rules = await self._rules(app, channel)
        if rules is not None and rules.history_ttl_seconds is not None:
            after = max(after or 0, _milliseconds_before(self._now(), rules.history_ttl_seconds))
        return await self._store.page(
            app,
            channel,
            HistoryQuery(limit=limit, before=query.before, after=after, direction=query.direction),
        )

    def recoverable_after(self, app: str, channel: str) -> int | None:
        """The timestamp up to which nothing may be recovered any more; ``None``: the app has no such setting."""
        tenant = self._special.get(app)
        seconds = None if tenant is None else tenant.channel(channel).recovery_seconds
        return None if seconds is None else _milliseconds_before(self._now(), seconds)

    async def _rules(self, app: str, channel: str) -> ChannelRules | None:
        if self._tenants is None:
            return None
        await self._tenants.load(app)
        return self._tenants.rules(app, channel)


class _UnderQuota:
    """The outcome of a publish that is held to a quota, which hears of its end."""

    __slots__ = ("_outcome", "_quota")

    def __init__(self, outcome: Outcome, quota: Quota) -> None:
        self._outcome = outcome
        self._quota = quota

    def callback(self, result: Receipt) -> None:
        """It was accepted."""
        self._outcome.callback(result)
        self._quota.ended()

    def errback(self, fail: Failure) -> None:
        """It was not."""
        self._quota.ended()
        self._outcome.errback(fail)


def _raw(data: Any) -> Raw:
    """The data as JSON text; what is one already has been checked."""
    if isinstance(data, Raw):
        return data
    text = encode(data)
    check_text(text)
    return Raw(text)


class _OfClient(Deferred[Receipt]):
    """The outcome of a client's publish."""

    is_client = True


def _too_large(size: int, limit: int, by: str) -> Refused:
    return Refused(Code.TOO_LARGE, f"the data has {size} bytes, more than {limit} ({by})")


def _milliseconds_before(now: float, seconds: float) -> int:
    return int((now - seconds) * 1000)
