"""Accounts: one's own, with all that it logs in with, and for operators everybody's."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.operations import (
    Answer,
    Body,
    Call,
    Group,
    Items,
    NoBody,
    NoQuery,
    Page,
    Version,
    operation,
)
from wsock.errors import Code, Malformed
from wsock.records import Account
from wsock.services.accounts import Accounts
from wsock.services.roles import Permission
from wsock.services.sessions import Sessions

__all__ = ["AccountAnswer", "AccountGroup", "account_answer"]

Id = Annotated[str, Meta(max_length=255)]


class AccountAnswer(Answer, frozen=True):
    """An account. ``is_operator``: it runs the server. ``has_totp``: it has a second factor."""

    id: str
    email: str
    name: str
    created_at: int
    is_enabled: bool
    is_operator: bool
    has_totp: bool
    version: int


class AccountChange(Body, frozen=True):
    """What is to be otherwise."""

    is_enabled: bool | UnsetType = UNSET
    is_operator: bool | UnsetType = UNSET
    version: Version | None = None


def account_answer(account: Account) -> AccountAnswer:
    """What is told of an account."""
    return AccountAnswer(
        id=account.id,
        email=account.email,
        name=account.name,
        created_at=account.created_at,
        is_enabled=account.is_enabled,
        is_operator=account.is_operator,
        has_totp=bool(account.totp_secret),
        version=account.version,
    )


class AccountGroup(Group):
    """All accounts of the server."""

    tag = "Accounts"
    about = "All accounts of the server, for those who run it."

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._accounts = accounts
        self._sessions = sessions

    @operation("GET", "/api/admin/accounts", needs=Permission.ACCOUNTS_MANAGE)
    async def accounts(self, call: Call[NoBody, Page]) -> Items[AccountAnswer]:
        """Lists all accounts."""
        page = await self._accounts.accounts(call.actor, call.query.cursor, call.query.limit)
        return Items([account_answer(account) for account in page.items], page.next)

    @operation("GET", "/api/admin/accounts/{accountId}", needs=Permission.ACCOUNTS_MANAGE)
    async def account(self, call: Call[NoBody, NoQuery]) -> AccountAnswer:
        """Shows an account. Everybody may see their own."""
        return account_answer(await self._accounts.account(call.actor, call.path["accountId"]))

    @operation(
        "PATCH",
        "/api/admin/accounts/{accountId}",
        needs=Permission.ACCOUNTS_MANAGE,
        errors=(Code.CONFLICT,),
        example={"isEnabled": False},
    )
    async def change(self, call: Call[AccountChange, NoQuery]) -> AccountAnswer:
        """Enables or disables an account, or makes it one that runs the server, or no more. Never one's own."""
        id, body, version = call.path["accountId"], call.body, call.body.version
        changed: Account | None = None
        if body.is_enabled is not UNSET:
            changed = await self._accounts.set_enabled(call.actor, id, is_enabled=body.is_enabled, version=version)
            version = None if version is None else changed.version
        if body.is_operator is not UNSET:
            changed = await self._accounts.set_operator(call.actor, id, is_operator=body.is_operator, version=version)
        if changed is None:
            raise Malformed("there is nothing to change: give 'isEnabled' or 'isOperator'")
        await self._sessions.changed()
        return account_answer(changed)

    @operation("DELETE", "/api/admin/accounts/{accountId}", needs=Permission.ACCOUNTS_MANAGE, errors=(Code.CONFLICT,))
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes an account with its memberships, sessions and tokens. Everybody may delete their own."""
        await self._accounts.delete(call.actor, call.path["accountId"])
        await self._sessions.changed()
