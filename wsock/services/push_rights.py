"""Who may do what with an app's pushes: people by their permissions, and the app's own credentials.

An API key or JWT that may do everything, in as many words (``{"*": ["*"]}``), acts for the whole app. Any other is a
client's. That of a JWT with a subject acts for this member only; an API key acts for the members that its setting
``clientIds`` allows, and for devices that are nobody's. A client may push to a channel in which it may publish.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsock.errors import Code, Refused
from wsock.interfaces import IDirectory
from wsock.protocol.channels import Pattern
from wsock.protocol.permissions import EVERYTHING, Operation, Permissions
from wsock.records import App, Membership
from wsock.services.access import Access, Actor
from wsock.services.auth import Credential
from wsock.services.roles import Permission

__all__ = ["NOBODY", "PushRight", "PushRights"]

NOBODY = "anonymous"
"""What some SDKs call the member of a device that is nobody's."""

_TEAMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRight:
    """What somebody may do in the app. ``subject`` is the one member that they are."""

    app: str
    is_whole: bool
    permissions: Permissions
    subject: str | None = None
    members: Pattern | None = None

    def member(self, given: str | None) -> str:
        """The member that is meant, empty for nobody; refuses to act for others."""
        name = "" if given in (None, NOBODY) else str(given)
        if self.is_whole:
            return name
        if self.subject is not None:
            if name not in ("", self.subject):
                raise Refused(Code.FORBIDDEN, f"this JWT is for the member '{self.subject}', and for no other")
            return self.subject
        if name and (self.members is None or not self.members.matches(name)):
            raise Refused(
                Code.FORBIDDEN,
                f"this key may not act for the member '{name}': give the member a JWT, or the key a setting 'clientIds'"
                ' that allows it, or the permissions {"*": ["*"]}',
            )
        return name

    def owns(self, member: str) -> bool:
        """Whether it may act for this member."""
        try:
            return self.member(member) == member
        except Refused:
            return False

    def require_whole(self) -> None:
        """Refuses whoever may not do everything."""
        if not self.is_whole:
            raise Refused(
                Code.FORBIDDEN,
                'this takes a credential that may do everything: permissions {"*": ["*"]}, in a JWT too, or a login',
            )

    def require(self, operation: Operation, channel: str) -> None:
        """Refuses whoever lacks this on the channel."""
        self.permissions.require(operation, channel)


class PushRights:
    """Tells what somebody may do."""

    def __init__(self, directory: IDirectory) -> None:
        self._directory = directory
        self._access = Access(directory)

    async def of_login(self, actor: Actor, permission: Permission, app: str) -> PushRight:
        """What a person may do who has the permission; without an ``app``, in the only one that they have."""
        owner = await self._access.require_app(actor, permission, app or await self._only_app(actor))
        return PushRight(app=owner.id, is_whole=True, permissions=EVERYTHING)

    async def of_app(self, credential: Credential, app: str) -> PushRight:
        """What the credential may do. Raises :class:`Refused` when it is one of another app."""
        if app not in ("", credential.app):
            raise Refused(Code.FORBIDDEN, f"the credential is not one of the app '{app}'")
        permissions = credential.permissions
        is_own = credential.subject is None or permissions.is_narrowed
        is_whole = is_own and permissions.is_everything
        members = None
        if not is_whole and credential.subject is None:
            key = await self._directory.key(credential.key_id)
            members = None if key is None or key.client_ids is None else Pattern(key.client_ids)
        return PushRight(
            app=credential.app,
            is_whole=is_whole,
            permissions=permissions,
            subject=credential.subject,
            members=members,
        )

    async def _only_app(self, actor: Actor) -> str:
        apps: list[App] = []
        if actor.is_operator:
            apps = (await self._directory.page(App, {}, None, 2)).items
        else:
            mine = await self._directory.page(Membership, {"account": actor.account}, None, _TEAMS)
            for team in (member.team for member in mine.items if actor.team in ("", member.team)):
                apps += (await self._directory.page(App, {"team": team}, None, 2)).items
        if not apps:
            raise Refused(Code.NOT_FOUND, "you have no app")
        if len(apps) > 1:
            text = "there are several apps: name one in the path, in the header X-App-Id or in the query ('appId')"
            raise Refused(Code.BAD_REQUEST, text)
        return apps[0].id
