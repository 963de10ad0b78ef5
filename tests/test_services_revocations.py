"""Tests for :mod:`wsock.services.revocations`."""

from __future__ import annotations

from tests.app_cases import AppsCase
from wsock.errors import Code
from wsock.records import Revocation, Revoked


class RevocationTests(AppsCase):
    """Tokens and clients that are let in no more."""

    def test_whole_life(self) -> None:
        """Something is revoked, listed and lifted, and both acts are recorded."""
        dev = self.actors["dev"]
        made = self.done(self.revocations.revoke(dev, "shop", Revoked.CLIENT, "ana"))
        self.assertEqual(
            (made.kind, made.value, made.expires_at, made.created_by), (Revoked.CLIENT, "ana", None, "dev")
        )
        self.assertEqual(self.done(self.revocations.revocations(dev, "shop", None, 10)).items, [made])

        self.done(self.revocations.lift(dev, "shop", made.id))

        self.assertEqual(self.done(self.revocations.revocations(dev, "shop", None, 10)).items, [])
        self.assertEqual(self.acts(), ["revocation.create", "revocation.delete"])
        self.assertEqual(self.entries()[0].details, {"kind": "client", "value": "ana"})

    def test_once(self) -> None:
        """What is revoked can't be revoked again; a token and a client of the same name are two things."""
        dev = self.actors["dev"]
        self.done(self.revocations.revoke(dev, "shop", Revoked.CLIENT, "a"))
        self.refused(Code.CONFLICT, self.revocations.revoke(dev, "shop", Revoked.CLIENT, "a"))
        self.done(self.revocations.revoke(dev, "shop", Revoked.TOKEN, "a"))

    def test_expired(self) -> None:
        """One whose time is over is not listed, and is not in the way of a new one."""
        dev, now = self.actors["dev"], int(self.now() * 1000)
        self.done(self.revocations.revoke(dev, "shop", Revoked.TOKEN, "j", now + 1000))
        self.clock.advance(1)

        self.assertEqual(self.done(self.revocations.revocations(dev, "shop", None, 10)).items, [])
        made = self.done(self.revocations.revoke(dev, "shop", Revoked.TOKEN, "j"))
        self.assertEqual(self.done(self.directory.page(Revocation, {"app": "shop"}, None, 10)).items, [made])

    def test_values(self) -> None:
        """A value is what a jti or a clientId can be, a time is in the future; the text names the field."""
        dev, now = self.actors["dev"], int(self.now() * 1000)
        for value in ("", "a\nb", "x" * 256):
            work = self.revocations.revoke(dev, "shop", Revoked.CLIENT, value)
            self.assertIn("clientId", self.refused(Code.BAD_REQUEST, work).text)
        work = self.revocations.revoke(dev, "shop", Revoked.TOKEN, "j", now)
        self.assertIn("expiresAt", self.refused(Code.BAD_REQUEST, work).text)

    def test_roles(self) -> None:
        """It takes a developer of the team; another app's revocation is not there."""
        for name, code in (("vera", Code.FORBIDDEN), ("mia", Code.NOT_FOUND)):
            actor = self.actors[name]
            self.refused(code, self.revocations.revoke(actor, "shop", Revoked.CLIENT, "a"))
            self.refused(code, self.revocations.revocations(actor, "shop", None, 10))
            self.refused(code, self.revocations.lift(actor, "shop", "x"))
        made = self.done(self.revocations.revoke(self.actors["mia"], "other", Revoked.CLIENT, "a"))
        self.refused(Code.NOT_FOUND, self.revocations.lift(self.actors["root"], "shop", made.id))

    def test_at_most(self) -> None:
        """An app has no more than every node can remember."""
        self.put(
            *(
                Revocation(id=f"r{n}", app="shop", kind=Revoked.CLIENT, value=f"v{n}", created_at=0)
                for n in range(10_000)
            )
        )

        self.refused(Code.LIMIT_EXCEEDED, self.revocations.revoke(self.actors["dev"], "shop", Revoked.CLIENT, "new"))
