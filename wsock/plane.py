"""The control plane: what administers a server, and the REST API in front of it, put together.

The server makes it of plain arguments, keeps what it needs of it, and serves its :attr:`ControlPlane.groups`. What
stands on connections and messages is made by the server and added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wsock.edges.http.admin.accounts import AccountGroup
from wsock.edges.http.admin.apps import AppGroup
from wsock.edges.http.admin.audit import AuditGroup
from wsock.edges.http.admin.auth import Auth as AuthGroup
from wsock.edges.http.admin.auth import Opener
from wsock.edges.http.admin.channels import AppChannelGroup
from wsock.edges.http.admin.connections import AppConnectionGroup
from wsock.edges.http.admin.keys import KeyGroup
from wsock.edges.http.admin.me import Me
from wsock.edges.http.admin.namespaces import NamespaceGroup
from wsock.edges.http.admin.plans import PlanGroup
from wsock.edges.http.admin.push import AppPushGroup
from wsock.edges.http.admin.push_setup import PushSetupGroup
from wsock.edges.http.admin.revocations import RevocationGroup
from wsock.edges.http.admin.teams import TeamGroup
from wsock.edges.http.admin.tokens import TokenGroup
from wsock.edges.http.admin.usage import UsageGroup
from wsock.edges.http.admin.webhooks import WebhookGroup
from wsock.edges.http.callers import Callers
from wsock.edges.http.channels import ChannelGroup, ConnectionGroup
from wsock.edges.http.operations import Group
from wsock.edges.http.push import PushGroup
from wsock.edges.http.push_calls import PushAnswers
from wsock.edges.http.throttle import Throttle
from wsock.interfaces import IAuditLog, IBroker, ICounters, IDirectory, IMailSender, IMeterStore, IOutboxStore
from wsock.records import App
from wsock.services.access import Access, Actor
from wsock.services.access_tokens import AccessTokens
from wsock.services.accounts import Accounts
from wsock.services.analytics import Analytics
from wsock.services.app_settings import Bounds
from wsock.services.apps import Apps
from wsock.services.audit import Audit
from wsock.services.auth import Auth
from wsock.services.carrying import Carrying
from wsock.services.census import Census
from wsock.services.cursors import Cursors
from wsock.services.keys import Keys
from wsock.services.limits import Limits
from wsock.services.logins import Logins
from wsock.services.messages import Messages
from wsock.services.meters import Meters
from wsock.services.namespaces import Namespaces
from wsock.services.oversight import Oversight
from wsock.services.passwords import Passwords
from wsock.services.plans import Plans
from wsock.services.presence import Presence
from wsock.services.pushing import Pushing
from wsock.services.quotas import Quotas
from wsock.services.revocations import Revocations
from wsock.services.roles import Permission
from wsock.services.sessions import Sessions
from wsock.services.teams import Teams
from wsock.services.webhooks import Webhooks

__all__ = ["ControlPlane", "PlaneSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """The settings of :class:`wsock.config.Config` that it goes by; a rate of 0 is none."""

    open_sign_up: bool = False
    default_plan: str = "unlimited"
    url: str = ""
    session_token_seconds: float = 900.0
    session_days: float = 14.0
    logins_per_minute: int = 0
    sign_ups_per_minute: int = 0
    resets_per_minute: int = 0
    requests_per_minute: int = 0
    cluster_requests_per_minute: int = 0


class ControlPlane:
    """All services that administer, and what they answer over HTTP.

    ``reactor`` gives threads for passwords, ``now`` is the time in seconds, ``random`` gives unpredictable bytes.
    """

    def __init__(
        self,
        directory: IDirectory,
        audit_log: IAuditLog,
        counters: ICounters,
        mail: IMailSender,
        reactor: Any,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        settings: PlaneSettings,
    ) -> None:
        self._now = now
        self._random = random
        self._directory = directory
        self._settings = settings
        # Not tallied with the rates of messages, and enforced also where those are only observed.
        self._limits = Limits(counters, now)
        self.access = Access(directory)
        self.cursors = Cursors(random)
        self.audit = Audit(audit_log, self.access, now, random)
        passwords = Passwords(reactor)
        around = (self.audit, now, random)
        is_open, url = settings.open_sign_up, settings.url
        self.teams = Teams(directory, mail, *around, is_open=is_open, url=url, default_plan=settings.default_plan)
        self.logins = Logins(directory, passwords, mail, *around, url=url)
        self.accounts = Accounts(directory, passwords, self.teams, *around, is_open=is_open)
        self.access_tokens = AccessTokens(directory, *around)
        self.sessions = Sessions(
            directory,
            *around,
            token_seconds=settings.session_token_seconds,
            session_seconds=settings.session_days * 86_400,
        )
        self.groups: list[Group] = self._account_groups()

    def unlock(self, master_keys: Sequence[bytes]) -> None:
        """Gives it the master keys, the newest last: until then nobody can log in."""
        self.sessions.unlock(master_keys)
        self.cursors.unlock(master_keys)

    async def changed(self) -> None:
        """The directory has changed: what is remembered of it is looked up again."""
        await self.sessions.changed()

    def administer(self, bounds: Bounds, check_url: Callable[[str, str], str]) -> None:
        """Adds apps and what belongs to them. ``bounds`` is what their settings may be.

        ``check_url`` refuses URLs that no keys are fetched from.
        """
        around = (self.audit, self._now, self._random)
        self.apps = Apps(self._directory, *around, bounds)
        self.namespaces = Namespaces(self._directory, *around, bounds)
        self.keys = Keys(self._directory, *around, check_url)
        self.revocations = Revocations(self._directory, *around)
        self.plans = Plans(self._directory, self.audit, self._now)
        self.groups += [
            AppGroup(self.apps),
            KeyGroup(self.keys),
            NamespaceGroup(self.namespaces),
            RevocationGroup(self.revocations),
            PlanGroup(self.plans),
        ]

    def oversee(self, census: Census, messages: Messages, presence: Presence) -> None:
        """Adds what is done with channels and connections, by administrators and by an app's own credentials."""
        oversight = Oversight(self.access.require_app, census, messages, presence, self.audit)
        self.groups += [
            ChannelGroup(messages, presence, census, self.cursors),
            ConnectionGroup(census, self.audit, self._directory.app),
            AppChannelGroup(oversight),
            AppConnectionGroup(oversight),
        ]

    def measure(self, meters: Meters, store: IMeterStore, broker: IBroker, quotas: Quotas) -> None:
        """Adds what tells of usage, and of what happened over time."""
        analytics = Analytics(self._require_app, self.access, self._directory, meters, store, broker, quotas, self._now)
        self.apps.carrying = Carrying(meters, store, self._now)
        self.groups.append(UsageGroup(analytics))

    def tell(self, outbox: IOutboxStore, check_url: Callable[[str], object], wake: Callable[[], None]) -> None:
        """Adds webhooks. ``check_url`` refuses URLs that are never asked; ``wake``: there is something to deliver."""
        around = (self.audit, self._now, self._random)
        self.webhooks = Webhooks(self._directory, *around, outbox, check_url, wake)
        self.groups.append(WebhookGroup(self.webhooks))

    def push(self, pushing: Pushing) -> None:
        """Adds devices and what is pushed to them."""
        answers = PushAnswers(pushing.push, pushing.accesses, pushing.rights)
        self.groups += [
            PushGroup(answers),
            AppPushGroup(answers),
            PushSetupGroup(pushing.accesses, pushing.rules, pushing.overview),
        ]

    def callers(self, auth: Auth) -> Callers:
        """Who may come: people, and the credentials of apps that ``auth`` knows."""
        requests = self._throttle("requests", self._settings.requests_per_minute)
        questions = self._throttle("cluster_requests", self._settings.cluster_requests_per_minute, section="limits")
        return Callers(auth, self.sessions, self.access_tokens, requests, questions)

    async def _require_app(self, actor: Actor, permission: Permission, app_id: str) -> App:
        """The app, if the actor may do that in its team."""
        return await self.access.require_app(actor, permission, app_id)

    def _account_groups(self) -> list[Group]:
        opener = Opener(self.sessions, self._now)
        return [
            AuthGroup(
                self.logins,
                self.accounts,
                self.teams,
                self.sessions,
                opener,
                logins_throttle=self._throttle("logins", self._settings.logins_per_minute),
                sign_ups_throttle=self._throttle("sign_ups", self._settings.sign_ups_per_minute),
                resets_throttle=self._throttle("resets", self._settings.resets_per_minute),
            ),
            Me(self.accounts, self.logins, self.sessions, opener),
            TokenGroup(self.access_tokens),
            TeamGroup(self.teams),
            AccountGroup(self.accounts, self.sessions),
            AuditGroup(self.audit),
        ]

    def _throttle(self, name: str, per_minute: int, section: str = "accounts") -> Throttle:
        setting = f"{section}.{name}_per_minute"
        return Throttle(self._limits, self._now, name=name, per_minute=per_minute, setting=setting)
