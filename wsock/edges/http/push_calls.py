"""Pushes as SDKs ask for them (:mod:`wsock.edges.http.push_forms`).

Two generations of SDKs use two sets of paths (:mod:`wsock.edges.http.push`, :mod:`wsock.edges.http.admin.push`), which
share this.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from wsock.edges.http.operations import Call
from wsock.edges.http.push_forms import (
    ChannelBody,
    DeviceOutcome,
    PushNumbers,
    PushQuery,
    PushStatsAnswer,
    RegisterBody,
    Registered,
    SendBody,
    SentAnswer,
    Subscription,
    SubscriptionDeleted,
    SubscriptionPart,
    Subscriptions,
    UnregisterBody,
    Unregistered,
    Updated,
    VapidKey,
)
from wsock.errors import Code, Refused
from wsock.interfaces import Audience, PushStatus, Registration
from wsock.services.push import Push, Result, Sent
from wsock.services.push_access import PushAccesses
from wsock.services.push_rights import NOBODY, PushRight, PushRights
from wsock.services.roles import Permission

__all__ = ["PushAnswers"]

_MAX_PART = 1000
_APPLE = ("cfnetwork", "darwin")


class PushAnswers:
    """Answers what SDKs ask for."""

    def __init__(self, push: Push, accesses: PushAccesses, rights: PushRights) -> None:
        self._push = push
        self._accesses = accesses
        self._rights = rights

    async def register(self, call: Call[RegisterBody, PushQuery]) -> Registered:
        """A device is known from now on."""
        body, right = call.body, await self._right(call, Permission.PUSH_SEND)
        for channel in body.channels or ():
            right.require("subscribe", channel)
        registration = await self._push.register(
            right.app,
            body.device,
            member=right.member(body.member_id),
            channels=body.channels or (),
            metadata=body.metadata,
        )
        return Registered(subscription_id=registration.id)

    async def unregister(self, call: Call[UnregisterBody, PushQuery]) -> Unregistered:
        """Devices are known no more."""
        body, right = call.body, await self._right(call, Permission.PUSH_SEND)
        audience = await self._those(right, body.member_id, body.subscription_id)
        if body.platform is not None:
            audience = msgspec.structs.replace(audience, platform=body.platform)
        count = await self._push.unregister(right.app, audience)
        return Unregistered(unregistered=count, removed=count)

    async def delete(self, call: Call[Any, PushQuery]) -> SubscriptionDeleted:
        """One device is known no more."""
        right = await self._right(call, Permission.PUSH_SEND)
        found = await self._own_device(right, call.path["subscriptionId"])
        count = 0 if found is None else await self._push.unregister(right.app, Audience(ids=(found.id,)))
        return SubscriptionDeleted(deleted=bool(count))

    async def join(self, call: Call[ChannelBody, PushQuery]) -> Updated:
        """Devices want a channel's pushes."""
        body, right = call.body, await self._right(call, Permission.PUSH_SEND)
        right.require("subscribe", body.channel)
        audience = await self._those(right, body.member_id, body.subscription_id)
        return Updated(updated=await self._push.join(right.app, audience, body.channel))

    async def part(self, call: Call[ChannelBody, PushQuery]) -> Updated:
        """Devices don't want them any more."""
        body, right = call.body, await self._right(call, Permission.PUSH_SEND)
        audience = await self._those(right, body.member_id, body.subscription_id)
        return Updated(updated=await self._push.part(right.app, audience, body.channel))

    async def send(self, call: Call[SendBody, PushQuery], *, is_broadcast: bool = False) -> SentAnswer:
        """Pushes."""
        body, right = call.body, await self._right(call, Permission.PUSH_SEND)
        if body.channel:
            if not right.is_whole:
                right.require("publish", body.channel)
        else:
            right.require_whole()
        audience = _audience(body, is_broadcast=is_broadcast)
        return _sent(await self._push.send(right.app, audience, body.content))

    async def vapid_key(self, call: Call[Any, PushQuery]) -> VapidKey:
        """The key that browsers subscribe with."""
        right = await self._right(call, Permission.PUSH_READ)
        key = await self._accesses.vapid_key(right.app)
        return VapidKey(vapid_public_key=UNSET if key is None else key)

    async def subscriptions(self, call: Call[Any, SubscriptionPart]) -> Subscriptions | list[Subscription]:
        """A part of the devices. The Swift SDK alone reads a bare list."""
        query, right = call.query, await self._right(call, Permission.PUSH_READ)
        member = right.member(query.member_id)
        if not right.is_whole and not member:
            right.require_whole()
        is_any = query.member_id in (None, "") and right.is_whole
        audience = Audience(
            members=None if is_any else (member,), platform=query.platform or None, channel=query.channel or None
        )
        limit = min(query.limit or 50, _MAX_PART)
        page = await self._push.page(right.app, audience, query.cursor, limit)
        items = [_subscription(one) for one in page]
        if any(name in call.header("user-agent").lower() for name in _APPLE):
            return items
        total = await self._push.count(right.app, audience)
        return Subscriptions(subscriptions=items, total=total, next=page[-1].id if len(page) == limit else None)

    async def stats(self, call: Call[Any, PushQuery]) -> PushStatsAnswer:
        """The numbers of the app."""
        right = await self._right(call, Permission.PUSH_READ)
        right.require_whole()
        stats = await self._push.stats(right.app)
        devices, outcomes = stats.devices, stats.outcomes
        numbers = PushNumbers(
            subscriptions=sum(devices.values()),
            web=devices.get("web", 0),
            fcm=devices.get("fcm", 0),
            apns=devices.get("apns", 0),
            sent=outcomes.get("sent", 0),
            failed=sum(count for name, count in outcomes.items() if name != "sent"),
            gone=outcomes.get("gone", 0),
        )
        return PushStatsAnswer(stats=numbers)

    # Who asks, and about which devices.

    async def _right(self, call: Call[Any, PushQuery], permission: Permission) -> PushRight:
        app = call.path.get("appId") or call.header("x-app-id") or call.query.app_id or ""
        if call.is_login:
            return await self._rights.of_login(call.actor, permission, app)
        # What the path names has to be the credential's own; what the query says beside it is not worth a refusal.
        return await self._rights.of_app(call.credential, call.path.get("appId") or "")

    async def _those(self, right: PushRight, member: str | None, subscription: str | None) -> Audience:
        """The devices of a member, or one device, whose id some SDKs send as the member's."""
        for id in (subscription, member):
            if id and id.startswith("sub_"):
                found = await self._own_device(right, id)
                if found is not None:
                    return Audience(ids=(found.id,))
        if subscription and not member:
            return Audience(ids=())
        name = right.member(member)
        if not name and not right.is_whole:
            raise _missing("'memberId' is missing: whose devices are meant?")
        if not name and member != NOBODY:
            raise _missing("'memberId' is missing: whose devices are meant?")
        return Audience(members=(name,))

    async def _own_device(self, right: PushRight, id: str) -> Registration | None:
        found = await self._push.device(right.app, id)
        return found if found is not None and right.owns(found.member) else None


def _audience(body: SendBody, *, is_broadcast: bool) -> Audience:
    channel = body.channel or None
    if is_broadcast or body.broadcast:
        return Audience(channel=channel)
    members: tuple[str, ...] | None = None
    if body.member_ids is not None:
        members = tuple(dict.fromkeys(body.member_ids))
    elif body.member_id:
        members = (body.member_id,)
    elif channel is None:
        raise _missing("for whom is it? Give 'memberId', 'memberIds' or 'channel', or 'broadcast': true for everyone")
    if members is not None:
        members = tuple("" if name == NOBODY else name for name in members)
    return Audience(members=members, channel=channel)


def _sent(sent: Sent) -> SentAnswer:
    job = sent.job
    return SentAnswer(
        sent=sent.count(reached=True),
        failed=sent.count(reached=False),
        results=[_result(one) for one in sent.results],
        queued=UNSET if job is None else job.total,
        job_id=UNSET if job is None else job.id,
    )


def _result(result: Result) -> DeviceOutcome:
    registration, outcome = result.registration, result.outcome
    is_ok = outcome.status is PushStatus.OK
    return DeviceOutcome(
        subscription_id=registration.id,
        member_id=registration.member,
        platform=registration.platform,
        success=is_ok,
        error=UNSET if is_ok else outcome.detail or outcome.status.value,
        retrying=UNSET if result.is_over else True,
    )


def _subscription(registration: Registration) -> Subscription:
    return Subscription(
        subscription_id=registration.id,
        member_id=registration.member,
        platform=registration.platform,
        channels=list(registration.channels),
        metadata=dict(registration.metadata),
        created_at=registration.created_at,
        updated_at=registration.updated_at,
    )


def _missing(text: str) -> Refused:
    return Refused(Code.BAD_REQUEST, text)
