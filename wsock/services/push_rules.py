"""Messages that are pushed to who is not there: in which channels, and how a message asks for it.

A message whose data has an object under ``push`` (a title, and what else a push may say) is pushed to the devices that
want the channel's pushes, of members who are not present in it when their turn comes. Its publisher is none of them.

The push is a job that is stored after the message was accepted and before its publisher is told. Its id is made of the
message's place, so a publish that is repeated, because that is not known, makes no second one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import Audience, IRecords, Outcome, PushJob
from wsock.protocol.messages import Publication, Receipt
from wsock.records import App, Listing, PushRule
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.checks import check_pattern
from wsock.services.push_content import PushContent, push_message
from wsock.services.roles import Permission
from wsock.services.rules import Tenant

__all__ = ["PushRules", "PushTriggers"]

_MAX_RULES = 100
_MARK = b'"push"'


class _Asking(msgspec.Struct, frozen=True):
    """A message's data, as far as it concerns pushes."""

    push: PushContent


_decode = msgspec.json.Decoder(_Asking).decode


class PushRules:
    """The channels of apps whose messages may be pushed."""

    def __init__(
        self, records: IRecords, audit: Audit, now: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._random = random
        self._access = Access(records)

    async def rules(self, actor: Actor, app: str, cursor: str | None, limit: int) -> Listing[PushRule]:
        """The rules of the app."""
        await self._access.require_app(actor, Permission.PUSH_READ, app)
        return await self._records.page(PushRule, {"app": app}, cursor, limit)

    async def create(self, actor: Actor, app: str, pattern: str) -> PushRule:
        """Messages in channels that match may be pushed. Raises :class:`Conflict` when there is such a rule."""
        owner = await self._access.require_app(actor, Permission.PUSH_WRITE, app)
        check_pattern("pattern", pattern)
        if len((await self._records.page(PushRule, {"app": app}, None, _MAX_RULES)).items) == _MAX_RULES:
            raise Refused(Code.LIMIT_EXCEEDED, f"an app has at most {_MAX_RULES} push rules: delete one")
        rule = PushRule(id=f"pr_{self._random(8).hex()}", app=app, pattern=pattern, created_at=int(self._now() * 1000))
        await self._records.add([rule])
        await self._record(actor, "push.rule.create", owner, rule)
        return rule

    async def delete(self, actor: Actor, app: str, id: str) -> None:
        """Messages of these channels are pushed no more, unless another rule matches."""
        owner = await self._access.require_app(actor, Permission.PUSH_WRITE, app)
        rule = await self._records.find(PushRule, id)
        if rule is None or rule.app != app:
            raise Refused(Code.NOT_FOUND, f"there is no push rule with the id '{id}' in this app")
        await self._records.remove(PushRule, id)
        await self._record(actor, "push.rule.delete", owner, rule)

    async def _record(self, actor: Actor, action: str, app: App, rule: PushRule) -> None:
        await self._audit.record(actor, action, team=app.team, app=app.id, target=rule.id, pattern=rule.pattern)


class PushTriggers:
    """Hears of messages that are published where a rule matches. ``begin`` stores a job, and may be repeated."""

    _log = Logger()

    def __init__(self, begin: Callable[[PushJob], Awaitable[None]]) -> None:
        self._begin = begin
        self._storing: set[Deferred[None]] = set()

    def heard(self, tenant: Tenant, publication: Publication, outcome: Outcome) -> Outcome:
        """The outcome to publish with: the same, unless the message asks for a push."""
        data = bytes(publication.data)
        if _MARK not in data or not tenant.is_pushed(publication.channel):
            return outcome
        try:
            content = _decode(data).push
            push_message(content, "", 0)
        except (msgspec.ValidationError, Refused) as e:
            self._log.warn(
                "{app}: a message in {channel} is not pushed: {reason}",
                app=publication.app,
                channel=publication.channel,
                reason=str(e),
            )
            return outcome
        return _Triggering(self, publication, content, outcome)

    async def stop(self) -> None:
        """Waits for what is being stored."""
        await gatherResults(list(self._storing), consumeErrors=True)

    def accepted(self, publication: Publication, content: PushContent, receipt: Receipt, outcome: Outcome) -> None:
        """The message was accepted: the push is stored, then its publisher is told."""
        storing = Deferred.fromCoroutine(self._store(_job(publication, content, receipt), publication.has_id))
        self._storing.add(storing)

        def stored(result: None | Failure) -> None:
            self._storing.discard(storing)
            if isinstance(result, Failure):
                outcome.errback(result)
            else:
                outcome.callback(receipt)

        storing.addBoth(stored)

    async def _store(self, job: PushJob, may_be_repeated: bool) -> None:
        try:
            await self._begin(job)
        except Unavailable:
            if may_be_repeated:
                raise  # with the same id the publisher gets the same receipt, and the push is stored then
            self._log.warn("{app}: a message is not pushed: the store is away", app=job.app)
        except Exception:
            self._log.failure("{app}: a message can't be pushed", app=job.app)


class _Triggering:
    """The outcome of a publish that asks for a push."""

    __slots__ = ("_content", "_outcome", "_publication", "_triggers")

    def __init__(
        self, triggers: PushTriggers, publication: Publication, content: PushContent, outcome: Outcome
    ) -> None:
        self._triggers = triggers
        self._publication = publication
        self._content = content
        self._outcome = outcome

    def callback(self, result: Receipt) -> None:
        """It was accepted."""
        self._triggers.accepted(self._publication, self._content, result, self._outcome)

    def errback(self, fail: Failure) -> None:
        """It was not."""
        self._outcome.errback(fail)


def _job(publication: Publication, content: PushContent, receipt: Receipt) -> PushJob:
    app, channel = publication.app, publication.channel
    place = "\0".join((app, channel, receipt.epoch, str(receipt.sequence)))
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    return PushJob(
        id=f"job_{receipt.timestamp:011x}{name}",
        app=app,
        audience=Audience(channel=channel),
        message=push_message(content, f"push_{name}", receipt.timestamp),
        created_at=receipt.timestamp,
        absent_from=channel,
        excluded=(publication.publisher_id,),
        due=0,
    )
