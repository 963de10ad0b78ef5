"""Tests for :mod:`wsock.services.plans`."""

from __future__ import annotations

from typing import Any

from tests.app_cases import AppsCase
from wsock.errors import Code
from wsock.records import App, Plan, PlanLimits, Record, Team
from wsock.services.plans import LimitsChange


class PlanTests(AppsCase):
    """Plans are data that operators change."""

    def test_seen_by_everybody(self) -> None:
        """Whoever has an account sees what plans there are."""
        page = self.done(self.plans.plans(self.actors["sam"], None, 10))

        self.assertEqual([plan.id for plan in page.items], ["free", "pro", "unlimited"])
        self.assertEqual(self.done(self.plans.plan(self.actors["sam"], "pro")).name, "Pro")
        self.refused(Code.NOT_FOUND, self.plans.plan(self.actors["sam"], "none"))

    def test_changed_by_operators(self) -> None:
        """Nobody else makes, changes or deletes one, nor puts a team on one."""
        olga = self.actors["olga"]
        for work in (
            self.plans.create(olga, "gold", "Gold", LimitsChange()),
            self.plans.update(olga, "pro", name="X"),
            self.plans.delete(olga, "free"),
            self.plans.put_team(olga, "t1", "pro"),
        ):
            self.refused(Code.FORBIDDEN, work)

    def test_whole_life(self) -> None:
        """A plan is made, changed and deleted; what is not given stays, and null is no limit."""
        root = self.actors["root"]
        made = self.done(self.plans.create(root, "gold", " Gold ", LimitsChange(connections=5, apps=0)))
        self.assertEqual((made.name, made.limits), ("Gold", PlanLimits(connections=5, apps=0)))

        change = LimitsChange(connections=None, channels=7)
        new = self.done(self.plans.update(root, "gold", limits=change, version=1))
        self.assertEqual((new.name, new.limits), ("Gold", PlanLimits(apps=0, channels=7)))
        self.refused(Code.CONFLICT, self.plans.update(root, "gold", name="X", version=1))

        self.done(self.plans.delete(root, "gold"))
        self.refused(Code.NOT_FOUND, self.plans.plan(root, "gold"))
        self.assertEqual(self.acts(), ["plan.create", "plan.update", "plan.delete"])
        self.assertEqual(self.entries()[1].details["limit_channels"], "7")

    def test_ids(self) -> None:
        """An id is a short word, once."""
        for id in ("", "Gold", "a b", "-a", "x" * 41, "\u00e9"):
            self.refused(Code.BAD_REQUEST, self.plans.create(self.actors["root"], id, "X", LimitsChange()))
        self.refused(Code.CONFLICT, self.plans.create(self.actors["root"], "free", "X", LimitsChange()))

    def test_in_use(self) -> None:
        """A plan that an app or a team is on can't be deleted, nor the one that all are on without a word."""
        root = self.actors["root"]
        self.done(self.apps.update(root, "shop", plan="free"))
        self.done(self.plans.put_team(root, "t1", "pro"))

        self.assertIn("shop", self.refused(Code.CONFLICT, self.plans.delete(root, "free")).text)
        self.assertIn("t1", self.refused(Code.CONFLICT, self.plans.delete(root, "pro")).text)
        self.refused(Code.CONFLICT, self.plans.delete(root, "unlimited"))

    def test_used_while_it_is_deleted(self) -> None:
        """An app that is put on a plan while that is deleted keeps it: the plan comes back."""
        remove = self.directory.remove

        async def slow(kind: type[Record], id: str, version: int | None = None) -> bool:
            await self.directory.add([App(id="new", name="N", created_at=0, team="t1", plan="free")])
            return await remove(kind, id, version)

        self.directory.remove = slow  # type: ignore[method-assign]  # the other one comes in between

        before = self.get(Plan, "free")
        self.refused(Code.CONFLICT, self.plans.delete(self.actors["root"], "free"))

        self.assertEqual(self.get(Plan, "free"), before)

    def test_team(self) -> None:
        """A team is put on a plan that there is."""
        root: Any = self.actors["root"]
        self.assertEqual(self.done(self.plans.put_team(root, "t1", "free")).plan, "free")
        self.assertEqual(self.get(Team, "t1").plan, "free")
        self.refused(Code.BAD_REQUEST, self.plans.put_team(root, "t1", "none"))
        self.refused(Code.NOT_FOUND, self.plans.put_team(root, "t9", "free"))
        self.refused(Code.CONFLICT, self.plans.put_team(root, "t1", "pro", version=1))
        self.assertEqual(self.entries()[0].details, {"plan": "free", "before": "unlimited"})
