"""Tests for :mod:`wsock.services.apps`, :mod:`wsock.services.namespaces` and :mod:`wsock.services.app_settings`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.app_cases import AppsCase
from tests.base import SynchronousTestCase
from wsock.errors import Code, Refused
from wsock.protocol.rates import Rate
from wsock.records import App, Endpoint, Key, Namespace, Plan, PlanLimits, Revocation, Revoked, Role, Settings
from wsock.services.access import Actor
from wsock.services.app_settings import Bounds, RateChange, SettingsChange, check_settings


class CreateTests(AppsCase):
    """Apps that are made."""

    def test_made(self) -> None:
        """An app is of its team, on the plan of that, with an id that a WebSocket app may have."""
        self.put_team_on("pro")

        app = self.done(self.apps.create(self.actors["adam"], "  Chat ", team="t1"))

        self.assertEqual((app.name, app.team, app.plan, app.is_enabled), ("Chat", "t1", "pro", True))
        self.assertRegex(app.id, r"^app_[0-9a-f]{16}$")
        self.assertEqual(self.get(App, app.id), app)
        self.assertEqual([(e.action, e.app, e.team) for e in self.entries()], [("app.create", app.id, "t1")])

    def test_roles(self) -> None:
        """It takes an administrator of the team; to others there is no such team."""
        for name in ("vera", "dev"):
            self.refused(Code.FORBIDDEN, self.apps.create(self.actors[name], "X", team="t1"))
        for name in ("sam", "mia"):
            self.refused(Code.NOT_FOUND, self.apps.create(self.actors[name], "X", team="t1"))
        self.refused(Code.NOT_FOUND, self.apps.create(self.actors["root"], "X", team="none"))

    def test_only_team(self) -> None:
        """Who is in one team only need not say which."""
        self.assertEqual(self.done(self.apps.create(self.actors["olga"], "X")).team, "t1")
        self.team("t3", olga=Role.OWNER)

        self.assertIn("several", self.refused(Code.BAD_REQUEST, self.apps.create(self.actors["olga"], "X")).text)
        self.assertIn("no team", self.refused(Code.BAD_REQUEST, self.apps.create(self.actors["sam"], "X")).text)
        bound = replace_team(self.actors["olga"], "t3")
        self.assertEqual(self.done(self.apps.create(bound, "X")).team, "t3")

    def test_plan_is_the_operators(self) -> None:
        """Only operators choose another plan than the team's, one that there is."""
        self.refused(Code.FORBIDDEN, self.apps.create(self.actors["olga"], "X", team="t1", plan="pro"))
        self.refused(Code.BAD_REQUEST, self.apps.create(self.actors["root"], "X", team="t1", plan="none"))

        self.assertEqual(self.done(self.apps.create(self.actors["root"], "X", team="t1", plan="pro")).plan, "pro")

    def test_quota(self) -> None:
        """The team's plan says how many apps it may have, and the refusal names plan and number."""
        self.put_team_on("free")
        for n in range(2):
            self.done(self.apps.create(self.actors["adam"], f"App {n}", team="t1"))

        refused = self.refused(Code.QUOTA_EXCEEDED, self.apps.create(self.actors["adam"], "Fourth", team="t1"))

        self.assertIn("free", refused.text)
        self.assertIn("3", refused.text)
        self.assertEqual(len(self.done(self.directory.page(App, {"team": "t1"}, None, 10)).items), 3)

    def test_quota_of_two_at_once(self) -> None:
        """Another app that is made meanwhile does not let one too many in."""
        self.plan("two", apps=2)
        self.put_team_on("two")
        add = self.directory.add

        async def slow(records: Any) -> None:
            self.directory.add = add  # type: ignore[method-assign]  # the other one comes in between
            await add([App(id="sneaky", name="S", created_at=0, team="t1")])
            await add(records)

        self.directory.add = slow  # type: ignore[method-assign]  # as above
        self.refused(Code.QUOTA_EXCEEDED, self.apps.create(self.actors["adam"], "Mine", team="t1"))

        found = self.done(self.directory.page(App, {"team": "t1"}, None, 10)).items
        self.assertEqual([app.id for app in found], ["shop", "sneaky"])


class ListTests(AppsCase):
    """Which apps somebody sees."""

    def ids(self, name: str, limit: int = 50, **where: Any) -> list[str]:
        """The whole list, page by page."""
        found: list[str] = []
        cursor: str | None = None
        for _ in range(50):
            page = self.done(self.apps.apps(self.actors[name], cursor, limit, **where))
            self.assertLessEqual(len(page.items), limit)
            found += [app.id for app in page.items]
            cursor = page.next
            if cursor is None:
                return found
        self.fail("the list has no end")

    def test_own(self) -> None:
        """People see the apps of their teams, operators all; what is asked for by team is for its members."""
        self.assertEqual(self.ids("vera"), ["shop"])
        self.assertEqual(self.ids("sam"), [])
        self.assertEqual(self.ids("root"), ["other", "shop"])
        self.assertEqual(self.ids("mia", team="t2"), ["other"])
        self.refused(Code.NOT_FOUND, self.apps.apps(self.actors["mia"], None, 50, team="t1"))

    def test_pages_over_teams(self) -> None:
        """A list over several teams holds every app once, whatever the size of the pages."""
        for team in ("t0", "t3", "t9"):
            self.team(team, sam=Role.VIEWER)
        self.put(*(App(id=f"{t}-{n}", name="X", created_at=0, team=t) for t in ("t0", "t9") for n in range(3)))
        wanted = [f"{t}-{n}" for t in ("t0", "t9") for n in range(3)]

        for limit in (1, 2, 3, 4, 6, 7):
            self.assertEqual(self.ids("sam", limit), wanted)

    def test_token_of_one_team(self) -> None:
        """A token for a team sees that one only."""
        self.team("t3", vera=Role.OWNER)
        self.put(App(id="third", name="X", created_at=0, team="t3"))
        actor = replace_team(self.actors["vera"], "t3")

        self.assertEqual([a.id for a in self.done(self.apps.apps(actor, None, 50)).items], ["third"])

    def test_stranger(self) -> None:
        """An app of another team is not there, in the same words as one that is nowhere."""
        hidden = self.refused(Code.NOT_FOUND, self.apps.app(self.actors["mia"], "shop")).text
        nowhere = self.refused(Code.NOT_FOUND, self.apps.app(self.actors["mia"], "none")).text

        self.assertEqual(hidden.replace("shop", "none"), nowhere)
        self.assertEqual(self.done(self.apps.app(self.actors["vera"], "shop")).id, "shop")


class UpdateTests(AppsCase):
    """Apps that are changed, and deleted."""

    def test_changes(self) -> None:
        """What is given is changed, of the settings too; all else stays."""
        first = SettingsChange(history=False, user_rate=RateChange(events=5, burst=20))
        self.done(self.apps.update(self.actors["dev"], "shop", settings=first, allowed_origins=["https://a"]))

        change = SettingsChange(history=None, message_bytes=100)
        app = self.done(self.apps.update(self.actors["dev"], "shop", name="New", is_enabled=False, settings=change))

        self.assertEqual((app.name, app.is_enabled, app.allowed_origins), ("New", False, ("https://a",)))
        self.assertEqual(app.settings, Settings(message_bytes=100, user_rate=Rate(5, 1.0, 20)))
        details = {"changed": "name, is_enabled, settings", "is_enabled": "no", "settings": "history, message_bytes"}
        self.assertEqual(self.entries()[-1].details, details)

    def test_version(self) -> None:
        """A change of what was changed meanwhile is refused."""
        self.done(self.apps.update(self.actors["dev"], "shop", name="One", version=1))

        self.refused(Code.CONFLICT, self.apps.update(self.actors["dev"], "shop", name="Two", version=1))
        self.assertEqual(self.done(self.apps.update(self.actors["dev"], "shop", name="Two")).version, 3)

    def test_roles(self) -> None:
        """Developers change, administrators delete, viewers look, strangers see nothing."""
        self.refused(Code.FORBIDDEN, self.apps.update(self.actors["vera"], "shop", name="X"))
        self.refused(Code.NOT_FOUND, self.apps.update(self.actors["mia"], "shop", name="X"))
        self.refused(Code.FORBIDDEN, self.apps.delete(self.actors["dev"], "shop"))
        self.refused(Code.NOT_FOUND, self.apps.delete(self.actors["mia"], "shop"))

    def test_plan(self) -> None:
        """Only operators put an app on another plan; the same one is no change."""
        self.refused(Code.FORBIDDEN, self.apps.update(self.actors["olga"], "shop", plan="pro"))
        self.done(self.apps.update(self.actors["olga"], "shop", plan="unlimited", name="X"))

        self.assertEqual(self.done(self.apps.update(self.actors["root"], "shop", plan="free")).plan, "free")
        self.assertEqual(self.entries()[-1].details["plan"], "free")

    def test_origins(self) -> None:
        """Origins are texts in one line, not too many."""
        for origins in (["a\nb"], [""], ["x"] * 101):
            self.refused(Code.BAD_REQUEST, self.apps.update(self.actors["dev"], "shop", allowed_origins=origins))

    def test_beyond_the_plan(self) -> None:
        """Settings that the app's plan does not allow are refused, those of a smaller new plan too."""
        self.done(self.apps.update(self.actors["root"], "shop", plan="free"))
        for change in (SettingsChange(message_bytes=16_385), SettingsChange(history_ttl_seconds=86_401)):
            refused = self.refused(Code.LIMIT_EXCEEDED, self.apps.update(self.actors["dev"], "shop", settings=change))
            self.assertIn("free", refused.text)
        self.done(self.apps.update(self.actors["dev"], "shop", settings=SettingsChange(message_bytes=16_384)))

    def test_smaller_plan(self) -> None:
        """What was set on a larger plan keeps nobody from other changes."""
        self.done(self.apps.update(self.actors["dev"], "shop", settings=SettingsChange(message_bytes=20_000)))
        self.done(self.apps.update(self.actors["root"], "shop", plan="free"))

        app = self.done(self.apps.update(self.actors["dev"], "shop", settings=SettingsChange(history=False)))

        self.assertEqual(app.settings, Settings(history=False, message_bytes=20_000))

    def test_rates_of_operators(self) -> None:
        """An operator gives an app and its channels more than the server gives to all; its developers don't."""
        self.apps._bounds = self.namespaces._bounds = Bounds(app_rate=Rate(5), channel_rate=Rate(5))
        app = SettingsChange(app_rate=RateChange(events=6), rate_mode="observe")
        channel = SettingsChange(channel_rate=RateChange(events=6))
        self.refused(Code.LIMIT_EXCEEDED, self.apps.update(self.actors["dev"], "shop", settings=app))
        self.refused(Code.LIMIT_EXCEEDED, self.namespaces.create(self.actors["dev"], "shop", "a", channel))

        self.done(self.apps.update(self.actors["root"], "shop", settings=app))
        made = self.done(self.namespaces.create(self.actors["root"], "shop", "a", channel))

        self.done(self.apps.update(self.actors["dev"], "shop", settings=SettingsChange(history=False)))
        update = self.namespaces.update(self.actors["dev"], "shop", made.id, settings=channel)
        self.refused(Code.LIMIT_EXCEEDED, update)

    def test_deleted(self) -> None:
        """With an app goes all that belongs to it, and nothing else."""
        self.put(
            Key(id="k", app="shop", name="K", created_at=0),
            Namespace(id="n", app="shop", pattern="*", created_at=0),
            Revocation(id="r", app="shop", kind=Revoked.CLIENT, value="ana", created_at=0),
            Endpoint(id="e", app="shop", url="https://a", created_at=0),
            Key(id="k2", app="other", name="K", created_at=0),
        )

        self.done(self.apps.delete(self.actors["adam"], "shop"))

        for kind, id in ((App, "shop"), (Key, "k"), (Namespace, "n"), (Revocation, "r"), (Endpoint, "e")):
            self.assertIsNone(self.done(self.directory.find(kind, id)))
        self.get(Key, "k2")
        self.assertEqual(self.acts(), ["app.delete"])


class NamespaceTests(AppsCase):
    """Settings of channels."""

    def test_whole_life(self) -> None:
        """A namespace is made, shown, listed, changed and deleted, and each act is recorded."""
        dev = self.actors["dev"]
        made = self.done(self.namespaces.create(dev, "shop", "room:*", SettingsChange(history=False)))
        self.assertEqual((made.pattern, made.settings), ("room:*", Settings(history=False)))
        self.assertEqual(self.done(self.namespaces.namespaces(self.actors["vera"], "shop", None, 10)).items, [made])
        self.assertEqual(self.done(self.namespaces.namespace(self.actors["vera"], "shop", made.id)), made)

        change = SettingsChange(history=None, presence=False)
        new = self.done(self.namespaces.update(dev, "shop", made.id, pattern="r:*", settings=change, version=1))
        self.assertEqual((new.pattern, new.settings, new.version), ("r:*", Settings(presence=False), 2))
        self.refused(Code.CONFLICT, self.namespaces.update(dev, "shop", made.id, pattern="x", version=1))

        self.done(self.namespaces.delete(dev, "shop", made.id))
        self.assertEqual(self.acts(), ["namespace.create", "namespace.update", "namespace.delete"])
        written = [entry.details["settings"] for entry in self.entries()]
        self.assertEqual(written, ['{"history":false}', '{"presence":false}', '{"presence":false}'])

    def test_once(self) -> None:
        """A pattern has one namespace in an app."""
        dev = self.actors["dev"]
        self.done(self.namespaces.create(dev, "shop", "a*", SettingsChange()))
        self.refused(Code.CONFLICT, self.namespaces.create(dev, "shop", "a*", SettingsChange()))
        other = self.done(self.namespaces.create(dev, "shop", "b*", SettingsChange()))
        self.refused(Code.CONFLICT, self.namespaces.update(dev, "shop", other.id, pattern="a*"))

    def test_another_apps(self) -> None:
        """What is another app's is not there, for members of both too."""
        made = self.done(self.namespaces.create(self.actors["root"], "other", "a", SettingsChange()))
        for work in (
            self.namespaces.namespace(self.actors["root"], "shop", made.id),
            self.namespaces.update(self.actors["root"], "shop", made.id, pattern="x"),
            self.namespaces.delete(self.actors["root"], "shop", made.id),
            self.namespaces.namespace(self.actors["dev"], "other", made.id),
        ):
            self.refused(Code.NOT_FOUND, work)

    def test_roles(self) -> None:
        """Viewers look, developers change."""
        self.refused(Code.FORBIDDEN, self.namespaces.create(self.actors["vera"], "shop", "a", SettingsChange()))
        self.refused(Code.NOT_FOUND, self.namespaces.create(self.actors["mia"], "shop", "a", SettingsChange()))

    def test_pattern(self) -> None:
        """A pattern is what can match a channel."""
        for pattern in ("", "a\nb", "x" * 256, "\u00e9" * 128):
            self.refused(
                Code.BAD_REQUEST, self.namespaces.create(self.actors["dev"], "shop", pattern, SettingsChange())
            )

    def test_settings_of_apps(self) -> None:
        """What concerns the whole app has no place in a namespace."""
        for change in (SettingsChange(app_rate=RateChange(events=1)), SettingsChange(rate_mode="enforce")):
            work = self.namespaces.create(self.actors["dev"], "shop", "a", change)
            self.assertIn("of the app", self.refused(Code.BAD_REQUEST, work).text)

    def test_at_most_a_hundred(self) -> None:
        """An app has no more namespaces than can be looked through for each channel."""
        self.put(*(Namespace(id=f"n{n}", app="shop", pattern=f"p{n}", created_at=0) for n in range(100)))
        work = self.namespaces.create(self.actors["dev"], "shop", "a", SettingsChange())
        self.assertIn("100", self.refused(Code.LIMIT_EXCEEDED, work).text)


class SettingsTests(SynchronousTestCase):
    """What settings may be."""

    def refusal(self, bounds: Bounds | None = None, plan: Plan | None = None, **values: Any) -> Refused:
        """The refusal of these settings."""
        refused: Refused = self.assertRaises(
            Refused, check_settings, SettingsChange(**values), plan, bounds or Bounds()
        )
        return refused

    def check(self, bounds: Bounds | None = None, plan: Plan | None = None, **values: Any) -> None:
        """These settings are fine."""
        check_settings(SettingsChange(**values), plan, bounds or Bounds())

    def test_beyond_the_server(self) -> None:
        """A refusal names the field, what was wanted, and the server's setting."""
        bounds = Bounds(message_bytes=100, history_ttl_seconds=60.0, recovery_seconds=5.0)
        for name, field, value, setting in (
            ("message_bytes", "messageBytes", 101, "limits.message_bytes"),
            ("history_ttl_seconds", "historyTtlSeconds", 61, "history.ttl_seconds"),
            ("recovery_seconds", "recoverySeconds", 6, "recovery.seconds"),
        ):
            over: Any = {name: value}
            refused = self.refusal(bounds, **over)
            self.assertEqual(refused.code, Code.LIMIT_EXCEEDED)
            for word in (field, str(value), setting, str(value - 1)):
                self.assertIn(word, refused.text)
            within: Any = {name: value - 1}
            self.check(bounds, **within)

    def test_history_that_the_server_has_none_of(self) -> None:
        """Where the server keeps no history no app has any."""
        self.assertIn("history.enabled", self.refusal(Bounds(history=False), history=True).text)
        self.check(Bounds(history=False), history=False)

    def test_beyond_the_plan(self) -> None:
        """A plan's limits are bounds too; without one there is no such bound."""
        plan = Plan(id="small", name="Small", limits=PlanLimits(message_bytes=10, history_ttl_seconds=0))
        self.assertIn("small", self.refusal(plan=plan, message_bytes=11).text)
        self.assertIn("small", self.refusal(plan=plan, history_ttl_seconds=1).text)
        self.check(plan=plan, message_bytes=10, history_ttl_seconds=0, recovery_seconds=100)

    def test_windows(self) -> None:
        """The window of a rate, which its burst decides, is from a millisecond to an hour."""
        self.check(app_rate=RateChange(events=1000, burst=1))
        self.check(app_rate=RateChange(events=1, seconds=3600))
        for rate in (
            RateChange(events=1001, burst=1),
            RateChange(events=1, seconds=3601),
            RateChange(events=1, burst=3601),
        ):
            refused = self.refusal(app_rate=rate)
            self.assertEqual(refused.code, Code.BAD_REQUEST)
            self.assertIn("appRate", refused.text)

    def test_rates_beyond_the_server(self) -> None:
        """Where the server limits a rate, no app gives itself more of it, neither at once nor in the long run."""
        bounds = Bounds(user_rate=Rate(5, 1.0, 20))
        self.check(bounds, user_rate=RateChange(events=5, burst=20), channel_rate=RateChange(events=1000))
        self.check(bounds, user_rate=RateChange(events=300, seconds=60, burst=20))
        for rate in (RateChange(events=6, burst=20), RateChange(events=5, burst=21)):
            self.assertIn("limits.user_publish_rate", self.refusal(bounds, user_rate=rate).text)

    def test_observing(self) -> None:
        """An app does not switch off what the server enforces."""
        self.assertIn("limits.rate_mode", self.refusal(Bounds(app_rate=Rate(5)), rate_mode="observe").text)
        self.check(rate_mode="observe")
        self.check(Bounds(app_rate=Rate(5)), rate_mode="enforce")


def replace_team(actor: Actor, team: str) -> Actor:
    """The actor with a token for this team."""
    return replace(actor, team=team)
