"""The first start: an app, its key and its owner, with credentials that are shown once.

Only hashes of the API key and of the password are stored; whoever misses them here makes new ones.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from argon2 import PasswordHasher

from wsock.errors import Conflict
from wsock.interfaces import Account, App, IDirectory, IRecords, Key
from wsock.records import PLANS, Membership, Plan, Record, Role, Team, membership_id
from wsock.services.auth import hash_api_key

__all__ = ["Provisioned", "add_plans", "dev_records", "provision", "write_credentials"]

OWNER_EMAIL = "owner@localhost"

_DEV_PASSWORD_HASH = "$argon2id$v=19$m=65536,t=3,p=4$gtZCF3Pk+QG1WN12jfTceA$MWoyE9IJZZr+mJwtteehSIo0dptiZ7QB4xadiJa+AZM"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Provisioned:
    """What was created, and the secrets in clear: the API key, the signing secret and the password.

    ``str`` and ``repr`` hide them; ``text`` shows them.
    """

    app: App
    key: Key
    account: Account
    api_key: str
    password: str

    @property
    def records(self) -> list[Record]:
        """All that is to be stored: the owner runs the server, and owns the team that has the app."""
        created_at = self.app.created_at
        team = Team(id=self.app.team, name="First team", created_at=created_at)
        member = Membership(
            id=membership_id(team.id, self.account.id),
            team=team.id,
            account=self.account.id,
            role=Role.OWNER,
            created_at=created_at,
        )
        return [team, self.account, member, self.app, self.key]

    def __repr__(self) -> str:
        return f"<Provisioned app {self.app.id}, key {self.key.id}>"

    @property
    def text(self) -> str:
        """The credentials for people, a line for each, ending in a newline."""
        return (
            f"App: {self.app.id}\n"
            f"API key: {self.api_key}\n"
            f"Key id (JWT kid): {self.key.id}\n"
            f"Signing secret: {self.key.secret}\n"
            f"Account: {self.account.email} / password {self.password}\n"
        )


async def provision(
    directory: IDirectory,
    now: Callable[[], float],
    random: Callable[[int], bytes],
    in_thread: Callable[[Callable[[str], str], str], Awaitable[str]],
    keep: Callable[[Provisioned], None],
) -> Provisioned | None:
    """Creates an app with a key and an owner in an empty directory; ``None`` when there is an app already.

    ``random`` gives that many unpredictable bytes; ``in_thread`` calls a slow function off the reactor's
    thread. ``keep`` is called with the credentials BEFORE they are stored: a crash in between leaves
    credentials that open nothing, and the next start makes new ones, instead of an app that nobody can enter.
    When another node was faster, ``None``: what was kept opens nothing.
    """
    if not await directory.is_empty():
        return None
    password = _text(random(16))
    password_hash = await in_thread(PasswordHasher().hash, password)
    made = _first_records(int(now() * 1000), random, password, password_hash)
    keep(made)
    try:
        await directory.add(made.records)
    except Conflict:
        if await directory.is_empty():
            raise
        return None
    return made


async def add_plans(records: IRecords) -> None:
    """Stores the plans that a new directory begins with. Where there is any plan, none is added."""
    if (await records.page(Plan, {}, None, 1)).items:
        return
    with suppress(Conflict):  # another node was faster
        await records.add(PLANS)


def dev_records() -> Provisioned:
    """The app of ``--dev``, the same at each start: everybody knows its credentials."""
    return Provisioned(
        app=App(id="demo", name="Demo", created_at=0, team="demo"),
        key=Key(
            id="demo",
            app="demo",
            name="Demo",
            created_at=0,
            api_key_hash=hash_api_key("demo"),
            algorithm="HS256",
            secret="demo-secret-for-development-only",
            client_ids="*",
        ),
        account=Account(
            id="admin",
            email="admin@localhost",
            name="Admin",
            password_hash=_DEV_PASSWORD_HASH,
            created_at=0,
            is_operator=True,
        ),
        api_key="demo",
        password="admin",
    )


def write_credentials(path: Path, made: Provisioned) -> None:
    """Puts the credentials into a file that only its owner can read, from its first byte on.

    A file that is there already is replaced as a whole. Raises ``OSError`` when it can't be written.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(made.text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _first_records(created_at: int, random: Callable[[int], bytes], password: str, password_hash: str) -> Provisioned:
    app_id = f"app_{random(8).hex()}"
    api_key = f"wsk_{_text(random(24))}"
    key = Key(
        id=f"key_{random(8).hex()}",
        app=app_id,
        name="First key",
        created_at=created_at,
        api_key_hash=hash_api_key(api_key),
        algorithm="HS256",
        secret=_text(random(32)),
    )
    account = Account(
        id=f"acc_{random(8).hex()}",
        email=OWNER_EMAIL,
        name="Owner",
        password_hash=password_hash,
        created_at=created_at,
        is_operator=True,
    )
    app = App(id=app_id, name="First app", created_at=created_at, team=f"team_{random(8).hex()}")
    return Provisioned(app=app, key=key, account=account, api_key=api_key, password=password)


def _text(data: bytes) -> str:
    """The bytes in letters, digits, ``-`` and ``_``: SDKs put keys into a URL without escaping them."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
