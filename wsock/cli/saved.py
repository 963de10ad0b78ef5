"""What ``wsock login`` leaves behind: sessions, by the URL of their server, in a file that only its owner can read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click
import msgspec

__all__ = ["SavedSession", "SessionFile"]


class SavedSession(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session; ``expires_at`` is that of the token, in milliseconds."""

    email: str
    token: str
    refresh_token: str
    expires_at: int

    def __repr__(self) -> str:
        return f"<SavedSession of {self.email}>"


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    """``url`` is the server that was logged in to last."""

    url: str = ""
    sessions: dict[str, SavedSession] = msgspec.field(default_factory=dict)


class SessionFile:
    """The file. It is replaced as a whole, so whoever reads it at that moment gets the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> SessionFile:
        """Where the XDG Base Directory Specification puts it."""
        base = environ.get("XDG_CONFIG_HOME") or ""
        # "If an implementation encounters a relative path ... it should consider the path invalid and ignore it."
        directory = Path(base) if os.path.isabs(base) else _home() / ".config"
        return cls(directory / "wsock" / "session.json")

    @property
    def url(self) -> str:
        """The server that was logged in to last; empty when there is none."""
        return self._content().url

    def session(self, url: str) -> SavedSession | None:
        """The session with this server."""
        return self._content().sessions.get(url)

    def keep(self, url: str, session: SavedSession) -> None:
        """Keeps the session with this server, which becomes the last one."""
        self._write(_Content(url=url, sessions={**self._content().sessions, url: session}))

    def forget(self, url: str) -> None:
        """Forgets the session with this server. The others stay."""
        content = self._content()
        others = {where: session for where, session in content.sessions.items() if where != url}
        if others:
            self._write(_Content(url=next(reversed(others)) if content.url == url else content.url, sessions=others))
            return
        with suppress(FileNotFoundError):
            self._path.unlink()

    def _content(self) -> _Content:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except OSError as e:
            raise click.ClickException(f"{self._path} can't be read: {e.strerror}; see its permissions") from e
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise click.ClickException(f"{self._path} is damaged: delete it, and log in again") from e

    def _write(self, content: _Content) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made with mode 0600: from its first byte on nobody else can read it.
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=".session-")
            try:
                with open(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self._path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as e:
            raise click.ClickException(f"the session can't be kept in {self._path}: {e.strerror}") from e


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as e:
        raise click.UsageError(
            "you have no home directory to keep a session in: set XDG_CONFIG_HOME, or WSOCK_URL and WSOCK_TOKEN"
        ) from e
