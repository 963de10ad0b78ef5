"""Tests of :mod:`wsock.records`, and of reading lists of them page by page."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.protocol.rates import Rate
from wsock.records import (
    KINDS,
    PLANS,
    Account,
    Key,
    Membership,
    PlanLimits,
    Record,
    Role,
    Settings,
    Team,
    kind_of,
    merge_settings,
)
from wsock.testing.contracts.records import FULL_RECORDS


class RoleTests(SynchronousTestCase):
    """Roles are in an order."""

    def test_covers(self) -> None:
        """Each role may do what itself and those before it may, and nothing else."""
        roles = [Role.VIEWER, Role.DEVELOPER, Role.ADMIN, Role.OWNER]

        for place, role in enumerate(roles):
            self.assertEqual([role.covers(other) for other in roles], [n <= place for n in range(4)])


class SettingsTests(SynchronousTestCase):
    """Settings of an app and of its namespaces."""

    def test_merged(self) -> None:
        """What the namespace leaves open the app decides; off and 0 are decisions."""
        namespace = Settings(history=False, recovery_seconds=0)
        app = Settings(history=True, recovery_seconds=60, app_rate=Rate(5.0))

        merged = merge_settings(namespace, app, Settings(message_bytes=10))

        self.assertEqual(merged, Settings(history=False, recovery_seconds=0, app_rate=Rate(5.0), message_bytes=10))

    def test_bounds(self) -> None:
        """A setting beyond its bounds is refused with its name."""
        for text in (b'{"message_bytes": 0}', b'{"slow_consumer": "wait"}', b'{"history": 1}'):
            with self.assertRaises(msgspec.ValidationError) as caught:
                msgspec.json.decode(text, type=Settings)
            self.assertTrue(any(n in str(caught.exception) for n in ("message_bytes", "slow_consumer", "history")))

    def test_of_a_later_release(self) -> None:
        """A node reads settings that a later one has stored, but for those that it does not know."""
        self.assertEqual(msgspec.json.decode(b'{"history": true, "later": 1}', type=Settings), Settings(history=True))


class KindTests(SynchronousTestCase):
    """The table of kinds."""

    def test_complete(self) -> None:
        """Every kind of record is in the table, after what it belongs to, under a name of its own."""
        self.assertEqual(set(KINDS), set(Record.__subclasses__()))
        self.assertEqual(len({kind.name for kind in KINDS.values()}), len(KINDS))
        seen: set[type[Record]] = set()
        for kind in KINDS.values():
            self.assertLessEqual(set(kind.owners.values()), seen)
            seen.add(kind.struct)

    def test_fields_exist(self) -> None:
        """What the table names are fields."""
        for kind in KINDS.values():
            named = {*kind.owners, *kind.lists, *kind.sealed, *(name for u in kind.unique for name in u.fields)}
            named |= {"expires_at"} if kind.is_swept else set()
            self.assertLessEqual(named, set(kind.struct.__struct_fields__))

    def test_secrets_are_not_shown(self) -> None:
        """What may be logged holds no secret, and no hash that could be guessed at."""
        for record in FULL_RECORDS:
            for name in (*kind_of(record).sealed, "token_hash", "password_hash", "api_key_hash", "email"):
                value = getattr(record, name, "")
                self.assertFalse(value and repr(value) in repr(record), name)

    def test_plans(self) -> None:
        """An own server's apps are without limits until somebody sets them; the others have all of them."""
        limits = {plan.id: plan.limits for plan in PLANS}

        self.assertEqual(limits.pop("unlimited"), PlanLimits())
        self.assertEqual(set(limits), {"free", "pro"})
        for each in limits.values():
            self.assertNotIn(None, msgspec.structs.astuple(each))

    def test_lookups(self) -> None:
        """A list or a look-up by a field that there is none for is a mistake of the caller."""
        kind_of(Membership).check_list({"team": "t", "account": "a"})
        with self.assertRaises(ValueError):
            kind_of(Key).check_list({"name": "x"})
        with self.assertRaises(ValueError):
            kind_of(Account).unique_by("name")


_IDS = st.text("abc", min_size=1, max_size=3)


class PagingTests(SynchronousTestCase):
    """Lists are read whole, whatever happens meanwhile."""

    @settings(max_examples=200)
    @given(
        start=st.sets(_IDS, max_size=12),
        changes=st.lists(st.tuples(st.booleans(), _IDS), max_size=12),
        limit=st.integers(1, 5),
    )
    def test_changing_list(self, start: set[str], changes: list[tuple[bool, str]], limit: int) -> None:
        """Page by page, what is there all the while is read once, nothing twice, and all of it in order."""
        directory = MemoryDirectory()
        self.successResultOf(directory.add([_team(id) for id in start]))
        steady = start - {id for _, id in changes}
        found: list[str] = []
        cursor: str | None = None
        waiting = list(changes)
        while True:
            page = self.successResultOf(directory.page(Team, {}, cursor, limit))
            self.assertLessEqual(len(page.items), limit)
            found.extend(team.id for team in page.items)
            cursor = page.next
            if cursor is None:
                break
            if waiting:
                self.change(directory, *waiting.pop())

        self.assertEqual(found, sorted(set(found)))
        self.assertLessEqual(steady, set(found))

    def change(self, directory: MemoryDirectory, adds: bool, id: str) -> None:
        """Adds or removes a team, if that is possible."""
        if adds:
            Deferred.fromCoroutine(directory.add([_team(id)])).addErrback(lambda _: None)
        else:
            self.successResultOf(directory.remove(Team, id))


def _team(id: str) -> Team:
    return Team(id=id, name=id, created_at=0)
