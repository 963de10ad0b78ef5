"""Encrypts a push message for a browser (RFC 8291) as one record of the ``aes128gcm`` content coding (RFC 8188)."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["AUTH_BYTES", "MAX_PLAINTEXT", "encrypt", "public_bytes", "read_point"]

MAX_PLAINTEXT = 3993
"""What fits: services take 4096 octets, of which 86 are the header and 17 the delimiter and the tag."""

AUTH_BYTES = 16
"""The length of a subscription's authentication secret."""

_RECORD_SIZE = 4096
_LAST_RECORD = b"\x02"


def encrypt(plaintext: bytes, p256dh: bytes, auth: bytes, sender: EllipticCurvePrivateKey, salt: bytes) -> bytes:
    """The body of a push. ``sender`` and ``salt`` (16 octets) must never be used for another one.

    Raises ``ValueError`` for a plaintext that is empty or longer than :data:`MAX_PLAINTEXT`, and for a subscription's
    key or secret that is none.
    """
    if not 0 < len(plaintext) <= MAX_PLAINTEXT:
        raise ValueError(f"the message has {len(plaintext)} octets; 1 to {MAX_PLAINTEXT} fit into a push")
    if len(auth) != AUTH_BYTES:
        raise ValueError(f"the secret 'auth' has {len(auth)} octets, not {AUTH_BYTES}")
    ours = public_bytes(sender)
    shared = sender.exchange(ECDH(), read_point(p256dh))
    # RFC 8291 §3.4: what browser and sender share is bound to both of their keys ...
    secret = _hkdf(auth, shared, b"WebPush: info\x00" + p256dh + ours, 32)
    # ... and RFC 8188 §2.2, §2.3: the key and the nonce are derived from that and the salt.
    key = _hkdf(salt, secret, b"Content-Encoding: aes128gcm\x00", 16)
    nonce = _hkdf(salt, secret, b"Content-Encoding: nonce\x00", 12)
    header = salt + _RECORD_SIZE.to_bytes(4, "big") + bytes([len(ours)]) + ours
    return header + AESGCM(key).encrypt(nonce, plaintext + _LAST_RECORD, None)


def read_point(data: bytes) -> EllipticCurvePublicKey:
    """The public key P-256 that these 65 octets are. Raises ``ValueError``."""
    # cryptography reads the compressed form too, which the derivation is not defined for.
    if len(data) != 65:
        raise ValueError("the key 'p256dh' is not 65 octets long")
    return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), data)


def public_bytes(key: EllipticCurvePrivateKey) -> bytes:
    """The key's public part as an uncompressed point: 65 octets."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _hkdf(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF with SHA-256 (RFC 5869) for at most 32 octets, which need one round only: half the cost of the general."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]
