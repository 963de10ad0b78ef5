"""What every :class:`wsock.interfaces.IAuditLog` is held to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from zope.interface.verify import verifyObject

from wsock.interfaces import IAuditLog
from wsock.records import AuditEntry, AuditQuery

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object

__all__ = ["AuditContract"]

FULL = AuditEntry(
    id="aud-full",
    at=1_700_000_000_000,
    actor="account-1",
    action="key.create",
    team="team-1",
    app="shop",
    target="key-1",
    details={"n\u00e4me": "Server", "a.b": "$c"},
    ip="192.0.2.1",
)


class AuditContract(TestCase):
    """Mix it in and provide ``make_audit``, which makes an empty log."""

    make_audit: Callable[[], Awaitable[IAuditLog]]
    audit: IAuditLog

    async def setUp(self) -> None:  # type: ignore[override]  # trial awaits it
        """Makes a new one."""
        self.audit = await self.make_audit()

    async def found(self, query: AuditQuery, limit: int = 100) -> list[str]:
        """The ids of the entries that are asked for, read page by page."""
        ids: list[str] = []
        cursor: str | None = None
        for _ in range(100):
            page = await self.audit.page(query, cursor, limit)
            self.assertLessEqual(len(page.items), limit)
            ids.extend(entry.id for entry in page.items)
            cursor = page.next
            if cursor is None:
                return ids
        self.fail("the log has no end")

    async def test_provides_the_interface(self) -> None:
        """The log has the methods of IAuditLog, with their arguments."""
        verifyObject(IAuditLog, self.audit)

    async def test_entry_comes_back(self) -> None:
        """An entry comes back with every field as it was; appended again, it is there once."""
        await self.audit.append([])
        await self.audit.append([FULL])
        await self.audit.append([FULL, _entry("later", 1_800_000_000_000)])

        page = await self.audit.page(AuditQuery(), None, 10)
        self.assertEqual(page.items[1], FULL)
        self.assertEqual([entry.id for entry in page.items], ["later", "aud-full"])
        self.assertIsNone(page.next)

    async def test_pages(self) -> None:
        """Pages hold each entry once, the newest first; at one time, in the order of their ids backwards."""
        entries = [_entry(f"e{number}", number // 3) for number in range(10)]
        await self.audit.append(entries)
        newest_first = [f"e{number}" for number in reversed(range(10))]

        for limit in (1, 2, 3, 9, 10, 11):
            self.assertEqual(await self.found(AuditQuery(), limit), newest_first)

    async def test_query(self) -> None:
        """Team, app, actor and time narrow down what is found, alone and together."""
        await self.audit.append(
            [
                _entry("a", 10, team="t1", app="x", actor="ana"),
                _entry("b", 20, team="t1", actor="bob"),
                _entry("c", 30, team="t2", app="x", actor="ana"),
            ]
        )

        for query, ids in (
            (AuditQuery(team="t1"), ["b", "a"]),
            (AuditQuery(app="x"), ["c", "a"]),
            (AuditQuery(actor="bob"), ["b"]),
            (AuditQuery(team="t1", app="x", actor="ana"), ["a"]),
            (AuditQuery(since=20), ["c", "b"]),
            (AuditQuery(until=20), ["a"]),
            (AuditQuery(team="t1", since=11, until=30), ["b"]),
            (AuditQuery(app=""), ["b"]),
        ):
            self.assertEqual(await self.found(query, 1), ids)

    async def test_cursor_that_is_none(self) -> None:
        """A cursor that no page ended with is refused."""
        for cursor in ("", "x", "1", ":a", "-1:a", "\u0661:a"):
            with self.assertRaises(ValueError):
                await self.audit.page(AuditQuery(), cursor, 1)

    async def test_expiry(self) -> None:
        """What is older goes, at most so many at once."""
        await self.audit.append([_entry(f"e{number}", number) for number in range(6)])

        self.assertEqual([await self.audit.expire(4, 3) for _ in range(3)], [3, 1, 0])
        self.assertEqual(await self.found(AuditQuery()), ["e5", "e4"])


def _entry(id: str, at: int, *, team: str = "", app: str = "", actor: str = "") -> AuditEntry:
    return AuditEntry(id=id, at=at, actor=actor, action="app.update", team=team, app=app)
