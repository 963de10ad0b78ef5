"""What SDKs ask about pushes and are told, in all the forms that the published ones use (protocol.md II.5).

What is asked is read leniently: fields that are not known are ignored, and null is as good as nothing. An answer has
the fields of all SDKs' answers together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.live import AnyQuery
from wsock.edges.http.operations import Answer, Body
from wsock.errors import Code, Refused
from wsock.interfaces import ApnsDevice, Device, FcmDevice, WebDevice
from wsock.services.push_content import PushContent

__all__ = [
    "ChannelBody",
    "DeviceAddress",
    "DeviceOutcome",
    "MAX_MEMBERS",
    "PushKeys",
    "PushNumbers",
    "PushQuery",
    "PushStatsAnswer",
    "RegisterBody",
    "Registered",
    "SendBody",
    "SentAnswer",
    "Subscription",
    "SubscriptionDeleted",
    "SubscriptionPart",
    "Subscriptions",
    "UnregisterBody",
    "Unregistered",
    "Updated",
    "VapidKey",
    "WebPushSubscription",
]

MAX_MEMBERS = 1000
"""Members that one push may be for."""

Platform = Literal["web", "fcm", "apns"]
MemberId = Annotated[str | None, Meta(description="Whose devices: the `sub` of JWTs, the `clientId` of presence.")]


class _Lenient(Body, frozen=True, forbid_unknown_fields=False):
    """A body whose other fields are ignored."""


class PushKeys(_Lenient, frozen=True):
    """The keys of a browser's subscription."""

    p256dh: str = ""
    auth: str = ""


class WebPushSubscription(_Lenient, frozen=True):
    """A browser's subscription, as ``PushSubscription.toJSON()`` gives it."""

    endpoint: str
    keys: PushKeys = PushKeys()


class DeviceAddress(_Lenient, frozen=True):
    """What a device is reached by: a token, or a browser's subscription."""

    device_token: str | None = None
    fid: str | None = None
    endpoint: str | None = None
    keys: PushKeys | None = None


class RegisterBody(_Lenient, frozen=True):
    """A device.

    It is reached by a ``device_token``, for ``fcm`` perhaps by a ``fid`` (a Firebase installation's id), in a browser
    by its subscription, under ``web_push``; or by the same under ``subscription``. ``provider`` is another name of
    ``platform``.
    """

    platform: Platform | None = None
    provider: Platform | None = None
    member_id: MemberId = None
    device_token: str | None = None
    fid: str | None = None
    web_push: WebPushSubscription | None = None
    subscription: DeviceAddress | None = None
    channels: list[str] | None = None
    metadata: dict[str, Any] | None = None

    @property
    def device(self) -> Device:
        """The device. Raises :class:`Refused` when what it is reached by is missing."""
        inner = self.subscription or DeviceAddress()
        token, fid = self.device_token or inner.device_token, self.fid or inner.fid
        web = self.web_push
        if web is None and inner.endpoint:
            web = WebPushSubscription(endpoint=inner.endpoint, keys=inner.keys or PushKeys())
        match self.platform or self.provider or ("web" if web is not None else None):
            case "web" if web is not None:
                return WebDevice(endpoint=web.endpoint, p256dh=web.keys.p256dh, auth=web.keys.auth)
            case "web":
                raise _missing("a browser takes its subscription under 'webPush': {endpoint, keys: {p256dh, auth}}")
            case "fcm" if fid:
                return FcmDevice(value=fid, kind="fid")
            case "fcm" if token:
                return FcmDevice(value=token)
            case "apns" if token:
                return ApnsDevice(token=token.lower())
            case None:
                raise _missing("the body: 'platform' is missing: it takes web, fcm or apns")
            case platform:
                raise _missing(f"a device of '{platform}' takes its 'deviceToken'")


def _missing(text: str) -> Refused:
    return Refused(Code.BAD_REQUEST, text)


class UnregisterBody(_Lenient, frozen=True):
    """Whose devices are to go, perhaps of one platform only, or which one."""

    member_id: MemberId = None
    platform: Platform | None = None
    subscription_id: str | None = None


class ChannelBody(_Lenient, frozen=True):
    """A channel, and whose devices, or which one, it is about."""

    channel: str
    member_id: MemberId = None
    subscription_id: str | None = None


class SendBody(PushContent, frozen=True, kw_only=True):
    """A push: for whom, and what it says, which may stand under ``payload`` too.

    It is for a member, several members, or with ``broadcast`` for everyone; of these with a ``channel`` only for the
    devices that want its pushes.
    """

    member_id: MemberId = None
    member_ids: Annotated[list[str], Meta(max_length=MAX_MEMBERS)] | None = None
    channel: str | None = None
    broadcast: bool | None = None
    payload: PushContent | None = None

    @property
    def content(self) -> PushContent:
        """What it says: as it stands under ``payload``, and what is not there as it stands beside."""
        inner = self.payload or PushContent()
        fields = PushContent.__struct_fields__
        chosen = {name: getattr(inner, name) for name in fields if getattr(inner, name) is not None}
        return PushContent(**{name: chosen.get(name, getattr(self, name)) for name in fields})


class PushQuery(AnyQuery, frozen=True):
    """Which app is meant, where neither path nor credential tells. Other fields are ignored."""

    app_id: str | None = None


class SubscriptionPart(PushQuery, frozen=True):
    """Which devices are asked for."""

    member_id: MemberId = None
    platform: Annotated[str | None, Meta(description="Only devices of `web`, `fcm` or `apns`.")] = None
    channel: Annotated[str | None, Meta(description="Only devices that want this channel's pushes.")] = None
    limit: Annotated[int, Meta(ge=0, description="How many at most, up to 1000.")] = 50
    cursor: Annotated[str | None, Meta(description="The `next` of the part before.")] = None


class Registered(Answer, frozen=True):
    """The id by which the device is known."""

    subscription_id: str


class Unregistered(Answer, frozen=True):
    """How many devices were forgotten, under both names that SDKs know."""

    unregistered: int
    removed: int


class SubscriptionDeleted(Answer, frozen=True):
    """Whether there was such a device."""

    deleted: bool


class Updated(Answer, frozen=True):
    """How many devices want the channel's pushes now, or wanted them before."""

    updated: int


class DeviceOutcome(Answer, frozen=True):
    """What became of a push to one device. With ``retrying`` it is not over: it will be tried again."""

    subscription_id: str
    member_id: str
    platform: str
    success: bool
    error: str | UnsetType = UNSET
    retrying: bool | UnsetType = UNSET


class SentAnswer(Answer, frozen=True):
    """What became of a push. What is not done at once goes on as the job ``job_id``, for ``queued`` devices."""

    sent: int
    failed: int
    results: list[DeviceOutcome]
    queued: int | UnsetType = UNSET
    job_id: str | UnsetType = UNSET


class VapidKey(Answer, frozen=True):
    """The key that browsers subscribe with, in base64url; it is missing where there is no Web Push."""

    vapid_public_key: str | UnsetType = UNSET


class Subscription(Answer, frozen=True):
    """A device, without what it is reached by."""

    subscription_id: str
    member_id: str
    platform: str
    channels: list[str]
    metadata: dict[str, Any]
    created_at: int
    updated_at: int


class Subscriptions(Answer, frozen=True):
    """A part of the devices; ``total`` counts all, and ``next`` is the cursor of the part behind it."""

    subscriptions: list[Subscription]
    total: int
    next: str | None


class PushNumbers(Answer, frozen=True):
    """Devices now, and what became of this month's pushes: ``failed`` are all that did not reach a device."""

    subscriptions: int
    web: int
    fcm: int
    apns: int
    sent: int
    failed: int
    gone: int


class PushStatsAnswer(Answer, frozen=True):
    """The numbers of an app."""

    stats: PushNumbers
