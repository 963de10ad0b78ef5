"""Tests for :mod:`wsock.cli.session` and :mod:`wsock.cli.accounts`: logging in and out, and passwords."""

from __future__ import annotations

import json
import stat

from tests.cli_cases import NOW, URL, SessionCase

LOGIN = "/api/auth/login"
ACCOUNT = {"id": "acc_1", "email": "ana@example.org", "name": "Ana", "isOperator": True}
OPENED = {
    "account": ACCOUNT,
    "token": "token-new",
    "refreshToken": "refresh-new",
    "expiresAt": int((NOW + 900) * 1000),
}


class LoginTests(SessionCase):
    """``wsock login``."""

    def setUp(self) -> None:
        super().setUp()
        self.sessions.forget(URL)

    def test_login(self) -> None:
        """The session is kept where only its owner can read it; neither password nor token is printed."""
        self.server.answers("POST", LOGIN, OPENED)

        result = self.ask("login", "--url", "https://a.example/", "--email", "ana@example.org", input="pass word\n")

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(self.server.asked[0].body, {"email": "ana@example.org", "password": "pass word"})
        kept = self.sessions.session("https://a.example")
        assert kept is not None
        self.assertEqual((kept.token, kept.refresh_token), ("token-new", "refresh-new"))
        self.assertEqual(stat.S_IMODE((self.home / "wsock/session.json").stat().st_mode), 0o600)
        self.assertIn("logged in to https://a.example as ana@example.org", result.output)
        for secret in ("pass word", "token-new", "refresh-new"):
            self.assertNotIn(secret, result.output)

    def test_json(self) -> None:
        """Programs are told the account, and no token."""
        self.server.answers("POST", LOGIN, OPENED)

        shown = self.json("login", "--url", URL, "--email", "ana@example.org", input="x\n")

        self.assertEqual(shown, {"url": URL, "account": ACCOUNT})

    def test_second_factor(self) -> None:
        """Where only the code is missing, it is asked for, and the password not again."""
        self.server.refuses("POST", LOGIN, 401, "unauthorized", "a code is needed", hint="code_needed")
        self.server.answers("POST", LOGIN, OPENED)

        self.told("login", "--url", URL, "--email", "a@b", input="pw\n123456 \n")

        self.assertEqual(self.server.asked[1].body, {"email": "a@b", "password": "pw", "code": "123456"})

    def test_wrong(self) -> None:
        """A wrong password is refused; on this machine the credentials of --dev are told."""
        self.server.refuses("POST", LOGIN, 401, "unauthorized", "the password is wrong")

        far = self.refused(1, "login", "--url", URL, "--email", "a@b", input="pw-secret\n")
        near = self.refused(1, "login", "--url", "http://localhost:9001", "--email", "a@b", input="pw-secret\n")

        self.assertIn("the password is wrong", far)
        self.assertNotIn("admin", far)
        self.assertIn("admin@localhost / admin", near)
        self.assertNotIn("pw-secret", far + near)
        self.assertEqual(self.sessions.url, "")

    def test_in_clear(self) -> None:
        """A password that goes over a network in clear is warned of."""
        self.server.answers("POST", LOGIN, OPENED)

        for url, is_warned in ((URL, True), ("https://a.example", False), ("http://127.0.0.1:9001", False)):
            result = self.ask("login", "--url", url, "--email", "a@b", input="pw\n")
            self.assertEqual("in clear" in result.stderr, is_warned, url)

    def test_nobody_to_ask(self) -> None:
        """Without a terminal and without input it says what is missing."""
        self.assertIn("--email", self.refused(2, "login", "--url", URL))
        self.assertIn("standard input", self.refused(2, "login", "--url", URL, "--email", "a@b"))


class LogoutTests(SessionCase):
    """``wsock logout`` and ``whoami``."""

    def test_logout(self) -> None:
        """The session ends at the server and here, whatever token is in the environment."""
        self.server.answers("POST", "/api/auth/logout", None, 204)

        self.told("logout", WSOCK_TOKEN="wst_x")

        self.assertEqual(self.server.asked[0].token, "token-1")
        self.assertIsNone(self.sessions.session(URL))

    def test_everywhere(self) -> None:
        """All sessions of the account can be ended."""
        self.server.answers("POST", "/api/auth/logout-all", None, 204)

        self.assertEqual(self.json("logout", "--everywhere"), {})

    def test_ended_already(self) -> None:
        """A session that the server has ended is forgotten here as well."""
        self.server.refuses("POST", "/api/auth/logout", 401, "unauthorized")
        self.server.refuses("POST", "/api/auth/refresh", 401, "unauthorized")

        self.told("logout")

        self.assertIsNone(self.sessions.session(URL))

    def test_unreachable(self) -> None:
        """It is forgotten here too when the server can't be reached; that the server was not told is said."""
        self.assertIn("lasts until it expires", self.refused(3, "logout"))

        self.assertIsNone(self.sessions.session(URL))

    def test_refused(self) -> None:
        """When the server refuses, the session stays."""
        self.server.refuses("POST", "/api/auth/logout", 429, "rate_limited")

        self.refused(1, "logout")

        self.assertIsNotNone(self.sessions.session(URL))

    def test_whoami(self) -> None:
        """The account is shown with the server."""
        self.server.answers("GET", "/api/auth/me", {"account": ACCOUNT, "session": "ses_1"})

        self.assertIn(URL, self.told("whoami"))
        self.assertEqual(self.json("whoami")["account"], ACCOUNT)


class PasswordTests(SessionCase):
    """``wsock account password`` and ``reset``."""

    def test_own(self) -> None:
        """Changing one's password ends all sessions; that of the command goes on as the one it was given."""
        self.server.answers("POST", "/api/auth/me/password", OPENED)

        shown = self.ask("account", "password", input="old one\nnew one\n")

        self.assertEqual(shown.exit_code, 0, shown.output)
        self.assertEqual(self.server.asked[0].body, {"password": "old one", "newPassword": "new one"})
        kept = self.sessions.session(URL)
        assert kept is not None
        self.assertEqual(kept.token, "token-new")
        self.assertNotIn("token-new", shown.output)

    def test_by_access_token(self) -> None:
        """With an access token the session that is kept stays what it was."""
        self.server.answers("POST", "/api/auth/me/password", OPENED)

        shown = self.json("account", "password", input="a\nb\n", WSOCK_TOKEN="wst_x")

        self.assertEqual(shown, {"account": ACCOUNT})
        kept = self.sessions.session(URL)
        assert kept is not None
        self.assertEqual(kept.token, "token-1")

    def test_of_somebody_else(self) -> None:
        """Another one's password is not changed over the network; what to do instead is said."""
        self.assertIn("--data", self.refused(2, "account", "password", "ben@example.org"))
        self.assertIn("owner@localhost", self.refused(2, "account", "password", "--data", "."))

    def test_reset(self) -> None:
        """A token is mailed, and used with a new password, without a login."""
        self.sessions.forget(URL)
        self.server.answers("POST", "/api/auth/reset", {"isSentIfKnown": True}, 202)
        self.server.answers("POST", "/api/auth/reset/confirm", None, 204)

        self.told("account", "reset", "ana@example.org", "--url", URL)
        self.told("account", "reset", "--confirm", "--url", URL, input="wsr_1\nnew one\n")

        bodies = [asked.body for asked in self.server.asked]
        self.assertEqual(bodies, [{"email": "ana@example.org"}, {"token": "wsr_1", "password": "new one"}])
        self.assertIn("whose", self.refused(2, "account", "reset"))


class AccountTests(SessionCase):
    """``wsock account`` for operators."""

    def setUp(self) -> None:
        super().setUp()
        self.server.answers("GET", "/api/admin/accounts", {"items": [ACCOUNT], "next": None})
        for method in ("GET", "PATCH"):
            self.server.answers(method, "/api/admin/accounts/acc_1", ACCOUNT)
        self.server.answers("DELETE", "/api/admin/accounts/acc_1", None, 204)

    def test_by_address(self) -> None:
        """An account may be named by its e-mail address, whatever its case."""
        self.assertEqual(self.json("account", "show", "Ana@Example.org"), ACCOUNT)
        self.assertEqual(self.json("account", "show", "acc_1"), ACCOUNT)
        self.assertIn("nobody has", self.refused(1, "account", "show", "ben@example.org"))

    def test_changes(self) -> None:
        """Each change says what is to be otherwise, and nothing else."""
        self.told("account", "enable", "acc_1")
        self.told("account", "disable", "acc_1")
        self.told("account", "operator", "acc_1")
        self.told("account", "operator", "acc_1", "--take")
        self.told("account", "delete", "acc_1", "--yes")

        self.assertEqual(
            [asked.body for asked in self.server.asked],
            [{"isEnabled": True}, {"isEnabled": False}, {"isOperator": True}, {"isOperator": False}, None],
        )

    def test_list(self) -> None:
        """The list is a table."""
        head, line = self.told("account", "list").splitlines()

        self.assertEqual(head.split(), ["ID", "EMAIL", "NAME", "ENABLED", "OPERATOR", "CREATED"])
        self.assertEqual(line.split()[:3], ["acc_1", "ana@example.org", "Ana"])
        self.assertEqual(json.loads(self.told("account", "list", "--json"))["items"], [ACCOUNT])
