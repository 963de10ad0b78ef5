"""What has become of a credential since it was accepted: its app, its key and its revocations as they are now."""

from __future__ import annotations

from dataclasses import replace

from wsock.errors import Code, Refused
from wsock.records import Key
from wsock.services.auth import Auth, Credential
from wsock.services.rules import Tenant

__all__ = ["standing"]


def standing(credential: Credential, origin: str | None, tenant: Tenant | None, now: float) -> Credential:
    """The credential of a live connection as it is now; the same object when nothing of it was changed.

    ``origin`` is that of the page that opened the connection, ``tenant`` is its app, ``None`` when that was deleted.
    Raises :class:`Refused` with ``unauthorized`` or ``forbidden``, saying what ended it.
    """
    if tenant is None:
        raise _unauthorized(f"the app '{credential.app}' was deleted")
    app = tenant.app
    if not app.is_enabled:
        raise Refused(Code.FORBIDDEN, f"the app '{app.id}' is disabled")
    key = _usable(tenant.keys.get(credential.key_id), credential.key_id, now)
    revoked = tenant.revoked(credential.token_id, credential.client_id)
    if revoked is not None:
        raise _unauthorized(revoked)
    permissions = credential.permissions.under(tenant.permissions(key))
    expires_at = min((at for at in (credential.token_expires_at, _end(key)) if at is not None), default=None)
    has_same_origins = credential.allowed_origins == app.allowed_origins
    if permissions is credential.permissions and expires_at == credential.expires_at and has_same_origins:
        return credential
    current = replace(credential, permissions=permissions, expires_at=expires_at, allowed_origins=app.allowed_origins)
    if not has_same_origins:
        Auth.check_origin(current, origin)
    return current


def _usable(key: Key | None, id: str, now: float) -> Key:
    if key is None:
        raise _unauthorized(f"the key '{id}' was deleted")
    end = _end(key)
    if key.is_revoked:
        raise _unauthorized(f"the key '{id}' is revoked")
    if end is not None and now >= end:
        is_retired = key.retire_at is not None and end == key.retire_at / 1000
        raise _unauthorized(f"the key '{id}' " + ("was retired: use its successor" if is_retired else "has expired"))
    return key


def _end(key: Key) -> float | None:
    """When the key is no longer good, in seconds."""
    return min((at / 1000 for at in (key.expires_at, key.retire_at) if at is not None), default=None)


def _unauthorized(text: str) -> Refused:
    return Refused(Code.UNAUTHORIZED, text)
