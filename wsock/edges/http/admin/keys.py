"""Keys of apps, and their rotation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from wsock.edges.http.operations import (
    Answer,
    Body,
    Call,
    Group,
    Items,
    Milliseconds,
    NoBody,
    NoQuery,
    Page,
    Version,
    operation,
)
from wsock.errors import Code
from wsock.services.keys import MAX_OVERLAP_SECONDS, Keys, KeyState, KeyView, NewKey
from wsock.services.roles import Permission

__all__ = ["KeyGroup"]

Name = Annotated[str, Meta(max_length=200, description="1 to 100 characters in one line.")]
Text = Annotated[str, Meta(max_length=255)]
Pem = Annotated[str, Meta(max_length=16_384, description="A public key in PEM; for RS256, ES256 and EdDSA.")]
Right = Literal["subscribe", "publish", "presence", "history", "*"]
Rights = Annotated[
    dict[Annotated[str, Meta(max_length=255)], list[Right]],
    Meta(max_length=100, description="Patterns of channel names, each with what is allowed in those channels."),
]


class NewKeyBody(Body, frozen=True):
    """A key that is to be.

    It verifies JWTs with a secret that is made for it, or with a ``public_key``, or with those at a ``jwks_url`` where
    the ``issuer`` publishes them.
    """

    name: Name
    permissions: Rights
    expires_at: Milliseconds | None = None
    client_ids: Annotated[Text | None, Meta(description="A pattern of the clientIds that its clients may choose.")] = (
        None
    )
    issuer: Annotated[Text | None, Meta(description="The `iss` that JWTs must have.")] = None
    audience: Annotated[Text | None, Meta(description="The `aud` that JWTs must have.")] = None
    algorithm: Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"] | None = None
    public_key: Pem | None = None
    jwks_url: Annotated[str, Meta(max_length=2048)] | None = None


class KeyChange(Body, frozen=True):
    """What is to be otherwise; null takes away."""

    name: Name | UnsetType = UNSET
    permissions: Rights | UnsetType = UNSET
    expires_at: Milliseconds | None | UnsetType = UNSET
    client_ids: Text | None | UnsetType = UNSET
    issuer: Text | None | UnsetType = UNSET
    audience: Text | None | UnsetType = UNSET
    version: Version | None = None


class Rotation(Body, frozen=True):
    """How long the old key is good beside the new one. Where it has a public key, the new one takes its own."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_SECONDS)] = 86_400
    public_key: Pem | None = None


class KeyAnswer(Answer, frozen=True):
    """A key, without its secrets. ``algorithm`` is null where the issuer's set decides."""

    id: str
    name: str
    state: KeyState
    permissions: dict[str, list[str]]
    client_ids: str | None
    algorithm: str | None
    jwks_url: str | None
    issuer: str | None
    audience: str | None
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    replaced_by: str | None
    retire_at: int | None
    safe_to_retire: bool
    version: int


class CreatedKey(KeyAnswer, frozen=True):
    """A key that was just made. ``key`` and ``secret`` are shown this once; they are null where it has none."""

    key: str | None
    secret: str | None


class KeyGroup(Group):
    """Keys."""

    tag = "Keys"
    about = (
        "What clients and backends of an app prove themselves with. A key has an API key, and verifies JWTs, whose"
        " header names its id as `kid`."
    )

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @operation("GET", "/api/admin/apps/{appId}/keys", needs=Permission.KEYS_READ)
    async def keys(self, call: Call[NoBody, Page]) -> Items[KeyAnswer]:
        """Lists the keys of an app, those that ended in the last 30 days too."""
        page = await self._keys.keys(call.actor, call.path["appId"], call.query.cursor, call.query.limit)
        return Items([_answer(await self._keys.view(key)) for key in page.items], page.next)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/keys",
        status=201,
        needs=Permission.KEYS_WRITE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"name": "Backend", "permissions": {"*": ["publish", "history"]}},
    )
    async def create(self, call: Call[NewKeyBody, NoQuery]) -> CreatedKey:
        """Creates a key; its API key and signing secret are shown this once."""
        body = call.body
        made = await self._keys.create(
            call.actor,
            call.path["appId"],
            body.name,
            body.permissions,
            algorithm=body.algorithm,
            public_key=body.public_key,
            jwks_url=body.jwks_url,
            issuer=body.issuer,
            audience=body.audience,
            client_ids=body.client_ids,
            expires_at=body.expires_at,
        )
        return _created(made)

    @operation("GET", "/api/admin/apps/{appId}/keys/{keyId}", needs=Permission.KEYS_READ)
    async def key(self, call: Call[NoBody, NoQuery]) -> KeyAnswer:
        """Shows a key.

        ``last_used_at`` lags by a minute, that of a key that is being rotated out by a second. ``safe_to_retire`` says
        that the successor is in use, and that the old key has not been for five minutes.
        """
        return _answer(await self._keys.key(call.actor, call.path["appId"], call.path["keyId"]))

    @operation(
        "PATCH",
        "/api/admin/apps/{appId}/keys/{keyId}",
        needs=Permission.KEYS_WRITE,
        errors=(Code.CONFLICT,),
        example={"permissions": {"room:*": ["subscribe", "publish"]}, "expiresAt": None},
    )
    async def update(self, call: Call[KeyChange, NoQuery]) -> KeyAnswer:
        """Changes a key. Connections that are open keep to it within a second."""
        body = call.body
        changed = await self._keys.update(
            call.actor,
            call.path["appId"],
            call.path["keyId"],
            name=body.name,
            permissions=body.permissions,
            client_ids=body.client_ids,
            issuer=body.issuer,
            audience=body.audience,
            expires_at=body.expires_at,
            version=body.version,
        )
        return _answer(changed)

    @operation("DELETE", "/api/admin/apps/{appId}/keys/{keyId}", needs=Permission.KEYS_WRITE, errors=(Code.CONFLICT,))
    async def revoke(self, call: Call[NoBody, NoQuery]) -> None:
        """Revokes a key: it is good no more, and its connections end. It stays in the list for 30 days."""
        await self._keys.revoke(call.actor, call.path["appId"], call.path["keyId"])

    @operation(
        "POST",
        "/api/admin/apps/{appId}/keys/{keyId}/rotate",
        status=201,
        needs=Permission.KEYS_WRITE,
        errors=(Code.CONFLICT, Code.LIMIT_EXCEEDED),
        example={"overlapSeconds": 86400},
    )
    async def rotate(self, call: Call[Rotation, NoQuery]) -> CreatedKey:
        """Makes the successor of a key, which may do the same; both are good for so long.

        Use the new one everywhere; when the old one is safe to retire, retire it.
        """
        body = call.body
        made = await self._keys.rotate(
            call.actor, call.path["appId"], call.path["keyId"], body.overlap_seconds, body.public_key
        )
        return _created(made)

    @operation(
        "POST",
        "/api/admin/apps/{appId}/keys/{keyId}/retire",
        needs=Permission.KEYS_WRITE,
        errors=(Code.CONFLICT,),
    )
    async def retire(self, call: Call[NoBody, NoQuery]) -> KeyAnswer:
        """Ends a key that has a successor, before its time."""
        return _answer(await self._keys.retire(call.actor, call.path["appId"], call.path["keyId"]))


def _answer(view: KeyView) -> KeyAnswer:
    return KeyAnswer(**_values(view))


def _created(made: NewKey) -> CreatedKey:
    return CreatedKey(**_values(made.view), key=made.api_key or None, secret=made.secret or None)


def _values(view: KeyView) -> dict[str, Any]:
    key = view.key
    return {
        "id": key.id,
        "name": key.name,
        "state": view.state,
        "permissions": key.permissions,
        "client_ids": key.client_ids,
        "algorithm": key.algorithm or None,
        "jwks_url": key.jwks_url or None,
        "issuer": key.issuer,
        "audience": key.audience,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "replaced_by": key.replaced_by or None,
        "retire_at": key.retire_at,
        "safe_to_retire": view.is_safe_to_retire,
        "version": key.version,
    }
