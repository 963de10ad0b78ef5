"""Tests of the encryption of pushes to browsers."""

from __future__ import annotations

import hmac
import os

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.base import SynchronousTestCase
from wsock.providers.encryption import MAX_PLAINTEXT, encrypt, public_bytes, read_point
from wsock.providers.payloads import from_base64url, to_base64url


def private_key(text: str) -> EllipticCurvePrivateKey:
    """The key of that scalar in base64url."""
    return derive_private_key(int.from_bytes(from_base64url(text), "big"), SECP256R1())


def decrypt(body: bytes, key: EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """What a browser makes of it, written from RFC 8188 and RFC 8291 anew; without the delimiter."""

    def derive(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
        return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")[:length]

    salt, size, theirs = body[:16], int.from_bytes(body[16:20], "big"), body[21 : 21 + body[20]]
    assert len(body) - 21 - body[20] <= size
    shared = key.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), theirs))
    secret = derive(auth, shared, b"WebPush: info\x00" + public_bytes(key) + theirs, 32)
    nonce = derive(salt, secret, b"Content-Encoding: nonce\x00", 12)
    record = AESGCM(derive(salt, secret, b"Content-Encoding: aes128gcm\x00", 16)).decrypt(nonce, body[86:], None)
    assert record[-1:] == b"\x02"
    return record[:-1]


class EncryptTests(SynchronousTestCase):
    """The body of a push."""

    def setUp(self) -> None:
        self.browser = generate_private_key(SECP256R1())
        self.auth = os.urandom(16)

    def encrypted(self, plaintext: bytes, auth: bytes | None = None) -> bytes:
        """For that browser."""
        sender = generate_private_key(SECP256R1())
        point = public_bytes(self.browser)
        return encrypt(plaintext, point, self.auth if auth is None else auth, sender, os.urandom(16))

    def test_example_of_the_rfc(self) -> None:
        """RFC 8291, appendix A, byte for byte."""
        body = encrypt(
            b"When I grow up, I want to be a watermelon",
            from_base64url("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
            from_base64url("BTBZMqHH6r4Tts7J_aSIgg"),
            private_key("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
            from_base64url("DGv6ra1nlYgDCS1FRnbzlw"),
        )

        self.assertEqual(
            to_base64url(body),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6P"
            "Bru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        )
        self.assertEqual(
            decrypt(
                body,
                private_key("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"),
                from_base64url("BTBZMqHH6r4Tts7J_aSIgg"),
            ),
            b"When I grow up, I want to be a watermelon",
        )

    def test_sizes(self) -> None:
        """The browser gets what was sent, up to the 4096 octets that services take, in one record."""
        for length in (1, 100, MAX_PLAINTEXT):
            body = self.encrypted(b"x" * length)
            self.assertEqual(decrypt(body, self.browser, self.auth), b"x" * length)
            self.assertEqual(len(body), length + 103)

    def test_what_can_not_be_sent(self) -> None:
        """Nothing, and more than fits, and a secret of another length, which the RFC does not know."""
        for plaintext, auth in ((b"", None), (b"x" * (MAX_PLAINTEXT + 1), None), (b"x", b"x" * 15), (b"x", b"x" * 17)):
            with self.assertRaises(ValueError):
                self.encrypted(plaintext, auth)

    def test_points(self) -> None:
        """A key is an uncompressed point on the curve."""
        point = public_bytes(self.browser)
        read_point(point)
        for bad in (b"", point[:-1], point[:-1] + bytes([point[-1] ^ 1]), b"\x02" + point[1:33], b"\x05" + point[1:]):
            with self.assertRaises(ValueError):
                read_point(bad)
