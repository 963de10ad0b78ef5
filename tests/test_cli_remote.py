"""Tests for :mod:`wsock.cli.remote`: which server is asked, with what, about which app."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli_cases import NOW, URL, SessionCase, session

ME = {"account": {"id": "acc_1", "email": "ana@example.org", "name": "Ana"}}
APPS = "/api/admin/apps"


class ServerTests(SessionCase):
    """Which server, and with which credential."""

    def setUp(self) -> None:
        super().setUp()
        self.server.answers("GET", "/api/auth/me", ME)

    def test_session(self) -> None:
        """Without options it is the server that was logged in to last, with that session."""
        self.told("whoami")

        [asked] = self.server.asked
        self.assertEqual((asked.url, asked.token), (URL, "token-1"))

    def test_option_and_variable(self) -> None:
        """The option comes before the variable, that before the session's."""
        self.told("whoami", WSOCK_URL="http://v.example", WSOCK_TOKEN="wst_v")
        self.told("whoami", "--url", "http://o.example", WSOCK_URL="http://v.example", WSOCK_TOKEN="wst_v")

        self.assertEqual(
            [(asked.url, asked.token) for asked in self.server.asked],
            [("http://v.example", "wst_v"), ("http://o.example", "wst_v")],
        )

    def test_session_is_for_its_server(self) -> None:
        """The token of one server is never sent to another one."""
        text = self.refused(1, "whoami", "--url", "http://other.example")

        self.assertIn("'wsock login'", text)
        self.assertNotIn("admin@localhost", text)
        self.assertEqual(self.server.asked, [])

    def test_not_logged_in(self) -> None:
        """Without a server it is the one on this machine, where the credentials of --dev may help."""
        self.sessions.forget(URL)

        text = self.refused(1, "whoami")

        self.assertIn("http://127.0.0.1:9001", text)
        self.assertIn("admin@localhost / admin", text)

    def test_token_file(self) -> None:
        """A token may be in a file, or on standard input."""
        path = Path(self.mktemp())
        path.write_text("wst_file\n")

        self.told("whoami", "--token-file", str(path))
        self.told("whoami", "--token-file", "-", input="wst_input\n")

        self.assertEqual([asked.token for asked in self.server.asked], ["wst_file", "wst_input"])

    def test_wrong_tokens(self) -> None:
        """A file that is not there and a token that is none are mistakes; nothing is shown of one."""
        self.assertIn("/nowhere", self.refused(2, "whoami", "--token-file", "/nowhere"))
        self.assertNotIn("hush", self.refused(2, "whoami", WSOCK_TOKEN="hush hush"))
        binary = Path(self.mktemp())
        binary.write_bytes(b"\xff\xfe")
        self.assertIn("no text", self.refused(2, "whoami", "--token-file", str(binary)))

    def test_certificates(self) -> None:
        """The certificates to trust are handed on."""
        self.told("whoami", "--cacert", "a.pem")
        self.told("whoami", WSOCK_CACERT="b.pem")

        self.assertEqual(self.server.cacerts, ["a.pem", "b.pem"])

    def test_api_key_administers_nothing(self) -> None:
        """An API key in the environment is for channels and connections only."""
        self.told("whoami", WSOCK_KEY="demo")

        self.assertEqual(self.server.asked[0].token, "token-1")

    def test_unreachable(self) -> None:
        """A server that can't be reached is a status of its own."""
        self.assertIn("nothing is scripted", self.refused(3, "app", "list"))

    def test_variables_are_no_settings(self) -> None:
        """The variables of the command do not disturb those who read settings."""
        self.told("config", WSOCK_URL="x", WSOCK_TOKEN="x", WSOCK_APP="x", WSOCK_KEY="x", WSOCK_CACERT="x")


class RenewalTests(SessionCase):
    """Sessions that are renewed."""

    def setUp(self) -> None:
        super().setUp()
        self.server.answers("GET", "/api/auth/me", ME)
        self.server.answers(
            "POST",
            "/api/auth/refresh",
            {"token": "token-2", "refreshToken": "refresh-2", "expiresAt": int((NOW + 1800) * 1000)},
        )

    def tokens(self) -> list[tuple[str, str]]:
        """What was asked, with which tokens."""
        return [(asked.path, asked.token) for asked in self.server.asked]

    def test_expired(self) -> None:
        """A token that has expired is renewed before it is used, and the next one is kept."""
        self.sessions.keep(URL, session(seconds=-1))

        self.told("whoami")

        self.assertEqual(self.tokens(), [("/api/auth/refresh", ""), ("/api/auth/me", "token-2")])
        self.assertEqual(self.server.asked[0].body, {"refreshToken": "refresh-1"})
        kept = self.sessions.session(URL)
        assert kept is not None
        self.assertEqual((kept.token, kept.refresh_token, kept.email), ("token-2", "refresh-2", "ana@example.org"))

    def test_refused(self) -> None:
        """One that the server refuses before its time is renewed, and the request made again, once."""
        self.server.answers("GET", "/api/admin/tokens", {"error": "ended", "code": "token_expired"}, 401)
        self.server.answers("GET", "/api/admin/tokens", {"items": [], "next": None})

        self.told("token", "list")

        self.assertEqual([token for _, token in self.tokens()], ["token-1", "", "token-2"])

    def test_refused_again(self) -> None:
        """When the next one is refused too, that is the answer."""
        self.server.refuses("GET", "/api/admin/tokens", 401, "unauthorized", "not you")

        self.assertIn("not you", self.refused(1, "token", "list"))

        self.assertEqual(len(self.server.asked), 3)

    def test_renewed_by_another_command(self) -> None:
        """A session that another command renewed at the same moment is taken over: a refresh token works once."""

        def other() -> float:
            self.sessions.keep(URL, session("token-3", refresh_token="refresh-3"))
            return NOW

        self.sessions.keep(URL, session(seconds=-1))
        self.now = other

        self.told("whoami")

        self.assertEqual(self.tokens(), [("/api/auth/me", "token-3")])

    def test_ended(self) -> None:
        """A session that can't be renewed is forgotten; no token is shown."""
        self.sessions.keep(URL, session(seconds=-1))
        self.server.refuses("POST", "/api/auth/refresh", 401, "unauthorized", "no")
        self.server.asked.clear()
        self.server._answers["POST", "/api/auth/refresh"].pop(0)

        text = self.refused(1, "whoami")

        self.assertIn("log in again", text)
        self.assertNotIn("refresh-1", text)
        self.assertFalse((self.home / "wsock" / "session.json").exists())


class AppTests(SessionCase):
    """Which app."""

    def setUp(self) -> None:
        super().setUp()
        for app in ("a", "b"):
            self.server.answers("GET", f"{APPS}/{app}/keys", {"items": [], "next": None})

    def test_only_one(self) -> None:
        """The only app need not be named."""
        self.server.answers("GET", APPS, {"items": [{"id": "a"}], "next": None})

        self.told("key", "list")

        self.assertEqual(self.server.asked[1].path, f"{APPS}/a/keys?limit=100")

    def test_several(self) -> None:
        """Of several one has to be named."""
        self.server.answers("GET", APPS, {"items": [{"id": "a"}, {"id": "b"}], "next": None})

        self.assertIn("--app", self.refused(2, "key", "list"))

    def test_none(self) -> None:
        """Without an app that is said."""
        self.server.answers("GET", APPS, {"items": [], "next": None})

        self.assertIn("you have no app", self.refused(2, "key", "list"))

    def test_named(self) -> None:
        """The option comes before the variable."""
        self.told("key", "list", WSOCK_APP="a")
        self.told("key", "list", "--app", "b", WSOCK_APP="a")

        self.assertEqual([asked.path.split("/")[4] for asked in self.server.asked], ["a", "b"])

    def test_environment_is_left_alone(self) -> None:
        """Nothing of this changes the environment."""
        before = dict(os.environ)
        self.told("key", "list", "--app", "a")

        self.assertEqual(dict(os.environ), before)
