"""The settings: what there is, where each value comes from, and what is wrong with it.

Defaults give way to the TOML file, the file to ``WSOCK_...`` variables, those to the command line. A
:class:`Config` is frozen; the structs below are the only place where a setting is described: ``wsock config``
and the reference page are made from them.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from wsock.edges.listening import CAN_SHARE, SharedPorts
from wsock.errors import ConfigError

__all__ = [
    "HIDDEN",
    "Accounts",
    "Config",
    "Dedup",
    "Heartbeat",
    "History",
    "Http",
    "Keys",
    "Limits",
    "Mongo",
    "Presence",
    "Push",
    "Recovery",
    "Redis",
    "Resolved",
    "Setting",
    "Shutdown",
    "Sqlite",
    "Vault",
    "Webhooks",
    "WebSocket",
    "describe",
    "endpoints",
    "load",
    "resolve",
]

HIDDEN = frozenset({"vault.keys"})
"""Keys whose values are secrets: they are never shown."""

_MIB = 1_048_576
_DAY = 86_400


def _integer(text: str, least: int = 0, most: int = 1 << 40) -> Meta:
    return Meta(ge=least, le=most, description=text)


def _number(text: str, least: float = 0, most: float = 366 * 10 * _DAY) -> Meta:
    return Meta(ge=float(least), le=float(most), description=text)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Limits(_Section, frozen=True):
    """What is refused beyond a bound, so that memory stays bounded. A limit of 0 that may be 0 is none."""

    message_bytes: Annotated[
        int,
        _integer("The data of one message, in bytes of JSON; more is refused with `too_large`.", 1, 500_000),
    ] = 65_536
    frame_bytes: Annotated[
        int,
        _integer("One WebSocket message from a client; more closes the connection with 1009.", 1_024, 64 * _MIB),
    ] = 262_144
    presence_bytes: Annotated[int, _integer("The data of one presence member, in bytes of JSON.", 2, 1_000_000)] = (
        16_384
    )
    presence_members: Annotated[int, _integer("Members of one channel.", 1)] = 10_000
    channels_per_connection: Annotated[int, _integer("Channels that one connection may be subscribed to.", 1)] = 1_000
    connection_rate: Annotated[
        float, _number("Requests a second of one connection, sustained; pings are free. 0: no limit.", 0, 1e9)
    ] = 0.0
    connection_burst: Annotated[
        float,
        _number(
            "Requests that one connection may send at once; 0 or less than `connection_rate`: as many.",
            0,
            1e9,
        ),
    ] = 0.0
    app_publish_rate: Annotated[
        float,
        _number("Messages a second of one app, sustained; more are refused with `rate_limited`. 0: no limit.", 0, 1e9),
    ] = 0.0
    app_publish_burst: Annotated[
        int, _integer("Messages of one app at once; 0: as many as its rate allows in a second.")
    ] = 0
    channel_publish_rate: Annotated[float, _number("The same for the messages of one channel.", 0, 1e9)] = 0.0
    channel_publish_burst: Annotated[int, _integer("Messages of one channel at once; 0 as above.")] = 0
    user_publish_rate: Annotated[
        float,
        _number("The same for the messages of one user, who is a clientId, or a connection that has none.", 0, 1e9),
    ] = 0.0
    user_publish_burst: Annotated[int, _integer("Messages of one user at once; 0 as above.")] = 0
    rate_mode: Annotated[
        Literal["enforce", "observe"],
        Meta(description="`enforce` refuses what is beyond a rate, `observe` only counts it in the metrics."),
    ] = "enforce"
    connect_rate_per_ip: Annotated[
        int, _integer("Connects a minute from one address; more are answered with 429. 0: no limit.")
    ] = 0
    cluster_requests_per_minute: Annotated[
        int,
        _integer(
            "REST requests a minute that ask all nodes (lists of channels and connections, looking at one, ending"
            " some), of one key or account; more get 429. 0: no limit."
        ),
    ] = 600
    connections: Annotated[int, _integer("Connections at once; more are answered with 503. 0: no limit.")] = 0
    output_bytes: Annotated[
        int,
        _integer(
            "Output that waits for a slow reader; a connection with more is reset, to come back and resume.",
            4_096,
        ),
    ] = _MIB
    in_flight_requests: Annotated[
        int, _integer("Unanswered requests of one connection; beyond it the server stops reading.", 1)
    ] = 1_024
    in_flight_bytes: Annotated[
        int,
        _integer("Bytes of unanswered requests of one connection; beyond it the server stops reading.", 1_024),
    ] = _MIB
    publish_backlog_bytes: Annotated[
        int,
        _integer("Messages that wait for the disk; beyond it publishes are refused with `unavailable`.", 65_536),
    ] = 64 * _MIB
    malformed_per_minute: Annotated[
        int, _integer("Malformed requests in a minute that close the connection with 1008.", 1)
    ] = 10
    handshake_seconds: Annotated[
        float, _number("From the accepted connection to the complete request head.", 0.1, 3_600)
    ] = 10.0
    head_bytes: Annotated[int, _integer("The head of an HTTP request.", 1_024, _MIB)] = 16_384
    http_body_bytes: Annotated[
        int, _integer("The body of an HTTP request; more is answered with 413.", 1_024, 1_024 * _MIB)
    ] = _MIB


class History(_Section, frozen=True):
    """What channels keep."""

    enabled: Annotated[
        bool,
        Meta(description="Whether messages are history; if not, they are kept for the recovery window only."),
    ] = True
    ttl_seconds: Annotated[float, _number("How long a message is kept.", 1)] = 604_800.0


class Recovery(_Section, frozen=True):
    """What a client that comes back can be given."""

    seconds: Annotated[float, _number("How long a message can be recovered.", 0, 7 * _DAY)] = 120.0
    messages: Annotated[int, _integer("How many messages of one channel can be recovered.", 0, 1_000_000)] = 1_000
    bytes: Annotated[
        int, _integer("Memory for all channels together; the channels used longest ago give way.", _MIB)
    ] = 256 * _MIB


class Dedup(_Section, frozen=True):
    """Publishes that are repeated."""

    seconds: Annotated[
        float, _number("How long a publish with the same id is answered with the first one's ack.", 0, _DAY)
    ] = 120.0


class Presence(_Section, frozen=True):
    """Members of channels."""

    grace_seconds: Annotated[
        float, _number("How long a member whose connection was lost stays, to come back unnoticed.", 0, 3_600)
    ] = 10.0


class Heartbeat(_Section, frozen=True):
    """Signs of life."""

    seconds: Annotated[
        float, _number("Silence towards a client after which it is sent a `pong`; PHP's SDK bears 60.", 1, 55)
    ] = 20.0


class Sqlite(_Section, frozen=True):
    """The embedded store."""

    synchronous: Annotated[
        Literal["full", "normal"],
        Meta(description="What an ack survives: `full` a power failure, `normal` a crash of the process."),
    ] = "full"


class Redis(_Section, frozen=True):
    """What makes several nodes one cluster."""

    urls: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "The Redis servers, channels spread over them: `redis://user:password@host:port/0`, `rediss://` for"
                " TLS, `unix:///path`, `redis+sentinel://host,host/service`. All nodes name them in the same order."
            )
        ),
    ] = ()
    replicas: Annotated[int, _integer("Replicas that must have a message before it is acknowledged (WAIT).", 0, 8)] = 0
    backlog: Annotated[
        int,
        _integer("Messages that may wait for MongoDB; beyond it publishes are refused with `unavailable`.", 1_000),
    ] = 1_000_000
    history_messages: Annotated[
        int, _integer("History of one channel when there is no MongoDB, in messages.", 1, 1_000_000)
    ] = 10_000


class Mongo(_Section, frozen=True):
    """Where a cluster keeps history, apps, keys and accounts."""

    url: Annotated[
        str,
        Meta(
            description="`mongodb://user:password@host:port/database`, with `?tls=true` and `&replicaSet=` as needed."
        ),
    ] = ""


class Http(_Section, frozen=True):
    """Requests that are no WebSocket."""

    cors_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins whose pages may use the REST API; `*` stands for any run of characters."),
    ] = ("*",)
    trusted_proxies: Annotated[
        int,
        _integer("How many proxies stand in front: so many hops of `X-Forwarded-For` are believed.", 0, 16),
    ] = 0


class Accounts(_Section, frozen=True):
    """The people who administer."""

    open_sign_up: Annotated[
        bool, Meta(description="Whether everybody may get an account and a team; otherwise it takes an invitation.")
    ] = False
    default_plan: Annotated[
        str,
        Meta(
            description=(
                "The plan of teams that are made by signing up, or by somebody who is no operator; there has to be one"
                " of this id."
            )
        ),
    ] = "unlimited"
    url: Annotated[
        str, Meta(description="Where the dashboard is, for links in mails; empty: mails hold the token alone.")
    ] = ""
    audit_days: Annotated[int, _integer("How long the audit log is kept.", 1, 36_500)] = 365
    session_token_seconds: Annotated[
        float, _number("How long a session token is good before it is renewed.", 10, _DAY)
    ] = 900.0
    session_days: Annotated[float, _number("How long a session lasts that nobody renews.", 0.01, 366)] = 14.0
    logins_per_minute: Annotated[
        int, _integer("Logins and renewals of sessions a minute from one address; more get 429. 0: no limit.")
    ] = 30
    sign_ups_per_minute: Annotated[
        int, _integer("Sign-ups and accepted invitations a minute from one address; more get 429. 0: no limit.")
    ] = 10
    resets_per_minute: Annotated[
        int, _integer("Resets of passwords a minute from one address; more get 429. 0: no limit.")
    ] = 10
    requests_per_minute: Annotated[
        int, _integer("Administrative requests a minute of one account; more get 429. 0: no limit.")
    ] = 600


class Analytics(_Section, frozen=True):
    """What happens in each app is counted by the minute, hour, day and month; months are kept for ever."""

    minute_days: Annotated[float, _number("How many days the counts of minutes are kept.", 0.1, 366)] = 2.0
    hour_days: Annotated[float, _number("How many days those of hours are kept.", 1, 36_500)] = 90.0
    day_days: Annotated[float, _number("How many days those of days are kept.", 1, 36_500)] = 730.0


class Webhooks(_Section, frozen=True):
    """What apps are told of at URLs of theirs."""

    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "Hosts, addresses and networks (`10.0.0.0/8`) that webhooks are sent to though they are not public,"
                " without HTTPS too."
            )
        ),
    ] = ()
    retry_seconds: Annotated[
        tuple[float, ...],
        Meta(description="After how many seconds a webhook that failed is sent again, each time; then it is given up."),
    ] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 300.0, 1800.0, 7200.0, 18e3, 36e3, 50_400.0, 72e3, 86_400.0)
    timeout_seconds: Annotated[float, _number("How long a receiver may take to answer.", 1, 60)] = 20.0
    per_endpoint: Annotated[int, _integer("Requests to one webhook under way at once.", 1, 100)] = 4
    at_once: Annotated[int, _integer("Requests to all webhooks together under way at once.", 1, 1_000)] = 100
    kept_days: Annotated[float, _number("How many days it is kept what was sent or given up.", 0.01, 366)] = 7.0
    quiet_seconds: Annotated[
        float,
        _number("How long an empty channel or a leave is held back: who is back by then makes no noise.", 0, 300),
    ] = 3.0


class Push(_Section, frozen=True):
    """Notifications to phones and browsers."""

    contact: Annotated[
        str,
        Meta(
            description=(
                "Whom browsers' push services can turn to about this server: a `mailto:` or `https:` URL. Some refuse"
                " one that is not reachable."
            )
        ),
    ] = "mailto:push@localhost"
    web_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "The only push services of browsers that are sent to, such as `*.push.services.mozilla.com`; none: all"
                " that are public."
            )
        ),
    ] = ()
    devices_per_member: Annotated[
        int, _integer("Devices that a member may have; with one more, the eldest is forgotten.", 1, 10_000)
    ] = 100
    kept_days: Annotated[float, _number("How many days it is kept how pushes to many devices went.", 0.01, 366)] = 7.0


class Vault(_Section, frozen=True):
    """What secrets are encrypted with where they are kept."""

    keys: Annotated[
        str,
        Meta(
            description=(
                "Master keys, 32 bytes in base64 each, apart by white space, the newest last; best given as the"
                " variable. All nodes of a cluster have the same. A single node without any makes `master.key` in its"
                " data directory."
            )
        ),
    ] = ""
    key_file: Annotated[str, Meta(description="A file with the master keys, in place of `keys`.")] = ""


class Keys(_Section, frozen=True):
    """What tokens are verified with."""

    jwks_allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "Hosts that sets of public keys (`jwksUrl`) are fetched from though their addresses are not public,"
                " such as an identity provider in the own network."
            )
        ),
    ] = ()


class WebSocket(_Section, frozen=True):
    """What is agreed upon with a client that connects."""

    compression: Annotated[
        bool,
        Meta(
            description=(
                "Whether messages are compressed (`permessage-deflate`) with clients that offer it: less traffic, more"
                " work."
            )
        ),
    ] = False


class Shutdown(_Section, frozen=True):
    """How connections end with the server."""

    mode: Annotated[
        Literal["auto", "reset", "close"],
        Meta(
            description=(
                "`reset` makes the SDKs come back and resume at once, `close` says 1001; `auto` resets when"
                " another process or node can take over."
            )
        ),
    ] = "auto"
    seconds: Annotated[float, _number("How long ending may take; what is left then is cut off.", 0, 3_600)] = 10.0
    batch: Annotated[int, _integer("Connections ended in each 100 ms.", 1, 1_000_000)] = 500


class Config(_Section, frozen=True):
    """All settings of one server."""

    dev: Annotated[
        bool,
        Meta(description="In memory, with the app `demo` that everybody knows; loopback only, no rate limits."),
    ] = False
    listen: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Endpoints to listen on, as Twisted's server endpoint strings."),
    ] = ("tcp:9001:interface=127.0.0.1",)
    data: Annotated[
        str,
        Meta(
            min_length=1,
            description="The directory of the embedded store; under systemd `$STATE_DIRECTORY` by default.",
        ),
    ] = "wsock-data"
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Lines for people, or a JSON object on each line.")
    ] = "text"
    workers: Annotated[
        int,
        _integer(
            "Processes that share the ports, each a node of the cluster; more than one need Redis and MongoDB.", 1, 256
        ),
    ] = 1
    reuse_port: Annotated[
        bool,
        Meta(
            description=(
                "Lets other processes of the same user listen on the same `tcp:` and `ssl:` endpoints; the system"
                " spreads connections over them."
            )
        ),
    ] = False
    limits: Limits = Limits()
    history: History = History()
    recovery: Recovery = Recovery()
    dedup: Dedup = Dedup()
    presence: Presence = Presence()
    heartbeat: Heartbeat = Heartbeat()
    sqlite: Sqlite = Sqlite()
    redis: Redis = Redis()
    mongo: Mongo = Mongo()
    http: Http = Http()
    analytics: Analytics = Analytics()
    webhooks: Webhooks = Webhooks()
    push: Push = Push()
    accounts: Accounts = Accounts()
    vault: Vault = Vault()
    keys: Keys = Keys()
    websocket: WebSocket = WebSocket()
    shutdown: Shutdown = Shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key as it is described: ``takes`` says in words what values it has."""

    key: str
    env: str
    default: Any
    takes: str
    description: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings, and for each key where its value came from."""

    config: Config
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as it was found; ``is_text`` when it still has to be read as its type."""

    value: Any
    source: str
    is_text: bool = False


_TYPES: dict[str, Any] = {}
_SETTINGS: dict[str, Setting] = {}
_SECTIONS: dict[str, type[_Section]] = {}
_FOREIGN = ("WSOCK_TEST_", "WSOCK_BENCH_", "WSOCK_CI")
_OF_COMMANDS = ("WSOCK_URL", "WSOCK_TOKEN", "WSOCK_APP", "WSOCK_KEY", "WSOCK_CACERT", "WSOCK_SIGNING_SECRET")
"""Variables that the command ``wsock`` reads: which server, and with what."""
_PORT_KINDS = ("tcp", "tcp6", "ssl")
_RATES = ("connection_rate", "app_publish_rate", "channel_publish_rate", "user_publish_rate", "connect_rate_per_ip")
_ACCOUNT_RATES = ("logins_per_minute", "sign_ups_per_minute", "resets_per_minute", "requests_per_minute")
_ZERO_IN_DEV = (
    "limits.connection_burst",
    "limits.cluster_requests_per_minute",
    *(f"limits.{rate}" for rate in _RATES),
    *(f"accounts.{rate}" for rate in _ACCOUNT_RATES),
)


def describe() -> Iterator[Setting]:
    """Every key, in the order of the file."""
    yield from _SETTINGS.values()


def load(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of :func:`resolve`, without their sources."""
    return resolve(file=file, environ=environ, options=options).config


def resolve(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Resolved:
    """The settings from the file, the environment and the options, each beating the one before.

    ``file`` is a TOML file; without it the variable ``WSOCK_CONFIG`` names one. A variable is ``WSOCK_``, the
    section, ``_`` and the key, in capitals; several texts in one are separated by white space. ``options``
    has dotted keys (``listen``, ``limits.message_bytes``); ``None`` means not given. Raises
    :class:`ConfigError` that names the key, where it stood, and what it takes.
    """
    environ = environ or {}
    path = file if file is not None else _named_file(environ)
    found: dict[str, _Value] = {}
    found.update(_from_systemd(environ))
    found.update(_from_file(path) if path is not None else {})
    found.update(_from_environ(environ))
    found.update(_from_options(options or {}))
    values = {key: _convert(key, value) for key, value in found.items()}
    sources = {key: found[key].source if key in found else "default" for key in _SETTINGS}
    if values.get("dev"):
        values.update(dict.fromkeys(_ZERO_IN_DEV, 0))
        sources.update(dict.fromkeys(_ZERO_IN_DEV, "--dev: no rate limits"))
    config = _build(values)
    _check(config, sources)
    return Resolved(config, sources)


def endpoints(config: Config, reactor: Any) -> list[IStreamServerEndpoint]:
    """What ``listen`` stands for. Raises :class:`ConfigError` naming the text that is no endpoint."""
    ports = SharedPorts(reactor) if config.reuse_port else reactor
    return [_endpoint(text, ports) for text in config.listen]


def _endpoint(text: str, reactor: Any) -> IStreamServerEndpoint:
    try:
        return cast(IStreamServerEndpoint, serverFromString(reactor, text))
    except Exception as e:  # each endpoint parser is a plugin and fails in its own way
        raise ConfigError(
            f"listen: '{text}' is no server endpoint ({str(e) or type(e).__name__}); it takes texts such as"
            " 'tcp:9001:interface=127.0.0.1' or 'unix:/run/wsock.sock'"
        ) from e


def _named_file(environ: Mapping[str, str]) -> Path | None:
    name = environ.get("WSOCK_CONFIG")
    return Path(name) if name else None


def _from_systemd(environ: Mapping[str, str]) -> dict[str, _Value]:
    directory = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return {"data": _Value(directory, "the environment variable STATE_DIRECTORY")} if directory else {}


def _from_file(path: Path) -> dict[str, _Value]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: the settings file can't be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: this is not TOML: {e}") from e
    return {key: _Value(value, str(path)) for key, value in _flat(content, str(path))}


def _flat(content: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if name not in _SECTIONS:
            yield _known(name, source), value
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{name} in {source}: this is a section, write [{name}]")
        for key, inner in value.items():
            yield _known(f"{name}.{key}", source), inner


def _known(key: str, source: str) -> str:
    if key in _SETTINGS:
        return key
    raise ConfigError(f"{key} in {source}: there is no such setting{_suggestion(key, [*_SETTINGS, *_SECTIONS])}")


def _suggestion(word: str, words: list[str]) -> str:
    """The word that may have been meant, or the way to all of them."""
    near = difflib.get_close_matches(word, words, 1, 0.6)
    if not near:  # a key in the wrong section
        near = [known for known in words if known.rpartition(".")[2] == word.rpartition(".")[2]]
    return f"; did you mean {near[0]}?" if near else "; 'wsock config' lists them all"


def _from_environ(environ: Mapping[str, str]) -> dict[str, _Value]:
    keys = {setting.env: key for key, setting in _SETTINGS.items()}
    found = {}
    for name in sorted(environ):
        if not name.startswith("WSOCK_") or name == "WSOCK_CONFIG" or name.startswith(_FOREIGN):
            continue
        if name in _OF_COMMANDS:
            continue
        if name not in keys:
            suggestion = _suggestion(name, [*keys, "WSOCK_CONFIG"])
            raise ConfigError(f"the environment variable {name}: there is no such setting{suggestion}")
        found[keys[name]] = _Value(environ[name], f"the environment variable {name}", is_text=True)
    return found


def _from_options(options: Mapping[str, Any]) -> dict[str, _Value]:
    found = {}
    for key, value in options.items():
        if value is not None:
            source = f"the option --{key.replace('_', '-')}"
            found[_known(key, source)] = _Value(value, source)
    return found


def _convert(key: str, found: _Value) -> Any:
    wanted, value = _TYPES[key], found.value
    if found.is_text and isinstance(_SETTINGS[key].default, tuple):
        value = value.split()
    elif found.is_text and isinstance(_SETTINGS[key].default, bool):
        value = value.lower()
    try:
        converted = msgspec.convert(value, wanted, strict=not found.is_text)
    except msgspec.ValidationError as e:
        raise _wrong(key, found) from e
    if isinstance(converted, float) and not math.isfinite(converted):
        raise _wrong(key, found)
    return converted


def _wrong(key: str, found: _Value) -> ConfigError:
    setting = _SETTINGS[key]
    shown = "what it is given" if key in HIDDEN else _without_password(repr(found.value))
    return ConfigError(f"{key} in {found.source}: takes {setting.takes}, not {shown}")


def _without_password(text: str) -> str:
    return re.sub(r"(?<=//)[^/@\s]+@", "...@", text)


def _build(values: Mapping[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return msgspec.convert(tree, Config)


def _check(config: Config, sources: Mapping[str, str]) -> None:
    """What no single key can tell."""
    limits = config.limits
    for low, high in (
        ("message_bytes", "frame_bytes"),
        ("presence_bytes", "frame_bytes"),
        ("message_bytes", "output_bytes"),
    ):
        if getattr(limits, low) > getattr(limits, high):
            source = sources[f"limits.{high}"]
            raise ConfigError(f"limits.{high} ({source}): takes at least limits.{low}, which is {getattr(limits, low)}")
    if config.dev:
        for text in config.listen:
            _check_loopback(text, sources["listen"])
    if config.reuse_port and not CAN_SHARE:
        raise ConfigError(f"reuse_port in {sources['reuse_port']}: this system can't share a port; it takes false")
    if config.workers > 1:
        _check_shared(config, sources)


def _check_shared(config: Config, sources: Mapping[str, str]) -> None:
    if not CAN_SHARE:
        raise ConfigError(f"workers in {sources['workers']}: this system can't share a port; it takes 1")
    for text in config.listen:
        if _parts(text)[0] not in _PORT_KINDS:
            raise ConfigError(
                f"listen in {sources['listen']}: several workers can't share '{text}'; with workers ="
                f" {config.workers} it takes 'tcp:...' and 'ssl:...'"
            )


def _parts(text: str) -> list[str]:
    """The endpoint's kind and what follows, without the protocol of a proxy in front of it."""
    parts = [part.replace("\\", "") for part in re.split(r"(?<!\\):", text)]
    return parts[1:] if parts[0] == "haproxy" and len(parts) > 1 else parts


def _check_loopback(text: str, source: str) -> None:
    if _is_loopback(text):
        return
    raise ConfigError(
        f"listen in {source}: with --dev anybody may do anything, so '{text}' is refused; it takes"
        " 'unix:...' or 'tcp:PORT:interface=127.0.0.1'"
    )


def _is_loopback(text: str) -> bool:
    """Whether only this machine can reach the endpoint, as far as its text tells."""
    kind, *parts = _parts(text)
    if kind == "unix":
        return True
    if kind not in _PORT_KINDS:
        return False
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    positional = [part for part in parts if "=" not in part]
    # 'tcp:PORT:INTERFACE'; the second place of 'ssl:' is a private key, so there the name is needed
    second = positional[1] if kind != "ssl" and len(positional) > 1 else ""
    interface = named.get("interface", second)
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def _register(section: type[_Section], prefix: str) -> None:
    for field in msgspec.structs.fields(section):
        if isinstance(field.default, _Section):
            _SECTIONS[field.name] = type(field.default)
            _register(type(field.default), f"{field.name}.")
            continue
        key = prefix + field.name
        _TYPES[key] = field.type
        _SETTINGS[key] = Setting(
            key=key,
            env=f"WSOCK_{key.replace('.', '_').upper()}",
            default=field.default,
            takes=_takes(field.type),
            description=field.type.__metadata__[0].description,
        )


def _takes(annotated: Any) -> str:
    wanted, meta = annotated.__origin__, annotated.__metadata__[0]
    if wanted is bool:
        return "true or false"
    if wanted in (int, float):
        kind = "a whole number" if wanted is int else "a number"
        return f"{kind} from {meta.ge:.12g} to {meta.le:.13g}"
    if wanted is str:
        return "a text"
    choices = getattr(wanted, "__args__", ())
    if choices == (float, ...):
        return "a list of numbers"
    return "a list of texts" if choices[1:] == (...,) else f"one of {', '.join(choices)}"


_register(Config, "")
