"""Setting a password in the data directory of a server that is stopped: the way in when the operator's is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

import click
from argon2 import PasswordHasher
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from wsock.config import Config
from wsock.errors import WsockError
from wsock.interfaces import Account
from wsock.records import DashboardSession, ResetToken
from wsock.services.access import Access, Actor
from wsock.services.attempts import LoginAttempts
from wsock.services.audit import Audit
from wsock.services.changes import change, remove_all
from wsock.services.passwords import check_password
from wsock.stores import Stores, build_stores, is_data_in_use

__all__ = ["set_password"]


def set_password(data: Path, email: str, password: str, *, removes_totp: bool = False) -> None:
    """Sets the password of the account, ends its sessions, and lifts a lock; with the second factor, if that is wished.

    Raises :class:`click.ClickException`, also when a server runs on the directory.
    """
    if not (data / "wsock.db").exists():
        raise click.UsageError(f"--data {data}: no server has kept anything there")
    if is_data_in_use(data):
        raise click.ClickException(f"a server runs on {data}: stop it first, it remembers what it has read")
    try:
        check_password(password, email)
        _run(lambda stores: _set(stores, email, password, removes_totp=removes_totp), data)
    except WsockError as e:
        raise click.ClickException(str(e)) from e


async def _set(stores: Stores, email: str, password: str, *, removes_totp: bool) -> None:
    directory, now = stores.directory, int(time.time() * 1000)
    account = await directory.account_by_email(email)
    if account is None:
        raise click.ClickException(f"nobody has an account with the address {email} there")
    changes: dict[str, Any] = {"password_hash": PasswordHasher().hash(password), "sessions_from": now}
    if removes_totp:
        changes["totp_secret"] = ""
    # A secret that stays is stored as it was read: sealed, and sealed for this place.
    await change(directory, Account, account.id, lambda known: replace(known, **changes))
    await remove_all(directory, ResetToken, "account", account.id)
    await remove_all(directory, DashboardSession, "account", account.id)
    await LoginAttempts(directory, time.time).succeed(email)
    audit = Audit(stores.audit, Access(directory), time.time, os.urandom)
    await audit.record(Actor(account=""), "account.reset", target=account.id, by="wsock account password --data")


def _run(work: Any, data: Path) -> None:
    """Runs the reactor for the work on the stores of the directory."""
    from twisted.internet import reactor

    loop: Any = reactor
    failures: list[Failure] = []

    async def run() -> None:
        stores = build_stores(Config(data=str(data)), loop, time.time, lambda: os.urandom(6).hex())
        try:
            await stores.start()
            await work(stores)
        finally:
            await stores.stop()

    def start() -> None:
        Deferred.fromCoroutine(run()).addErrback(failures.append).addBoth(lambda _: loop.stop())

    loop.callWhenRunning(start)
    loop.run()
    for failure in failures:
        raise cast(Exception, failure.value)
