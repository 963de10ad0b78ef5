"""Tests for :mod:`wsock.services.jwks` and :mod:`wsock.services.jwts`, by themselves and within :class:`Auth`."""

from __future__ import annotations

import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.base import SynchronousTestCase
from tests.key_pairs import EC_KEY, ED_KEY, RSA_KEY, jwk, pem_pair, small_rsa_key, wrong_curve_key
from tests.test_services_auth import b64
from wsock.backends.memory_directory import MemoryDirectory
from wsock.errors import Code, Refused, Unavailable
from wsock.records import App, Key, Team
from wsock.services.auth import Auth, Credential
from wsock.services.fetching import FetchFailed
from wsock.services.jwks import KeySets
from wsock.services.jwts import Party, public_jwk
from wsock.testing.fakes import Now

URL = "https://id.example/jwks"
ISSUER = "https://id.example/"


class Issuer:
    """What an issuer publishes, and how often it was asked. With a ``failure`` it is away."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk("r1", RSA_KEY)]
        self.text: bytes | None = None
        self.failure: Exception | None = None
        self.gate: Deferred[None] | None = None
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        """What is at the URL."""
        self.asked.append(url)
        if self.gate is not None:
            await self.gate
        if self.failure is not None:
            raise self.failure
        return json.dumps({"keys": self.keys}).encode() if self.text is None else self.text


class KeySetsCase(SynchronousTestCase):
    """A set that one issuer publishes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = Now(self.clock, 1_800_000_000.0)
        self.issuer = Issuer()
        self.sets = KeySets(self.issuer.fetch, self.now)

    def start(self, kid: str, algorithm: str = "RS256", url: str = URL) -> Deferred[Any]:
        """Looks for a key."""
        return Deferred.fromCoroutine(self.sets.find(url, kid, algorithm))

    def has(self, kid: str, algorithm: str = "RS256") -> bool:
        """Whether the set has such a key."""
        return self.successResultOf(self.start(kid, algorithm)) is not None

    @property
    def fetches(self) -> int:
        """How often the issuer was asked."""
        return len(self.issuer.asked)


class KeySetsTests(KeySetsCase):
    """Sets, and when they are fetched."""

    def test_remembered(self) -> None:
        """A set is fetched once in an hour, however often its keys are needed."""
        for _ in range(36):
            self.assertTrue(self.has("r1"))
            self.clock.advance(99)
        self.assertEqual(self.fetches, 1)
        self.clock.advance(60)

        self.assertTrue(self.has("r1"))

        self.assertEqual(self.fetches, 2)

    def test_new_key_of_the_issuer(self) -> None:
        """A key that the issuer adds is found by the first token that names it; one that it takes out is gone."""
        self.assertTrue(self.has("r1"))
        self.issuer.keys = [jwk("r2", RSA_KEY)]
        self.clock.advance(30)

        self.assertTrue(self.has("r2"))
        self.assertFalse(self.has("r1"))
        self.assertEqual(self.fetches, 2)

    def test_flood_of_unknown_keys(self) -> None:
        """Invented keys have the set fetched every 30 seconds, not for each."""
        for n in range(1000):
            self.assertFalse(self.has(f"x{n}"))
            self.clock.advance(0.1)

        self.assertEqual(self.fetches, 4)

    def test_issuer_that_is_away(self) -> None:
        """The last good set stays good while the issuer is away, which is asked every 30 seconds."""
        self.has("r1")
        for self.issuer.failure in (FetchFailed("away"), KeyError("bug")):
            self.clock.advance(3601)
            self.assertTrue(self.has("r1"))
            self.assertTrue(self.has("r1"))
        self.assertEqual(self.fetches, 3)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.clock.advance(30)
        self.issuer.failure, self.issuer.keys = None, [jwk("r2", RSA_KEY)]

        self.assertFalse(self.has("r1"))
        self.assertEqual(self.fetches, 4)

    def test_never_fetched(self) -> None:
        """As long as no set is known nobody is told that a token is wrong, and the issuer is asked again soon."""
        self.issuer.failure = FetchFailed("away")
        self.failureResultOf(self.start("r1"), Unavailable)
        self.failureResultOf(self.start("r1"), Unavailable)
        self.assertEqual(self.fetches, 1)
        self.issuer.failure = None
        self.clock.advance(5)

        self.assertTrue(self.has("r1"))

    def test_not_a_set(self) -> None:
        """What is no set is as an issuer that is away."""
        for self.issuer.text in (
            b"",
            b"[]",
            b"{}",
            b'{"keys": [1]}',
            b'{"keys": {}}',
            b"\xff",
            b'{"keys":' + b"[" * 5000,
        ):
            self.failureResultOf(self.start("r1"), Unavailable)
            self.clock.advance(5)
        self.issuer.text, self.issuer.keys = None, [jwk(f"r{n}", ED_KEY) for n in range(101)]
        self.failureResultOf(self.start("r1", "EdDSA"), Unavailable)

    def test_fetches_at_once_are_one(self) -> None:
        """Who needs a set while it is fetched waits for that."""
        self.issuer.gate = Deferred()
        waiting = [self.start(kid) for kid in ("r1", "r1", "x")]
        waiting[0].addErrback(lambda failure: None)
        waiting[0].cancel()
        self.assertNoResult(waiting[1])

        self.issuer.gate.callback(None)

        self.assertIsNotNone(self.successResultOf(waiting[1]))
        self.assertIsNone(self.successResultOf(waiting[2]))
        self.assertEqual(self.fetches, 1)

    def test_sets_are_apart(self) -> None:
        """A key is one of its own set only."""
        self.assertTrue(self.has("r1"))
        self.issuer.keys = []

        self.assertIsNone(self.successResultOf(self.start("r1", url="https://other/")))

    def test_clock_that_is_set_back(self) -> None:
        """A clock that is set back keeps no set for longer."""
        self.has("r1")
        self.now.set(self.now() - 10_000)
        self.has("r1")

        self.assertEqual(self.fetches, 2)

    def test_end(self) -> None:
        """At the end nothing is being fetched, and who waited is told."""
        self.issuer.gate = Deferred()
        waiting = self.start("r1")

        self.successResultOf(Deferred.fromCoroutine(self.sets.stop()))

        self.failureResultOf(waiting, Unavailable)


class JwkTests(SynchronousTestCase):
    """Which keys of a set are of use."""

    def test_kinds(self) -> None:
        """Each kind of key is for one algorithm."""
        for private, algorithm in ((RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")):
            for extra in ({}, {"use": "sig"}, {"alg": algorithm}, {"key_ops": ["verify"]}):
                found = public_jwk(jwk("k", private, **extra))
                assert found is not None
                self.assertEqual((found.kid, found.algorithm), ("k", algorithm))
        self.assertIsNotNone(public_jwk(jwk("k", ED_KEY, alg="Ed25519")))

    def test_of_no_use(self) -> None:
        """Keys for something else, secrets, weak ones and nonsense are passed over."""
        good = jwk("k", RSA_KEY)
        for values in (
            {**good, "use": "enc"},
            {**good, "alg": "RS512"},
            {**good, "alg": "RSA-OAEP"},
            {**good, "alg": "HS256"},
            {**good, "alg": "none"},
            {**good, "key_ops": ["sign"]},
            {**good, "key_ops": []},
            {**good, "kid": ""},
            {**good, "kid": "x" * 256},
            {**good, "kid": 5},
            {name: value for name, value in good.items() if name != "kid"},
            {**good, "kty": "oct", "k": b64(b"secret" * 8)},
            {"kty": "oct", "k": b64(b"secret" * 8), "kid": "k", "alg": "HS256"},
            {**good, "kty": "EC"},
            {**good, "n": "AA"},
            {**good, "n": 5},
            {**good, "n": None},
            {"kty": "RSA", "kid": "k"},
            jwk("k", small_rsa_key()),
            {**jwk("k", EC_KEY), "crv": "P-384"},
            jwk("k", ED_KEY, x="AA"),
            {"kty": ["RSA"], "kid": "k"},
        ):
            self.assertIsNone(public_jwk(values), values)
        other = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(wrong_curve_key().public_key()))
        self.assertIsNone(public_jwk({**other, "kid": "k"}))
        private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY))
        self.assertIsNone(public_jwk({**private, "kid": "k"}))

    def test_sameness(self) -> None:
        """Two keys are the same when all of their text is."""
        self.assertEqual(public_jwk(jwk("k", RSA_KEY)), public_jwk(jwk("k", RSA_KEY)))
        self.assertNotEqual(public_jwk(jwk("k", ED_KEY)), public_jwk(jwk("k", ED_KEY, use="sig")))


class IssuerTests(KeySetsCase):
    """Tokens of an issuer who publishes keys."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = MemoryDirectory()
        self.successResultOf(self.directory.add([App(id="shop", name="Shop", created_at=0)]))
        self.auth = Auth(self.directory, self.now, key_sets=self.sets, cache_seconds=0)
        self.add_key("k", audience="shop")

    def add_key(self, id: str, *, audience: str | None = None, issuer: str = ISSUER, **values: Any) -> Key:
        """A key for an issuer's tokens."""
        party = Party(issuer, audience).name
        values = {"jwks_url": URL, "jwks_party": party, "issuer": issuer, "audience": audience, **values}
        key = Key(**{"id": id, "app": "shop", "name": "K", "created_at": 0, **values})
        self.successResultOf(self.directory.add([key]))
        return key

    def token(self, private: Any = RSA_KEY, algorithm: str = "RS256", kid: str = "r1", **claims: Any) -> str:
        """A token of the issuer."""
        claims = {"iss": ISSUER, "aud": "shop", "sub": "ana", **claims}
        secret = private if isinstance(private, str | bytes) else pem_pair(private)[0]
        return jwt.encode({n: v for n, v in claims.items() if v is not None}, secret, algorithm, headers={"kid": kid})

    def let_in(self, token: str) -> Credential:
        """The credential."""
        return self.successResultOf(Deferred.fromCoroutine(self.auth.credential(token=token)))

    def assert_refused(self, token: str, *words: str) -> None:
        """The token is refused."""
        refused = self.failureResultOf(Deferred.fromCoroutine(self.auth.credential(token=token)), Refused).value
        self.assertEqual(refused.code, Code.UNAUTHORIZED, refused.text)
        for word in words:
            self.assertIn(word, refused.text)

    def test_let_in(self) -> None:
        """A token of the issuer, whose kid is the issuer's own, is one of the app's."""
        self.issuer.keys = [jwk("r1", RSA_KEY), jwk("e1", EC_KEY), jwk("d1", ED_KEY)]
        for private, algorithm, kid in ((RSA_KEY, "RS256", "r1"), (EC_KEY, "ES256", "e1"), (ED_KEY, "EdDSA", "d1")):
            credential = self.let_in(self.token(private, algorithm, kid))
            self.assertEqual((credential.app, credential.key_id, credential.client_id), ("shop", "k", "ana"))
        self.assertEqual(self.fetches, 1)

    def test_parties(self) -> None:
        """Issuer and audience choose the key; one without an audience takes what no other is for."""
        self.assertEqual(self.let_in(self.token(aud=["x", "shop"])).key_id, "k")
        self.assert_refused(self.token(aud="other"), "'iss'", "'aud'")
        self.assert_refused(self.token(aud=None))
        self.assert_refused(self.token(iss="https://evil/"))
        self.assert_refused(self.token(iss=None))
        self.add_key("all")

        self.assertEqual(self.let_in(self.token(aud="other")).key_id, "all")
        self.assertEqual(self.let_in(self.token(aud=None)).key_id, "all")
        self.assertEqual(self.let_in(self.token()).key_id, "k")
        self.assert_refused(self.token(aud=[f"a{n}" for n in range(9)]), "8")

    def test_keys_of_several_teams(self) -> None:
        """A token with audiences of several teams gets in nowhere: who comes first in it must not draw it away."""
        apps = (
            App(id="spy", name="Spy", created_at=0, team="evil"),
            App(id="blog", name="Blog", created_at=0),
        )
        self.successResultOf(self.directory.add([Team(id="evil", name="E", created_at=0), *apps]))
        self.add_key("s", audience="userinfo", app="spy")
        self.add_key("b", audience="blog", app="blog")

        self.assert_refused(self.token(aud=["userinfo", "shop"]), "several teams")
        self.assert_refused(self.token(aud=["shop", "userinfo"]), "several teams")
        self.assertEqual(self.let_in(self.token(aud=["blog", "shop"])).key_id, "b")
        self.add_key("everything", app="spy")
        self.assertEqual(self.let_in(self.token()).key_id, "k")

    def test_key_id_as_kid(self) -> None:
        """The id of a key with a set gets nobody in, unless the issuer happens to call one of its keys so."""
        self.assert_refused(self.token(kid="k"))
        self.issuer.keys = [jwk("k", RSA_KEY)]
        self.clock.advance(30)

        self.assertEqual(self.let_in(self.token(kid="k")).key_id, "k")

    def test_algorithm_confusion(self) -> None:
        """What everybody may know signs nothing: neither as a secret, nor by another algorithm, nor by none."""
        public = pem_pair(RSA_KEY)[1]
        for secret in (public.encode(), json.dumps(jwk("r1", RSA_KEY)).encode()):
            for name in ("HS256", "HS512"):
                head = b64(json.dumps({"alg": name, "kid": "r1"}).encode())
                signed = f"{head}.{b64(json.dumps({'iss': ISSUER, 'aud': 'shop', 'sub': 'root'}).encode())}"
                digest = hmac.digest(secret, signed.encode(), name.replace("HS", "sha"))
                self.assert_refused(f"{signed}.{b64(digest)}", "'alg'")
        claims = b64(json.dumps({"iss": ISSUER, "aud": "shop", "sub": "root"}).encode())
        for name in ("none", "None", "", "RS384", "PS256", "ES256", "EdDSA"):
            self.assert_refused(f"{b64(json.dumps({'alg': name, 'kid': 'r1'}).encode())}.{claims}.AAAA")

    def test_secret_in_the_set(self) -> None:
        """A set that publishes a secret lets nobody in with it."""
        self.issuer.keys = [{"kty": "oct", "k": b64(b"s" * 32), "kid": "r1", "alg": "HS256"}]

        self.assert_refused(self.token("s" * 32, "HS256"), "'alg'")

    def test_one_algorithm(self) -> None:
        """A key that names an algorithm takes tokens of that one only."""
        self.issuer.keys = [jwk("r1", RSA_KEY), jwk("e1", EC_KEY)]
        self.add_key("only", audience="es", algorithm="ES256")

        self.assert_refused(self.token(aud="es"), "'alg'")
        self.assertEqual(self.let_in(self.token(EC_KEY, "ES256", "e1", aud="es")).key_id, "only")

    def test_signature(self) -> None:
        """A token that another key signed, or that was changed, is refused."""
        other = pem_pair(rsa.generate_private_key(65537, 2048))[0]
        self.assert_refused(self.token(other), "signature")
        head, _, signature = self.token().split(".")
        claims = b64(json.dumps({"iss": ISSUER, "aud": "shop", "sub": "root"}).encode())
        self.assert_refused(f"{head}.{claims}.{signature}", "signature")

    def test_key_that_the_issuer_took_out(self) -> None:
        """A token that was good is refused when its key is in the set no more."""
        token = self.token()
        self.let_in(token)
        self.issuer.keys = [jwk("r2", RSA_KEY)]
        self.clock.advance(3600)

        self.assert_refused(token)

    def test_key_that_was_replaced_under_its_name(self) -> None:
        """A kid that the issuer gives to another key is that key's."""
        token = self.token(EC_KEY, "ES256", "e1")
        self.issuer.keys = [jwk("e1", EC_KEY)]
        self.let_in(token)
        self.issuer.keys = [{**jwk("e1", EC_KEY), "x": jwk("e1", EC_KEY)["y"]}]
        self.clock.advance(3600)

        self.assert_refused(token)

    def test_revoked(self) -> None:
        """When the key is revoked no token of the issuer is good, those that were before neither."""
        token = self.token()
        self.let_in(token)
        key: Any = self.successResultOf(self.directory.find(Key, "k"))
        self.successResultOf(self.directory.replace(replace(key, is_revoked=True, jwks_party="")))

        self.assert_refused(token)

    def test_issuer_that_is_away(self) -> None:
        """Before its keys were ever fetched the client is told to try again, not that the token is wrong."""
        self.issuer.failure = FetchFailed("away")

        refused = self.failureResultOf(Deferred.fromCoroutine(self.auth.credential(token=self.token())), Refused)

        self.assertEqual(refused.value.code, Code.UNAVAILABLE)

    def test_flood(self) -> None:
        """Invented tokens do not have the set fetched for each, nor at all for other issuers."""
        for n in range(50):
            self.assert_refused(self.token(kid=f"x{n}"))
            self.assert_refused(self.token(iss=f"https://x{n}/"))

        self.assertEqual(self.issuer.asked, [URL])

    def test_without_sets(self) -> None:
        """A server that fetches nothing lets nobody in by a set."""
        self.auth = Auth(self.directory, self.now)

        self.assert_refused(self.token())
