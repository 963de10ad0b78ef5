"""Tests of wsock.services.rules."""

from __future__ import annotations

from typing import Any

from tests.base import SynchronousTestCase
from wsock.errors import Refused
from wsock.protocol.rates import Rate, Rates
from wsock.records import App, Key, Namespace, Plan, PlanLimits, Revocation, Revoked, Settings
from wsock.services.rules import ChannelRules, Defaults, Facts, Tenant


def make_tenant(
    settings: Settings | None = None,
    namespaces: dict[str, Settings] | None = None,
    plan: PlanLimits | None = None,
    defaults: Defaults | None = None,
    now: float = 1000.0,
    **facts: Any,
) -> Tenant:
    """An app with these settings."""
    return Tenant(
        Facts(
            app=App(id="app", name="", created_at=0, settings=settings or Settings()),
            plan=Plan(id="tiny", name="Tiny", limits=plan or PlanLimits()),
            namespaces=tuple(
                Namespace(id=pattern, app="app", pattern=pattern, created_at=0, settings=of)
                for pattern, of in (namespaces or {}).items()
            ),
            **facts,
        ),
        defaults or Defaults(),
        lambda: now,
    )


class RulesTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """Without any setting the server's own hold, and the tenant says that it has none."""
        tenant = make_tenant()

        rules = tenant.channel("chat")

        self.assertTrue(tenant.is_plain)
        self.assertFalse(tenant.is_lossy)
        self.assertIsNone(tenant.rates)
        self.assertEqual((rules.message_bytes, rules.message_bytes_by), (65_536, "limits.message_bytes"))
        self.assertEqual((rules.history, rules.presence, rules.client_publish), (True, True, True))
        self.assertEqual((rules.history_ttl_seconds, rules.recovery_seconds), (None, None))
        self.assertEqual((rules.presence_grace_seconds, rules.slow_consumer), (10.0, "disconnect"))

    def test_any_setting_is_special(self) -> None:
        """One setting of the app, of a namespace, or a bound of the plan makes it special."""
        for tenant in (
            make_tenant(Settings(presence=False)),
            make_tenant(namespaces={"chat:*": Settings(history=True)}),
            make_tenant(plan=PlanLimits(message_bytes=10)),
            make_tenant(plan=PlanLimits(history_ttl_seconds=10)),
        ):
            self.assertFalse(tenant.is_plain)
        self.assertTrue(make_tenant(plan=PlanLimits(connections=1)).is_plain)

    def test_most_special_first(self) -> None:
        """The longest literal beginning wins, a name over a pattern; each setting is sought by itself."""
        tenant = make_tenant(
            Settings(presence_grace_seconds=1, history_ttl_seconds=60, client_publish=False),
            {
                "*": Settings(presence_grace_seconds=2),
                "chat:*": Settings(presence_grace_seconds=3, message_bytes=30),
                "chat:vip*": Settings(presence_grace_seconds=4),
                "chat:vip": Settings(presence_grace_seconds=5),
                "*:vip": Settings(presence_grace_seconds=6, client_publish=True),
            },
        )

        grace = {name: tenant.channel(name).presence_grace_seconds for name in ("a", "chat:a", "chat:vip2", "chat:vip")}
        vip = tenant.channel("chat:vip")

        self.assertEqual(grace, {"a": 2, "chat:a": 3, "chat:vip2": 4, "chat:vip": 5})
        self.assertEqual((vip.message_bytes, vip.history_ttl_seconds, vip.client_publish), (30, 60, True))
        self.assertEqual(vip.message_bytes_by, "the setting message_bytes of the namespace 'chat:*'")
        self.assertFalse(tenant.channel("a").client_publish)
        self.assertEqual(tenant.channel("a").client_publish_by, "the setting client_publish of the app")

    def test_bounds(self) -> None:
        """No setting goes beyond what the server and the plan say, and the refusal names which it is."""
        server = Defaults(message_bytes=100, history_ttl_seconds=50.0, history=False)
        generous = Settings(message_bytes=500, history_ttl_seconds=500, history=True)

        def of(plan: PlanLimits | None = None) -> ChannelRules:
            return make_tenant(generous, plan=plan, defaults=server).channel("a")

        self.assertEqual((of().message_bytes, of().message_bytes_by), (100, "limits.message_bytes"))
        self.assertEqual((of().history_ttl_seconds, of().history), (50, False))
        planned = of(PlanLimits(message_bytes=20, history_ttl_seconds=5))
        self.assertEqual((planned.message_bytes, planned.history_ttl_seconds), (20, 5))
        self.assertEqual(planned.message_bytes_by, "message_bytes of the plan 'tiny'")

    def test_off(self) -> None:
        """What is switched off is refused with where that is set."""
        rules = make_tenant(namespaces={"news*": Settings(presence=False, client_publish=False)}).channel("news")

        for require in (rules.require_presence, rules.require_client_publish):
            refused = self.assertRaises(Refused, require, "news")
            self.assertIn("the namespace 'news*'", refused.text)

    def test_rates(self) -> None:
        """Rates of the app's own take the place of the server's, each by itself; a namespace's stand first."""
        default = Rates(app=Rate(1), user=Rate(2), channels=(("*", Rate(3)),))
        tenant = make_tenant(
            Settings(app_rate=Rate(10), channel_rate=Rate(30), rate_mode="observe"),
            {"chat:*": Settings(channel_rate=Rate(40))},
            defaults=Defaults(rates=default),
        )
        rates = tenant.rates
        assert rates is not None

        self.assertEqual((rates.app, rates.user), (Rate(10), Rate(2)))
        self.assertEqual((rates.channel("chat:a"), rates.channel("a")), (Rate(40), Rate(30)))
        self.assertEqual((rates.is_enforced, set(rates.own)), (False, {"app", "channel"}))

    def test_longest_history(self) -> None:
        """Messages are kept as long as any channel of the app wants them, within the bounds."""
        server = Defaults(history_ttl_seconds=100.0)

        def longest(settings: Settings, namespaces: dict[str, Settings], plan: int | None = None) -> float:
            bound = PlanLimits(history_ttl_seconds=plan)
            return make_tenant(settings, namespaces, bound, server).history_seconds()

        short, long = Settings(history_ttl_seconds=10), Settings(history_ttl_seconds=60)
        self.assertEqual(longest(short, {}), 10)
        self.assertEqual(longest(short, {"a": long}), 60)
        self.assertEqual(longest(short, {"a": Settings(history_ttl_seconds=1)}), 10)
        self.assertEqual(longest(Settings(), {"a": short}), 100)
        self.assertEqual(longest(short, {"a": Settings(history_ttl_seconds=1000)}), 100)
        self.assertEqual(longest(Settings(), {}, plan=5), 5)

    def test_revoked(self) -> None:
        """A revocation is of a token or of a client, until it ends."""

        def revocation(kind: Revoked, value: str, expires_at: int | None = None) -> Revocation:
            return Revocation(id=value, app="app", kind=kind, value=value, created_at=0, expires_at=expires_at)

        tenant = make_tenant(
            revocations=(
                revocation(Revoked.TOKEN, "t1"),
                revocation(Revoked.CLIENT, "bob", 1_000_001),
                revocation(Revoked.CLIENT, "eve", 1_000_000),
            )
        )

        self.assertTrue(tenant.is_revoked("t1", None))
        self.assertTrue(tenant.is_revoked(None, "bob"))
        for token_id, client_id in ((None, None), ("bob", "t1"), (None, "eve")):
            self.assertFalse(tenant.is_revoked(token_id, client_id))

    def test_permissions(self) -> None:
        """A key's permissions are compiled; what can't be is said."""
        key = Key(id="k", app="app", name="", created_at=0, permissions={"a": ["subscribe"]})
        broken = Key(id="b", app="app", name="", created_at=0, permissions={"a": ["fly"]})
        tenant = make_tenant()

        self.assertTrue(tenant.permissions(key).allows("subscribe", "a"))
        self.assertIs(tenant.permissions(key), tenant.permissions(key))
        self.assertIn("unknown operations", self.assertRaises(Refused, tenant.permissions, broken).text)

    def test_bounded(self) -> None:
        """However many channels there are, only so many are remembered."""
        tenant = make_tenant(Settings(history=False))
        for number in range(10_050):
            self.assertFalse(tenant.channel(f"c{number}").history)

        self.assertLessEqual(len(tenant._channels), 10_000)
