"""The URL of a MongoDB: read and checked here, since the driver ignores what it does not know, TLS included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates

from wsock.errors import ConfigError

__all__ = ["Address", "MongoUrl", "read_url"]

_FORM = "mongodb://user:password@host:port,host:port/database?options"
_DEFAULT_DATABASE = "wsock"
_MECHANISMS = ("DEFAULT", "SCRAM-SHA-1")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_HONOURED = (
    "tls, tlsCAFile, tlsCertificateKeyFile, replicaSet, authSource, authMechanism=SCRAM-SHA-1, w, journal, wTimeoutMS"
)
# What other drivers' URLs often carry. Each of them may be left out without making wsock less safe.
_HARMLESS = {
    "appname",
    "connecttimeoutms",
    "directconnection",
    "maxpoolsize",
    "minpoolsize",
    "retryreads",
    "retrywrites",
    "serverselectiontimeoutms",
    "sockettimeoutms",
}


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One server of a MongoDB."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoUrl:
    """Where a MongoDB is, how to log in, and what makes a write durable. Its text never shows the password.

    ``w`` and ``journal`` are ``None`` when the URL leaves them open.
    """

    addresses: tuple[Address, ...]
    database: str
    user: str = ""
    password: str = field(default="", repr=False)
    auth_source: str = "admin"
    replica_set: str | None = None
    is_tls: bool = False
    ca_file: str | None = None
    certificate_file: str | None = None
    w: int | str | None = None
    journal: bool | None = None
    wtimeout_ms: int | None = None

    def __str__(self) -> str:
        return ",".join(map(str, self.addresses)) + f"/{self.database}"

    @property
    def driver_url(self) -> str:
        """What the driver is given: the servers and the replica set, no secret."""
        replica_set = "" if self.replica_set is None else f"?replicaSet={self.replica_set}"
        return f"mongodb://{','.join(map(str, self.addresses))}/{replica_set}"

    def tls(self, host: str) -> IOpenSSLClientConnectionCreator:
        """A TLS client that accepts this host's certificate only. Raises :class:`ConfigError`."""
        try:
            trust = None if self.ca_file is None else trustRootFromCertificates(_certificates(Path(self.ca_file)))
            own = None
            if self.certificate_file is not None:
                own = PrivateCertificate.loadPEM(Path(self.certificate_file).read_bytes())
            return optionsForClientTLS(host, trustRoot=trust, clientCertificate=own)
        except Exception as e:  # OpenSSL's errors have no common base
            raise ConfigError(
                f"the files that the MongoDB URL names for TLS can't be used: {e};"
                " tlsCAFile holds certificates in PEM, tlsCertificateKeyFile a certificate and its key"
            ) from e


def read_url(url: str) -> MongoUrl:
    """Reads a URL. Raises :class:`ConfigError`, whose text never shows the password.

    A URL without a database means ``wsock``; who logs in is looked up in ``authSource``, else in the database
    of the URL, else in ``admin``, as other drivers do.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("mongodb", "mongodb+srv"):
        raise ConfigError(f"the URL of the MongoDB has to have the form {_FORM}")
    if scheme == "mongodb+srv":
        raise ConfigError(f"mongodb+srv:// is not supported: name the hosts, {_FORM}")
    credentials, at, place = rest.rpartition("@")
    user, password = _read_credentials(credentials) if at else ("", "")
    parsed = _parse(f"mongodb://{place}")
    options = {name.lower(): value for name, value in parsed["options"].items()}
    _check_options(options)
    database = parsed["database"]
    if parsed["collection"]:
        raise ConfigError(f"the name of a MongoDB's database has no dot: {database}.{parsed['collection']}")
    return MongoUrl(
        addresses=_addresses(parsed["nodelist"]),
        database=database or _DEFAULT_DATABASE,
        user=user,
        password=password,
        auth_source=options.get("authsource") or database or "admin",
        replica_set=options.get("replicaset"),
        is_tls=bool(options.get("tls", options.get("ssl", False))),
        ca_file=options.get("tlscafile"),
        certificate_file=options.get("tlscertificatekeyfile"),
        w=options.get("w"),
        journal=options.get("journal"),
        wtimeout_ms=options.get("wtimeoutms"),
    )


def _read_credentials(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not user or not colon or not password or re.search(r"[:/?#@\[\]]|%(?![0-9a-fA-F]{2})", user + password):
        raise ConfigError(
            f"user and password can't be read from the URL of the MongoDB: it has the form {_FORM};"
            " write special characters in them as % and two hexadecimal digits, and an @ elsewhere as %40"
        )
    return unquote(user), unquote(password)


def _parse(url: str) -> Mapping[str, Any]:
    """What pymongo makes of the URL; it gets none with a password, since its errors quote what they find."""
    try:
        return parse_uri(url, validate=True, warn=False)
    except (PyMongoError, ValueError, TypeError, OSError) as e:
        raise ConfigError(f"the URL of the MongoDB can't be used: {e}; it has the form {_FORM}") from e


def _addresses(nodes: list[tuple[str, int | None]]) -> tuple[Address, ...]:
    for host, _ in nodes:
        if host.startswith("/") or host.endswith(".sock"):
            raise ConfigError("the MongoDB can't be reached through a Unix socket: name its host and port")
    return tuple(Address(host, 27017 if port is None else port) for host, port in nodes)


def _check_options(options: Mapping[str, Any]) -> None:
    honoured = {name.strip().partition("=")[0].lower() for name in _HONOURED.split(",")} | {"ssl"}
    for name in options:
        if name not in honoured | _HARMLESS:
            raise ConfigError(
                f"the URL of the MongoDB has the option {name}, which wsock can't honour; it honours {_HONOURED}"
            )
    if options.get("authmechanism", "DEFAULT") not in _MECHANISMS:
        raise ConfigError(
            f"authMechanism={options['authmechanism']} in the URL of the MongoDB is not supported: wsock logs in"
            " with SCRAM-SHA-1"
        )
    if options.get("w") == 0:
        raise ConfigError("w=0 in the URL of the MongoDB means that nobody learns of a lost message: take w=1 or more")


def _certificates(path: Path) -> list[Certificate]:
    found = [Certificate.loadPEM(match) for match in _PEM.findall(path.read_bytes())]
    if not found:
        raise ValueError(f"{path} holds no certificate")
    return found
