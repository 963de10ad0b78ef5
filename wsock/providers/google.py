"""Access tokens of Google's service accounts: an assertion that the account's key signs is exchanged for one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock.interfaces import Blocked, FcmCredentials, NotSent, Posting, PushOutcome, Reply
from wsock.providers.outcomes import misconfigured, retry, retry_after

__all__ = ["AccessTokens", "NoToken", "signing_key"]

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_GOOD_FOR = 3600
_RENEWED_BEFORE = 300.0
_MAX_ACCOUNTS = 1000
_MAX_ANSWER = 16_384
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class NoToken(Exception):
    """There is no token; ``outcome`` is what that means for a push."""

    def __init__(self, outcome: PushOutcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float = _GOOD_FOR


class _Refusal(msgspec.Struct):
    error: str = ""
    error_description: str = ""


@dataclass(slots=True)
class _Account:
    key: RSAPrivateKey
    token: str = ""
    renew_at: float = 0.0
    is_asking: bool = False
    asking: Deferred[None] | None = None
    waiting: list[Deferred[str]] = field(default_factory=list)


class AccessTokens:
    """The tokens of accounts. However many ask for one at once, Google is asked once."""

    def __init__(self, posting: Posting, now: Callable[[], float]) -> None:
        self._posting = posting
        self._now = now
        self._accounts: OrderedDict[FcmCredentials, _Account] = OrderedDict()

    async def token(self, credentials: FcmCredentials) -> str:
        """A token that is good for some minutes yet. Raises :class:`NoToken`."""
        account = self._account(credentials)
        if account.token and self._now() < account.renew_at:
            return account.token
        waiting: Deferred[str] = Deferred(lambda d: account.waiting.remove(d))
        account.waiting.append(waiting)
        if not account.is_asking:
            account.is_asking = True
            # Of its own, since whoever asked first may be cancelled while the others wait.
            account.asking = Deferred.fromCoroutine(self._ask(credentials, account))
        return await waiting

    def drop(self, credentials: FcmCredentials, token: str) -> None:
        """The token was refused; another one that was given meanwhile stays."""
        account = self._accounts.get(credentials)
        if account is not None and account.token == token:
            account.token = ""

    def close(self) -> None:
        """Asks for no more; who waits for a token gets none."""
        for account in self._accounts.values():
            if account.is_asking and account.asking is not None:
                account.asking.cancel()

    async def _ask(self, credentials: FcmCredentials, account: _Account) -> None:
        outcome: str | Failure
        try:
            outcome = await self._granted(credentials, account)
        except Exception as e:
            # CancelledError too: whoever waits must hear of it.
            outcome = Failure(e if isinstance(e, NoToken) else NoToken(retry(f"no access token from Google: {e}")))
        account.is_asking = False
        waiting, account.waiting = account.waiting, []
        for one in waiting:
            one.callback(outcome)

    async def _granted(self, credentials: FcmCredentials, account: _Account) -> str:
        asked_at = self._now()
        form = {"grant_type": _GRANT, "assertion": _assertion(credentials, account.key, asked_at)}
        body = urlencode(form).encode("ascii")
        try:
            reply = await self._posting.post(
                credentials.token_uri, _FORM, body, guard=True, kind="push", max_body=_MAX_ANSWER
            )
        except Blocked as e:
            raise NoToken(misconfigured(f"the account's token_uri can't be asked: {e.reason}")) from e
        except NotSent as e:
            raise NoToken(retry(f"Google's token server can't be asked: {e.reason}")) from e
        granted = self._read(reply)
        account.token = granted.access_token
        account.renew_at = asked_at + granted.expires_in - _RENEWED_BEFORE
        return granted.access_token

    def _read(self, reply: Reply) -> _Granted:
        if reply.status == 200:
            try:
                return msgspec.json.decode(reply.body, type=_Granted)
            except msgspec.DecodeError as e:
                raise NoToken(retry("Google's token server answered something that is no token")) from e
        told = f"Google's token server answered {reply.status} {_refusal(reply.body)}"
        if reply.status == 429 or reply.status >= 500:
            raise NoToken(retry(told, retry_after(reply.headers, self._now()), for_all=True))
        # invalid_grant among them: the account or its key is deleted, or this machine's clock is wrong.
        raise NoToken(misconfigured(told))

    def _account(self, credentials: FcmCredentials) -> _Account:
        account = self._accounts.get(credentials)
        if account is None:
            try:
                account = self._accounts[credentials] = _Account(signing_key(credentials.private_key, is_known=True))
            except ValueError as e:
                raise NoToken(misconfigured(f"the account's key can't be used: {e}")) from e
            if len(self._accounts) > _MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(credentials)
        return account


def signing_key(pem: str, *, is_known: bool = False) -> RSAPrivateKey:
    """The key in the PEM. Raises ``ValueError``.

    Checking that the numbers of an RSA key make a key costs 37 ms; one that ``is_known`` was checked when it was given.
    """
    try:
        key = load_pem_private_key(pem.encode("utf-8"), password=None, unsafe_skip_rsa_key_validation=is_known)
    except (ValueError, TypeError) as e:
        # TypeError: it is encrypted.
        raise ValueError("it is no unencrypted key in PEM") from e
    if not isinstance(key, RSAPrivateKey) or key.key_size < 2048:
        raise ValueError("it is no RSA key of 2048 bits or more")
    return key


def _assertion(credentials: FcmCredentials, key: RSAPrivateKey, now: float) -> str:
    claims = {
        "iss": credentials.client_email,
        "scope": SCOPE,
        "aud": credentials.token_uri,
        "iat": int(now),
        "exp": int(now) + _GOOD_FOR,
    }
    headers = {"kid": credentials.private_key_id} if credentials.private_key_id else None
    return jwt.encode(claims, key, "RS256", headers=headers)


def _refusal(body: bytes) -> str:
    try:
        told = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return ""
    return f"{told.error} {told.error_description}".strip()
