"""Pushes under ``/api/admin/apps/{appId}/push``, as older SDKs ask for them."""

from __future__ import annotations

from wsock.edges.http.operations import AppOr, Call, Group, NoBody, operation
from wsock.edges.http.push_calls import PushAnswers
from wsock.edges.http.push_forms import (
    ChannelBody,
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
from wsock.errors import Code
from wsock.services.roles import Permission

__all__ = ["AppPushGroup"]

_READ, _SEND = AppOr(Permission.PUSH_READ), AppOr(Permission.PUSH_SEND)
_JOINING = (Code.CHANNEL_NAME, Code.LIMIT_EXCEEDED)
_SENDING = (Code.QUOTA_EXCEEDED, Code.LIMIT_EXCEEDED)
_DEVICE = {"platform": "fcm", "memberId": "bob", "deviceToken": "a-registration-token"}
_CHANNEL = {"memberId": "bob", "channel": "news"}
_TO_BOB = {"memberId": "bob", "payload": {"title": "Hello"}}
_TO_ALL = {"payload": {"title": "Hello"}}


class AppPushGroup(Group):
    """The paths of the older SDKs."""

    tag = "Push of an app"
    about = "The same as under `/api/push`, of the app that the path names."

    def __init__(self, answers: PushAnswers) -> None:
        self._answers = answers

    @operation(
        "POST",
        "/api/admin/apps/{appId}/push/register",
        needs=_SEND,
        errors=(Code.CHANNEL_NAME, Code.LIMIT_EXCEEDED),
        example=_DEVICE,
    )
    async def register(self, call: Call[RegisterBody, PushQuery]) -> Registered:
        """Registers a device, or the same one again.

        It keeps its id then, and is the member's who registers it now.
        """
        return await self._answers.register(call)

    @operation("DELETE", "/api/admin/apps/{appId}/push/unregister", needs=_SEND, example={"memberId": "bob"})
    async def unregister(self, call: Call[UnregisterBody, PushQuery]) -> Unregistered:
        """Forgets the devices of a member, or those of one platform."""
        return await self._answers.unregister(call)

    @operation("POST", "/api/admin/apps/{appId}/push/unregister", needs=_SEND, example={"memberId": "bob"})
    async def unregister_posted(self, call: Call[UnregisterBody, PushQuery]) -> Unregistered:
        """The same, for SDKs that post it."""
        return await self._answers.unregister(call)

    @operation("GET", "/api/admin/apps/{appId}/push/subscriptions", needs=_READ)
    async def subscriptions(self, call: Call[NoBody, SubscriptionPart]) -> Subscriptions | list[Subscription]:
        """Lists devices. Some SDKs, which say so in ``User-Agent``, get a bare list."""
        return await self._answers.subscriptions(call)

    @operation("DELETE", "/api/admin/apps/{appId}/push/subscriptions/{subscriptionId}", needs=_SEND)
    async def delete(self, call: Call[NoBody, PushQuery]) -> SubscriptionDeleted:
        """Forgets a device."""
        return await self._answers.delete(call)

    @operation("POST", "/api/admin/apps/{appId}/push/channels/add", needs=_SEND, errors=_JOINING, example=_CHANNEL)
    async def join(self, call: Call[ChannelBody, PushQuery]) -> Updated:
        """Lets a member's devices have the pushes of a channel."""
        return await self._answers.join(call)

    @operation("POST", "/api/admin/apps/{appId}/push/channels/remove", needs=_SEND, example=_CHANNEL)
    async def part(self, call: Call[ChannelBody, PushQuery]) -> Updated:
        """Lets a member's devices not have them any more."""
        return await self._answers.part(call)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/push/send",
        needs=_SEND,
        errors=_SENDING,
        example=_TO_BOB,
    )
    async def send(self, call: Call[SendBody, PushQuery]) -> SentAnswer:
        """Pushes to a member, to several, to a channel, or to everyone.

        To 100 devices at most it is done when this is answered, with what became of each; to more it goes on as a job.
        """
        return await self._answers.send(call)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/push/broadcast",
        needs=_SEND,
        errors=_SENDING,
        example=_TO_ALL,
    )
    async def broadcast(self, call: Call[SendBody, PushQuery]) -> SentAnswer:
        """Pushes to everyone, or to all devices that want the pushes of a channel."""
        return await self._answers.send(call, is_broadcast=True)

    @operation("GET", "/api/admin/apps/{appId}/push/vapid-key", needs=_READ)
    async def vapid_key(self, call: Call[NoBody, PushQuery]) -> VapidKey:
        """Shows the key that browsers subscribe with; it is made the first time."""
        return await self._answers.vapid_key(call)

    @operation("GET", "/api/admin/apps/{appId}/push/config", needs=_READ)
    async def config(self, call: Call[NoBody, PushQuery]) -> VapidKey:
        """The same, for SDKs that ask for it so."""
        return await self._answers.vapid_key(call)

    @operation("GET", "/api/admin/apps/{appId}/push/stats", needs=_READ)
    async def stats(self, call: Call[NoBody, PushQuery]) -> PushStatsAnswer:
        """Counts devices, and what became of this month's pushes, as of a second ago."""
        return await self._answers.stats(call)
