"""What apps show to the push services: VAPID keys, Firebase service accounts, keys of Apple's developer site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import (
    ApnsCredentials,
    FcmCredentials,
    IPushProvider,
    IRecords,
    IVapidKeys,
    PushCredentials,
    VapidCredentials,
)
from wsock.records import App, PushAccess, push_access_id
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.directory_cache import Lookups
from wsock.services.roles import Permission

__all__ = ["PLATFORMS", "AccessView", "PushAccesses"]

PLATFORMS = ("web", "fcm", "apns")
"""The push services there are."""

_SECONDS, _SIZE = 5.0, 1000
_decode = msgspec.json.Decoder(PushCredentials).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessView:
    """What an administrator sees of an app's credentials for a platform: nothing secret."""

    platform: str
    details: Mapping[str, str]
    created_at: int
    version: int


class PushAccesses:
    """Keeps the credentials of apps, one for each platform, and makes VAPID keys where an app has none.

    ``subject`` is who browsers' push services are told to turn to, a ``mailto:`` or ``https:`` URL. What was looked
    up is remembered for some seconds, or until :meth:`forget`.
    """

    def __init__(
        self,
        records: IRecords,
        audit: Audit,
        now: Callable[[], float],
        providers: Mapping[str, IPushProvider],
        vapid: IVapidKeys | None,
        subject: str,
    ) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._providers = providers
        self._vapid = vapid
        self._subject = subject
        self._access = Access(records)
        self._known: Lookups[PushCredentials] = Lookups(self._look_up, now, _SECONDS, _SIZE)

    # For sending.

    async def get(self, app: str, platform: str) -> PushCredentials | None:
        """The app's credentials for the platform, a few seconds old at most."""
        return await self._known.get(push_access_id(app, platform))

    async def forget(self) -> None:
        """Something was changed: all are looked up again."""
        self._known.forget()

    async def vapid_key(self, app: str) -> str | None:
        """The public key that browsers of the app subscribe with, which is made the first time it is asked for.

        ``None`` where the server has no Web Push.
        """
        known = await self.get(app, "web")
        if known is None and self._vapid is not None:
            made = self._vapid.create(self._subject)
            with suppress(Conflict):  # somebody else was faster: theirs counts
                await self._records.add([self._record(app, made)])
            self._known.forget()
            known = await self.get(app, "web")
        return known.public_key if isinstance(known, VapidCredentials) else None

    async def _look_up(self, id: str) -> PushCredentials | None:
        record = await self._records.find(PushAccess, id)
        return None if record is None else _decode(record.content)

    # For administrators.

    async def views(self, actor: Actor, app: str) -> list[AccessView]:
        """What the app has."""
        await self._access.require_app(actor, Permission.PUSH_READ, app)
        found = [await self._records.find(PushAccess, push_access_id(app, platform)) for platform in PLATFORMS]
        return [_view(record) for record in found if record is not None]

    async def put(self, actor: Actor, app: str, credentials: PushCredentials) -> AccessView:
        """Takes these from now on; devices stay. Raises :class:`Refused` for some that can never work."""
        owner = await self._access.require_app(actor, Permission.PUSH_WRITE, app)
        record = self._record(app, credentials)
        self._provider(record.platform).check_credentials(credentials)
        return await self._store(actor, owner, record)

    async def make_vapid(self, actor: Actor, app: str, subject: str | None) -> AccessView:
        """Makes new VAPID keys, or keeps those that there are with another subject.

        Keys that are replaced are of no use to browsers that subscribed with them, so that takes a :meth:`remove`.
        """
        owner = await self._access.require_app(actor, Permission.PUSH_WRITE, app)
        if self._vapid is None:
            raise _no_platform("web")
        made = self._vapid.create(subject or self._subject)
        known = await self._look_up(push_access_id(app, "web"))
        if isinstance(known, VapidCredentials):
            made = replace(known, subject=made.subject)
        return await self._store(actor, owner, self._record(app, made))

    async def remove(self, actor: Actor, app: str, platform: str) -> None:
        """Forgets the credentials: nothing is sent to the platform any more."""
        owner = await self._access.require_app(actor, Permission.PUSH_WRITE, app)
        if not await self._records.remove(PushAccess, push_access_id(app, platform)):
            raise Refused(Code.NOT_FOUND, f"the app has no credentials for '{platform}'")
        self._known.forget()
        await self._audit.record(actor, "push.credentials.delete", team=owner.team, app=app, target=platform)

    async def _store(self, actor: Actor, owner: App, record: PushAccess) -> AccessView:
        known = await self._records.find(PushAccess, record.id)
        if known is None:
            await self._records.add([record])
            stored = record
        else:
            stored = await self._records.replace(replace(record, created_at=known.created_at, version=known.version))
        self._known.forget()
        await self._audit.record(
            actor, "push.credentials.update", team=owner.team, app=owner.id, target=record.platform
        )
        return _view(stored)

    def _provider(self, platform: str) -> IPushProvider:
        if platform not in self._providers:
            raise _no_platform(platform)
        return self._providers[platform]

    def _record(self, app: str, credentials: PushCredentials) -> PushAccess:
        platform = str(credentials.__struct_config__.tag)
        return PushAccess(
            id=push_access_id(app, platform),
            app=app,
            platform=platform,
            content=msgspec.json.encode(credentials).decode(),
            created_at=int(self._now() * 1000),
        )


def _no_platform(platform: str) -> Refused:
    return Refused(Code.BAD_REQUEST, f"this server sends nothing to '{platform}'")


def _view(record: PushAccess) -> AccessView:
    match _decode(record.content):
        case VapidCredentials() as web:
            details = {"publicKey": web.public_key, "subject": web.subject}
        case FcmCredentials() as fcm:
            details = {"projectId": fcm.project_id, "clientEmail": fcm.client_email}
        case ApnsCredentials() as apns:
            details = {
                "keyId": apns.key_id,
                "teamId": apns.team_id,
                "topic": apns.topic,
                "environment": apns.environment,
            }
    return AccessView(platform=record.platform, details=details, created_at=record.created_at, version=record.version)
