"""JWTs by themselves: their form, their signatures and their claims. Whose they are is decided elsewhere.

A signature is only ever verified with the algorithm of the key (RFC 8725 §3.1): what a token says of its own algorithm
has to agree with that, and decides nothing. Texts of refusals never hold any part of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import InvalidTokenError, PyJWS
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import InvalidKeyError
from jwt.utils import base64url_decode
from msgspec import UNSET, UnsetType

from wsock.errors import Code, Refused
from wsock.protocol.channels import check_channel

__all__ = [
    "ALGORITHMS",
    "LEEWAY_SECONDS",
    "PUBLIC_ALGORITHMS",
    "Claims",
    "Header",
    "Jwk",
    "Party",
    "Verifier",
    "check_parties",
    "check_times",
    "is_client_id",
    "parties",
    "public_jwk",
    "public_verifier",
    "read_claims",
    "read_header",
    "signed_parts",
    "unauthorized",
    "verifier",
]

ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA")
"""The JWT algorithms that a key may have; it verifies that one and no other."""

PUBLIC_ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Those of them whose verifying key may be public."""

LEEWAY_SECONDS = 30.0
"""How far the clocks of issuer and server may differ."""

Verifier = Callable[[bytes, bytes], bool]
"""Whether the second one is the signature of the first."""

_MAX_KID = 255
_MAX_AUDIENCES = 8
_MIN_RSA_BITS = 2048
_LAST_SECOND = 253_402_300_799.0  # the end of the year 9999; milliseconds of today are far beyond it

_algorithms = {name: algorithm for name, algorithm in get_default_algorithms().items() if name in ALGORITHMS}
_jws = PyJWS(algorithms=ALGORITHMS)


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that are understood (RFC 7519 §4.1); others are ignored."""

    sub: str | UnsetType = UNSET
    exp: float | UnsetType = UNSET
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    jti: str | UnsetType = UNSET
    permissions: dict[str, list[str]] | UnsetType = UNSET

    @property
    def audiences(self) -> list[str]:
        """For whom the token is."""
        if self.aud is UNSET:
            return []
        return self.aud if isinstance(self.aud, list) else [self.aud]


@dataclass(frozen=True, slots=True)
class Header:
    """What a token says of its key, not verified."""

    kid: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class Party:
    """Who issues tokens, and for whom; without an ``audience`` for everybody."""

    issuer: str
    audience: str | None

    @property
    def name(self) -> str:
        """What a key that verifies them is found by."""
        return f"{self.issuer}\n{self.audience or ''}"


@dataclass(frozen=True, slots=True)
class Jwk:
    """A public key of a set (RFC 7517), for one algorithm; two that are the same text are the same key."""

    kid: str
    algorithm: str
    text: str
    verify: Verifier = field(compare=False, repr=False)


def unauthorized(text: str) -> Refused:
    """The refusal of a credential."""
    return Refused(Code.UNAUTHORIZED, text)


def read_header(token: str) -> Header:
    """The header of a token of the right form (RFC 7515 §4.1). Raises :class:`Refused`."""
    try:
        header = _jws.get_unverified_header(token) if token.isascii() else {}
    except (InvalidTokenError, RecursionError) as e:
        raise unauthorized("the token is not a JWT in compact form") from e
    kid, alg = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise unauthorized("the token's header takes the id of its key as 'kid'")
    if not isinstance(alg, str):
        raise unauthorized("the token's header takes its algorithm as 'alg'")
    if "crit" in header or "b64" in header:
        raise unauthorized("the token's header asks for an extension that is not supported")
    return Header(kid, alg)


def signed_parts(token: str) -> tuple[bytes, bytes]:
    """What is signed, and the signature."""
    signed, _, signature = token.rpartition(".")
    return signed.encode(), base64url_decode(signature)


def read_claims(token: str) -> Claims:
    """The claims of a token of the right form, each of the right type; whether they are true is not looked at."""
    payload = base64url_decode(token.split(".")[1])
    try:
        claims = msgspec.json.decode(payload, type=Claims)
    except msgspec.ValidationError as e:
        raise unauthorized(f"the token's claims: {e}") from e
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise unauthorized("the token's claims are not a JSON object") from e
    for name in ("exp", "nbf", "iat"):
        value = getattr(claims, name)
        if value is not UNSET and not 0 < value <= _LAST_SECOND:
            raise unauthorized(f"the token's claim '{name}' takes seconds since 1970")
    if claims.sub is not UNSET and not is_client_id(claims.sub):
        raise unauthorized("the token's claim 'sub' takes 1 to 255 bytes without control characters")
    return claims


def is_client_id(text: str) -> bool:
    """Whether the text keeps to the grammar of names: 1 to 255 bytes, no control characters."""
    try:
        check_channel(text)
    except Refused:
        return False
    return True


def parties(claims: Claims) -> list[Party]:
    """What keys may be meant by who issued the token and for whom, the most special first. Raises :class:`Refused`."""
    if claims.iss is UNSET:
        return []
    if len(claims.audiences) > _MAX_AUDIENCES:
        raise unauthorized(f"the token's claim 'aud' names more than {_MAX_AUDIENCES} audiences")
    return [Party(claims.iss, audience) for audience in [*claims.audiences, None]]


def check_parties(claims: Claims, issuer: str | None, audience: str | None) -> None:
    """Refuses a token that is not from the issuer and for the audience that its key asks for."""
    if issuer is not None and claims.iss != issuer:
        raise unauthorized("the token's claim 'iss' is not the issuer that its key asks for")
    if audience is not None and audience not in claims.audiences:
        raise unauthorized("the token's claim 'aud' lacks the audience that its key asks for")


def check_times(claims: Claims, now: float) -> None:
    """Refuses a token whose time is over, or has not come."""
    if claims.exp is not UNSET and now >= claims.exp + LEEWAY_SECONDS:
        raise Refused(Code.TOKEN_EXPIRED, "the token has expired: get a new one")
    for name, value in (("nbf", claims.nbf), ("iat", claims.iat)):
        if value is not UNSET and now < value - LEEWAY_SECONDS:
            raise unauthorized(f"the token is not valid yet: its claim '{name}' is in the future")


def verifier(algorithm: str, secret: str) -> Verifier | None:
    """Verifies with a secret or a public key in PEM, or ``None`` when that can't be.

    PyJWT refuses a public key as an HMAC secret besides, so that neither the header nor a mistake in the directory lets
    a token be signed with what everybody may know.
    """
    known = _algorithms.get(algorithm)
    if known is None or not secret:
        return None
    try:
        return _with(known, known.prepare_key(secret))
    except (InvalidKeyError, ValueError, TypeError):
        return None


def public_verifier(algorithm: str, pem: str) -> Verifier:
    """Verifies with a public key in PEM. Raises :class:`Refused` that says what the key has to be."""
    if "PRIVATE" in pem:
        raise Refused(Code.BAD_REQUEST, "'publicKey' holds a private key: keep that to yourself, give its public key")
    try:
        key = _algorithms[algorithm].prepare_key(pem)
    except (InvalidKeyError, ValueError, TypeError) as e:
        raise _wrong_key(algorithm) from e
    if not _is_fit(algorithm, key):
        raise _wrong_key(algorithm)
    return _with(_algorithms[algorithm], key)


def public_jwk(values: Mapping[str, Any]) -> Jwk | None:
    """The key of a set (RFC 7517 §4), or ``None`` when it is of no use here: not for signatures, or of another kind."""
    kid = values.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        return None
    algorithm = _of_kind(values)
    if algorithm is None or values.get("use", "sig") != "sig" or "verify" not in values.get("key_ops", ["verify"]):
        return None
    if values.get("alg", algorithm) not in (algorithm, "Ed25519" if algorithm == "EdDSA" else algorithm):
        return None
    try:
        key = _algorithms[algorithm].from_jwk(dict(values))
    except (InvalidKeyError, ValueError, TypeError, KeyError):
        return None
    if not _is_fit(algorithm, key):
        return None
    text = msgspec.json.encode(values, order="deterministic").decode()
    return Jwk(kid, algorithm, text, _with(_algorithms[algorithm], key))


def _of_kind(values: Mapping[str, Any]) -> str | None:
    match values.get("kty"), values.get("crv"):
        case "RSA", None:
            return "RS256"
        case "EC", "P-256":
            return "ES256"
        case "OKP", "Ed25519":
            return "EdDSA"
    return None


def _is_fit(algorithm: str, key: Any) -> bool:
    """Whether this is a public key that the algorithm takes, and long enough (RFC 7518 §3.3, §3.4, RFC 8037)."""
    match algorithm:
        case "RS256":
            return isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS
        case "ES256":
            return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    return isinstance(key, Ed25519PublicKey)


def _wrong_key(algorithm: str) -> Refused:
    kinds = {"RS256": f"an RSA key of {_MIN_RSA_BITS} bits or more", "ES256": "a key on the curve P-256"}
    kind = kinds.get(algorithm, "an Ed25519 key")
    return Refused(Code.BAD_REQUEST, f"'publicKey' takes {kind} in PEM ('-----BEGIN PUBLIC KEY-----'), for {algorithm}")


def _with(algorithm: Any, key: Any) -> Verifier:
    def verify(signed: bytes, signature: bytes) -> bool:
        return bool(algorithm.verify(signed, key, signature))

    return verify
