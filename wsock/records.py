"""What the control plane keeps: teams, accounts, apps and what belongs to them, as frozen values.

:data:`KINDS` says of each kind of record how it is kept: what it belongs to, which of its values no two may share,
what its lists are asked for by. The directories are made from that table, so a new kind is a struct, a line in the
table, and a migration for SQLite. Times are integer milliseconds since the epoch, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from wsock.protocol.rates import Rate

__all__ = [
    "KINDS",
    "PLANS",
    "AccessToken",
    "Account",
    "App",
    "Attempts",
    "AuditEntry",
    "AuditQuery",
    "DashboardSession",
    "Endpoint",
    "Invitation",
    "Key",
    "Kind",
    "Listing",
    "Membership",
    "Namespace",
    "Plan",
    "PlanLimits",
    "PushAccess",
    "PushRule",
    "Record",
    "ResetToken",
    "Revocation",
    "Revoked",
    "Role",
    "Settings",
    "SlowConsumer",
    "Team",
    "Unique",
    "kind_of",
    "membership_id",
    "merge_settings",
    "push_access_id",
]

R = TypeVar("R", bound="Record")

SlowConsumer = Literal["disconnect", "drop_oldest", "latest"]
"""What becomes of a subscriber that reads too slowly."""


class Role(StrEnum):
    """What a member may do in a team; each role may do what those before it may."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    ADMIN = "admin"
    OWNER = "owner"

    def covers(self, other: Role) -> bool:
        """Whether this role is the other one or a greater one."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a directory keeps. ``version`` counts its changes: who changes it says which one they saw."""

    id: str
    version: int = 1


class Listing(msgspec.Struct, Generic[R], frozen=True):
    """A part of a list; ``next`` is the cursor of the part behind it, or ``None`` at the end."""

    items: list[R]
    next: str | None


_Seconds = Annotated[int, Meta(ge=0, le=3_162_240_000)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of an app, or of the channels of a namespace; ``None`` leaves one to what stands behind it.

    Behind a namespace stands its app, behind an app the server's own settings. The rates are of publishes;
    ``rate_mode`` ``observe`` counts what is beyond them without refusing it.
    """

    history: bool | None = None
    history_ttl_seconds: _Seconds | None = None
    recovery_seconds: _Seconds | None = None
    presence: bool | None = None
    presence_grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    message_bytes: Annotated[int, Meta(ge=1, le=500_000)] | None = None
    client_publish: bool | None = None
    slow_consumer: SlowConsumer | None = None
    rate_mode: Literal["observe", "enforce"] | None = None
    app_rate: Rate | None = None
    channel_rate: Rate | None = None
    user_rate: Rate | None = None
    connection_rate: Rate | None = None


def merge_settings(*layers: Settings) -> Settings:
    """The settings of several layers in one, the most special one first."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged.update((name, value) for name, value in msgspec.structs.asdict(layer).items() if value is not None)
    return Settings(**merged)


class Team(Record, frozen=True, kw_only=True):
    """People who run apps together. Their ``plan`` says how many apps and members they may have."""

    name: str
    created_at: int
    plan: str = "unlimited"


class Account(Record, frozen=True, kw_only=True):
    """A person who may administer. ``password_hash`` is argon2id's encoded form.

    ``is_operator`` is who runs the server: every team is open to them. A dashboard session that began before
    ``sessions_from`` is no longer good. ``totp_secret`` is in base32, empty without a second factor.
    """

    email: str
    password_hash: str
    created_at: int
    name: str = ""
    is_enabled: bool = True
    is_operator: bool = False
    sessions_from: int = 0
    totp_secret: str = ""

    def __repr__(self) -> str:
        return f"<Account {self.id}>"


class Attempts(Record, frozen=True, kw_only=True):
    """What logins with an e-mail address leave behind; its id is made of the address, of an account or not.

    ``failures`` are those since the last success, ``totp_step`` is the time step of the last code that was accepted.
    """

    failures: int = 0
    locked_until: int = 0
    totp_step: int = 0
    expires_at: int = 0


class Membership(Record, frozen=True, kw_only=True):
    """An account in a team, once: its id is :func:`membership_id`."""

    team: str
    account: str
    role: Role
    created_at: int


def membership_id(team: str, account: str) -> str:
    """The id of the one membership that an account may have in a team."""
    return f"{team}.{account}"


class Invitation(Record, frozen=True, kw_only=True):
    """Whoever has its token may join the team; the token is kept as its SHA-256 in hex only."""

    team: str
    email: str
    role: Role
    token_hash: str
    invited_by: str
    created_at: int
    expires_at: int

    def __repr__(self) -> str:
        return f"<Invitation {self.id} to team {self.team}>"


class ResetToken(Record, frozen=True, kw_only=True):
    """Whoever has the token may set the account's password, once; it is kept as its SHA-256 in hex only."""

    account: str
    token_hash: str
    created_at: int
    expires_at: int

    def __repr__(self) -> str:
        return f"<ResetToken {self.id} of account {self.account}>"


class AccessToken(Record, frozen=True, kw_only=True):
    """A personal access token: its account, as far as ``role``, ``team`` and ``permissions`` reach.

    With a ``team`` it is good in that one only; ``permissions``, where there are any, are all that it allows.
    """

    account: str
    name: str
    token_hash: str
    created_at: int
    role: Role = Role.OWNER
    team: str = ""
    permissions: tuple[str, ...] = ()
    expires_at: int | None = None
    last_used_at: int | None = None

    def __repr__(self) -> str:
        return f"<AccessToken {self.id} of account {self.account}>"


class DashboardSession(Record, frozen=True, kw_only=True):
    """A refresh token of a dashboard, as its SHA-256 in hex.

    Each use replaces it by the next one of its ``family``. One that was replaced and comes again was stolen: the family
    ends then.
    """

    account: str
    family: str
    token_hash: str
    created_at: int
    expires_at: int
    ip: str = ""
    user_agent: str = ""
    replaced_at: int | None = None
    is_revoked: bool = False

    def __repr__(self) -> str:
        return f"<DashboardSession {self.id} of account {self.account}>"


class App(Record, frozen=True, kw_only=True):
    """A tenant: its channels, keys and messages are nobody else's."""

    name: str
    created_at: int
    is_enabled: bool = True
    allowed_origins: tuple[str, ...] = ("*",)
    team: str = ""
    plan: str = "unlimited"
    settings: Settings = Settings()


class Namespace(Record, frozen=True, kw_only=True):
    """Settings of an app's channels whose names match a pattern."""

    app: str
    pattern: str
    created_at: int
    settings: Settings = Settings()


class Key(Record, frozen=True, kw_only=True):
    """A credential of an app. Its ``id`` is the ``kid`` of the JWTs that it verifies.

    The API key is kept as its SHA-256 in hex only. ``algorithm`` is the one JWT algorithm that the key verifies,
    ``secret`` what it verifies with: the UTF-8 text of an HS secret, or a public key in PEM. ``client_ids`` is the
    pattern of clientIds that a client with the API key may choose. Never log one: its representation hides the
    secret.

    With a ``jwks_url`` it has neither API key nor secret: it verifies what the keys in that set have signed. A token
    then names a key of the set, and the key here is found by ``jwks_party``, made of its issuer and audience.

    A key that is being rotated out names its successor in ``replaced_by``. From ``retire_at`` on no key is good,
    whether it was replaced or revoked. ``last_used_at`` lags by a minute, that of a key that is being rotated out by a
    second. A successor names in ``first`` the key that its line began with.
    """

    app: str
    name: str
    created_at: int
    api_key_hash: str = ""
    algorithm: str = ""
    secret: str = ""
    issuer: str | None = None
    audience: str | None = None
    permissions: dict[str, list[str]] = msgspec.field(default_factory=lambda: {"*": ["*"]})
    client_ids: str | None = None
    expires_at: int | None = None
    is_revoked: bool = False
    last_used_at: int | None = None
    replaced_by: str = ""
    retire_at: int | None = None
    jwks_url: str = ""
    jwks_party: str = ""
    first: str = ""

    @property
    def identity(self) -> str:
        """Who publishes with it: the same for all keys of a line, so that a repetition is known across a rotation."""
        return f"key:{self.first or self.id}"

    def __repr__(self) -> str:
        return f"<Key {self.id} of app {self.app}>"


class Revoked(StrEnum):
    """What of a client is revoked."""

    TOKEN = "token"
    CLIENT = "client"


class Revocation(Record, frozen=True, kw_only=True):
    """Tokens with this ``jti``, or clients with this clientId, are refused by the app until ``expires_at``.

    Where that is ``None`` they are refused until it is lifted. It may be there for a while after it has expired.
    """

    app: str
    kind: Revoked
    value: str
    created_at: int
    expires_at: int | None = None
    created_by: str = ""


class Endpoint(Record, frozen=True, kw_only=True):
    """A URL that an app wants to be told events at.

    ``events`` are types, or ``prefix.*`` for all that begin so; none means all. ``channels`` is a pattern of names:
    events of other channels are not told. One that ``is_ordered`` is told each channel's events one after the other,
    one that ``is_batched`` several in a request. Requests are signed with the ``secret`` (``whsec_`` and base64), and
    until ``old_secret_until`` with the ``old_secret`` too. Where it is not enabled, ``disabled_reason`` says why.
    Never log one: its representation hides the secrets.
    """

    app: str
    url: str
    created_at: int
    events: tuple[str, ...] = ()
    channels: str | None = None
    is_enabled: bool = True
    description: str = ""
    is_ordered: bool = False
    is_batched: bool = False
    secret: str = ""
    old_secret: str = ""
    old_secret_until: int | None = None
    disabled_at: int | None = None
    disabled_reason: str = ""

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} of app {self.app}>"


class PushAccess(Record, frozen=True, kw_only=True):
    """What an app shows to the push service of a platform, one for each: its id is :func:`push_access_id`.

    ``content`` is the JSON of the credentials. Never log one: its representation hides it.
    """

    app: str
    platform: str
    content: str
    created_at: int

    def __repr__(self) -> str:
        return f"<PushAccess of app {self.app} to {self.platform}>"


def push_access_id(app: str, platform: str) -> str:
    """The id of the one access that an app may have to a platform."""
    return f"{app}.{platform}"


class PushRule(Record, frozen=True, kw_only=True):
    """Messages with a ``push`` object, published in a channel that matches, are pushed to who is not there."""

    app: str
    pattern: str
    created_at: int


_Count = Annotated[int, Meta(ge=0)] | None


class PlanLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan allows; ``None`` is no limit. ``apps`` and ``members`` are a team's, all else is an app's."""

    connections: _Count = None
    messages_per_month: _Count = None
    message_bytes: _Count = None
    channels: _Count = None
    history_ttl_seconds: _Count = None
    webhooks: _Count = None
    push_per_month: _Count = None
    apps: _Count = None
    members: _Count = None


class Plan(Record, frozen=True, kw_only=True):
    """What apps of this plan may use."""

    name: str
    limits: PlanLimits = PlanLimits()
    created_at: int = 0


PLANS = (
    Plan(
        id="free",
        name="Free",
        limits=PlanLimits(
            connections=100,
            messages_per_month=1_000_000,
            message_bytes=16_384,
            channels=200,
            history_ttl_seconds=86_400,
            webhooks=1,
            push_per_month=10_000,
            apps=3,
            members=3,
        ),
    ),
    Plan(
        id="pro",
        name="Pro",
        limits=PlanLimits(
            connections=10_000,
            messages_per_month=100_000_000,
            message_bytes=65_536,
            channels=50_000,
            history_ttl_seconds=2_592_000,
            webhooks=20,
            push_per_month=1_000_000,
            apps=50,
            members=50,
        ),
    ),
    Plan(id="unlimited", name="Unlimited"),
)
"""The plans that a new directory begins with; they may be changed there."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An administrative act: who did what to what, from where.

    ``actor`` is the id of an account, or empty when nobody was logged in; ``action`` is like ``key.create``; ``team``
    and ``app`` are empty where the act is none of theirs. ``details`` hold no secrets.
    """

    id: str
    at: int
    actor: str
    action: str
    team: str = ""
    app: str = ""
    target: str = ""
    details: dict[str, str] = msgspec.field(default_factory=dict)
    ip: str = ""

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in the log."""
        return (self.at, self.id)

    @property
    def cursor(self) -> str:
        """What a page behind it begins with."""
        return f"{self.at}:{self.id}"


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which acts are asked for: ``None`` is any. ``since`` is within the time, ``until`` is not."""

    team: str | None = None
    app: str | None = None
    actor: str | None = None
    since: int | None = None
    until: int | None = None

    @property
    def equals(self) -> dict[str, str]:
        """The fields that have to have one value."""
        values = {"team": self.team, "app": self.app, "actor": self.actor}
        return {name: value for name, value in values.items() if value is not None}

    def matches(self, entry: AuditEntry) -> bool:
        """Whether the entry is asked for."""
        is_in_time = (self.since or 0) <= entry.at and (self.until is None or entry.at < self.until)
        return is_in_time and all(getattr(entry, name) == value for name, value in self.equals.items())

    @staticmethod
    def place(cursor: str) -> tuple[int, str]:
        """The place of the entry that a cursor is of. Raises ``ValueError`` when it is none."""
        at, colon, id = cursor.partition(":")
        if not (colon and id and at.isascii() and at.isdigit() and len(at) < 19):
            raise ValueError("this is no cursor of the audit log: leave it out to begin with the newest")
        return (int(at), id)


# How they are kept.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """Fields whose values together no two records of a kind share; ``text`` says that they are taken.

    One that ``is_folded`` is compared without case. Where it ``may_be_empty``, the empty ones don't count.
    """

    fields: tuple[str, ...]
    text: str
    is_folded: bool = False
    may_be_empty: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Where a database keeps what is compared."""
        return tuple(f"folded_{name}" for name in self.fields) if self.is_folded else self.fields

    def values(self, record: Record) -> tuple[str, ...] | None:
        """What is compared, or ``None`` where it doesn't count."""
        values = tuple(self.fold(str(getattr(record, name))) for name in self.fields)
        return None if self.may_be_empty and not any(values) else values

    def fold(self, value: str) -> str:
        """The value as it is compared."""
        return value.casefold() if self.is_folded else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a kind of record is kept, under ``name``; ``noun`` is for people.

    ``owners`` are the fields that name what a record belongs to, and of which kind that is: it has to be there, and
    goes with its owner. Lists are asked for by owners and by ``lists``. ``sealed`` fields are secrets. Changes of a
    kind that ``is_quiet`` concern nobody who remembers what the directory said. What ``is_swept`` is deleted when it
    has expired.
    """

    struct: type[Record]
    name: str
    noun: str
    owners: Mapping[str, type[Record]] = field(default_factory=dict)
    unique: tuple[Unique, ...] = ()
    lists: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()
    is_quiet: bool = False
    is_swept: bool = False

    @property
    def is_used(self) -> bool:
        """Whether its last use is kept."""
        return "last_used_at" in self.struct.__struct_fields__

    @property
    def belongings(self) -> list[tuple[Kind, str]]:
        """The kinds that belong to this one, with the field that says so."""
        return [(kind, name) for kind in KINDS.values() for name, owner in kind.owners.items() if owner is self.struct]

    def check_list(self, where: Mapping[str, str]) -> None:
        """Raises ``ValueError`` for a field that lists are not asked for by."""
        for name in where:
            if name not in self.owners and name not in self.lists:
                raise ValueError(f"a list of {self.name} can't be asked for by {name}")

    def unique_by(self, name: str) -> Unique:
        """What makes this one field unique. Raises ``ValueError`` when nothing does."""
        for unique in self.unique:
            if unique.fields == (name,):
                return unique
        raise ValueError(f"{self.noun} can't be found by {name}")


def _token(noun: str) -> tuple[Unique, ...]:
    return (Unique(fields=("token_hash",), text=f"{noun} has this token already"),)


KINDS: dict[type[Record], Kind] = {
    kind.struct: kind
    for kind in (
        Kind(struct=Plan, name="plan", noun="a plan"),
        Kind(struct=Team, name="team", noun="a team", lists=("plan",)),
        Kind(
            struct=Account,
            name="account",
            noun="an account",
            unique=(Unique(fields=("email",), text="an account has this e-mail address already", is_folded=True),),
            sealed=("totp_secret",),
        ),
        Kind(struct=Attempts, name="attempts", noun="a count of logins", is_quiet=True, is_swept=True),
        Kind(
            struct=Membership,
            name="membership",
            noun="a member",
            owners={"team": Team, "account": Account},
            unique=(Unique(fields=("team", "account"), text="the account is a member of this team already"),),
        ),
        Kind(
            struct=Invitation,
            name="invitation",
            noun="an invitation",
            owners={"team": Team},
            unique=_token("an invitation"),
            is_quiet=True,
            is_swept=True,
        ),
        Kind(
            struct=ResetToken,
            name="reset_token",
            noun="a reset of a password",
            owners={"account": Account},
            unique=_token("a reset of a password"),
            is_quiet=True,
            is_swept=True,
        ),
        Kind(
            struct=AccessToken,
            name="access_token",
            noun="an access token",
            owners={"account": Account, "team": Team},
            unique=_token("an access token"),
        ),
        Kind(
            struct=DashboardSession,
            name="dashboard_session",
            noun="a session",
            owners={"account": Account},
            unique=_token("a session"),
            lists=("family",),
            is_quiet=True,
            is_swept=True,
        ),
        Kind(struct=App, name="app", noun="an app", owners={"team": Team}, lists=("plan",)),
        Kind(
            struct=Namespace,
            name="namespace",
            noun="a namespace",
            owners={"app": App},
            unique=(Unique(fields=("app", "pattern"), text="a namespace of this app has this pattern already"),),
        ),
        Kind(
            struct=Key,
            name="key",
            noun="a key",
            owners={"app": App},
            unique=(
                Unique(fields=("api_key_hash",), text="a key has this API key already", may_be_empty=True),
                Unique(
                    fields=("jwks_party",),
                    text="a key has this issuer and audience already: give each app's tokens an audience of their own",
                    may_be_empty=True,
                ),
            ),
            sealed=("secret",),
        ),
        Kind(
            struct=Revocation,
            name="revocation",
            noun="a revocation",
            owners={"app": App},
            unique=(Unique(fields=("app", "kind", "value"), text="this is revoked already"),),
            is_swept=True,
        ),
        Kind(
            struct=Endpoint,
            name="endpoint",
            noun="an endpoint",
            owners={"app": App},
            sealed=("secret", "old_secret"),
        ),
        Kind(
            struct=PushAccess,
            name="push_access",
            noun="push credentials",
            owners={"app": App},
            sealed=("content",),
        ),
        Kind(
            struct=PushRule,
            name="push_rule",
            noun="a push rule",
            owners={"app": App},
            unique=(Unique(fields=("app", "pattern"), text="a push rule of this app has this pattern already"),),
        ),
    )
}
"""How each kind is kept; owners stand before what belongs to them."""


def kind_of(record: Record | type[Record]) -> Kind:
    """How a record is kept."""
    return KINDS[record if isinstance(record, type) else type(record)]
