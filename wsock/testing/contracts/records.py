"""What every :class:`wsock.interfaces.IRecords` is held to, for every kind of record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from wsock.errors import Conflict
from wsock.interfaces import IRecords
from wsock.protocol.rates import Rate
from wsock.records import (
    KINDS,
    AccessToken,
    Account,
    App,
    Attempts,
    DashboardSession,
    Endpoint,
    Invitation,
    Key,
    Membership,
    Namespace,
    Plan,
    PlanLimits,
    PushAccess,
    PushRule,
    Record,
    ResetToken,
    Revocation,
    Revoked,
    Role,
    Settings,
    Team,
    kind_of,
)

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["FULL_RECORDS", "RecordsContract"]

_R = TypeVar("_R", bound=Record)

_SETTINGS = Settings(
    history=False,
    history_ttl_seconds=60,
    recovery_seconds=0,
    presence=True,
    presence_grace_seconds=2.5,
    message_bytes=100,
    client_publish=False,
    slow_consumer="drop_oldest",
    rate_mode="observe",
    app_rate=Rate(100, 60.0, 20),
)

TEAM = Team(id="team-1", name="T\u00e9am", created_at=1_700_000_000_000, plan="gold")
ACCOUNT = Account(
    id="account-1",
    email="\u00c9mile@Example.org",
    password_hash="$argon2id$x",
    created_at=2,
    name="\u00c9mile",
    is_enabled=False,
    is_operator=True,
    sessions_from=3,
    totp_secret="JBSWY3DP",
)
APP = App(
    id="shop",
    name="Sh\u00f6p",
    created_at=1,
    is_enabled=False,
    allowed_origins=("https://a", "*.b"),
    team="team-1",
    plan="pro",
    settings=_SETTINGS,
)
KEY = Key(
    id="key-1",
    app="shop",
    name="Server",
    created_at=1,
    api_key_hash="ab" * 32,
    algorithm="HS256",
    secret="s\u00e9cret\n",
    issuer="https://issuer",
    audience="wsock",
    permissions={"orders:*": ["publish"], "a.$b": []},
    client_ids="user-*",
    expires_at=1_800_000_000,
    is_revoked=True,
    replaced_by="key-2",
    retire_at=1_900_000_000,
    jwks_url="https://issuer/keys",
    jwks_party="https://issuer wsock",
    first="key-0",
)
REVOCATION = Revocation(
    id="revocation-1",
    app="shop",
    kind=Revoked.TOKEN,
    value="j\u00e9ti",
    created_at=1,
    expires_at=2,
    created_by="account-1",
)

FULL_RECORDS: tuple[Record, ...] = (
    Plan(id="gold", name="Gold", limits=PlanLimits(connections=0, channels=5), created_at=9),
    TEAM,
    ACCOUNT,
    Attempts(id="attempts-1", failures=3, locked_until=4, totp_step=5, expires_at=2),
    Membership(id="member-1", team="team-1", account="account-1", role=Role.ADMIN, created_at=1),
    Invitation(
        id="invitation-1",
        team="team-1",
        email="b@example.org",
        role=Role.VIEWER,
        token_hash="i",
        invited_by="account-1",
        created_at=1,
        expires_at=2,
    ),
    ResetToken(id="reset-1", account="account-1", token_hash="r", created_at=1, expires_at=2),
    AccessToken(
        id="token-1",
        account="account-1",
        name="CI",
        token_hash="t",
        created_at=1,
        role=Role.DEVELOPER,
        team="team-1",
        permissions=("keys.read",),
        expires_at=2,
    ),
    DashboardSession(
        id="session-1",
        account="account-1",
        family="family-1",
        token_hash="s",
        created_at=1,
        expires_at=2,
        ip="192.0.2.1",
        user_agent="x",
        replaced_at=3,
        is_revoked=True,
    ),
    APP,
    Namespace(id="namespace-1", app="shop", pattern="room:*", created_at=1, settings=_SETTINGS),
    KEY,
    REVOCATION,
    Endpoint(
        id="endpoint-1",
        app="shop",
        url="https://h\u00f6oks.example.org",
        created_at=1,
        events=("presence.*",),
        channels="orders:*",
        is_enabled=False,
        description="\u00c9vents",
        is_ordered=True,
        is_batched=True,
        secret="whsec_bmV3",
        old_secret="whsec_b2xk",
        old_secret_until=5,
        disabled_at=6,
        disabled_reason="410",
    ),
    PushAccess(id="shop.web", app="shop", platform="web", content='{"k\u00e9y": 1}', created_at=1),
    PushRule(id="rule-1", app="shop", pattern="room:*", created_at=1),
)
"""A record of each kind with a value in every field, in an order in which they can be added."""


class RecordsContract(TestCase):
    """Mix it in and provide ``make_records``, which makes an empty store."""

    make_records: Callable[[], Awaitable[IRecords]]
    records: IRecords

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.records = await self.make_records()

    async def listed(
        self, kind: type[Record], where: Mapping[str, str] | None = None, limit: int = 100
    ) -> list[Record]:
        """The whole list, read page by page."""
        found: list[Record] = []
        cursor: str | None = None
        for _ in range(200):
            page = await self.records.page(kind, where or {}, cursor, limit)
            self.assertLessEqual(len(page.items), limit)
            found.extend(page.items)
            cursor = page.next
            if cursor is None:
                return found
        self.fail("the list has no end")

    async def same(self, record: _R) -> _R:
        """The record as it is stored now."""
        found = await self.records.find(type(record), record.id)
        assert found is not None
        return found

    async def conflicts(self, *records: Record) -> str:
        """Adding them all is refused, and nothing is stored; returns the text."""
        with self.assertRaises(Conflict) as caught:
            await self.records.add(records)
        return str(caught.exception.text)

    async def test_provides_the_interface(self) -> None:
        """The store has the methods of IRecords, with their arguments."""
        verifyObject(IRecords, self.records)

    async def test_empty(self) -> None:
        """In a new store there is nothing of any kind."""
        for kind in KINDS:
            self.assertIsNone(await self.records.find(kind, "a"))
            self.assertEqual(await self.listed(kind), [])
            self.assertFalse(await self.records.remove(kind, "a"))

    async def test_records_come_back(self) -> None:
        """A record of every kind comes back with every field as it was, added together or one by one."""
        self.assertEqual({type(record) for record in FULL_RECORDS}, set(KINDS))
        for records in (FULL_RECORDS, *([record] for record in FULL_RECORDS)):
            await self.records.add(records)
            for record in records:
                self.assertEqual(await self.records.find(type(record), record.id), record)
                self.assertEqual(await self.listed(type(record)), [record])
            if len(records) > 1:
                for record in reversed(records):
                    await self.records.remove(type(record), record.id)

    async def test_unique_value_finds(self) -> None:
        """A unique field finds its record, an e-mail address without case; an empty value finds nothing."""
        await self.records.add([*FULL_RECORDS, Key(id="key-2", app="shop", name="Plain", created_at=1)])

        self.assertEqual(await self.records.find_by(Account, "email", "\u00e9MILE@example.ORG"), ACCOUNT)
        self.assertEqual(await self.records.find_by(Key, "api_key_hash", "ab" * 32), KEY)
        self.assertEqual(await self.records.find_by(Key, "jwks_party", "https://issuer wsock"), KEY)
        for kind, hash in ((Invitation, "i"), (ResetToken, "r"), (AccessToken, "t"), (DashboardSession, "s")):
            self.assertIsInstance(await self.records.find_by(kind, "token_hash", hash), kind)
        self.assertIsNone(await self.records.find_by(Account, "email", "nobody@example.org"))
        self.assertIsNone(await self.records.find_by(Key, "api_key_hash", ""))
        with self.assertRaises(ValueError):
            await self.records.find_by(Account, "name", "x")

    async def test_taken_is_refused_as_a_whole(self) -> None:
        """When an id or another unique value is taken, none of the records is stored."""
        await self.records.add(FULL_RECORDS)
        free = Team(id="team-0", name="Free", created_at=1)
        for taken in (
            TEAM,
            replace(ACCOUNT, id="account-2", email="\u00e9mile@example.ORG"),
            replace(KEY, id="key-9", jwks_party=""),
            replace(KEY, id="key-9", api_key_hash=""),
            replace(REVOCATION, id="revocation-2", expires_at=None),
            Membership(id="member-2", team="team-1", account="account-1", role=Role.VIEWER, created_at=1),
            Namespace(id="namespace-2", app="shop", pattern="room:*", created_at=1),
            ResetToken(id="reset-2", account="account-1", token_hash="r", created_at=1, expires_at=2),
        ):
            for batch in ([taken], [free, taken]):
                self.assertIn("already", await self.conflicts(*batch))
            self.assertIsNone(await self.records.find(Team, "team-0"))
            self.assertEqual(len(await self.listed(type(taken))), 1)

    async def test_two_of_a_batch_in_one_place(self) -> None:
        """What may be there once can't be added twice at a time."""
        await self.conflicts(TEAM, replace(TEAM, name="Other"))
        await self.conflicts(ACCOUNT, replace(ACCOUNT, id="account-2"))

        self.assertEqual(await self.listed(Team), [])
        self.assertEqual(await self.listed(Account), [])

    async def test_owner_has_to_be_there(self) -> None:
        """What belongs to something is not stored without it, and the text tells what is missing."""
        self.assertIn("team-1", await self.conflicts(APP))
        self.assertIn("team-1", await self.conflicts(APP, TEAM))
        self.assertEqual(await self.listed(App), [])
        self.assertEqual(await self.listed(Team), [])

        await self.records.add([replace(APP, team="")])
        with self.assertRaises(Conflict):
            await self.records.replace(APP)

    async def test_replaced(self) -> None:
        """A record is replaced in the version that was seen, and comes back with the next one."""
        await self.records.add(FULL_RECORDS)
        for record in FULL_RECORDS:
            new = await self.records.replace(record)
            self.assertEqual(new, replace(record, version=2))
            self.assertEqual(await self.same(record), new)

        bare = await self.records.replace(Key(id="key-1", app="shop", name="New", created_at=5, version=2))

        self.assertEqual(bare, Key(id="key-1", app="shop", name="New", created_at=5, version=3))
        self.assertIsNone(await self.records.find_by(Key, "api_key_hash", "ab" * 32))
        self.assertIsNone(await self.records.find_by(Key, "jwks_party", "https://issuer wsock"))
        await self.records.add([replace(KEY, id="key-2")])

    async def test_unique_values_follow_a_change(self) -> None:
        """A new e-mail address finds the account, and the old one is free again; one that is taken is refused."""
        await self.records.add([ACCOUNT, Account(id="b", email="b@example.org", password_hash="", created_at=1)])
        with self.assertRaises(Conflict) as caught:
            await self.records.replace(replace(ACCOUNT, email="B@example.org"))
        self.assertIn("e-mail", caught.exception.text)

        await self.records.replace(replace(ACCOUNT, email="new@example.org"))

        self.assertIsNone(await self.records.find_by(Account, "email", ACCOUNT.email))
        found = await self.records.find_by(Account, "email", "NEW@example.org")
        self.assertEqual(found and found.id, "account-1")
        await self.records.add([Account(id="c", email=ACCOUNT.email, password_hash="", created_at=1)])

    async def test_changes_do_not_overwrite_one_another(self) -> None:
        """Of changes to the same version one is made, also when they come at once; the others are conflicts."""
        await self.records.add([TEAM])

        outcomes = await gatherResults([Deferred.fromCoroutine(self._rename(f"name {n}")) for n in range(5)])

        self.assertEqual(sorted(outcomes), [False] * 4 + [True])
        stored = await self.same(TEAM)
        self.assertEqual(stored.version, 2)
        with self.assertRaises(Conflict) as caught:
            await self.records.replace(replace(TEAM, name="late"))
        self.assertIn("meanwhile", caught.exception.text)
        self.assertEqual(await self.same(TEAM), stored)

    async def test_one_of_many_takes_a_unique_value(self) -> None:
        """Of several that want the same address at once one gets it, alone or with what belongs to it."""
        outcomes = await gatherResults([Deferred.fromCoroutine(self._sign_up(number)) for number in range(6)])

        self.assertEqual(sorted(outcomes), [False] * 5 + [True])
        self.assertEqual(len(await self.listed(Account)), 1)
        self.assertLessEqual(len(await self.listed(ResetToken)), 1)

    async def _sign_up(self, number: int) -> bool:
        account = Account(id=f"a{number}", email="same@example.org", password_hash="x", created_at=1)
        token = ResetToken(id=f"r{number}", account=account.id, token_hash=f"h{number}", created_at=1, expires_at=2)
        try:
            await self.records.add([account, token] if number % 2 else [account])
        except Conflict:
            return False
        return True

    async def _rename(self, name: str) -> bool:
        try:
            await self.records.replace(replace(TEAM, name=name))
        except Conflict:
            return False
        return True

    async def test_what_is_gone_is_not_replaced(self) -> None:
        """A change of something that was deleted meanwhile is a conflict, and does not bring it back."""
        with self.assertRaises(Conflict) as caught:
            await self.records.replace(TEAM)

        self.assertIn("not there any more", caught.exception.text)
        self.assertEqual(await self.listed(Team), [])

    async def test_belongings_go_with_their_owner(self) -> None:
        """With a team go its apps and all of theirs, with an account all that logs it in; others stay."""
        other = Team(id="team-2", name="Other", created_at=1)
        theirs = [replace(APP, id="other", team="team-2"), Key(id="key-2", app="other", name="K", created_at=1)]
        await self.records.add([*FULL_RECORDS, other, *theirs])

        self.assertTrue(await self.records.remove(Team, "team-1"))

        left: list[Record] = [theirs[0], theirs[1], other]
        self.assertEqual([*await self.listed(App), *await self.listed(Key), *await self.listed(Team)], left)
        belongings: list[type[Record]] = [Membership, Invitation, AccessToken, Namespace, Revocation, Endpoint]
        for kind in belongings:
            self.assertEqual(await self.listed(kind), [])
        self.assertEqual(len(await self.listed(ResetToken)), 1)

        self.assertTrue(await self.records.remove(Account, "account-1"))
        belongings = [Account, ResetToken, DashboardSession]
        for kind in belongings:
            self.assertEqual(await self.listed(kind), [])
        self.assertFalse(await self.records.remove(Account, "account-1"))

    async def test_removed_in_the_version_that_was_seen(self) -> None:
        """What was changed meanwhile is not deleted, when a version is given."""
        await self.records.add([TEAM])
        await self.records.replace(TEAM)

        with self.assertRaises(Conflict):
            await self.records.remove(Team, TEAM.id, 1)
        self.assertEqual((await self.same(TEAM)).version, 2)
        self.assertTrue(await self.records.remove(Team, TEAM.id, 2))
        self.assertFalse(await self.records.remove(Team, TEAM.id, 2))

    async def test_lists(self) -> None:
        """A list holds what has the values that are asked for, in the order of ids, on pages of any size."""
        await self.records.add(
            [TEAM, *(replace(APP, id=id, plan="free" if id < "c" else "pro") for id in "dBa\u00e9c")]
        )

        for limit in (1, 2, 5, 6):
            self.assertEqual([app.id for app in await self.listed(App, limit=limit)], ["B", "a", "c", "d", "\u00e9"])
            self.assertEqual([app.id for app in await self.listed(App, {"plan": "free"}, limit)], ["B", "a"])
        both = {"team": "team-1", "plan": "pro"}
        self.assertEqual([app.id for app in await self.listed(App, both, 2)], ["c", "d", "\u00e9"])
        self.assertEqual(await self.listed(App, {"team": "team-2"}), [])
        self.assertEqual([a.id for a in (await self.records.page(App, {}, "bb", 2)).items], ["c", "d"])
        with self.assertRaises(ValueError):
            await self.records.page(App, {"name": "x"}, None, 1)

    async def test_last_use(self) -> None:
        """The last use is kept beside the versions: it never goes back, and no change takes it away."""
        await self.records.add(FULL_RECORDS)
        before = await self.records.revision()
        for kind, id in ((Key, "key-1"), (AccessToken, "token-1")):
            for at in (500, 900, 700):
                await self.records.used(kind, id, at)
            found = await self.records.find(kind, id)
            assert isinstance(found, Key | AccessToken)
            self.assertEqual((found.last_used_at, found.version), (900, 1))
        await self.records.used(Key, "nobody", 1)
        self.assertEqual(await self.records.revision(), before)

        new = await self.records.replace(replace(KEY, name="New"))

        self.assertEqual((new.last_used_at, new.name), (900, "New"))
        self.assertEqual(await self.same(KEY), new)

    async def test_sweep(self) -> None:
        """Tokens whose time has come are deleted, so many at once; access tokens are kept for people to see.

        What has no such time stays.
        """
        resets = [
            ResetToken(id=f"r{n}", account="account-1", token_hash=f"h{n}", created_at=1, expires_at=n)
            for n in range(5)
        ]
        kept = replace(REVOCATION, id="revocation-2", value="kept", expires_at=None)
        await self.records.add([*FULL_RECORDS[1:], *resets, kept])

        first = await self.records.sweep(3, 2)

        self.assertGreater(first, 0)
        while await self.records.sweep(3, 2):
            pass
        self.assertEqual([record.id for record in await self.listed(ResetToken)], ["r4"])
        self.assertEqual(await self.listed(Invitation), [])
        self.assertEqual(await self.listed(DashboardSession), [])
        self.assertEqual(len(await self.listed(AccessToken)), 1)
        self.assertEqual(await self.listed(Revocation), [kept])

    async def test_one_app_s_revocation(self) -> None:
        """What one app revokes, another may revoke as well, and a token's id is no clientId."""
        other = replace(APP, id="other")
        await self.records.add([TEAM, APP, other, REVOCATION])

        await self.records.add([replace(REVOCATION, id="revocation-2", app="other")])
        await self.records.add([replace(REVOCATION, id="revocation-3", kind=Revoked.CLIENT)])

        self.assertEqual([r.id for r in await self.listed(Revocation, {"app": "other"})], ["revocation-2"])

    async def test_teams_of_a_plan(self) -> None:
        """Teams are listed by their plan."""
        await self.records.add([TEAM, Team(id="team-2", name="Other", created_at=1)])

        self.assertEqual(await self.listed(Team, {"plan": "gold"}), [TEAM])

    async def test_revision(self) -> None:
        """Every change that somebody may remember otherwise makes the revision grow; looking does not."""
        revisions = [await self.records.revision()]
        await self.records.add([TEAM, APP])
        revisions.append(await self.records.revision())
        await self.records.replace(APP)
        revisions.append(await self.records.revision())
        await self.records.remove(App, "shop")
        revisions.append(await self.records.revision())
        self.assertEqual(revisions, sorted(set(revisions)))

        await self.listed(Team)
        await self.records.add([ACCOUNT])
        before = await self.records.revision()
        await self.records.add([Attempts(id="attempts-1")])
        self.assertTrue(kind_of(Attempts).is_quiet)
        self.assertEqual(await self.records.revision(), before)
