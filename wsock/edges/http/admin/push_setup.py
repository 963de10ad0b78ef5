"""How an app pushes: its credentials for push services, its rules, and the pushes that are under way."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from wsock.edges.http.operations import Answer, Body, Call, Group, Items, NoBody, NoQuery, Page, operation
from wsock.errors import Code
from wsock.interfaces import ApnsCredentials, FcmCredentials, PushJob
from wsock.records import PushRule
from wsock.services.push_access import AccessView, PushAccesses
from wsock.services.push_overview import PushOverview
from wsock.services.push_rules import PushRules
from wsock.services.roles import Permission

__all__ = ["PushSetupGroup"]

_Text = Annotated[str, Meta(min_length=1, max_length=255)]
_Pem = Annotated[str, Meta(min_length=1, max_length=16_384)]


class VapidBody(Body, frozen=True):
    """Whom browsers' push services can turn to: a ``mailto:`` or ``https:`` URL."""

    subject: _Text | None = None


class ServiceAccount(Body, frozen=True, forbid_unknown_fields=False, rename=None):
    """The JSON that Google's console gives for a service account; other fields of it are ignored."""

    project_id: _Text
    client_email: _Text
    private_key: _Pem
    private_key_id: Annotated[str, Meta(max_length=255)] = ""
    token_uri: Annotated[str, Meta(max_length=2048)] = "https://oauth2.googleapis.com/token"


class FcmBody(Body, frozen=True):
    """The service account that sends by Firebase."""

    service_account: ServiceAccount


class ApnsBody(Body, frozen=True):
    """A token-signing key (the ``.p8`` file), with its id, the team's, and the app's bundle id as the ``topic``."""

    private_key: _Pem
    key_id: _Text
    team_id: _Text
    topic: _Text
    environment: Literal["production", "sandbox"] = "production"


class PushCredentialAnswer(Answer, frozen=True):
    """Credentials for a platform, without what is secret."""

    platform: str
    details: dict[str, str]
    created_at: int
    version: int


class NewRule(Body, frozen=True):
    """The channels whose messages may be pushed."""

    pattern: Annotated[str, Meta(min_length=1, max_length=255, description="A pattern of channel names.")]


class RuleAnswer(Answer, frozen=True):
    """A push rule."""

    id: str
    pattern: str
    created_at: int
    version: int


class JobAnswer(Answer, frozen=True):
    """A push to many devices, and how far it is: ``removed`` of those that ``failed`` are no more.

    ``waiting`` are tried again. ``error`` is why the last one failed.
    """

    id: str
    state: Literal["pending", "done", "cancelled"]
    title: str
    total: int
    sent: int
    failed: int
    removed: int
    skipped: int
    waiting: int
    error: str | None
    created_at: int
    finished_at: int | None


class PushSetupGroup(Group):
    """Credentials, rules, jobs."""

    tag = "Push setup"
    about = (
        "What an app shows to the push services of browsers, Firebase and Apple; the channels whose messages are pushed"
        " to members who are not there; and pushes to many devices, with how far they are."
    )

    def __init__(self, accesses: PushAccesses, rules: PushRules, overview: PushOverview) -> None:
        self._accesses = accesses
        self._rules = rules
        self._overview = overview

    @operation("GET", "/api/admin/apps/{appId}/push/credentials", needs=Permission.PUSH_READ)
    async def credentials(self, call: Call[NoBody, Page]) -> Items[PushCredentialAnswer]:
        """Lists the platforms for which the app has credentials, in one part."""
        views = await self._accesses.views(call.actor, call.path["appId"])
        return Items([_credential(view) for view in views], None)

    @operation(
        "PUT",
        "/api/admin/apps/{appId}/push/credentials/web",
        needs=Permission.PUSH_WRITE,
        errors=(Code.CONFLICT,),
        example={"subject": "mailto:ops@example.org"},
    )
    async def put_web(self, call: Call[VapidBody, NoQuery]) -> PushCredentialAnswer:
        """Makes the keys for Web Push (VAPID), or says another ``subject`` with those there are."""
        return _credential(await self._accesses.make_vapid(call.actor, call.path["appId"], call.body.subject))

    @operation(
        "PUT",
        "/api/admin/apps/{appId}/push/credentials/fcm",
        needs=Permission.PUSH_WRITE,
        errors=(Code.CONFLICT,),
        example={"serviceAccount": {"project_id": "p", "client_email": "a@p.example", "private_key": "PEM"}},
    )
    async def put_fcm(self, call: Call[FcmBody, NoQuery]) -> PushCredentialAnswer:
        """Sets the service account for Firebase Cloud Messaging."""
        account = call.body.service_account
        credentials = FcmCredentials(
            project_id=account.project_id,
            client_email=account.client_email,
            private_key=account.private_key,
            private_key_id=account.private_key_id,
            token_uri=account.token_uri,
        )
        return _credential(await self._accesses.put(call.actor, call.path["appId"], credentials))

    @operation(
        "PUT",
        "/api/admin/apps/{appId}/push/credentials/apns",
        needs=Permission.PUSH_WRITE,
        errors=(Code.CONFLICT,),
        example={"privateKey": "PEM", "keyId": "ABC123DEFG", "teamId": "DEF123GHIJ", "topic": "org.example.app"},
    )
    async def put_apns(self, call: Call[ApnsBody, NoQuery]) -> PushCredentialAnswer:
        """Sets the key for Apple's push service."""
        body = call.body
        credentials = ApnsCredentials(
            private_key=body.private_key,
            key_id=body.key_id,
            team_id=body.team_id,
            topic=body.topic,
            environment=body.environment,
        )
        return _credential(await self._accesses.put(call.actor, call.path["appId"], credentials))

    @operation("DELETE", "/api/admin/apps/{appId}/push/credentials/{platform}", needs=Permission.PUSH_WRITE)
    async def remove(self, call: Call[NoBody, NoQuery]) -> None:
        """Forgets credentials. Browsers that subscribed with VAPID keys that are gone have to subscribe again."""
        await self._accesses.remove(call.actor, call.path["appId"], call.path["platform"])

    @operation("GET", "/api/admin/apps/{appId}/push/rules", needs=Permission.PUSH_READ)
    async def rules(self, call: Call[NoBody, Page]) -> Items[RuleAnswer]:
        """Lists the push rules."""
        page = await self._rules.rules(call.actor, call.path["appId"], call.query.cursor, call.query.limit)
        return Items([_rule(rule) for rule in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/push/rules",
        status=201,
        needs=Permission.PUSH_WRITE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"pattern": "chat:*"},
    )
    async def create_rule(self, call: Call[NewRule, NoQuery]) -> RuleAnswer:
        """Lets messages of channels that match be pushed.

        A message whose data has a ``push`` object is pushed to the devices that want its channel's pushes, of members
        who are not present there.
        """
        return _rule(await self._rules.create(call.actor, call.path["appId"], call.body.pattern))

    @operation("DELETE", "/api/admin/apps/{appId}/push/rules/{ruleId}", needs=Permission.PUSH_WRITE)
    async def delete_rule(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes a push rule."""
        await self._rules.delete(call.actor, call.path["appId"], call.path["ruleId"])

    @operation("GET", "/api/admin/apps/{appId}/push/jobs", needs=Permission.PUSH_READ)
    async def jobs(self, call: Call[NoBody, Page]) -> Items[JobAnswer]:
        """Lists pushes to many devices, the newest first; those that ended are kept for a week."""
        limit = call.query.limit
        page = await self._overview.jobs(call.actor, call.path["appId"], call.query.cursor, limit)
        return Items([_job(job) for job in page], page[-1].id if len(page) == limit else None)

    @operation("GET", "/api/admin/apps/{appId}/push/jobs/{jobId}", needs=Permission.PUSH_READ)
    async def job(self, call: Call[NoBody, NoQuery]) -> JobAnswer:
        """Shows how far a push is."""
        return _job(await self._overview.job(call.actor, call.path["appId"], call.path["jobId"]))

    @operation("POST", "/api/admin/apps/{appId}/push/jobs/{jobId}/cancel", needs=Permission.PUSH_SEND)
    async def cancel(self, call: Call[NoBody, NoQuery]) -> JobAnswer:
        """Ends a push before its time. One that has ended stays as it is."""
        return _job(await self._overview.cancel(call.actor, call.path["appId"], call.path["jobId"]))


def _credential(view: AccessView) -> PushCredentialAnswer:
    return PushCredentialAnswer(
        platform=view.platform, details=dict(view.details), created_at=view.created_at, version=view.version
    )


def _rule(rule: PushRule) -> RuleAnswer:
    return RuleAnswer(id=rule.id, pattern=rule.pattern, created_at=rule.created_at, version=rule.version)


def _job(job: PushJob) -> JobAnswer:
    return JobAnswer(
        id=job.id,
        state=job.state,
        title=job.message.title,
        total=job.total,
        sent=job.sent,
        failed=job.failed,
        removed=job.removed,
        skipped=job.skipped,
        waiting=len(job.pending),
        error=job.error or None,
        created_at=job.created_at,
        finished_at=job.finished_at,
    )
