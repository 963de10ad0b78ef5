"""Every operation of the REST API, asked for by everybody: who lacks what it needs is refused, who has it is not.

What an operation needs is what it declares. The list of operations is the server's own, so a new one is in here.
"""

from __future__ import annotations

from typing import Any

from tests.roles import PARAMETERS, RolesCase
from wsock.edges.http.operations import ANYONE, LOGIN, AppOr, Operation, Right
from wsock.records import Role
from wsock.services.roles import PERMISSIONS, Permission

MEMBERS = tuple(Role)
PROVING = {
    "/api/auth/login",
    "/api/auth/refresh",
    "/api/auth/signup",
    "/api/auth/logout",
    "/api/auth/invitations/accept",
    "/api/auth/invitations/join",
    "/api/auth/reset/confirm",
    "/api/auth/me/totp",
    "/api/auth/me/totp/confirm",
}
"""What takes a secret in the body, or a setting, and may say no without regard to who asks."""
FOR_WHOLE_APP = {"send", "broadcast", "stats", "subscriptions"}
"""What a client's credential may not do with pushes."""
ALL_RIGHTS = {"/api/connections", "/api/connections/{connectionId}"}
"""What takes an API key that may do everything."""


class MatrixTests(RolesCase):
    def test_nobody_without_it(self) -> None:
        """Who lacks what an operation needs gets 401, 403 or 404, and nothing is done."""
        for operation in self.operations():
            revision = self.done(self.server.directory.revision())
            for caller, statuses in _refused(operation).items():
                answer = self.ask_for(operation, caller)
                self.assertIn(
                    answer.status, statuses, f"{operation.method} {operation.path} by {caller}: {answer.body!r}"
                )
                self.assertEqual(set(answer.json) - {"hint"}, {"error", "code"})
            self.assertEqual(self.done(self.server.directory.revision()), revision, operation.path)

    def test_everybody_with_it(self) -> None:
        """Who has what it needs is not refused for who they are."""
        for operation in self.operations():
            for caller in _admitted(operation):
                self.setUp()
                answer = self.ask_for(operation, caller)
                what = f"{operation.method} {operation.path} by {caller}: {answer.status} {answer.body[:300]!r}"
                forbidden = {400, 401, 403} if operation.path not in PROVING else {400}
                if set(operation.parameters) <= set(PARAMETERS):
                    forbidden.add(404)
                self.assertNotIn(answer.status, forbidden, what)
                self.assertLess(answer.status, 500, what)

    def test_other_credentials(self) -> None:
        """A credential of an app is no login, and a login no credential of an app."""
        for operation in self.operations():
            if operation.needs is ANYONE or isinstance(operation.needs, AppOr):
                continue
            strangers = ("operator", "limited") if isinstance(operation.needs, Right) else ("key", "subscriber")
            for caller in strangers:
                answer = self.ask_for(operation, caller)
                self.assertEqual(answer.status, 401, f"{operation.method} {operation.path} by {caller}")


def _refused(operation: Operation) -> dict[str, set[int]]:
    """Who lacks what the operation needs, and what each may be answered."""
    needs: Any = operation.needs
    if needs is ANYONE:
        return {}
    found: dict[str, set[int]] = {"anonymous": {401}}
    if isinstance(needs, Right):
        if needs.name not in (None, "subscribe") or operation.path in ALL_RIGHTS:
            found["subscriber"] = {403}
        return found
    if needs is LOGIN:
        return found
    if isinstance(needs, AppOr):
        if operation.name in FOR_WHOLE_APP:
            found["subscriber"] = {403}
        needs = needs.permission
    least = PERMISSIONS[needs]
    for role in MEMBERS:
        if least is None or not role.covers(least):
            found[role.value] = {403}
    found["stranger"] = {403} if least is None else {403, 404}
    if needs is not Permission.WEBHOOKS_READ:
        found["limited"] = {403}
    return found


def _admitted(operation: Operation) -> list[str]:
    """Who has what it needs."""
    needs: Any = operation.needs
    if needs is ANYONE:
        return ["anonymous"]
    if isinstance(needs, Right):
        return ["key"]
    if needs is LOGIN:
        return ["viewer", "operator", "stranger"]
    keys = []
    if isinstance(needs, AppOr):
        keys, needs = ["key"], needs.permission
    least = PERMISSIONS[needs]
    return [*keys, *(role.value for role in MEMBERS if least is not None and role.covers(least)), "operator"]
