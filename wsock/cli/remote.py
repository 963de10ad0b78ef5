"""The server that a command asks: which one, with what credential, about which app. Options that many commands have."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import update_wrapper
from pathlib import Path
from typing import Any

import click

from wsock.cli.api import (
    Api,
    Credential,
    Fixed,
    Refusal,
    Transport,
    at,
    check_token,
    check_url,
    is_loopback,
    open_transport,
)
from wsock.cli.output import Output
from wsock.cli.saved import SavedSession, SessionFile

__all__ = [
    "DEFAULT_URL",
    "Remote",
    "Surroundings",
    "about_app",
    "about_named_app",
    "limited",
    "remote",
    "saved_session",
    "with_key",
    "yes_option",
]

DEFAULT_URL = "http://127.0.0.1:9001"

_EARLY_MILLISECONDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What commands find around them; tests give others as Click's ``obj``."""

    open_transport: Callable[[str, str | None], Transport] = open_transport
    now: Callable[[], float] = time.time
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def sessions(self) -> SessionFile:
        """The sessions that ``wsock login`` has begun."""
        return SessionFile.of(self.environ)


class Session:
    """The session with a server, renewed by its refresh token when its token has expired or is refused."""

    def __init__(self, url: str, transport: Transport, surroundings: Surroundings) -> None:
        self._api = Api(url, transport, _no_credential)
        self._file = surroundings.sessions
        self._now = surroundings.now
        self._known = self._saved()

    def token(self) -> str:
        """A token that is good for some seconds at least, as far as it is known."""
        if self._known.expires_at - _EARLY_MILLISECONDS <= self._now() * 1000:
            self.renew()
        return self._known.token

    def renew(self) -> bool:
        """Gets another token; another command at the same moment may have done that already."""
        saved = self._saved()
        if saved.token == self._known.token:
            saved = self._renewed(saved)
        self._known = saved
        return True

    def _renewed(self, saved: SavedSession) -> SavedSession:
        body = {"refreshToken": saved.refresh_token}
        try:
            answer = self._api.ask_anyone("POST", "/api/auth/refresh", body)
        except Refusal as e:
            if e.status == 401:
                self._file.forget(self._api.url)
                raise Refusal("the session has ended: log in again with 'wsock login'", status=401) from e
            raise
        session = saved_session(answer, saved.email)
        self._file.keep(self._api.url, session)
        return session

    def _saved(self) -> SavedSession:
        saved = self._file.session(self._api.url)
        if saved is None:
            raise Refusal(_not_logged_in(self._api.url), status=401)
        return saved


def saved_session(answer: Mapping[str, Any], email: str) -> SavedSession:
    """What is kept of the answer to a login or a renewal."""
    return SavedSession(
        email=email,
        token=answer["token"],
        refresh_token=answer.get("refreshToken") or "",
        expires_at=answer["expiresAt"],
    )


def _no_credential() -> Credential:
    raise AssertionError("asked for by nobody")


def _not_logged_in(url: str) -> str:
    text = f"you are not logged in to {url}: 'wsock login' does that, or set WSOCK_TOKEN to an access token"
    return f"{text}; a server with --dev takes admin@localhost / admin" if is_loopback(url) else text


class Remote:
    """A running server, and the output of the command that asks it."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        url: str | None,
        token_file: str | None,
        cacert: str | None,
        as_json: bool,
        app: str | None = None,
        key_file: str | None = None,
    ) -> None:
        environ = surroundings.environ
        self.surroundings = surroundings
        self.url = check_url(url or surroundings.sessions.url or DEFAULT_URL)
        self.cacert = cacert
        self.output = Output(as_json=as_json)
        self.transport = surroundings.open_transport(self.url, cacert)
        self.key = _secret(key_file, "--key-file", environ, "WSOCK_KEY")
        self._token = None if self.key else _secret(token_file, "--token-file", environ, "WSOCK_TOKEN")
        self._app = app
        self._session: Session | None = None
        headers = {"X-App-Id": app} if self.key and app else {}
        self.api = Api(self.url, self.transport, self._credential, headers)

    @property
    def app(self) -> str:
        """The app that was named, or the only one there is."""
        if self._app is None:
            apps = self.api.get(at("admin", "apps"), limit=2)["items"]
            if len(apps) != 1:
                which = "there are several apps" if apps else "you have no app"
                raise click.UsageError(f"{which}: name one with --app or WSOCK_APP; 'wsock app list' shows them")
            self._app = str(apps[0]["id"])
        return self._app

    def in_app(self, *segments: str) -> str:
        """The path of something of the app, for administrators."""
        return at("admin", "apps", self.app, *segments)

    @property
    def session_api(self) -> Api:
        """The API with the session, whatever token is given."""
        session = Session(self.url, self.transport, self.surroundings)
        return Api(self.url, self.transport, lambda: session)

    def renewed(self, answer: Mapping[str, Any]) -> None:
        """Keeps the session that took the place of the one with which was asked."""
        if self._session is not None:
            self.surroundings.sessions.keep(self.url, saved_session(answer, answer["account"]["email"]))

    def in_milliseconds(self, seconds: int) -> int:
        """The time so many seconds from now, as the API takes it."""
        return int((self.surroundings.now() + seconds) * 1000)

    def live(self, *segments: str) -> str:
        """The path of channels and connections of the app: that of its API key where there is one."""
        return at(*segments) if self.key else self.in_app(*segments)

    def _credential(self) -> Credential:
        text = self.key or self._token
        if text:
            return Fixed(text)
        if self._session is None:
            self._session = Session(self.url, self.transport, self.surroundings)
        return self._session


def _secret(file: str | None, option: str, environ: Mapping[str, str], variable: str) -> str | None:
    """The secret in the file, ``-`` for standard input, or in the variable."""
    if file is None:
        given = environ.get(variable)
        return check_token(given, variable) if given else None
    try:
        text = sys.stdin.readline() if file == "-" else Path(file).read_text("utf-8")
    except OSError as e:
        raise click.UsageError(f"{option} {file}: it can't be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise click.UsageError(f"{option} {file}: this is no text") from e
    return check_token(text, option)


# Options.

_SERVER_OPTIONS = (
    click.option(
        "--url",
        envvar="WSOCK_URL",
        metavar="URL",
        help=f"The server (default: WSOCK_URL, or the one last logged in to, or {DEFAULT_URL}).",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        help="A file with an access token, - for standard input (default: WSOCK_TOKEN, or the session).",
    ),
    click.option(
        "--cacert",
        envvar="WSOCK_CACERT",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Certificates in PEM form to trust, for https:// with one of your own.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The answer as JSON, for programs."),
)
_APP_OPTION = click.option(
    "--app", envvar="WSOCK_APP", metavar="APP", help="The app's id (default: WSOCK_APP, or the only app there is)."
)
_APP_ARGUMENT = click.argument("app", required=False, envvar="WSOCK_APP")
_KEY_OPTION = click.option(
    "--key-file",
    metavar="FILE",
    help="A file with an API key or a JWT of the app, - for standard input, to ask with instead (default: WSOCK_KEY).",
)

yes_option = click.option("--yes", is_flag=True, help="Don't ask.")
limited = click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="How many to show; 0: all."
)


def remote(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which server, and a :class:`Remote` as its first argument."""
    return _with(function, _SERVER_OPTIONS)


def about_app(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a command about an app: with ``--app``."""
    return _with(function, (_APP_OPTION, *_SERVER_OPTIONS), "app")


def about_named_app(function: Callable[..., None]) -> Callable[..., None]:
    """The same with the app as an argument, which may be left out where there is one only."""
    return _with(function, (_APP_ARGUMENT, *_SERVER_OPTIONS), "app")


def with_key(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that an app's API key can do as well: with ``--app`` and ``--key-file``."""
    return _with(function, (_APP_OPTION, _KEY_OPTION, *_SERVER_OPTIONS), "app", "key_file")


def _with(
    function: Callable[..., None], options: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...], *more: str
) -> Callable[..., None]:
    names = ("url", "token_file", "cacert", "as_json", *more)

    def run(**given: Any) -> None:
        surroundings = click.get_current_context().find_object(Surroundings) or Surroundings()
        if "key_file" not in names:
            surroundings = _without_key(surroundings)
        server = Remote(surroundings, **{name: given.pop(name) for name in names})
        function(server, **given)

    update_wrapper(run, function)
    command: Callable[..., None] = run
    for option in reversed(options):
        command = option(command)
    return command


def _without_key(surroundings: Surroundings) -> Surroundings:
    """An API key administers nothing: where one is in the environment, it is for other commands."""
    environ = {name: value for name, value in surroundings.environ.items() if name != "WSOCK_KEY"}
    return Surroundings(open_transport=surroundings.open_transport, now=surroundings.now, environ=environ)
