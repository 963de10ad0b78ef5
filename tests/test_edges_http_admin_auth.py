"""Tests for :mod:`wsock.edges.http.admin.auth`: getting in and out over HTTP."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport

from tests.accounts import PASSWORD, RecordingMail
from tests.http_client import request
from tests.rest import RestAnswer, RestCase
from wsock.config import Accounts, Config, Http
from wsock.records import Role
from wsock.services.access import Actor
from wsock.services.totp import code_at

LOGIN, REFRESH = "/api/auth/login", "/api/auth/refresh"
ADMIN = {"email": "admin@localhost", "password": "admin"}


class AuthCase(RestCase):
    def login(self, **more: Any) -> RestAnswer:
        return self.ask("POST", LOGIN, {**ADMIN, **more})

    def kept(self, answer: RestAnswer) -> dict[str, str]:
        """The cookies that a browser would send."""
        return {name: cookie.value for name, cookie in answer.cookies.items()}


class LoginTests(AuthCase):
    def test_token(self) -> None:
        """A login gives a bearer for the operations of administrators."""
        answer = self.login()

        self.assertEqual(answer.status, 200)
        self.assertEqual(set(answer.json), {"account", "expiresAt", "token", "refreshToken"})
        self.assertEqual(answer.json["account"]["id"], "admin")
        self.assertEqual(answer.cookies, {})
        self.assertEqual(self.ask("GET", "/api/admin/teams", token=answer.json["token"]).status, 200)

    def test_wrong(self) -> None:
        """A wrong password and an unknown address are refused alike, and neither is in the answer."""
        wrong = self.ask("POST", LOGIN, {**ADMIN, "password": "secret-guess"})
        unknown = self.ask("POST", LOGIN, {"email": "x@example.org", "password": "secret-guess"})

        self.assert_refused(wrong, 401, "unauthorized")
        self.assertEqual((wrong.status, wrong.json), (unknown.status, unknown.json))
        self.assertNotIn(b"secret-guess", wrong.body)

    def test_body(self) -> None:
        """A body that is wrong is refused, with the name of the field."""
        for body, *names in (
            ({"email": "a"}, "'password' is missing"),
            ({**ADMIN, "admin": True}, "'admin'", "it takes email, password, code, cookie"),
            ({**ADMIN, "password": 1}, "'password'", "expected 'str'"),
            ({**ADMIN, "password": "x" * 2000}, "'password'", "1024"),
            ([], "expected 'object'"),
            (b"{", "not JSON"),
            (b'{"email": "\\ud800", "password": ""}', "not JSON"),
            (b"\xff", "UTF-8"),
            (b"[" * 65, "nested"),
            (b"", "'email' is missing"),
        ):
            self.assert_refused(self.ask("POST", LOGIN, body), 400, "bad_request", *names)

    def test_query(self) -> None:
        """A query is refused where there is none, or names a field twice."""
        self.assert_refused(self.ask("POST", LOGIN + "?email=a", ADMIN), 400, "bad_request", "'email'", "there is none")
        self.assert_refused(self.ask("POST", LOGIN + "?a=1&a=2", ADMIN), 400, "bad_request", "'a'", "more than once")
        self.assert_refused(self.ask("POST", LOGIN + "?%FF=1", ADMIN), 400, "bad_request", "UTF-8")

    def test_totp(self) -> None:
        """When only the code is missing, programs are told so; the code then lets in."""
        token = self.member("ana")
        offer = self.ask("POST", "/api/auth/me/totp", token=token).json
        self.clock.advance(60)
        code = code_at(offer["secret"], int(self.memory.now() // 30))
        confirmation = {"secret": offer["secret"], "code": code, "password": PASSWORD}
        self.assertEqual(self.ask("POST", "/api/auth/me/totp/confirm", confirmation, token=token).status, 200)
        self.clock.advance(60)
        ana = {"email": "ana@example.org", "password": PASSWORD}
        without = self.ask("POST", LOGIN, ana)
        wrong = self.ask("POST", LOGIN, {**ana, "code": "000000"})
        right = self.ask("POST", LOGIN, {**ana, "code": code_at(offer["secret"], int(self.memory.now() // 30))})

        self.assert_refused(without, 401, "unauthorized")
        self.assertEqual(without.json["hint"], "code_needed")
        self.assertNotIn("hint", wrong.json)
        self.assertEqual(right.status, 200)
        self.assertTrue(right.json["account"]["hasTotp"])

    def test_lockout(self) -> None:
        """After 5 failures the address is locked for a while, and the answer says how long."""
        for _ in range(5):
            self.ask("POST", LOGIN, {**ADMIN, "password": "x"})
        answer = self.login()

        self.assert_refused(answer, 429, "rate_limited")
        self.assertEqual(answer.headers["retry-after"], "30")


class CookieTests(AuthCase):
    def test_cookies(self) -> None:
        """On request the tokens are cookies that no script reads and no other site makes a browser send."""
        answer = self.login(cookie=True)

        self.assertEqual(set(answer.json), {"account", "expiresAt", "csrfToken"})
        self.assertEqual(set(answer.cookies), {"wsock_session", "wsock_refresh", "wsock_csrf"})
        session, refresh, csrf = (answer.cookies[f"wsock_{name}"] for name in ("session", "refresh", "csrf"))
        for cookie in (session, refresh, csrf):
            self.assertIn("SameSite=strict", cookie.attributes)
            self.assertNotIn("Secure", cookie.attributes)
        self.assertLessEqual({"HttpOnly", "Path=/", "Max-Age=900"}, session.attributes)
        self.assertLessEqual({"HttpOnly", "Path=/api/auth", "Max-Age=1209600"}, refresh.attributes)
        self.assertLessEqual({"Path=/", "Max-Age=1209600"}, csrf.attributes)
        self.assertNotIn("HttpOnly", csrf.attributes)
        self.assertEqual(csrf.value, answer.json["csrfToken"])

    def test_reading(self) -> None:
        """With the cookie alone what is asked for is read, and nothing is changed."""
        cookies = self.kept(self.login(cookie=True))
        change = self.ask("PATCH", "/api/auth/me", {"name": "x"}, cookies=cookies)

        self.assertEqual(self.ask("GET", "/api/auth/me", cookies=cookies).status, 200)
        self.assert_refused(change, 403, "forbidden", "X-CSRF-Token")

    def test_csrf(self) -> None:
        """With the session's CSRF token it may be changed, with another session's not."""
        answer, other = self.login(cookie=True), self.login(cookie=True)
        cookies = self.kept(answer)
        for token, status in ((other.json["csrfToken"], 403), ("x", 403), (answer.json["csrfToken"], 200)):
            changed = self.ask("PATCH", "/api/auth/me", {"name": "x"}, cookies=cookies, headers={"X-CSRF-Token": token})
            self.assertEqual(changed.status, status)

    def test_forms(self) -> None:
        """A body that a form could have sent is refused, also for a login that asks for cookies."""
        answer = self.login(cookie=True)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"):
            form = {"Content-Type": kind, "X-CSRF-Token": answer.json["csrfToken"]}
            change = self.raw("PATCH", "/api/auth/me", b'{"name":"x"}', {**form, "Cookie": self.text(answer)})
            login = self.raw("POST", LOGIN, b'{"email":"admin@localhost","password":"admin","cookie":true}', form)
            bearer = self.raw("POST", LOGIN, b'{"email":"admin@localhost","password":"admin"}', form)
            self.assert_refused(change, 400, "bad_request", "application/json")
            self.assert_refused(login, 400, "bad_request", "application/json")
            self.assertEqual(bearer.status, 200)

    def test_bodies_without_a_type(self) -> None:
        """Nor is a body taken that is called nothing: scripts of other pages send those. No body needs no name."""
        answer = self.login(cookie=True)
        credentials = {"Cookie": self.text(answer), "X-CSRF-Token": answer.json["csrfToken"]}

        login = self.raw("POST", LOGIN, b'{"email":"admin@localhost","password":"admin","cookie":true}', {})
        change = self.raw("PATCH", "/api/auth/me", b'{"name":"x"}', credentials)
        logout = self.raw("POST", "/api/auth/logout", b"", credentials)

        self.assert_refused(login, 400, "bad_request", "application/json")
        self.assertEqual(login.cookies, {})
        self.assert_refused(change, 400, "bad_request", "application/json")
        self.assertEqual(logout.status, 204)

    def raw(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> RestAnswer:
        """The answer to a request whose body is called what the headers say."""
        transport: Any = StringTransport()
        channel: Any = self.server._site.buildProtocol(transport.getPeer())
        channel.makeConnection(transport)
        channel.dataReceived(
            request(method, path, key=None, headers={**headers, "Content-Length": str(len(body))}) + body
        )
        self.memory.settle()
        return RestAnswer.read(bytes(transport.value()))

    def text(self, answer: RestAnswer) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.kept(answer).items())

    def test_refresh(self) -> None:
        """The cookies are renewed by the refresh token's, which takes the CSRF token too."""
        first = self.login(cookie=True)
        cookies = self.kept(first)
        without = self.ask("POST", REFRESH, {}, cookies=cookies)
        renewed = self.ask("POST", REFRESH, {}, cookies=cookies, headers={"X-CSRF-Token": first.json["csrfToken"]})

        self.assert_refused(without, 403, "forbidden", "X-CSRF-Token")
        self.assertEqual(renewed.status, 200)
        self.assertEqual(set(renewed.json), {"account", "expiresAt", "csrfToken"})
        self.assertNotEqual(renewed.cookies["wsock_refresh"], first.cookies["wsock_refresh"])
        self.assertEqual(self.ask("GET", "/api/auth/me", cookies=self.kept(renewed)).status, 200)

    def test_logout(self) -> None:
        """Logging out ends the session, and lets the browser forget it."""
        answer = self.login(cookie=True)
        cookies, csrf = self.kept(answer), {"X-CSRF-Token": answer.json["csrfToken"]}
        out = self.ask("POST", "/api/auth/logout", cookies=cookies, headers=csrf)

        self.assertEqual((out.status, out.body), (204, b""))
        self.assertEqual({cookie.value for cookie in out.cookies.values()}, {""})
        self.assertTrue(all("Max-Age=0" in cookie.attributes for cookie in out.cookies.values()))
        self.assert_refused(self.ask("GET", "/api/auth/me", cookies=cookies), 401, "unauthorized")
        self.assert_refused(self.ask("POST", REFRESH, {}, cookies=cookies, headers=csrf), 401, "unauthorized")

    def test_me(self) -> None:
        """A page that lost its CSRF token is told it; whoever has no cookie is not."""
        answer = self.login(cookie=True)
        by_cookie = self.ask("GET", "/api/auth/me", cookies=self.kept(answer)).json
        by_bearer = self.ask("GET", "/api/auth/me", token=self.operator()).json

        self.assertEqual(by_cookie["csrfToken"], answer.json["csrfToken"])
        self.assertNotIn("csrfToken", by_bearer)

    def test_bearer_is_first(self) -> None:
        """A bearer counts more than a cookie, and what it changes takes no CSRF token."""
        cookies = self.kept(self.login(cookie=True))
        changed = self.ask("PATCH", "/api/auth/me", {"name": "x"}, token=self.member("ana"), cookies=cookies)

        self.assertEqual((changed.status, changed.json["id"]), (200, "ana"))


class SecureCookieTests(AuthCase):
    config = Config(http=Http(trusted_proxies=1))

    def test_tls(self) -> None:
        """By TLS the cookies are secure and are called so; what another name says is no cookie."""
        tls = {"X-Forwarded-Proto": "https"}
        answer = self.ask("POST", LOGIN, {**ADMIN, "cookie": True}, headers=tls)

        self.assertEqual(set(answer.cookies), {"__Host-wsock_session", "__Secure-wsock_refresh", "__Host-wsock_csrf"})
        self.assertTrue(all("Secure" in cookie.attributes for cookie in answer.cookies.values()))
        self.assertEqual(self.ask("GET", "/api/auth/me", cookies=self.kept(answer), headers=tls).status, 200)
        plain = {"wsock_session": answer.cookies["__Host-wsock_session"].value}
        self.assert_refused(self.ask("GET", "/api/auth/me", cookies=plain, headers=tls), 401, "unauthorized")

    def test_address(self) -> None:
        """The address is the one that the trusted proxy saw."""
        self.ask("POST", LOGIN, ADMIN, headers={"X-Forwarded-For": "198.51.100.9, 203.0.113.5"})
        acts = self.ask("GET", "/api/admin/audit", token=self.operator()).json["items"]

        self.assertEqual([act["ip"] for act in acts if act["action"] == "account.login"], ["203.0.113.5"])


class UntrustedTests(AuthCase):
    def test_tls(self) -> None:
        """Without a trusted proxy anybody could say so: it doesn't count."""
        answer = self.ask("POST", LOGIN, {**ADMIN, "cookie": True}, headers={"X-Forwarded-Proto": "https"})

        self.assertIn("wsock_session", answer.cookies)

    def test_address(self) -> None:
        """Nor does the address."""
        self.ask("POST", LOGIN, ADMIN, headers={"X-Forwarded-For": "203.0.113.5"})
        acts = self.ask("GET", "/api/admin/audit", token=self.operator()).json["items"]

        self.assertEqual([act["ip"] for act in acts if act["action"] == "account.login"], ["192.0.2.7"])


class SessionTests(AuthCase):
    def test_refresh(self) -> None:
        """A refresh token in the body gives the next tokens; it is good once."""
        first = self.login().json
        second = self.ask("POST", REFRESH, {"refreshToken": first["refreshToken"]})
        self.clock.advance(11)
        again = self.ask("POST", REFRESH, {"refreshToken": first["refreshToken"]})

        self.assertEqual(second.status, 200)
        self.assertNotEqual(second.json["refreshToken"], first["refreshToken"])
        self.assert_refused(again, 401, "unauthorized", "used before")
        self.assert_refused(self.ask("GET", "/api/auth/me", token=second.json["token"]), 401, "unauthorized")

    def test_refresh_without(self) -> None:
        """Without a refresh token there is nothing to renew."""
        self.assert_refused(self.ask("POST", REFRESH, {}), 401, "unauthorized", "refreshToken")

    def test_expired(self) -> None:
        """A token that has expired has a code of its own."""
        token = self.login().json["token"]
        self.clock.advance(901)

        self.assert_refused(self.ask("GET", "/api/auth/me", token=token), 401, "token_expired", "/api/auth/refresh")

    def test_logout(self) -> None:
        """Logging out ends this session and no other."""
        one, other = self.login().json["token"], self.login().json["token"]
        self.assertEqual(self.ask("POST", "/api/auth/logout", token=one).status, 204)

        self.assert_refused(self.ask("GET", "/api/auth/me", token=one), 401, "unauthorized")
        self.assertEqual(self.ask("GET", "/api/auth/me", token=other).status, 200)

    def test_logout_all(self) -> None:
        """Signing out everywhere ends them all."""
        one, other = self.login().json["token"], self.login().json["token"]
        self.clock.advance(0.01)
        self.assertEqual(self.ask("POST", "/api/auth/logout-all", token=one).status, 204)

        for token in (one, other):
            self.assert_refused(self.ask("GET", "/api/auth/me", token=token), 401, "unauthorized")
        self.assertEqual(self.ask("GET", "/api/auth/me", token=self.login().json["token"]).status, 200)

    def test_access_token(self) -> None:
        """An access token is no session to log out of."""
        made = self.ask("POST", "/api/admin/tokens", {"name": "ci"}, token=self.operator()).json

        self.assert_refused(self.ask("POST", "/api/auth/logout", token=made["token"]), 403, "forbidden", "session")

    def test_other_credentials(self) -> None:
        """An app's key or JWT is no login, and a session token is no credential of an app."""
        session = self.operator()
        for token in ("demo", self.memory.token(sub="bob"), "wst_unknown", "eyJ.e30.x"):
            self.assertEqual(self.ask("GET", "/api/auth/me", token=token).status, 401, token)

        self.assertEqual(self.ask("GET", "/api/channels/news/messages", token=session).status, 401)

    def test_anonymous(self) -> None:
        """Whoever gives nothing is told how."""
        answer = self.ask("GET", "/api/admin/teams")

        self.assert_refused(answer, 401, "unauthorized", "/api/auth/login")
        self.assertEqual(answer.headers["www-authenticate"], "Bearer")


class SignUpTests(AuthCase):
    config = Config(accounts=Accounts(open_sign_up=True))
    ana = {"email": "ana@example.org", "password": PASSWORD, "name": "Ana"}

    def test_sign_up(self) -> None:
        """Where sign-up is open, an account with its team, logged in at once."""
        answer = self.ask("POST", "/api/auth/signup", self.ana)
        teams = self.ask("GET", "/api/admin/teams", token=answer.json["token"]).json["items"]

        self.assertEqual((answer.status, answer.json["account"]["email"]), (201, "ana@example.org"))
        self.assertEqual([(team["name"], team["role"]) for team in teams], [("Ana", "owner")])
        self.assert_refused(self.ask("POST", "/api/auth/signup", self.ana), 409, "conflict")

    def test_bad_values(self) -> None:
        """What can't be taken is refused, with the reason."""
        for values, name in (({"email": "x"}, "'email'"), ({"name": ""}, "'name'"), ({"password": "short"}, "10")):
            self.assert_refused(self.ask("POST", "/api/auth/signup", {**self.ana, **values}), 400, "bad_request", name)


class InvitationTests(AuthCase):
    def setUp(self) -> None:
        super().setUp()
        self.mail = RecordingMail()
        self.server.teams._mail = self.mail
        self.server.logins._mail = self.mail
        self.person("ana")
        self.team("t", ana=Role.OWNER)

    def invite(self, email: str) -> str:
        self.done(self.server.teams.invite(Actor(account="ana"), "t", email, Role.DEVELOPER))
        return self.mail.token()

    def test_closed(self) -> None:
        """By default nobody signs up."""
        body = {"email": "x@example.org", "password": PASSWORD, "name": "X"}

        self.assert_refused(self.ask("POST", "/api/auth/signup", body), 403, "forbidden", "accounts.open_sign_up")

    def test_accept(self) -> None:
        """Who is invited gets an account in the team, once."""
        body = {"token": self.invite("ben@example.org"), "password": PASSWORD, "name": "Ben"}
        answer = self.ask("POST", "/api/auth/invitations/accept", body)
        teams = self.ask("GET", "/api/admin/teams", token=answer.json["token"]).json["items"]

        self.assertEqual((answer.status, [team["id"] for team in teams]), (201, ["t"]))
        self.assert_refused(self.ask("POST", "/api/auth/invitations/accept", body), 401, "unauthorized")

    def test_join(self) -> None:
        """Who has an account joins with it; somebody else can't."""
        ben, cid = self.member("ben"), self.member("cid")
        token = self.invite("ben@example.org")

        self.assert_refused(
            self.ask("POST", "/api/auth/invitations/join", {"token": token}, token=cid), 403, "forbidden"
        )
        joined = self.ask("POST", "/api/auth/invitations/join", {"token": token}, token=ben)
        self.assertEqual(joined.json, {"team": "t", "account": "ben", "role": "developer"})

    def test_reset(self) -> None:
        """A lost password is replaced by the token in a mail, and all sessions end."""
        session = self.member("ben")
        sent = self.ask("POST", "/api/auth/reset", {"email": "ben@example.org"})
        token = self.mail.token()
        self.clock.advance(0.01)
        body = {"token": token, "password": "another battery horse"}
        confirmed = self.ask("POST", "/api/auth/reset/confirm", body)

        self.assertEqual((sent.status, confirmed.status), (202, 204))
        self.assert_refused(self.ask("GET", "/api/auth/me", token=session), 401, "unauthorized")
        self.assert_refused(self.ask("POST", "/api/auth/reset/confirm", body), 401, "unauthorized")
        login = self.ask("POST", LOGIN, {"email": "ben@example.org", "password": "another battery horse"})
        self.assertEqual(login.status, 200)

    def test_reset_of_nobody(self) -> None:
        """The answer doesn't tell who has an account."""
        known = self.ask("POST", "/api/auth/reset", {"email": "ana@example.org"})
        unknown = self.ask("POST", "/api/auth/reset", {"email": "x@example.org"})

        self.assertEqual((known.status, known.json), (unknown.status, unknown.json))
        self.assertEqual(len(self.mail.sent), 1)
