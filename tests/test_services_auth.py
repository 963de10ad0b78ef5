"""Tests for :mod:`wsock.services.auth` and :mod:`wsock.services.directory_cache`."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tests.base import SynchronousTestCase
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Code, Refused, Unavailable
from wsock.interfaces import App, IDirectory, Key
from wsock.services.auth import Auth, Credential, hash_api_key
from wsock.services.directory_cache import Recent

SECRET = "a-secret-of-the-tests-with-256-bits-or-more"
NOW = 1_800_000_000.0

_rsa = rsa.generate_private_key(65537, 2048)
_ec = ec.generate_private_key(ec.SECP256R1())
_ed = ed25519.Ed25519PrivateKey.generate()


def pem_pair(private: Any) -> tuple[str, str]:
    """The private and the public key in PEM."""
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return secret.decode(), public.decode()


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(algorithm: str) -> str:
    """A token for the subject ``root``, without its signature."""
    header, claims = {"alg": algorithm, "kid": "k1"}, {"sub": "root"}
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"


class CountingDirectory(MemoryDirectory):
    """A directory in memory that remembers what it was asked, and answers late when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.stored_apps: dict[str, App] = {}
        self.stored_keys: dict[str, Key] = {}
        self.asked: list[str] = []
        self.gate: Deferred[None] | None = None
        self.failure: Exception | None = None

    async def _ask(self, name: str) -> None:
        self.asked.append(name)
        if self.gate is not None:
            await self.gate
        if self.failure is not None:
            raise self.failure

    async def app(self, id: str) -> App | None:
        """See IDirectory."""
        await self._ask(f"app {id}")
        return self.stored_apps.get(id)

    async def key(self, id: str) -> Key | None:
        """See IDirectory."""
        await self._ask(f"key {id}")
        return self.stored_keys.get(id)

    async def key_by_hash(self, api_key_hash: str) -> Key | None:
        """See IDirectory."""
        await self._ask("hash")
        return next((key for key in self.stored_keys.values() if key.api_key_hash == api_key_hash), None)


class AuthCase(SynchronousTestCase):
    """One app with one key, at a time that stands still."""

    def setUp(self) -> None:
        self.now = NOW
        self.directory = CountingDirectory()
        self.directory.stored_apps["shop"] = App(id="shop", name="Shop", created_at=0)
        self.put_key()
        self.auth = Auth(self.directory, lambda: self.now)

    def put_key(self, **changes: Any) -> Key:
        """Stores the key ``k1``, so changed."""
        fields: dict[str, Any] = {
            "id": "k1",
            "app": "shop",
            "name": "One",
            "created_at": 0,
            "api_key_hash": hash_api_key("wsk_one"),
            "algorithm": "HS256",
            "secret": SECRET,
        }
        key = Key(**(fields | changes))
        self.directory.stored_keys[key.id] = key
        return key

    def token(
        self,
        secret: Any = SECRET,
        algorithm: str = "HS256",
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token of the key ``k1``."""
        return jwt.encode(claims, secret, algorithm, headers={"kid": "k1", **(header or {})})

    def raw_token(self, payload: bytes, header: dict[str, Any] | None = None) -> str:
        """A token, well signed, with any bytes as its payload."""
        shown = json.dumps({"alg": "HS256", "kid": "k1", **(header or {})}).encode()
        signed = f"{b64(shown)}.{b64(payload)}"
        return f"{signed}.{b64(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"

    def credential(self, **given: Any) -> Credential:
        """What the service answers at once."""
        return self.successResultOf(Deferred.fromCoroutine(self.auth.credential(**given)))

    def assert_refused(self, code: Code, **given: Any) -> str:
        """The service refuses with this code and without a word of the credential; returns the text."""
        refused = self.failureResultOf(Deferred.fromCoroutine(self.auth.credential(**given)), Refused).value
        self.assertEqual(refused.code, code, refused.text)
        for secret in (given.get("key"), given.get("token"), *(given.get("token") or "").split(".")):
            if secret and len(secret) > 10:
                self.assertNotIn(secret, refused.text)
        return str(refused.text)


class ApiKeyTests(AuthCase):
    """What an API key is worth."""

    def test_directory(self) -> None:
        """The directory of these tests keeps to the contract."""
        verifyObject(IDirectory, self.directory)

    def test_retired(self) -> None:
        """A key that was replaced is good until its time has come, and connections end then."""
        self.put_key(retire_at=int(NOW * 1000) + 5000, replaced_by="k2")
        self.assertEqual(self.credential(key="wsk_one").expires_at, NOW + 5)

        self.now += 5
        self.assertIn("replaced", self.assert_refused(Code.UNAUTHORIZED, key="wsk_one"))

    def test_credential(self) -> None:
        """A key gives its app, its permissions, and an identity of its own kind."""
        self.put_key(permissions={"news": ["subscribe"]})

        credential = self.credential(key="wsk_one")

        self.assertEqual((credential.app, credential.key_id, credential.identity), ("shop", "k1", "key:k1"))
        self.assertEqual((credential.client_id, credential.subject, credential.expires_at), (None, None, None))
        self.assertTrue(credential.permissions.allows("subscribe", "news"))
        self.assertFalse(credential.permissions.allows("publish", "news"))

    def test_nothing_given(self) -> None:
        """Without a credential the text says what to give."""
        self.assertIn("?key=", self.assert_refused(Code.UNAUTHORIZED))
        self.assert_refused(Code.UNAUTHORIZED, key="", token="")

    def test_unknown_revoked_expired(self) -> None:
        """A key that is not good (any more) is unauthorized."""
        self.assert_refused(Code.UNAUTHORIZED, key="wsk_two")
        self.assert_refused(Code.UNAUTHORIZED, key="\ud800")
        self.put_key(is_revoked=True)
        self.assertIn("revoked", self.assert_refused(Code.UNAUTHORIZED, key="wsk_one"))
        self.now += 6
        self.put_key(expires_at=int(self.now * 1000))
        self.assertIn("expired", self.assert_refused(Code.UNAUTHORIZED, key="wsk_one"))

    def test_hash_is_compared(self) -> None:
        """A directory that answers with another key's record opens nothing."""
        other = self.put_key(api_key_hash=hash_api_key("other"))

        async def lax(api_key_hash: str) -> Key:
            return other

        self.directory.key_by_hash = lax  # type: ignore[method-assign]  # a fault of a directory
        self.auth = Auth(self.directory, lambda: self.now)

        self.assert_refused(Code.UNAUTHORIZED, key="wsk_one")

    def test_too_long(self) -> None:
        """A text beyond 255 characters is refused without asking the directory."""
        self.assertIn("255", self.assert_refused(Code.UNAUTHORIZED, key="k" * 256))
        self.assertEqual(self.directory.asked, [])

    def test_end_of_key_ends_credential(self) -> None:
        """The end of a key, in milliseconds, is the end of its connections, in seconds."""
        self.put_key(expires_at=int((NOW + 60) * 1000))

        self.assertEqual(self.credential(key="wsk_one").expires_at, NOW + 60)
        self.assertEqual(self.credential(token=self.token(exp=NOW + 90)).expires_at, NOW + 60)
        self.assertEqual(self.credential(token=self.token(exp=NOW + 30)).expires_at, NOW + 30)

    def test_app(self) -> None:
        """A disabled app is forbidden, a deleted one unauthorized."""
        self.directory.stored_apps["shop"] = replace(self.directory.stored_apps["shop"], is_enabled=False)
        self.assertIn("'shop' is disabled", self.assert_refused(Code.FORBIDDEN, key="wsk_one"))
        self.now += 6
        del self.directory.stored_apps["shop"]
        self.assert_refused(Code.UNAUTHORIZED, key="wsk_one")

    def test_client_id(self) -> None:
        """A clientId is given where the key's pattern allows it; any other is ignored."""
        self.assertIsNone(self.credential(key="wsk_one", client_id="bot-1").client_id)
        self.now += 6
        self.put_key(client_ids="bot-*")
        self.assertEqual(self.credential(key="wsk_one", client_id="bot-1").client_id, "bot-1")
        for refused in ("alice", "bot-\n", "bot-" + "x" * 252, ""):
            self.assertIsNone(self.credential(key="wsk_one", client_id=refused).client_id, refused)

    def test_identities_never_meet(self) -> None:
        """A subject that is spelled like a key id is another identity."""
        by_key = self.credential(key="wsk_one")
        by_token = self.credential(token=self.token(sub="k1"))

        self.assertEqual(by_token.identity, "sub:k1")
        self.assertNotEqual(by_key.identity, by_token.identity)

    def test_broken_permissions(self) -> None:
        """A key whose permissions can't be read is good for nothing."""
        self.put_key(permissions={"*": ["fly"]})

        self.assertIn("'k1' is not usable", self.assert_refused(Code.UNAUTHORIZED, key="wsk_one"))


class TokenTests(AuthCase):
    """What a JWT is worth."""

    def test_credential(self) -> None:
        """The subject is clientId and identity; ``exp`` is the end, without leeway."""
        token = self.token(sub="alice", exp=NOW + 60, jti="t1", iat=NOW, nbf=NOW, extra={"a": [1]})

        credential = self.credential(token=token)

        self.assertEqual((credential.client_id, credential.subject), ("alice", "alice"))
        self.assertEqual(credential.identity, "sub:alice")
        self.assertEqual((credential.expires_at, credential.token_id), (NOW + 60, "t1"))

    def test_no_subject(self) -> None:
        """Without a subject the client is anonymous, and its identity is the key's."""
        credential = self.credential(token=self.token())

        self.assertEqual((credential.client_id, credential.identity), (None, "key:k1"))
        self.assertIsNone(credential.expires_at)

    def test_token_wins(self) -> None:
        """Beside a token the key is not looked at, good or bad."""
        self.assertEqual(self.credential(token=self.token(sub="a"), key="bad").subject, "a")
        self.assert_refused(Code.UNAUTHORIZED, token="bad", key="wsk_one")

    def test_algorithms(self) -> None:
        """Each algorithm verifies its own signatures, and refuses those of another key."""
        for algorithm, private, other in (
            ("RS256", _rsa, rsa.generate_private_key(65537, 2048)),
            ("ES256", _ec, ec.generate_private_key(ec.SECP256R1())),
            ("EdDSA", _ed, ed25519.Ed25519PrivateKey.generate()),
        ):
            self.put_key(algorithm=algorithm, secret=pem_pair(private)[1])
            self.now += 6
            self.assertEqual(self.credential(token=self.token(private, algorithm, sub="a")).subject, "a")
            self.assert_refused(Code.UNAUTHORIZED, token=self.token(other, algorithm, sub="a"))
        for algorithm in ("HS256", "HS384", "HS512"):
            self.put_key(algorithm=algorithm, secret=SECRET * 2)
            self.now += 6
            self.assertEqual(self.credential(token=self.token(SECRET * 2, algorithm, sub="a")).subject, "a")
            self.assert_refused(Code.UNAUTHORIZED, token=self.token("x" * 64, algorithm, sub="a"))

    def test_alg_none(self) -> None:
        """A token without a signature is refused, however it spells that."""
        for name in ("none", "None", "NONE", ""):
            for tail in ("", "AA"):
                self.assert_refused(Code.UNAUTHORIZED, token=f"{unsigned(name)}.{tail}")
        self.put_key(algorithm="none")
        self.now += 6
        self.assert_refused(Code.UNAUTHORIZED, token=unsigned("none") + ".")

    def test_public_key_as_secret(self) -> None:
        """A token signed with the public key as an HMAC secret is refused, even if the directory is wrong."""
        public = pem_pair(_rsa)[1]
        signed = unsigned("HS256")
        token = f"{signed}.{b64(hmac.digest(public.encode(), signed.encode(), 'sha256'))}"

        self.put_key(algorithm="RS256", secret=public)
        self.assertIn("'alg'", self.assert_refused(Code.UNAUTHORIZED, token=token))
        self.now += 6
        self.put_key(algorithm="HS256", secret=public)
        self.assertIn("no usable", self.assert_refused(Code.UNAUTHORIZED, token=token))

    def test_algorithm_is_the_keys(self) -> None:
        """The same secret under another algorithm is refused."""
        self.assert_refused(Code.UNAUTHORIZED, token=self.token(SECRET * 2, "HS512", sub="a"))

    def test_keys_that_verify_nothing(self) -> None:
        """A key without a secret, or with one that can't be read, verifies no token; its API key is still good."""
        for changes in ({"secret": ""}, {"algorithm": ""}, {"algorithm": "ES256", "secret": "no PEM"}):
            self.put_key(**changes)
            self.now += 6
            self.assert_refused(Code.UNAUTHORIZED, token=self.token(SECRET, "HS256", sub="a"))
            self.assertEqual(self.credential(key="wsk_one").app, "shop")

    def test_wrong_curve(self) -> None:
        """ES256 takes a P-256 key."""
        private = ec.generate_private_key(ec.SECP384R1())
        self.put_key(algorithm="ES256", secret=pem_pair(private)[1])

        self.assert_refused(Code.UNAUTHORIZED, token=f"{unsigned('ES256')}.{'A' * 86}")

    def test_header(self) -> None:
        """``kid`` is required and must be known; extensions are refused."""
        for header in ({"kid": 1}, {"kid": ""}, {"kid": "k" * 256}, {"kid": "unknown"}, {"crit": ["x"]}):
            self.assert_refused(Code.UNAUTHORIZED, token=self.raw_token(b"{}", header))
        self.assert_refused(Code.UNAUTHORIZED, token=self.raw_token(b"{}", {"alg": 1}))
        self.assert_refused(Code.UNAUTHORIZED, token=self.raw_token(b"{}", {"b64": True}))
        self.assertIn("'kid'", self.assert_refused(Code.UNAUTHORIZED, token=jwt.encode({}, SECRET)))

    def test_hostile_texts(self) -> None:
        """Whatever is no JWT is unauthorized and nothing else."""
        good = self.token(sub="a")
        deep = b64(b'{"a":' + b"[" * 3000)
        for token in (
            "x",
            "..",
            "a.b.c",
            "\ud800.a.b",
            "é" + good,
            good + "\n",
            good + ".x",
            good[:-2],
            good.replace(".", ""),
            f"{deep}.{deep}.{deep}",
            "=" * 100,
            b64(b"[]") + ".e30.AA",
            "\x00" * 9,
        ):
            self.assert_refused(Code.UNAUTHORIZED, token=token)

    def test_too_long(self) -> None:
        """A token beyond 8 KiB is refused before anything is read of it."""
        self.assertIn("8192", self.assert_refused(Code.UNAUTHORIZED, token=self.token(a="x" * 8192)))
        self.assertEqual(self.directory.asked, [])

    def test_payloads(self) -> None:
        """Claims of a wrong type are refused; the text names the claim."""
        for payload, word in (
            (b'{"exp":true}', "exp"),
            (b'{"exp":"1"}', "exp"),
            (b'{"exp":null}', "exp"),
            (b'{"exp":1e400}', "exp"),
            (b'{"exp":' + b"9" * 400 + b"}", "exp"),
            (b'{"exp":1800000000000}', "'exp' takes seconds"),
            (b'{"exp":-1}', "exp"),
            (b'{"exp":0}', "exp"),
            (b'{"nbf":[]}', "nbf"),
            (b'{"iat":false}', "iat"),
            (b'{"sub":1}', "sub"),
            (b'{"sub":""}', "sub"),
            (b'{"sub":"a\\u0000b"}', "sub"),
            (b'{"sub":"' + b"x" * 256 + b'"}', "sub"),
            (b'{"jti":1}', "jti"),
            (b'{"aud":1}', "aud"),
            (b'{"permissions":[]}', "permissions"),
            (b'{"permissions":{"a":"publish"}}', "permissions"),
            (b'{"permissions":{"a":[1]}}', "permissions"),
            (b'{"permissions":{"a":["fly"]}}', "permissions"),
            (b'{"permissions":{"":[]}}', "permissions"),
            (b'{"exp":NaN}', "JSON"),
            (b'{"sub":"\\ud800"}', "JSON"),
            (b'{"sub":"\xff"}', "JSON"),
            (b'{"x":' + b"[" * 5000, "JSON"),
            (b"[]", "object"),
            (b"", "JSON"),
        ):
            text = self.assert_refused(Code.UNAUTHORIZED, token=self.raw_token(payload))
            self.assertIn(word, text, payload)

    def test_expired(self) -> None:
        """A token is refused as expired once 30 s have passed since ``exp``, and only if its signature is good."""
        token = self.token(exp=NOW)

        self.now = NOW + 29.9
        self.assertEqual(self.credential(token=token).expires_at, NOW)
        self.now = NOW + 30
        self.assert_refused(Code.TOKEN_EXPIRED, token=token)
        self.assert_refused(Code.UNAUTHORIZED, token=self.token("x" * 32, exp=NOW))

    def test_not_yet(self) -> None:
        """``nbf`` and ``iat`` may be 30 s ahead."""
        for early, good in (
            (self.token(nbf=NOW + 31), self.token(nbf=NOW + 30)),
            (self.token(iat=NOW + 31), self.token(iat=NOW + 30)),
        ):
            self.assertIn("in the future", self.assert_refused(Code.UNAUTHORIZED, token=early))
            self.assertEqual(self.credential(token=good).app, "shop")

    def test_issuer_and_audience(self) -> None:
        """They are checked when the key sets them; ``aud`` may be one or a list."""
        self.assertEqual(self.credential(token=self.token(iss="x", aud="y")).app, "shop")
        self.now += 6
        self.put_key(issuer="me", audience="you")
        for good in ("you", ["they", "you"]):
            self.assertEqual(self.credential(token=self.token(iss="me", aud=good)).app, "shop")
        for token in (self.token(aud="you"), self.token(iss="x", aud="you")):
            self.assertIn("'iss'", self.assert_refused(Code.UNAUTHORIZED, token=token))
        for token in (self.token(iss="me"), self.token(iss="me", aud=[]), self.token(iss="me", aud="yo")):
            self.assertIn("'aud'", self.assert_refused(Code.UNAUTHORIZED, token=token))

    def test_permissions_within_key(self) -> None:
        """A token never allows more than its key; without the claim it allows as much."""
        self.put_key(permissions={"room:*": ["subscribe", "publish"]})

        narrow = self.credential(token=self.token(permissions={"*": ["subscribe", "history"]})).permissions
        equal = self.credential(token=self.token()).permissions
        nothing = self.credential(token=self.token(permissions={})).permissions

        self.assertTrue(narrow.allows("subscribe", "room:1"))
        self.assertFalse(narrow.allows("publish", "room:1"))
        self.assertFalse(narrow.allows("history", "room:1"))
        self.assertFalse(narrow.allows("subscribe", "news"))
        self.assertTrue(equal.allows("publish", "room:1"))
        self.assertFalse(nothing.allows("subscribe", "room:1"))

    def test_revoked_key(self) -> None:
        """The tokens of a revoked key are refused within the time of the cache, verified before or not."""
        token = self.token(sub="a")
        self.credential(token=token)

        self.put_key(is_revoked=True)

        self.now += 5
        self.assert_refused(Code.UNAUTHORIZED, token=token)

    def test_rotated_secret(self) -> None:
        """A token that was verified with the old secret is not good with a new one."""
        token = self.token(sub="a")
        self.credential(token=token)

        self.put_key(secret="another-secret-of-the-tests-with-256-bits")

        self.now += 5
        self.assert_refused(Code.UNAUTHORIZED, token=token)


class RenewTests(AuthCase):
    """A live connection's new token."""

    def renewed(self, old: Credential, token: str) -> Deferred[Credential]:
        """The answer."""
        return Deferred.fromCoroutine(self.auth.renew(old, token))

    def test_same_subject(self) -> None:
        """The new end and the new permissions count."""
        old = self.credential(token=self.token(sub="a", exp=NOW + 10))

        new = self.successResultOf(self.renewed(old, self.token(sub="a", exp=NOW + 99, permissions={})))

        self.assertEqual((new.expires_at, new.client_id), (NOW + 99, "a"))
        self.assertFalse(new.permissions.allows("publish", "x"))

    def test_other_subject(self) -> None:
        """Another subject, or none, is forbidden."""
        old = self.credential(token=self.token(sub="a"))

        for token in (self.token(sub="b"), self.token()):
            self.assertEqual(self.failureResultOf(self.renewed(old, token), Refused).value.code, Code.FORBIDDEN)

    def test_other_app(self) -> None:
        """Another app is forbidden, for the same subject too."""
        old = self.credential(token=self.token(sub="a"))
        self.directory.stored_apps["bank"] = App(id="bank", name="Bank", created_at=0)
        self.put_key(id="k2", app="bank")
        token = self.token(header={"kid": "k2"}, sub="a")

        self.assertEqual(self.failureResultOf(self.renewed(old, token), Refused).value.code, Code.FORBIDDEN)

    def test_api_key_keeps_client_id(self) -> None:
        """A client with an API key renews with a token without a subject, and stays who it was."""
        self.put_key(client_ids="*")
        old = self.credential(key="wsk_one", client_id="bob")

        self.assertEqual(self.successResultOf(self.renewed(old, self.token())).client_id, "bob")

    def test_bad_token(self) -> None:
        """A token that is not good is refused as at connecting."""
        old = self.credential(key="wsk_one")

        code = self.failureResultOf(self.renewed(old, self.token(exp=NOW - 31)), Refused).value.code
        self.assertEqual(code, Code.TOKEN_EXPIRED)
        self.assertEqual(self.failureResultOf(self.renewed(old, ""), Refused).value.code, Code.UNAUTHORIZED)


class OriginTests(AuthCase):
    """Which pages may connect."""

    def test_origins(self) -> None:
        """An origin must fit one of the app's patterns; no origin is fine."""
        allowed = ("https://*.shop.example", "http://localhost:*")
        self.directory.stored_apps["shop"] = App(id="shop", name="S", created_at=0, allowed_origins=allowed)
        credential = self.credential(key="wsk_one")

        for origin in (None, "https://www.shop.example", "HTTPS://WWW.Shop.example", "http://localhost:3000"):
            self.auth.check_origin(credential, origin)
        for origin in ("https://shop.example", "http://www.shop.example", "null", "", "https://shop.example.evil"):
            refused = self.assertRaises(Refused, self.auth.check_origin, credential, origin)
            self.assertEqual(refused.code, Code.FORBIDDEN)

    def test_any(self) -> None:
        """By default every origin may."""
        self.auth.check_origin(self.credential(key="wsk_one"), "null")


class CacheTests(AuthCase):
    """What is remembered."""

    def test_lookups_are_remembered(self) -> None:
        """Within 5 s the directory is asked once, for what there is and for what there is not."""
        for _ in range(3):
            self.credential(key="wsk_one")
            self.assert_refused(Code.UNAUTHORIZED, key="unknown")
        self.assertEqual(self.directory.asked, ["hash", "app shop", "hash"])

        self.now += 5
        self.credential(key="wsk_one")
        self.assert_refused(Code.UNAUTHORIZED, key="unknown")
        self.assertEqual(len(self.directory.asked), 6)

    def test_clock_that_goes_back(self) -> None:
        """What was remembered in the future is asked again."""
        self.credential(key="wsk_one")

        self.now -= 3600
        self.credential(key="wsk_one")

        self.assertEqual(self.directory.asked.count("hash"), 2)

    def test_invented_keys_displace_no_real_one(self) -> None:
        """A flood of unknown keys is bounded and leaves the known ones remembered."""
        self.auth = Auth(self.directory, lambda: self.now, cache_size=4)
        self.credential(key="wsk_one")
        for n in range(20):
            self.assert_refused(Code.UNAUTHORIZED, key=f"invented-{n}")
        del self.directory.asked[:]

        self.credential(key="wsk_one")

        self.assertEqual(self.directory.asked, [])

    def test_connect_storm(self) -> None:
        """Look-ups of one key that run at once are one; one that gives up takes none along."""
        self.directory.gate = Deferred()
        waiting = [Deferred.fromCoroutine(self.auth.credential(key="wsk_one")) for _ in range(50)]
        waiting[0].cancel()
        self.failureResultOf(waiting.pop(0))

        self.directory.gate.callback(None)

        self.assertEqual({self.successResultOf(d).app for d in waiting}, {"shop"})
        self.assertEqual(self.directory.asked, ["hash", "app shop"])

    def test_directory_away(self) -> None:
        """An outage reaches all who wait, and is forgotten when it is over."""
        self.directory.gate = Deferred()
        self.directory.failure = Unavailable("the directory is away")
        waiting = [Deferred.fromCoroutine(self.auth.credential(key="wsk_one")) for _ in range(2)]
        self.directory.gate.callback(None)
        for result in waiting:
            self.failureResultOf(result, Unavailable)

        self.directory.failure = None

        self.assertEqual(self.credential(key="wsk_one").app, "shop")

    def test_recent(self) -> None:
        """The entry that was used longest ago goes first."""
        recent: Recent[str, int] = Recent(2)
        recent.put("a", 1)
        recent.put("b", 2)
        recent.get("a")

        recent.put("c", 3)

        self.assertEqual((recent.get("a"), recent.get("b"), recent.get("c")), (1, None, 3))
        self.assertEqual(len(recent), 2)
