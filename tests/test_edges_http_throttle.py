"""Tests for :mod:`wsock.edges.http.throttle`, and of what is limited."""

from __future__ import annotations

from tests.rest import RestCase
from wsock.config import Accounts, Config, Http, Limits

LOGIN = {"email": "admin@localhost", "password": "admin"}


class ThrottleTests(RestCase):
    config = Config(
        accounts=Accounts(logins_per_minute=3, sign_ups_per_minute=2, resets_per_minute=1, requests_per_minute=4),
        http=Http(trusted_proxies=1),
    )

    def test_logins(self) -> None:
        """So many logins a minute from an address; answers say what is left."""
        left = []
        for _ in range(3):
            answer = self.ask("POST", "/api/auth/login", LOGIN)
            left.append((answer.status, answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]))
        refused = self.ask("POST", "/api/auth/login", LOGIN)

        self.assertEqual(left, [(200, "3", "2"), (200, "3", "1"), (200, "3", "0")])
        self.assert_refused(refused, 429, "rate_limited", "accounts.logins_per_minute")
        self.assertEqual(refused.headers["x-ratelimit-remaining"], "0")
        self.assertEqual(refused.headers["retry-after"], "60")
        self.assertEqual(refused.headers["x-ratelimit-reset"], "60")

    def test_addresses(self) -> None:
        """Another address has its own; so has the next minute."""
        for _ in range(4):
            self.ask("POST", "/api/auth/login", LOGIN)
        other = self.ask("POST", "/api/auth/login", LOGIN, headers={"X-Forwarded-For": "203.0.113.5"})
        self.clock.advance(60)

        self.assertEqual(other.status, 200)
        self.assertEqual(self.ask("POST", "/api/auth/login", LOGIN).status, 200)

    def test_refresh(self) -> None:
        """Renewals of sessions count with logins: they are guesses as well."""
        for _ in range(3):
            self.ask("POST", "/api/auth/refresh", {"refreshToken": "wsf_x"})

        self.assertEqual(self.ask("POST", "/api/auth/login", LOGIN).status, 429)

    def test_sign_ups(self) -> None:
        """Sign-ups and invitations are limited together."""
        body = {"token": "wsi_x", "password": "correct horse battery", "name": "A"}
        for _ in range(2):
            self.assertEqual(self.ask("POST", "/api/auth/invitations/accept", body).status, 401)
        person = {"email": "a@example.org", "password": "correct horse battery", "name": "A"}

        self.assert_refused(
            self.ask("POST", "/api/auth/signup", person), 429, "rate_limited", "accounts.sign_ups_per_minute"
        )

    def test_resets(self) -> None:
        """Resets and their tokens are limited together."""
        self.assertEqual(self.ask("POST", "/api/auth/reset", {"email": "x@example.org"}).status, 202)
        body = {"token": "wsr_x", "password": "correct horse battery"}

        self.assert_refused(
            self.ask("POST", "/api/auth/reset/confirm", body), 429, "rate_limited", "accounts.resets_per_minute"
        )

    def test_accounts(self) -> None:
        """Each account has so many requests a minute, whichever of its sessions sends them."""
        ana = self.person("ana")
        tokens = [self.session(ana), self.session(ana)]
        left = [self.ask("GET", "/api/auth/me", token=token).headers["x-ratelimit-remaining"] for token in tokens * 2]

        self.assertEqual(left, ["3", "2", "1", "0"])
        self.assert_refused(
            self.ask("GET", "/api/auth/me", token=tokens[0]), 429, "rate_limited", "accounts.requests_per_minute"
        )
        self.assertEqual(self.ask("GET", "/api/auth/me", token=self.member("ben")).status, 200)


class NoThrottleTests(RestCase):
    config = Config(
        accounts=Accounts(logins_per_minute=0, sign_ups_per_minute=0, resets_per_minute=0, requests_per_minute=0)
    )

    def test_none(self) -> None:
        """Where a limit is 0 there is none, and answers tell of none."""
        for _ in range(50):
            answer = self.ask("POST", "/api/auth/reset", {"email": "x@example.org"})

        self.assertEqual(answer.status, 202)
        self.assertNotIn("x-ratelimit-limit", answer.headers)


class QuestionTests(RestCase):
    config = Config(limits=Limits(cluster_requests_per_minute=2))

    def test_keys(self) -> None:
        """Each key, whoever holds it, has so many questions to all nodes a minute; other requests are free."""
        for path in ("/api/channels", "/api/connections/x"):
            self.assertIn(self.ask("GET", path, token="demo").status, (200, 404))
        for method, path, body in (
            ("GET", "/api/channels", None),
            ("GET", "/api/channels/news", None),
            ("GET", "/api/connections", None),
            ("GET", "/api/connections/x", None),
            ("DELETE", "/api/connections/x", None),
            ("POST", "/api/connections/disconnect", {"clientId": "bob"}),
        ):
            refused = self.ask(method, path, body, token="demo")
            self.assert_refused(refused, 429, "rate_limited", "limits.cluster_requests_per_minute")
            self.assertEqual(refused.headers["retry-after"], "60")
        self.assert_refused(self.ask("GET", "/api/channels", token=self.memory.token(sub="bob")), 429, "rate_limited")
        self.assertEqual(self.ask("GET", "/api/channels/news/messages", token="demo").status, 200)

    def test_accounts(self) -> None:
        """So has each account, apart from the app's keys."""
        token = self.operator()
        for place in ("channels", "connections"):
            self.assertEqual(self.ask("GET", f"/api/admin/apps/demo/{place}", token=token).status, 200)
        for place in ("channels", "channels/news", "connections", "connections/x"):
            refused = self.ask("GET", f"/api/admin/apps/demo/{place}", token=token)
            self.assert_refused(refused, 429, "rate_limited", "limits.cluster_requests_per_minute")
        self.assertEqual(self.ask("GET", "/api/channels", token="demo").status, 200)
