"""Tests for :mod:`wsock.services.keys` and :mod:`wsock.services.checks`."""

from __future__ import annotations

from typing import Any

import jwt
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from tests.app_cases import AppsCase
from tests.base import SynchronousTestCase
from tests.key_pairs import EC_KEY, ED_KEY, RSA_KEY, pem_pair, small_rsa_key, wrong_curve_key
from wsock.errors import Code, Refused
from wsock.protocol.permissions import OPERATIONS, Permissions
from wsock.records import Key
from wsock.services.auth import Auth, hash_api_key
from wsock.services.keys import QUIET_SECONDS, KeyState, NewKey, _checked_permissions

ALL = {"*": ["*"]}
DAY = 86_400


class KeysCase(AppsCase):
    """Keys of the app ``shop``, made by a developer."""

    def setUp(self) -> None:
        super().setUp()
        self.dev = self.actors["dev"]
        self.auth = Auth(self.directory, self.now, cache_seconds=0)

    def make(self, **values: Any) -> NewKey:
        """A new key."""
        values = {"name": "Key", "permissions": ALL, **values}
        return self.done(self.keys.create(self.dev, "shop", **values))

    def refusal(self, code: Code = Code.BAD_REQUEST, **values: Any) -> str:
        """Making such a key is refused; returns the text."""
        values = {"name": "Key", "permissions": ALL, **values}
        return self.refused(code, self.keys.create(self.dev, "shop", **values)).text

    def id_of(self, made: NewKey) -> str:
        """The id of a key that was made."""
        return made.view.key.id

    def state(self, id: str) -> KeyState:
        """What the key is good for now."""
        return self.done(self.keys.key(self.dev, "shop", id)).state

    def is_safe(self, id: str) -> bool:
        """Whether it is safe to retire."""
        return self.done(self.keys.key(self.dev, "shop", id)).is_safe_to_retire

    def let_in(self, **given: Any) -> bool:
        """Whether the credential is good now."""
        try:
            self.successResultOf(Deferred.fromCoroutine(self.auth.credential(**given)))
        except self.failureException:
            return False
        return True


class CreateTests(KeysCase):
    """Keys that are made."""

    def test_secrets_are_shown_once(self) -> None:
        """A key lets in by its API key and by tokens of its secret; neither is in the record or the log in clear."""
        made = self.make()

        self.assertRegex(made.api_key, r"^wsk_[A-Za-z0-9_-]{43}$")
        self.assertRegex(self.id_of(made), r"^key_[0-9a-f]{16}$")
        self.assertTrue(self.let_in(key=made.api_key))
        token = jwt.encode({"sub": "ana"}, made.secret, "HS256", headers={"kid": self.id_of(made)})
        self.assertTrue(self.let_in(token=token))
        stored = self.get(Key, self.id_of(made))
        self.assertEqual(stored.api_key_hash, hash_api_key(made.api_key))
        self.assert_no_secret_in_log(made.api_key, made.secret, stored.api_key_hash)
        self.assertNotIn(made.secret, repr(made))
        self.assertEqual(self.acts(), ["key.create"])

    def test_no_two_alike(self) -> None:
        """Each key has secrets of its own."""
        first, second = self.make(), self.make()
        self.assertEqual(len({first.api_key, first.secret, second.api_key, second.secret}), 4)

    def test_longer_secrets(self) -> None:
        """The secret is as long as the hash of its algorithm (RFC 7518 section 3.2)."""
        for algorithm, size in (("HS256", 43), ("HS384", 64), ("HS512", 86)):
            self.assertEqual(len(self.make(algorithm=algorithm).secret), size)

    def test_public_keys(self) -> None:
        """With a public key nobody is shown a secret: the tokens are those of the private one."""
        for algorithm, pair in (("RS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)):
            private, public = pem_pair(pair)
            made = self.make(algorithm=algorithm, public_key=public)
            self.assertEqual(made.secret, "")
            token = jwt.encode({"sub": "a"}, private, algorithm, headers={"kid": self.id_of(made)})
            self.assertTrue(self.let_in(token=token))
            self.assertTrue(self.let_in(key=made.api_key))

    def test_keys_that_are_none(self) -> None:
        """A key that does not fit the algorithm, is too short or private is refused, and the text says what fits."""
        rsa_private, rsa_public = pem_pair(RSA_KEY)
        for algorithm, pem, word in (
            ("RS256", pem_pair(EC_KEY)[1], "RSA"),
            ("ES256", rsa_public, "P-256"),
            ("ES256", pem_pair(wrong_curve_key())[1], "P-256"),
            ("EdDSA", rsa_public, "Ed25519"),
            ("RS256", pem_pair(small_rsa_key())[1], "2048"),
            ("RS256", rsa_private, "private"),
            ("RS256", "x", "RSA"),
            ("RS256", None, "publicKey"),
            ("HS256", rsa_public, "publicKey"),
            (None, rsa_public, "publicKey"),
            ("none", None, "algorithm"),
            ("RS384", rsa_public, "algorithm"),
        ):
            self.assertIn(word, self.refusal(algorithm=algorithm, public_key=pem))
        self.assertEqual(self.done(self.directory.page(Key, {}, None, 10)).items, [])

    def test_key_set(self) -> None:
        """A key with a set of its issuer's has neither API key nor secret, and takes the issuer."""
        made = self.make(jwks_url="https://id.example/jwks", issuer="https://id.example/", audience="shop")

        self.assertEqual((made.api_key, made.secret, made.view.key.api_key_hash), ("", "", ""))
        self.assertIn("issuer", self.refusal(jwks_url="https://id.example/jwks"))
        self.assertIn("jwksUrl", self.refusal(jwks_url="http://id.example/jwks", issuer="i"))
        self.assertIn("not both", self.refusal(jwks_url="https://a", issuer="i", public_key=pem_pair(RSA_KEY)[1]))
        self.assertIn("algorithm", self.refusal(jwks_url="https://a", issuer="i", algorithm="HS256"))

    def test_one_key_for_an_issuer(self) -> None:
        """Of an issuer and an audience there is one key on the server; another audience is another key's."""
        self.make(jwks_url="https://a", issuer="i", audience="one")
        self.assertIn("audience", self.refusal(Code.CONFLICT, jwks_url="https://b", issuer="i", audience="one"))
        self.make(jwks_url="https://a", issuer="i", audience="two")
        plain = self.make(jwks_url="https://a", issuer="i")
        self.refusal(Code.CONFLICT, jwks_url="https://a", issuer="i")

        self.done(self.keys.revoke(self.dev, "shop", self.id_of(plain)))
        self.make(jwks_url="https://a", issuer="i")

    def test_issuer_of_another_team(self) -> None:
        """Of an issuer whose tokens are all for one team no other takes some; by audiences they may share it."""
        self.make(jwks_url="https://a", issuer="i")
        one = self.make(jwks_url="https://a", issuer="j", audience="one")

        def another(issuer: str, audience: str) -> Any:
            return self.keys.create(
                self.actors["mia"], "other", "K", ALL, jwks_url="https://a", issuer=issuer, audience=audience
            )

        self.assertIn("another team", self.refused(Code.CONFLICT, another("i", "users")).text)
        key = self.done(another("j", "two")).view.key.id
        moved = self.keys.update(self.actors["mia"], "other", key, issuer="i")
        self.assertIn("another team", self.refused(Code.CONFLICT, moved).text)
        self.done(self.keys.update(self.dev, "shop", self.id_of(one), issuer="i"))

    def test_values(self) -> None:
        """What is wrong is refused by the name of its field."""
        now = int(self.now() * 1000)
        for field, values in (
            ("name", {"name": " "}),
            ("permissions", {"permissions": {"*": ["write"]}}),
            ("permissions", {"permissions": {"a\nb": ["*"]}}),
            ("permissions", {"permissions": {f"p{n}": ["*"] for n in range(101)}}),
            ("clientIds", {"client_ids": ""}),
            ("issuer", {"issuer": ""}),
            ("audience", {"audience": "x" * 256}),
            ("expiresAt", {"expires_at": now}),
            ("expiresAt", {"expires_at": 10**18}),
        ):
            self.assertIn(field, self.refusal(**values))

    def test_roles(self) -> None:
        """It takes a developer; a viewer does not even see keys, to strangers there is no such app."""
        for name, code in (("vera", Code.FORBIDDEN), ("mia", Code.NOT_FOUND)):
            actor = self.actors[name]
            self.refused(code, self.keys.create(actor, "shop", "K", ALL))
            self.refused(code, self.keys.keys(actor, "shop", None, 10))
        made = self.id_of(self.make())
        for actor, app in ((self.actors["mia"], "shop"), (self.actors["mia"], "other"), (self.actors["root"], "other")):
            for work in (
                self.keys.key(actor, app, made),
                self.keys.update(actor, app, made, name="X"),
                self.keys.revoke(actor, app, made),
                self.keys.rotate(actor, app, made, 1),
                self.keys.retire(actor, app, made),
            ):
                self.refused(Code.NOT_FOUND, work)

    def test_at_most_a_hundred(self) -> None:
        """An app has a hundred good keys; those that ended don't count."""
        self.put(*(Key(id=f"k{n}", app="shop", name="K", created_at=0) for n in range(100)))
        self.assertIn("100", self.refusal(Code.LIMIT_EXCEEDED))
        self.done(self.keys.revoke(self.dev, "shop", "k1"))

        self.make()


class ChangeTests(KeysCase):
    """Keys that are changed, and revoked."""

    def test_changes(self) -> None:
        """What is given is changed, null takes away, all else stays."""
        id = self.id_of(self.make(client_ids="u-*", issuer="i", expires_at=int(self.now() * 1000) + 1000))

        view = self.done(
            self.keys.update(
                self.dev,
                "shop",
                id,
                name="New",
                permissions={"a": ["publish"]},
                issuer=None,
                expires_at=None,
                version=1,
            )
        )

        key = view.key
        self.assertEqual((key.name, key.permissions, key.client_ids), ("New", {"a": ["publish"]}, "u-*"))
        self.assertEqual((key.issuer, key.expires_at, key.version), (None, None, 2))
        self.refused(Code.CONFLICT, self.keys.update(self.dev, "shop", id, name="X", version=1))
        self.assertEqual(self.entries()[-1].details["changed"], "name, permissions, issuer, expires_at")

    def test_issuer_of_a_set(self) -> None:
        """A key with a set is found by its new issuer, and keeps having one."""
        id = self.id_of(self.make(jwks_url="https://a", issuer="i"))

        self.done(self.keys.update(self.dev, "shop", id, audience="a"))

        self.assertEqual(self.get(Key, id).jwks_party, "i\na")
        self.refused(Code.BAD_REQUEST, self.keys.update(self.dev, "shop", id, issuer=None))

    def test_expired_key_may_be_prolonged(self) -> None:
        """A key that has expired is good again when its time is changed."""
        id = self.id_of(self.make(expires_at=int(self.now() * 1000) + 1000))
        self.clock.advance(1)
        self.assertEqual(self.state(id), KeyState.EXPIRED)

        view = self.done(self.keys.update(self.dev, "shop", id, expires_at=None))

        self.assertEqual(view.state, KeyState.ACTIVE)

    def test_revoked(self) -> None:
        """A key that is revoked lets nobody in, stays in the list, and can't be brought back."""
        made = self.make()
        id = self.id_of(made)
        self.done(self.keys.revoke(self.dev, "shop", id))
        self.done(self.keys.revoke(self.dev, "shop", id))

        self.assertFalse(self.let_in(key=made.api_key))
        self.assertEqual(self.state(id), KeyState.REVOKED)
        self.assertEqual([key.id for key in self.done(self.keys.keys(self.dev, "shop", None, 10)).items], [id])
        self.refused(Code.CONFLICT, self.keys.update(self.dev, "shop", id, name="X"))
        self.refused(Code.CONFLICT, self.keys.rotate(self.dev, "shop", id, 1))
        self.refused(Code.CONFLICT, self.keys.retire(self.dev, "shop", id))
        self.assertEqual(self.acts(), ["key.create", "key.revoke"])

    def test_swept(self) -> None:
        """Thirty days after its end a key is gone; others stay."""
        ended, good = self.id_of(self.make()), self.id_of(self.make())
        self.done(self.keys.revoke(self.dev, "shop", ended))
        self.clock.advance(30 * DAY - 1)
        self.done(self.keys.sweep_sometimes())
        self.assertEqual(self.state(ended), KeyState.REVOKED)

        self.clock.advance(1)
        self.done(self.keys.sweep_sometimes())
        self.assertEqual(self.state(ended), KeyState.REVOKED, "it has looked a second ago")
        self.clock.advance(3600)
        self.done(self.keys.sweep_sometimes())

        self.refused(Code.NOT_FOUND, self.keys.key(self.dev, "shop", ended))
        self.assertEqual(self.state(good), KeyState.ACTIVE)

    def test_expired_ones(self) -> None:
        """A key that expired a month ago is gone, as one is that was ended; revoked before that, it is gone at once."""
        soon = int(self.now() * 1000) + 1000
        swept, revoked = (self.id_of(self.make(expires_at=soon)) for _ in range(2))
        self.clock.advance(1)
        self.done(self.keys.revoke(self.dev, "shop", revoked))
        self.refused(Code.NOT_FOUND, self.keys.key(self.dev, "shop", revoked))

        self.clock.advance(30 * DAY - 1)
        self.done(self.keys.sweep_sometimes())
        self.assertEqual(self.state(swept), KeyState.EXPIRED)
        self.clock.advance(3601)
        self.done(self.keys.sweep_sometimes())
        self.refused(Code.NOT_FOUND, self.keys.key(self.dev, "shop", swept))

    def test_written_down(self) -> None:
        """The audit log says what a key may do, and to what it was changed."""
        id = self.id_of(self.make(permissions={"chat": ["publish"]}))
        self.done(self.keys.update(self.dev, "shop", id, permissions={"*": ["*"]}, client_ids="u-*", expires_at=None))

        created, updated = [entry.details for entry in self.entries()]
        self.assertEqual(created["permissions"], '{"chat":["publish"]}')
        self.assertEqual(updated["permissions"], '{"*":["*"]}')
        self.assertEqual((updated["client_ids"], updated["expires_at"]), ("u-*", "null"))


class RotationTests(KeysCase):
    """Rotation without downtime."""

    def rotate(self, made: NewKey, seconds: int = DAY, **values: Any) -> NewKey:
        """The successor."""
        return self.done(self.keys.rotate(self.dev, "shop", self.id_of(made), seconds, **values))

    def test_side_by_side(self) -> None:
        """Both keys are good until the time is over, then the new one alone, which may do the same."""
        old = self.make(permissions={"a*": ["publish"]}, client_ids="u-*", issuer="i", algorithm="HS512")

        new = self.rotate(old, 100)

        kept = ("app", "name", "permissions", "client_ids", "issuer", "algorithm")
        for field in kept:
            self.assertEqual(getattr(new.view.key, field), getattr(old.view.key, field))
        self.assertEqual(len({old.api_key, new.api_key, old.secret, new.secret}), 4)
        for _ in range(2):
            self.assertTrue(self.let_in(key=old.api_key))
            self.assertTrue(self.let_in(key=new.api_key))
            self.clock.advance(49.5)
        self.clock.advance(1)
        self.assertFalse(self.let_in(key=old.api_key))
        self.assertTrue(self.let_in(key=new.api_key))
        self.assertEqual(self.state(self.id_of(old)), KeyState.RETIRED)
        self.assertEqual(self.entries()[-1].details["successor"], self.id_of(new))
        self.assert_no_secret_in_log(new.api_key, new.secret)

    def test_successors_are_the_same_publisher(self) -> None:
        """What was sent with a key and is repeated with a successor is a repetition; other keys are others."""
        old = self.make()
        second = self.rotate(old)
        third = self.rotate(second)

        identities = {made.view.key.identity for made in (old, second, third)}

        self.assertEqual(identities, {f"key:{self.id_of(old)}"})
        self.assertNotEqual(self.make().view.key.identity, old.view.key.identity)

    def test_retired(self) -> None:
        """The old key may be ended before its time; again is as once. A key without a successor can't."""
        old = self.make()
        self.refused(Code.CONFLICT, self.keys.retire(self.dev, "shop", self.id_of(old)))
        new = self.rotate(old)

        for _ in range(2):
            view = self.done(self.keys.retire(self.dev, "shop", self.id_of(old)))
            self.assertEqual(view.state, KeyState.RETIRED)

        self.assertFalse(self.let_in(key=old.api_key))
        self.assertTrue(self.let_in(key=new.api_key))
        self.assertEqual(self.acts(), ["key.create", "key.rotate", "key.retire"])

    def test_no_overlap(self) -> None:
        """Without an overlap the old key ends at once; too long a one is refused."""
        old = self.make()
        for seconds in (-1, 90 * DAY + 1):
            self.refused(Code.BAD_REQUEST, self.keys.rotate(self.dev, "shop", self.id_of(old), seconds))

        self.rotate(old, 0)

        self.assertFalse(self.let_in(key=old.api_key))

    def test_one_successor(self) -> None:
        """A key has one successor; of two rotations at once one is made, and leaves nothing of the other."""
        old = self.make()
        add = self.directory.add

        async def slow(records: Any) -> None:
            self.directory.add = add  # type: ignore[method-assign]  # the other one comes in between
            await self.keys.rotate(self.dev, "shop", self.id_of(old), 10)
            await add(records)

        self.directory.add = slow  # type: ignore[method-assign]  # as above
        self.refused(Code.CONFLICT, self.keys.rotate(self.dev, "shop", self.id_of(old), 10))

        found = self.done(self.directory.page(Key, {"app": "shop"}, None, 10)).items
        self.assertEqual(len(found), 2)
        self.assertIn(self.get(Key, self.id_of(old)).replaced_by, [key.id for key in found])
        text = self.refused(Code.CONFLICT, self.keys.rotate(self.dev, "shop", self.id_of(old), 10)).text
        self.assertIn("successor", text)

    def test_of_a_chain(self) -> None:
        """A successor may be rotated in its turn."""
        first = self.make()
        second = self.rotate(first)
        third = self.rotate(second)

        for made in (first, second, third):
            self.assertTrue(self.let_in(key=made.api_key))

    def test_public_key(self) -> None:
        """The successor of a key with a public key takes a new one; an issuer with a set rotates by itself."""
        made = self.make(algorithm="EdDSA", public_key=pem_pair(ED_KEY)[1])
        self.refused(Code.BAD_REQUEST, self.keys.rotate(self.dev, "shop", self.id_of(made), 1))
        self.assertEqual(self.rotate(made, public_key=pem_pair(ED_KEY)[1]).secret, "")
        by_set = self.make(jwks_url="https://a", issuer="i")

        text = self.refused(Code.CONFLICT, self.keys.rotate(self.dev, "shop", self.id_of(by_set), 1)).text
        self.assertIn("issuer", text)

    def test_safe_to_retire(self) -> None:
        """An old key is safe to retire when the new one is in use, and it was not for five minutes."""
        old = self.make()
        new = self.rotate(old)
        old_id, new_id = self.id_of(old), self.id_of(new)
        start = self.now()
        self.assertFalse(self.is_safe(old_id), "nobody uses the new one")

        self.used(old_id, start + 10)
        self.used(new_id, start + 5)
        self.clock.advance(QUIET_SECONDS + 20)
        self.assertFalse(self.is_safe(old_id), "the old one was used after the new one")

        self.used(new_id, start + 300)
        self.assertTrue(self.is_safe(old_id))
        self.assertFalse(self.is_safe(new_id), "it has no successor")

        self.used(old_id, self.now() - 1)
        self.used(new_id, self.now())
        self.assertFalse(self.is_safe(old_id), "the old one was used just now")
        self.clock.advance(QUIET_SECONDS - 2)
        self.assertFalse(self.is_safe(old_id))
        self.clock.advance(1)
        self.assertTrue(self.is_safe(old_id))
        self.done(self.keys.retire(self.dev, "shop", old_id))
        self.assertFalse(self.is_safe(old_id), "it is retired")

    def test_never_used(self) -> None:
        """A key that nobody ever used is safe when its successor was in use for long enough."""
        old = self.make()
        new = self.rotate(old)
        self.clock.advance(1)
        self.used(self.id_of(new), self.now())
        self.assertFalse(self.is_safe(self.id_of(old)))
        self.clock.advance(QUIET_SECONDS)

        self.assertTrue(self.is_safe(self.id_of(old)))

    def test_successor_that_is_gone(self) -> None:
        """Without its successor no key is safe to retire."""
        old = self.make()
        self.done(self.directory.remove(Key, self.id_of(self.rotate(old))))
        self.clock.advance(1000)

        self.assertFalse(self.is_safe(self.id_of(old)))

    def test_revoked_while_it_is_rotated(self) -> None:
        """A key that leaked is revoked at once, whatever overlap it had."""
        old = self.make()
        new = self.rotate(old)

        self.done(self.keys.revoke(self.dev, "shop", self.id_of(old)))

        self.assertFalse(self.let_in(key=old.api_key))
        self.assertTrue(self.let_in(key=new.api_key))
        self.assertEqual(self.state(self.id_of(old)), KeyState.REVOKED)


_names = st.sampled_from([*OPERATIONS, "*", "write", ""])


class PermissionsTests(SynchronousTestCase):
    """What permissions may be."""

    @given(st.dictionaries(st.text(max_size=300), st.lists(_names, max_size=5), max_size=120))
    def test_anything(self, rules: dict[str, list[str]]) -> None:
        """Whatever is given, it is refused by name, or means what it says and can be stored."""
        try:
            stored = _checked_permissions(rules)
        except Refused as e:
            self.assertEqual(e.code, Code.BAD_REQUEST)
            self.assertIn("permissions", e.text)
            return
        self.assertEqual(stored, rules)
        self.assertEqual(Permissions(stored).rules, Permissions(rules).rules)
        for pattern in stored:
            self.assertLessEqual(len(pattern.encode()), 255)
