"""A team with an app and members of each role, for the tests of the services that have to do with apps."""

from __future__ import annotations

import os
from typing import TypeVar

from msgspec.structs import replace

from tests.accounts import AccountsCase
from wsock.errors import Code, Refused
from wsock.records import PLANS, App, AuditEntry, AuditQuery, Key, Plan, PlanLimits, Record, Role, Team
from wsock.services.app_settings import Bounds
from wsock.services.apps import Apps
from wsock.services.keys import Keys
from wsock.services.namespaces import Namespaces
from wsock.services.plans import Plans
from wsock.services.revocations import Revocations

__all__ = ["AppsCase"]

_R = TypeVar("_R", bound=Record)
ROLES = {"vera": Role.VIEWER, "dev": Role.DEVELOPER, "adam": Role.ADMIN, "olga": Role.OWNER}


def check_url(field: str, url: str) -> str:
    """Takes HTTPS only."""
    if not url.startswith("https://"):
        raise Refused(Code.BAD_REQUEST, f"'{field}' takes https")
    return url


class AppsCase(AccountsCase):
    """The app ``shop`` of the team ``t1``, ``other`` of ``t2``; ``sam`` is a stranger and ``root`` an operator."""

    bounds = Bounds(message_bytes=65_536)

    def setUp(self) -> None:
        super().setUp()
        around = (self.directory, self.audit, self.now, os.urandom)
        self.apps = Apps(*around, self.bounds)
        self.namespaces = Namespaces(*around, self.bounds)
        self.keys = Keys(*around, check_url)
        self.revocations = Revocations(*around)
        self.plans = Plans(self.directory, self.audit, self.now)
        self.actors = {name: self.person(name) for name in (*ROLES, "sam", "mia")}
        self.actors["root"] = self.person("root", is_operator=True)
        self.team("t1", **ROLES)
        self.team("t2", mia=Role.OWNER)
        self.done(self.directory.add(PLANS))
        self.put(
            App(id="shop", name="Shop", created_at=0, team="t1"), App(id="other", name="O", created_at=0, team="t2")
        )

    def put(self, *records: Record) -> None:
        """Stores these."""
        self.done(self.directory.add(records))

    def get(self, kind: type[_R], id: str) -> _R:
        """The record as it is stored."""
        found: _R | None = self.done(self.directory.find(kind, id))
        assert found is not None, id
        return found

    def plan(self, id: str, **limits: int) -> None:
        """Stores a plan."""
        self.put(Plan(id=id, name=id, limits=PlanLimits(**limits)))

    def put_team_on(self, plan: str, team: str = "t1") -> None:
        """The team is on this plan."""
        self.done(self.directory.replace(replace(self.get(Team, team), plan=plan)))

    def entries(self) -> list[AuditEntry]:
        """What the audit log holds, the oldest first."""
        page = self.done(self.log.page(AuditQuery(), None, 1000))
        return sorted(page.items, key=lambda entry: entry.place)

    def assert_no_secret_in_log(self, *secrets: str) -> None:
        """The audit log holds none of these."""
        text = repr(self.entries())
        for secret in secrets:
            self.assertNotIn(secret, text)

    def used(self, key: str, seconds: float) -> None:
        """The key was used at that time."""
        self.done(self.directory.used(Key, key, int(seconds * 1000)))
