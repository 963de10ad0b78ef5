"""Keys of apps: made, shown, changed, rotated and ended.

Theory of operation. Rotating a key makes its successor, which may do the same, and sets a time until which the old one
is good beside it. When each was last used tells whether everybody has moved: then the old one is *safe to retire*, and
may be ended before its time. A key that has ended stays in the list for a month, so that people see what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from wsock.errors import Code, Conflict, Malformed, Refused
from wsock.interfaces import IRecords
from wsock.protocol.permissions import Permissions
from wsock.records import App, Key, Listing
from wsock.services.access import Access, Actor
from wsock.services.audit import Audit
from wsock.services.auth import hash_api_key
from wsock.services.changes import change
from wsock.services.checks import check_future, check_pattern, check_text
from wsock.services.jwts import ALGORITHMS, PUBLIC_ALGORITHMS, Party, public_verifier
from wsock.services.roles import Permission
from wsock.services.teams import check_name
from wsock.services.tokens import new_secret, new_token

__all__ = ["KEY_PREFIX", "QUIET_SECONDS", "KeyState", "KeyView", "Keys", "NewKey"]

KEY_PREFIX = "wsk"
"""What an API key begins with, before an underscore."""

QUIET_SECONDS = 300
"""For how long a key that is being rotated must not have been used to be safe to retire."""

MAX_OVERLAP_SECONDS = 90 * 86_400
_KEPT_SECONDS = 30 * 86_400
_SWEEP_SECONDS = 3600.0
_MAX_KEYS = 100
_PAGE = 500
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class KeyState(StrEnum):
    """What a key is good for."""

    ACTIVE = "active"
    """It is good."""
    ROTATING = "rotating"
    """It is good beside its successor, until its time is over."""
    RETIRED = "retired"
    """Its successor has taken its place."""
    EXPIRED = "expired"
    """Its time is over."""
    REVOKED = "revoked"
    """It was ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyView:
    """A key as people see it."""

    key: Key
    state: KeyState
    is_safe_to_retire: bool


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NewKey:
    """A key that was just made: ``api_key`` and ``secret`` are shown once, and are empty where it has none."""

    view: KeyView
    api_key: str
    secret: str


class Keys:
    """Makes and ends the keys of apps. ``check_url`` refuses URLs that no set of keys would be fetched from."""

    def __init__(
        self,
        records: IRecords,
        audit: Audit,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        check_url: Callable[[str, str], str],
    ) -> None:
        self._records = records
        self._audit = audit
        self._now = now
        self._random = random
        self._check_url = check_url
        self._access = Access(records)
        self._swept_at = now()

    async def create(
        self,
        actor: Actor,
        app: str,
        name: str,
        permissions: Mapping[str, Sequence[str]],
        *,
        algorithm: str | None = None,
        public_key: str | None = None,
        jwks_url: str | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        client_ids: str | None = None,
        expires_at: int | None = None,
    ) -> NewKey:
        """A new key with an API key and a signing secret; with a ``public_key`` in PEM there is no such secret.

        With a ``jwks_url`` it verifies the tokens of an ``issuer`` who publishes keys there, and has no API key either.
        """
        owner = await self._access.require_app(actor, Permission.KEYS_WRITE, app)
        now = self._milliseconds()
        key = Key(
            id=self._new_id(),
            app=app,
            name=check_name(name),
            created_at=now,
            permissions=_checked_permissions(permissions),
            client_ids=_optional("clientIds", client_ids, check_pattern),
            issuer=_optional("issuer", issuer, check_text),
            audience=_optional("audience", audience, check_text),
            expires_at=check_future("expiresAt", expires_at, now),
        )
        if jwks_url is None:
            made = self._with_secrets(key, algorithm or "HS256", public_key)
        else:
            made = self._with_key_set(key, jwks_url, algorithm, public_key)
        await self._require_issuer(owner, made.view.key)
        await self._require_room(app)
        await self._records.add([made.view.key])
        await self._record(actor, "key.create", owner, made.view.key, permissions=_text(made.view.key.permissions))
        return made

    async def keys(self, actor: Actor, app: str, cursor: str | None, limit: int) -> Listing[Key]:
        """The keys of the app, those that have ended lately too."""
        await self._access.require_app(actor, Permission.KEYS_READ, app)
        return await self._records.page(Key, {"app": app}, cursor, limit)

    async def view(self, key: Key) -> KeyView:
        """The key as people see it, beside its successor."""
        state = self._state(key)
        is_safe = state is KeyState.ROTATING and self._is_safe(key, await self._records.find(Key, key.replaced_by))
        return KeyView(key=key, state=state, is_safe_to_retire=is_safe)

    async def key(self, actor: Actor, app: str, id: str) -> KeyView:
        """The key."""
        await self._access.require_app(actor, Permission.KEYS_READ, app)
        return await self.view(await self._found(app, id))

    async def update(
        self,
        actor: Actor,
        app: str,
        id: str,
        *,
        name: str | UnsetType = UNSET,
        permissions: Mapping[str, Sequence[str]] | UnsetType = UNSET,
        client_ids: str | None | UnsetType = UNSET,
        issuer: str | None | UnsetType = UNSET,
        audience: str | None | UnsetType = UNSET,
        expires_at: int | None | UnsetType = UNSET,
        version: int | None = None,
    ) -> KeyView:
        """Changes what is given; connections that are open follow.

        Raises :class:`Conflict` for a key that is revoked or retired, and when a ``version`` is given and is not the
        last.
        """
        owner = await self._access.require_app(actor, Permission.KEYS_WRITE, app)
        known = await self._found(app, id)
        self._require_good(known, KeyState.ACTIVE, KeyState.ROTATING, KeyState.EXPIRED)
        changes: dict[str, object] = {}
        if name is not UNSET:
            changes["name"] = check_name(name)
        if permissions is not UNSET:
            changes["permissions"] = _checked_permissions(permissions)
        if client_ids is not UNSET:
            changes["client_ids"] = _optional("clientIds", client_ids, check_pattern)
        if issuer is not UNSET:
            changes["issuer"] = _optional("issuer", issuer, check_text)
        if audience is not UNSET:
            changes["audience"] = _optional("audience", audience, check_text)
        if expires_at is not UNSET:
            changes["expires_at"] = check_future("expiresAt", expires_at, self._milliseconds())
        new = replace(known, **changes, version=version or known.version)
        if new.jwks_url:
            new = _with_party(new)
            await self._require_issuer(owner, new)
        stored = await self._records.replace(new)
        values = {field: _text(getattr(new, field)) for field in changes if field != "name"}
        await self._record(actor, "key.update", owner, new, changed=", ".join(changes), **values)
        return await self.view(stored)

    async def revoke(self, actor: Actor, app: str, id: str) -> None:
        """Ends the key at once, and its connections on every node. Once is as good as twice.

        One that has expired is deleted: it could only be given a later end.
        """
        owner = await self._access.require_app(actor, Permission.KEYS_WRITE, app)
        known = await self._found(app, id)
        if known.is_revoked:
            return
        if self._state(known) is KeyState.EXPIRED:
            await self._records.remove(Key, id)
            await self._record(actor, "key.revoke", owner, known)
            return
        now = self._milliseconds()

        def revoked(key: Key) -> Key:
            # Another key may be for the same issuer from now on.
            return replace(key, is_revoked=True, retire_at=min(key.retire_at or now, now), jwks_party="")

        await change(self._records, Key, id, revoked)
        await self._record(actor, "key.revoke", owner, known)

    # Rotation.

    async def rotate(
        self, actor: Actor, app: str, id: str, overlap_seconds: int, public_key: str | None = None
    ) -> NewKey:
        """The successor of the key, which may do the same; the old one is good beside it for so long.

        The successor of a key with a public key takes a new one. Raises :class:`Conflict` for a key that has a
        successor, or is good no more.
        """
        owner = await self._access.require_app(actor, Permission.KEYS_WRITE, app)
        known = await self._found(app, id)
        if known.jwks_url:
            text = "the issuer rotates its own signing keys: put the new one into the set, and take the old one out"
            raise Conflict(f"{text} when its tokens have expired; see docs/topics/keys.md")
        if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
            raise Refused(Code.BAD_REQUEST, f"'overlapSeconds' takes 0 to {MAX_OVERLAP_SECONDS}")
        self._require_good(known, KeyState.ACTIVE)
        successor = replace(
            known,
            id=self._new_id(),
            version=1,
            created_at=self._milliseconds(),
            last_used_at=None,
            secret="",
            first=known.first or known.id,
        )
        made = self._with_secrets(successor, known.algorithm, public_key)
        await self._require_room(app)
        await self._records.add([made.view.key])
        retire_at = self._milliseconds() + overlap_seconds * 1000
        try:
            await self._records.replace(replace(known, replaced_by=successor.id, retire_at=retire_at))
        except Conflict:
            await self._records.remove(Key, successor.id)
            raise
        await self._record(actor, "key.rotate", owner, known, successor=successor.id, overlap=str(overlap_seconds))
        return made

    async def retire(self, actor: Actor, app: str, id: str) -> KeyView:
        """Ends a key that has a successor now. Raises :class:`Conflict` for one that has none."""
        owner = await self._access.require_app(actor, Permission.KEYS_WRITE, app)
        known = await self._found(app, id)
        state = self._state(known)
        if state is KeyState.RETIRED:
            return await self.view(known)
        if state is not KeyState.ROTATING:
            text = f"the key '{id}' is {state} and has no successor in use: rotate it first, or revoke it"
            raise Conflict(text)
        now = self._milliseconds()
        stored = await change(
            self._records, Key, id, lambda key: replace(key, retire_at=min(key.retire_at or now, now))
        )
        await self._record(actor, "key.retire", owner, known, successor=known.replaced_by)
        return await self.view(stored)

    # What is left of keys.

    async def sweep_sometimes(self) -> None:
        """Once an hour, deletes the keys that ended a month ago."""
        if 0 <= self._now() - self._swept_at < _SWEEP_SECONDS:
            return
        self._swept_at = self._now()
        before = self._milliseconds() - _KEPT_SECONDS * 1000
        await self._each(lambda key: self._drop(key, before))

    async def _drop(self, key: Key, before: int) -> None:
        ends = [at for at in (key.retire_at, key.expires_at) if at is not None]
        if ends and min(ends) <= before:
            await self._records.remove(Key, key.id)

    async def _each(self, act: Callable[[Key], Awaitable[None]], app: str | None = None) -> None:
        cursor: str | None = None
        while True:
            page = await self._records.page(Key, {} if app is None else {"app": app}, cursor, _PAGE)
            for key in page.items:
                await act(key)
            cursor = page.next
            if cursor is None:
                return

    async def _require_issuer(self, owner: App, key: Key) -> None:
        """Refuses to take some of an issuer's tokens from a team that all of them are for."""
        if not key.jwks_party or key.issuer is None:
            return
        known = await self._records.find_by(Key, "jwks_party", Party(key.issuer, None).name)
        app = None if known is None else await self._records.find(App, known.app)
        if app is not None and app.team != owner.team:
            text = (
                f"all tokens of the issuer '{key.issuer}' are for a key of another team: that one takes an 'audience'"
            )
            raise Conflict(f"{text} first")

    async def _require_room(self, app: str) -> None:
        good: list[str] = []

        async def count(key: Key) -> None:
            if self._state(key) in (KeyState.ACTIVE, KeyState.ROTATING):
                good.append(key.id)

        await self._each(count, app)
        if len(good) >= _MAX_KEYS:
            text = f"an app has at most {_MAX_KEYS} keys that are good: revoke one that nobody uses"
            raise Refused(Code.LIMIT_EXCEEDED, text)

    # Making.

    def _with_secrets(self, key: Key, algorithm: str, public_key: str | None) -> NewKey:
        api_key, secret = new_token(self._random, KEY_PREFIX), ""
        if algorithm in PUBLIC_ALGORITHMS:
            if public_key is None:
                raise Refused(Code.BAD_REQUEST, f"'publicKey' is missing: {algorithm} takes one in PEM")
            public_verifier(algorithm, public_key)
        else:
            if algorithm not in ALGORITHMS:
                raise Refused(Code.BAD_REQUEST, f"'algorithm' takes one of {', '.join(ALGORITHMS)}")
            if public_key is not None:
                text = f"'publicKey' takes an 'algorithm' that has one: {', '.join(PUBLIC_ALGORITHMS)}"
                raise Refused(Code.BAD_REQUEST, text)
            secret = new_secret(self._random, _SECRET_BYTES[algorithm])
        made = replace(key, api_key_hash=hash_api_key(api_key), algorithm=algorithm, secret=public_key or secret)
        return self._new(made, api_key, secret)

    def _with_key_set(self, key: Key, url: str, algorithm: str | None, public_key: str | None) -> NewKey:
        if public_key is not None:
            raise Refused(Code.BAD_REQUEST, "give either 'publicKey' or 'jwksUrl', not both")
        if algorithm is not None and algorithm not in PUBLIC_ALGORITHMS:
            text = f"'algorithm' takes one of {', '.join(PUBLIC_ALGORITHMS)} with a 'jwksUrl'"
            raise Refused(Code.BAD_REQUEST, text)
        made = replace(key, algorithm=algorithm or "", jwks_url=self._check_url("jwksUrl", url))
        return self._new(_with_party(made), "", "")

    def _new(self, key: Key, api_key: str, secret: str) -> NewKey:
        view = KeyView(key=key, state=self._state(key), is_safe_to_retire=False)
        return NewKey(view=view, api_key=api_key, secret=secret)

    # Looking.

    def _state(self, key: Key) -> KeyState:
        now = self._milliseconds()
        if key.is_revoked:
            return KeyState.REVOKED
        if key.retire_at is not None and key.retire_at <= now:
            return KeyState.RETIRED
        if key.expires_at is not None and key.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.ROTATING if key.replaced_by else KeyState.ACTIVE

    def _is_safe(self, old: Key, successor: Key | None) -> bool:
        """Whether those who used the old one have moved, as far as anybody can tell."""
        if successor is None or successor.last_used_at is None:
            return False
        last = max(old.last_used_at or 0, successor.created_at)
        return successor.last_used_at > last and self._milliseconds() - last >= QUIET_SECONDS * 1000

    def _require_good(self, key: Key, *states: KeyState) -> None:
        state = self._state(key)
        if state in states:
            return
        advice = "make another key" if state is not KeyState.ROTATING else "retire it first"
        successor = f", its successor is '{key.replaced_by}'" if key.replaced_by else ""
        raise Conflict(f"the key '{key.id}' is {state}{successor}: {advice}")

    async def _found(self, app: str, id: str) -> Key:
        key = await self._records.find(Key, id)
        if key is None or key.app != app:
            raise Refused(Code.NOT_FOUND, f"there is no key with the id '{id}' in this app")
        return key

    async def _record(self, actor: Actor, action: str, app: App, key: Key, **details: str) -> None:
        await self._audit.record(actor, action, team=app.team, app=app.id, target=key.id, name=key.name, **details)

    def _new_id(self) -> str:
        return f"key_{self._random(8).hex()}"

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)


def _checked_permissions(permissions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    try:
        Permissions(permissions)
    except Malformed as e:
        raise Refused(Code.BAD_REQUEST, e.text) from e
    return {check_pattern("permissions", pattern): list(names) for pattern, names in permissions.items()}


def _text(value: object) -> str:
    """The value for the audit log: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _optional(field: str, text: str | None, check: Callable[[str, str], str]) -> str | None:
    return None if text is None else check(field, text)


def _with_party(key: Key) -> Key:
    if key.issuer is None:
        raise Refused(Code.BAD_REQUEST, "'issuer' is missing: the tokens of a 'jwksUrl' are known by their 'iss'")
    return replace(key, jwks_party=Party(key.issuer, key.audience).name)
