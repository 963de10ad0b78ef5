"""A server in memory whose pushes are recorded, with credentials for every platform, and ways to ask for pushes."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.rest import RestAnswer, RestCase
from wsock.config import Config
from wsock.interfaces import ApnsCredentials, Audience, FcmCredentials, PushCredentials, PushOutcome, PushStatus
from wsock.records import App, Key, PushAccess, push_access_id
from wsock.services.auth import hash_api_key

__all__ = ["APNS", "FCM", "WEB", "PushCase", "access", "outcome"]

WEB: dict[str, Any] = {"endpoint": "https://push.example.org/abc", "keys": {"p256dh": "BPUB", "auth": "AUTH"}}
FCM = FcmCredentials(project_id="p", client_email="a@p.example", private_key="k")
APNS = ApnsCredentials(private_key="k", key_id="K", team_id="T", topic="org.example")


def access(credentials: PushCredentials, app: str = "demo") -> PushAccess:
    """The record of these credentials."""
    platform = str(credentials.__struct_config__.tag)
    content = msgspec.json.encode(credentials).decode()
    return PushAccess(id=push_access_id(app, platform), app=app, platform=platform, content=content, created_at=0)


def outcome(status: PushStatus, detail: str = "", **values: Any) -> PushOutcome:
    """What a provider says."""
    return PushOutcome(status=status, detail=detail, **values)


class PushCase(RestCase):
    """The app ``demo`` has credentials for every platform; its key ``demo`` may do everything.

    In the app ``other`` the key is ``other``.
    """

    config = Config()

    def setUp(self) -> None:
        super().setUp()
        self.pushing = self.server.pushing
        self.push = self.pushing.push
        self.web, self.fcm, self.apns = (self.memory.push[name] for name in ("web", "fcm", "apns"))
        key = Key(id="other", app="other", name="Other", created_at=0, api_key_hash=hash_api_key("other"))
        self.memory.create(App(id="other", name="Other", created_at=0), key)
        self.done(self.server.directory.add([access(FCM), access(APNS), access(FCM, "other")]))
        self.done(self.pushing.accesses.vapid_key("demo"))

    def key(self, id: str, permissions: dict[str, list[str]], **values: Any) -> str:
        """An API key of ``demo`` that may do this."""
        key = Key(
            id=id,
            app="demo",
            name=id,
            created_at=0,
            api_key_hash=hash_api_key(id),
            permissions=permissions,
            **values,
        )
        self.done(self.server.directory.add([key]))
        return id

    def good(self, method: str, path: str, body: Any = None, *, token: str | None = "demo", **how: Any) -> Any:
        """What is answered with 200, as JSON."""
        answer = self.ask(method, path, body, token=token, **how)
        self.assertEqual(answer.status, 200, f"{method} {path}: {answer.body!r}")
        self.assertEqual(answer.headers["content-type"], "application/json")
        return answer.json

    def registered(self, value: str = "t", *, token: str | None = "demo", platform: str = "fcm", **body: Any) -> str:
        """The id of a device that was just registered."""
        whole = {"platform": platform, "deviceToken": value, **body}
        return str(self.good("POST", "/api/push/register", whole, token=token)["subscriptionId"])

    def sends(self, body: Any, *, token: str | None = "demo", path: str = "/api/push/send") -> Any:
        """What is answered to a push."""
        return self.good("POST", path, body, token=token)

    def refused_to_send(self, body: Any, *, token: str | None = "demo") -> RestAnswer:
        """The answer to a push that is refused."""
        return self.ask("POST", "/api/push/send", body, token=token)

    def devices(self, app: str = "demo", **audience: Any) -> list[str]:
        """The ids of the devices of an app, or of an audience."""
        found = self.done(self.push.page(app, Audience(**audience), None, 1000))
        return [one.id for one in found]
