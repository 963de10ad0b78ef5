"""Proving who one is: passwords, one-time codes, and what to do when a password is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsock.errors import Code, Refused
from wsock.interfaces import IDirectory, IMailSender, Mail
from wsock.records import Account, DashboardSession, ResetToken
from wsock.services.access import Access, Actor
from wsock.services.attempts import LoginAttempts
from wsock.services.audit import Audit
from wsock.services.changes import change, remove_all
from wsock.services.passwords import Passwords, check_password
from wsock.services.tokens import hash_token, new_token
from wsock.services.totp import accepted_step, new_secret, secret_uri

__all__ = ["CodeNeeded", "Logins", "TotpOffer"]

RESET_SECONDS = 3600
_RESET_PAUSE_SECONDS = 60
_MAX_EMAIL, _MAX_PASSWORD = 320, 1024
_MAX_SENDING = 100


class CodeNeeded(Refused):
    """The password is right; the account's second factor has to be given with it."""

    def __init__(self) -> None:
        super().__init__(Code.UNAUTHORIZED, "this account has a second factor: give the code of its app as well")


@dataclass(frozen=True, slots=True, repr=False)
class TotpOffer:
    """The secret of a second factor that is not in use yet, and the URI that apps read from a QR code."""

    secret: str
    uri: str


class Logins:
    """Lets people in, and lets them change what they get in with.

    ``url`` is where the dashboard is, for the links in mails; ``now`` is the time in seconds, ``random`` gives that
    many unpredictable bytes. Wrong passwords are counted, see :class:`wsock.services.attempts.LoginAttempts`.
    """

    _log = Logger()

    def __init__(
        self,
        directory: IDirectory,
        passwords: Passwords,
        mail: IMailSender,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        url: str = "",
    ) -> None:
        self._directory = directory
        self._passwords = passwords
        self._mail = mail
        self._audit = audit
        self._now = now
        self._random = random
        self._url = url.rstrip("/")
        self._access = Access(directory)
        self._attempts = LoginAttempts(directory, now)
        self._sending: set[Deferred[None]] = set()

    async def log_in(self, email: str, password: str, code: str | None = None, *, ip: str = "") -> Account:
        """The account, if the password is its own, and the code too where it has a second factor.

        Raises :class:`CodeNeeded` when only the code is missing, :class:`Refused` with ``unauthorized`` when something
        is wrong, ``forbidden`` for an account that is disabled, ``rate_limited`` while the address is locked. It takes
        as long when there is no such account.
        """
        account = await self._prove(email, password, ip)
        if account.totp_secret:
            if not code:
                await self._attempts.take_back(email)
                raise CodeNeeded
            await self._check_code(account, account.totp_secret, code, ip)
        await self._attempts.succeed(email)
        if not account.is_enabled:
            raise Refused(Code.FORBIDDEN, "this account is disabled: ask the operator of the server")
        if self._passwords.is_outdated(account.password_hash):
            account = await self._hash_anew(account, password)
        await self._audit.record(Actor.of(account, ip), "account.login", target=account.id)
        return account

    async def change_password(self, actor: Actor, old: str, new: str) -> Account:
        """Replaces the password by another one and ends all sessions. Raises :class:`Refused`, as a login does."""
        account = await self._own(actor)
        check_password(new, account.email)
        await self._prove(account.email, old, actor.ip)
        await self._attempts.succeed(account.email)
        account = await self._new_password(account.id, new)
        await self._audit.record(actor, "account.password", target=account.id)
        return account

    def request_reset(self, email: str, *, ip: str = "") -> None:
        """Sends a token to the address, if an account has it; whether one does is not told, nor by the time it takes.

        At most one a minute for each account; it is good for an hour. What goes wrong is logged.
        """
        if len(self._sending) >= _MAX_SENDING:
            raise Refused(Code.RATE_LIMITED, "too many resets at once: try again in 5 s", retry_after=5.0)
        sending = Deferred.fromCoroutine(self._send_reset(email, ip))
        self._sending.add(sending)
        sending.addErrback(self._not_sent).addBoth(lambda _: self._sending.discard(sending))

    async def stop(self) -> None:
        """Waits for the mails that are being sent."""
        await gatherResults([_end_of(sending) for sending in self._sending])

    async def _send_reset(self, email: str, ip: str) -> None:
        account = await self._directory.account_by_email(email) if len(email) <= _MAX_EMAIL else None
        if account is None or not account.is_enabled or await self._has_fresh_reset(account):
            return
        token, now = new_token(self._random, "wsr"), self._milliseconds()
        reset = ResetToken(
            id=f"res_{self._random(8).hex()}",
            account=account.id,
            token_hash=hash_token(token),
            created_at=now,
            expires_at=now + RESET_SECONDS * 1000,
        )
        await self._directory.add([reset])
        await self._audit.record(Actor(account="", ip=ip), "account.reset_request", target=account.id)
        where = f"open {self._url}/reset?token={token}" if self._url else f"use this token: {token}"
        text = (
            f"Somebody, hopefully you, has lost the password of {account.email}.\n\nTo set a new one, {where}\n\n"
            "It works once, for an hour. If it was not you, do nothing: the password stays as it is.\n"
        )
        await self._mail.send(Mail(to=account.email, subject="Set a new password", text=text))

    def _not_sent(self, failure: Failure) -> None:
        self._log.failure("the reset of a password can't be sent", failure=failure)

    async def reset_password(self, token: str, password: str, *, ip: str = "") -> Account:
        """Sets the password of the account that the token was sent to, ends its sessions, and lifts a lock.

        Raises :class:`Refused` with ``unauthorized`` for a token that is not good (any more).
        """
        known = await self._directory.find_by(ResetToken, "token_hash", hash_token(token))
        account = None if known is None else await self._directory.find(Account, known.account)
        if known is None or account is None or known.expires_at <= self._milliseconds():
            raise _bad_reset()
        check_password(password, account.email)
        if not await self._directory.remove(ResetToken, known.id):
            raise _bad_reset()  # somebody was faster
        account = await self._new_password(account.id, password)
        await self._attempts.succeed(account.email)
        await self._audit.record(Actor(account=account.id, ip=ip), "account.reset", target=account.id)
        return account

    async def sign_out_everywhere(self, actor: Actor) -> Account:
        """Ends all sessions of the actor's account: none that began before now is good any more."""
        account = await self._own(actor)
        account = await self._end_sessions(account.id)
        await self._audit.record(actor, "account.sign_out", target=account.id)
        return account

    # The second factor.

    async def offer_totp(self, actor: Actor, issuer: str = "wsock") -> TotpOffer:
        """A new secret for an app; it is in use once :meth:`enable_totp` has seen a code of it."""
        account = await self._own(actor)
        secret = new_secret(self._random)
        return TotpOffer(secret, secret_uri(secret, account.email, issuer))

    async def enable_totp(self, actor: Actor, secret: str, code: str, password: str) -> Account:
        """From now on logins take a code of this secret as well. Raises :class:`Refused` when the code is not its."""
        account = await self._own(actor)
        if account.totp_secret:
            raise Refused(Code.CONFLICT, "this account has a second factor already: disable it first")
        account = await self._prove(account.email, password, actor.ip)
        if not _is_secret(secret):
            raise Refused(Code.BAD_REQUEST, "the secret is not the one that was offered")
        await self._check_code(account, secret, code, actor.ip)
        await self._attempts.succeed(account.email)
        account = await self._set(account.id, totp_secret=secret)
        await self._audit.record(actor, "account.totp_enable", target=account.id)
        return account

    async def disable_totp(self, actor: Actor, password: str, code: str) -> Account:
        """From now on the password is enough. Takes both once more."""
        account = await self._own(actor)
        account = await self._prove(account.email, password, actor.ip)
        if account.totp_secret:
            await self._check_code(account, account.totp_secret, code, actor.ip)
        await self._attempts.succeed(account.email)
        account = await self._set(account.id, totp_secret="")
        await self._audit.record(actor, "account.totp_disable", target=account.id)
        return account

    async def _prove(self, email: str, password: str, ip: str) -> Account:
        """The account whose password it is. The attempt counts as failed until it is told otherwise."""
        if len(email) > _MAX_EMAIL or len(password) > _MAX_PASSWORD:
            raise _wrong()
        await self._attempts.begin(email)
        account = await self._directory.account_by_email(email)
        is_right = await self._passwords.verify(account.password_hash if account else None, password)
        if account is None or not is_right:
            await self._failed(account, ip)
            raise _wrong()
        return account

    async def _hash_anew(self, account: Account, password: str) -> Account:
        hashed = await self._passwords.hash(password)

        def renew(known: Account) -> Account:
            if known.password_hash != account.password_hash:
                raise _wrong()  # somebody has set another one meanwhile
            return replace(known, password_hash=hashed)

        return await change(self._directory, Account, account.id, renew)

    async def _check_code(self, account: Account, secret: str, code: str, ip: str) -> None:
        if not await self._attempts.take_step(account.email, partial(accepted_step, secret, code, self._now())):
            await self._failed(account, ip)
            raise Refused(Code.UNAUTHORIZED, "the code is wrong or was used: wait for the next one")

    async def _failed(self, account: Account | None, ip: str) -> None:
        """Also without an account: the time that this takes must not tell."""
        await self._audit.record(
            Actor(account="", ip=ip), "account.login_failed", target="" if account is None else account.id
        )

    async def _own(self, actor: Actor) -> Account:
        self._access.require_login(actor)
        account = await self._directory.find(Account, actor.account)
        if account is None:
            raise Refused(Code.UNAUTHORIZED, "this account does not exist any more")
        return account

    async def _new_password(self, id: str, password: str) -> Account:
        await self._set(id, password_hash=await self._passwords.hash(password))
        await remove_all(self._directory, ResetToken, "account", id)
        return await self._end_sessions(id)

    async def _end_sessions(self, id: str) -> Account:
        account = await self._set(id, sessions_from=self._milliseconds())
        await remove_all(self._directory, DashboardSession, "account", id)
        return account

    async def _set(self, id: str, **values: str | int) -> Account:
        return await change(self._directory, Account, id, lambda account: replace(account, **values))

    async def _has_fresh_reset(self, account: Account) -> bool:
        page = await self._directory.page(ResetToken, {"account": account.id}, None, RESET_SECONDS)
        since = self._milliseconds() - _RESET_PAUSE_SECONDS * 1000
        return any(token.created_at > since for token in page.items)

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _end_of(doing: Deferred[None]) -> Deferred[None]:
    """Fires when it has ended; nobody else notices."""
    ended: Deferred[None] = Deferred()

    def tell(result: None) -> None:
        ended.callback(None)
        return result

    doing.addBoth(tell)
    return ended


def _wrong() -> Refused:
    return Refused(Code.UNAUTHORIZED, "the e-mail address or the password is wrong")


def _bad_reset() -> Refused:
    return Refused(Code.UNAUTHORIZED, "this token is unknown, was used, or is older than an hour: ask for a new one")


def _is_secret(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
