"""Settings of channels by the pattern of their names."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from wsock.edges.http.admin.settings import SettingsAnswer, settings_answer
from wsock.edges.http.operations import Answer, Body, Call, Group, Items, NoBody, NoQuery, Page, Version, operation
from wsock.errors import Code
from wsock.records import Namespace
from wsock.services.app_settings import SettingsChange
from wsock.services.namespaces import Namespaces
from wsock.services.roles import Permission

__all__ = ["NamespaceGroup"]

Pattern = Annotated[
    str, Meta(max_length=255, description="`*` stands for any characters, also none: `room:*` for `room:` and more.")
]


class NewNamespace(Body, frozen=True):
    """Settings for the channels whose names match."""

    pattern: Pattern
    settings: SettingsChange = SettingsChange()


class NamespaceChange(Body, frozen=True):
    """What is to be otherwise."""

    pattern: Pattern | None = None
    settings: SettingsChange | None = None
    version: Version | None = None


class NamespaceAnswer(Answer, frozen=True):
    """A namespace."""

    id: str
    pattern: str
    settings: SettingsAnswer
    created_at: int
    version: int


class NamespaceGroup(Group):
    """Namespaces."""

    tag = "Namespaces"
    about = (
        "Settings of the channels whose names match a pattern. Where several match, each setting is taken from the one"
        " with the longest text before its first `*` that has it; then from the app."
    )

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces

    @operation("GET", "/api/admin/apps/{appId}/namespaces", needs=Permission.APPS_READ)
    async def namespaces(self, call: Call[NoBody, Page]) -> Items[NamespaceAnswer]:
        """Lists the namespaces of an app."""
        page = await self._namespaces.namespaces(call.actor, call.path["appId"], call.query.cursor, call.query.limit)
        return Items([_answer(namespace) for namespace in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/namespaces",
        status=201,
        needs=Permission.APPS_UPDATE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"pattern": "news:*", "settings": {"clientPublish": False, "historyTtlSeconds": 3600}},
    )
    async def create(self, call: Call[NewNamespace, NoQuery]) -> NamespaceAnswer:
        """Gives the channels that match a pattern settings of their own."""
        body = call.body
        return _answer(await self._namespaces.create(call.actor, call.path["appId"], body.pattern, body.settings))

    @operation("GET", "/api/admin/apps/{appId}/namespaces/{namespaceId}", needs=Permission.APPS_READ)
    async def namespace(self, call: Call[NoBody, NoQuery]) -> NamespaceAnswer:
        """Shows a namespace."""
        return _answer(await self._namespaces.namespace(call.actor, call.path["appId"], call.path["namespaceId"]))

    @operation(
        "PATCH",
        "/api/admin/apps/{appId}/namespaces/{namespaceId}",
        needs=Permission.APPS_UPDATE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"settings": {"historyTtlSeconds": None}},
    )
    async def update(self, call: Call[NamespaceChange, NoQuery]) -> NamespaceAnswer:
        """Changes a namespace: its pattern, and of its settings those that are given.

        A setting that is null is left to the other namespaces that match, and to the app.
        """
        body = call.body
        changed = await self._namespaces.update(
            call.actor,
            call.path["appId"],
            call.path["namespaceId"],
            pattern=body.pattern,
            settings=body.settings,
            version=body.version,
        )
        return _answer(changed)

    @operation("DELETE", "/api/admin/apps/{appId}/namespaces/{namespaceId}", needs=Permission.APPS_UPDATE)
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes a namespace."""
        await self._namespaces.delete(call.actor, call.path["appId"], call.path["namespaceId"])


def _answer(namespace: Namespace) -> NamespaceAnswer:
    return NamespaceAnswer(
        id=namespace.id,
        pattern=namespace.pattern,
        settings=settings_answer(namespace.settings),
        created_at=namespace.created_at,
        version=namespace.version,
    )
