"""Apps and their settings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from wsock.edges.http.admin.settings import SettingsAnswer, settings_answer
from wsock.edges.http.operations import Answer, Body, Call, Group, Items, NoBody, NoQuery, Page, Version, operation
from wsock.errors import Code
from wsock.records import App
from wsock.services.app_settings import SettingsChange
from wsock.services.apps import Apps
from wsock.services.roles import Permission

__all__ = ["AppAnswer", "AppGroup"]

Name = Annotated[str, Meta(max_length=200, description="1 to 100 characters in one line.")]
Id = Annotated[str, Meta(max_length=255)]
Origin = Annotated[str, Meta(max_length=255)]
Origins = Annotated[
    list[Origin],
    Meta(max_length=100, description="Origins of the pages that may use it, such as `https://*.example.org`."),
]


class NewApp(Body, frozen=True):
    """An app that is to be. ``team`` may be left out by who is in one only; the ``plan`` is for operators to choose."""

    name: Name
    team: Id | None = None
    plan: Id | None = None


class AppChange(Body, frozen=True):
    """What is to be otherwise."""

    name: Name | None = None
    is_enabled: bool | None = None
    allowed_origins: Origins | None = None
    plan: Id | None = None
    settings: SettingsChange | None = None
    version: Version | None = None


class AppAnswer(Answer, frozen=True):
    """An app."""

    id: str
    name: str
    team: str
    plan: str
    is_enabled: bool
    allowed_origins: list[str]
    settings: SettingsAnswer
    created_at: int
    version: int


class AppPage(Page, frozen=True):
    """Which apps are asked for."""

    team: Annotated[str | None, Meta(description="Those of this team only.")] = None


class AppGroup(Group):
    """Apps."""

    tag = "Apps"
    about = (
        "An app is a tenant: its channels, keys and messages are nobody else's. Changes reach the connections of all"
        " nodes within a second."
    )

    def __init__(self, apps: Apps) -> None:
        self._apps = apps

    @operation("GET", "/api/admin/apps", needs=Permission.APPS_READ)
    async def apps(self, call: Call[NoBody, AppPage]) -> Items[AppAnswer]:
        """Lists the apps of a team, or of all teams that one is in; operators see all."""
        query = call.query
        page = await self._apps.apps(call.actor, query.cursor, query.limit, team=query.team)
        return Items([app_answer(app) for app in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/apps",
        status=201,
        needs=Permission.APPS_CREATE,
        errors=(Code.CONFLICT, Code.QUOTA_EXCEEDED),
        example={"name": "Chat", "team": "team_0123456789abcdef"},
    )
    async def create(self, call: Call[NewApp, NoQuery]) -> AppAnswer:
        """Creates an app, on the plan of its team.

        It has no keys yet. The plan of the team says how many apps that may have.
        """
        body = call.body
        return app_answer(await self._apps.create(call.actor, body.name, team=body.team, plan=body.plan))

    @operation("GET", "/api/admin/apps/{appId}", needs=Permission.APPS_READ)
    async def app(self, call: Call[NoBody, NoQuery]) -> AppAnswer:
        """Shows an app."""
        return app_answer(await self._apps.app(call.actor, call.path["appId"]))

    @operation(
        "PATCH",
        "/api/admin/apps/{appId}",
        needs=Permission.APPS_UPDATE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"isEnabled": True, "settings": {"historyTtlSeconds": 86400, "userRate": {"events": 5, "burst": 20}}},
    )
    async def update(self, call: Call[AppChange, NoQuery]) -> AppAnswer:
        """Changes an app: what is given, and of its settings those that are given.

        A setting that is null is left to the server again. Who disables an app disconnects its clients.
        """
        body = call.body
        changed = await self._apps.update(
            call.actor,
            call.path["appId"],
            name=body.name,
            is_enabled=body.is_enabled,
            allowed_origins=body.allowed_origins,
            plan=body.plan,
            settings=body.settings,
            version=body.version,
        )
        return app_answer(changed)

    @operation("DELETE", "/api/admin/apps/{appId}", needs=Permission.APPS_DELETE)
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes an app with its keys, namespaces and endpoints; nobody can read its messages then."""
        await self._apps.delete(call.actor, call.path["appId"])


def app_answer(app: App) -> AppAnswer:
    """The app as it is answered."""
    return AppAnswer(
        id=app.id,
        name=app.name,
        team=app.team,
        plan=app.plan,
        is_enabled=app.is_enabled,
        allowed_origins=list(app.allowed_origins),
        settings=settings_answer(app.settings),
        created_at=app.created_at,
        version=app.version,
    )
