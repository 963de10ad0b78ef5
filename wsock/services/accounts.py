"""Accounts: how people get one, and what operators do with them. Proving who one is: :mod:`wsock.services.logins`."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from wsock.errors import Code, Conflict, Refused
from wsock.interfaces import IDirectory
from wsock.records import Account, DashboardSession, Invitation, Listing, Membership, Role
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.changes import change, remove_all
from wsock.services.passwords import Passwords, check_password
from wsock.services.roles import Permission
from wsock.services.teams import Teams, check_email, check_name, new_member

__all__ = ["Accounts"]

_PAGE = 500


class Accounts:
    """Who has an account. With ``is_open`` everybody may sign up, otherwise it takes an invitation."""

    def __init__(
        self,
        directory: IDirectory,
        passwords: Passwords,
        teams: Teams,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        is_open: bool = False,
    ) -> None:
        self._directory = directory
        self._passwords = passwords
        self._teams = teams
        self._audit = audit
        self._now = now
        self._random = random
        self._is_open = is_open
        self._access = Access(directory)

    async def sign_up(self, email: str, password: str, name: str, *, ip: str = "") -> Account:
        """A new account with a team of its own.

        Raises :class:`Refused` with ``forbidden`` where sign-up is not open, ``bad_request`` for an address, name or
        password that can't be taken, and ``conflict`` when the address has an account.
        """
        if not self._is_open:
            raise Refused(Code.FORBIDDEN, "sign-up is by invitation here (accounts.open_sign_up is off)")
        account = await self._new(email, password, name)
        team = self._teams.new_team(account.name, account.created_at)
        owner = new_member(team.id, account.id, Role.OWNER, account.created_at)
        await self._directory.add([team, account, owner])
        await self._audit.record(Actor.of(account, ip), "account.create", team=team.id, target=account.id)
        return account

    async def accept_invitation(self, token: str, password: str, name: str, *, ip: str = "") -> Account:
        """A new account for the address that was invited, a member of the team at once.

        Who has an account logs in and joins instead (:meth:`wsock.services.teams.Teams.join`): ``conflict``.
        """
        invitation = await self._teams.invitation(token)
        account = await self._new(invitation.email, password, name)
        member = new_member(invitation.team, account.id, invitation.role, account.created_at)
        await self._teams.add_member(member, account)
        await self._directory.remove(Invitation, invitation.id)
        actor = Actor.of(account, ip)
        await self._audit.record(actor, "account.create", team=invitation.team, target=account.id)
        await self._audit.record(actor, "member.join", team=invitation.team, target=account.id, role=invitation.role)
        return account

    async def account(self, actor: Actor, id: str | None = None) -> Account:
        """The actor's own account; for operators any."""
        id = id or actor.account
        if id != actor.account:
            self._access.require_operator(actor, Permission.ACCOUNTS_MANAGE)
        account = await self._directory.find(Account, id)
        if account is None:
            raise Refused(Code.NOT_FOUND, f"there is no account with the id '{id}'")
        return account

    async def accounts(self, actor: Actor, cursor: str | None, limit: int) -> Listing[Account]:
        """All accounts, for operators."""
        self._access.require_operator(actor, Permission.ACCOUNTS_MANAGE)
        return await self._directory.page(Account, {}, cursor, limit)

    async def rename(self, actor: Actor, name: str, version: int | None = None) -> Account:
        """Gives the actor's own account another name. Raises :class:`Conflict` if a ``version`` is not the last."""
        self._access.require_login(actor)
        name = check_name(name)
        account = await change(
            self._directory, Account, actor.account, lambda known: replace(_expected(known, version), name=name)
        )
        await self._audit.record(actor, "account.update", target=account.id, name=name)
        return account

    async def set_enabled(self, actor: Actor, id: str, *, is_enabled: bool, version: int | None = None) -> Account:
        """Lets an account in again, or no more: its sessions end. Nobody locks themselves out.

        Raises :class:`Conflict` if a ``version`` is given and is not the last.
        """
        self._access.require_operator(actor, Permission.ACCOUNTS_MANAGE)
        if id == actor.account:
            raise Conflict("this is your own account: another operator can disable it")
        now = int(self._now() * 1000)
        account = await change(
            self._directory,
            Account,
            id,
            lambda known: replace(
                _expected(known, version),
                is_enabled=is_enabled,
                sessions_from=known.sessions_from if is_enabled else now,
            ),
        )
        if not is_enabled:
            await remove_all(self._directory, DashboardSession, "account", id)
        await self._audit.record(actor, "account.enable" if is_enabled else "account.disable", target=id)
        return account

    async def set_operator(self, actor: Actor, id: str, *, is_operator: bool, version: int | None = None) -> Account:
        """Makes an account one that runs the server, or no more. Nobody does that to themselves.

        Nor does a limited access token: who is an operator may do more than it.
        """
        self._access.require_operator(actor, Permission.ACCOUNTS_MANAGE)
        self._access.require_login(actor)
        if id == actor.account:
            raise Conflict("this is your own account: another operator can change that")
        account = await change(
            self._directory, Account, id, lambda known: replace(_expected(known, version), is_operator=is_operator)
        )
        action = "account.make_operator" if is_operator else "account.unmake_operator"
        await self._audit.record(actor, action, target=id)
        return account

    async def delete(self, actor: Actor, id: str) -> None:
        """Deletes an account with its memberships, sessions and tokens: one's own, or as an operator another's.

        Raises :class:`Conflict` while a team has no other owner, and for an operator's own account.
        """
        await self.account(actor, id)
        self._access.require_login(actor)
        if id == actor.account and actor.is_operator:
            raise Conflict("you run this server: another operator can delete your account")
        members = await self._memberships(id)
        for member in members:
            await self._teams.check_may_leave(member)
        for member in members:
            # With the rights of the account itself, which may leave every team that it does not own alone.
            await self._teams.remove_member(Actor(account=id, ip=actor.ip), member.team, id)
        await self._directory.remove(Account, id)
        await self._audit.record(actor, "account.delete", target=id)

    async def _memberships(self, account: str) -> list[Membership]:
        found: list[Membership] = []
        cursor: str | None = None
        while True:
            page = await self._directory.page(Membership, {"account": account}, cursor, _PAGE)
            found.extend(page.items)
            cursor = page.next
            if cursor is None:
                return found

    async def _new(self, email: str, password: str, name: str) -> Account:
        email, name = check_email(email), check_name(name)
        check_password(password, email)
        if await self._directory.account_by_email(email) is not None:
            raise Conflict("an account has this e-mail address already: log in instead")
        return Account(
            id=f"acc_{self._random(8).hex()}",
            email=email,
            name=name,
            password_hash=await self._passwords.hash(password),
            created_at=int(self._now() * 1000),
        )


def _expected(known: Account, version: int | None) -> Account:
    """The account, if it is the version that was read."""
    if version not in (None, known.version):
        raise Conflict(f"the account was changed meanwhile: its version is {known.version} now; read it again")
    return known
