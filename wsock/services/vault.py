"""Secrets that the server has to read again are kept encrypted: here with which keys, and how.

AES-256-GCM with a random nonce. A sealed text says by which master key it was made, and only opens in the place that it
was made for (the context is authenticated): one that is copied to another record opens nothing. What never has to be
read again (passwords, API keys, tokens) is hashed instead, elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.logger import Logger

from wsock.errors import ConfigError, Unavailable

__all__ = ["Vault", "keep_master_keys", "read_master_keys"]

_PREFIX = "sealed:1:"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_MAKE_ONE = "make one with 'openssl rand -base64 32', and give the same to every node"


class Vault:
    """Seals and opens texts with master keys of 32 bytes, the newest last: that one seals, all of them open.

    It can do so once it is unlocked. ``random`` gives that many unpredictable bytes.
    """

    _log = Logger()

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._ciphers: dict[str, AESGCM] = {}
        self._newest = ""

    def unlock(self, keys: Sequence[bytes]) -> None:
        """Gives it the master keys."""
        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self._newest = _id(keys[-1])

    def __repr__(self) -> str:
        return f"<Vault {' '.join(self._ciphers)}>"

    def seal(self, text: str, *context: str) -> str:
        """The text, sealed for this place. An empty one stays empty. Raises :class:`Unavailable` while locked."""
        if not text:
            return text
        if not self._ciphers:
            raise self._closed(context, "the server has not read its master key yet")
        nonce = self._random(_NONCE_BYTES)
        sealed = nonce + self._ciphers[self._newest].encrypt(nonce, text.encode(), _bytes(context))
        return f"{_PREFIX}{self._newest}:{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, text: str, *context: str) -> str:
        """The text that was sealed for this place. One that was never sealed is returned as it is.

        Raises :class:`Unavailable` when it can't be opened; the log says why.
        """
        if not text.startswith(_PREFIX):
            return text
        id, _, sealed = text.removeprefix(_PREFIX).partition(":")
        cipher = self._ciphers.get(id)
        if cipher is None:
            raise self._closed(context, f"the master key {id} that sealed it is not among vault.keys; add it again")
        try:
            data = base64.urlsafe_b64decode(sealed)
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bytes(context)).decode()
        except (InvalidTag, binascii.Error, ValueError) as e:
            raise self._closed(context, "it was changed, or was sealed for another place") from e

    def is_current(self, text: str) -> bool:
        """Whether it is sealed with the newest key, or empty."""
        return not text or text.startswith(f"{_PREFIX}{self._newest}:")

    def _closed(self, context: tuple[str, ...], reason: str) -> Unavailable:
        self._log.error(
            "the secret {place} can't be sealed or opened: {reason}", place="/".join(context), reason=reason
        )
        return Unavailable("a secret can't be read now; the operator finds the reason in the server's log")


def read_master_keys(text: str, source: str) -> list[bytes]:
    """The master keys in a text: base64 of 32 bytes each, apart by white space or commas, the newest last.

    Raises :class:`ConfigError` that names the ``source``, never the text.
    """
    keys = []
    for word in text.replace(",", " ").split():
        try:
            key = base64.b64decode(word.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"{source}: a master key is 32 bytes in base64: {_MAKE_ONE}")
        keys.append(key)
    if not keys:
        raise ConfigError(f"{source}: there is no master key: {_MAKE_ONE}")
    return keys


def keep_master_keys(keys: str, file: str, beside: Path | None, random: Callable[[int], bytes]) -> list[bytes]:
    """The master keys of a server: those that are given, or else those in the file.

    With neither, those in the file ``beside`` the store, which is made if there is none, readable by its owner only.
    Where there is no such place (``None``: other nodes could not read it), raises :class:`ConfigError`.
    """
    if keys and file:
        raise ConfigError("vault.key_file: give either vault.keys or vault.key_file, not both")
    if keys:
        return read_master_keys(keys, "vault.keys")
    if file:
        return read_master_keys(_read(Path(file)), f"vault.key_file: {file}")
    if beside is None:
        raise ConfigError(f"vault.keys: the nodes of a cluster share a master key, which encrypts secrets: {_MAKE_ONE}")
    _make(beside, random)
    return read_master_keys(_read(beside), str(beside))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as e:
        reason = (e.strerror if isinstance(e, OSError) else "") or "it is not text"
        raise ConfigError(f"vault.key_file: {path} can't be read: {reason}") from e


def _make(path: Path, random: Callable[[int], bytes]) -> None:
    """Makes the file if there is none: whole or not at all, and of several processes only one does."""
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(base64.b64encode(random(_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(new, path)  # unlike a rename it does not replace what another process has made
        except FileExistsError:
            pass
        finally:
            new.unlink()
    except OSError as e:
        raise ConfigError(f"data: the master key can't be written to {path}: {e.strerror}") from e


def _id(key: bytes) -> str:
    """What a key is known by; it tells nothing of the key."""
    return hashlib.sha256(b"wsock master key\0" + key).hexdigest()[:8]


def _bytes(context: tuple[str, ...]) -> bytes:
    """The context, so that no two are alike."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in context)
