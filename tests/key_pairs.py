"""Key pairs for the tests of tokens, made once."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import get_default_algorithms

__all__ = ["EC_KEY", "ED_KEY", "RSA_KEY", "jwk", "pem_pair", "small_rsa_key", "wrong_curve_key"]

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def small_rsa_key() -> Any:
    """An RSA key that is too short today."""
    return rsa.generate_private_key(65537, 1024)


def wrong_curve_key() -> Any:
    """A key on another curve than ES256 has."""
    return ec.generate_private_key(ec.SECP384R1())


def pem_pair(private: Any) -> tuple[str, str]:
    """The private and the public key in PEM."""
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return secret.decode(), public.decode()


def jwk(kid: str, private: Any, **values: Any) -> dict[str, Any]:
    """The public key as a JWK of this id."""
    names = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    [algorithm] = [name for kind, name in names.items() if isinstance(private, kind)]
    made: dict[str, Any] = json.loads(get_default_algorithms()[algorithm].to_jwk(private.public_key()))
    return {**made, "kid": kid, **values}
