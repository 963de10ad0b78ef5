"""The opening handshake, server side (RFC 6455 §4.2), from the bytes of an HTTP request head.

It is our own since the head has to be read anyway: to tell an upgrade from an HTTP request, to refuse with a JSON
body, and to reject heads that two parsers could read differently. Only what the handshake needs is understood.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

from wsock.errors import HTTP_STATUS, Refused
from wsock.protocol.codec import encode

__all__ = [
    "Handshake",
    "Head",
    "HeadError",
    "accept_response",
    "is_upgrade",
    "parse_head",
    "refusal",
    "upgrade",
]

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_request_line = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])").fullmatch
# The spaces around a value are stripped afterwards: quantifiers that overlap take cubic time on a hostile head.
_header = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f\x85]*)").fullmatch
_slashes = re.compile("/{2,}")


class HeadError(Exception):
    """The bytes are no HTTP/1 request head; the text says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request head: names in lower case, values as Latin-1 text, a repeated name joined by ``, `` (RFC 9110 §5.3)."""

    method: str
    target: str
    is_http11: bool
    headers: dict[str, str]
    repeated: frozenset[str]


@dataclass(frozen=True, slots=True)
class Handshake:
    """A valid upgrade: what the credential and the answer are made from."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    key: str

    @property
    def origin(self) -> str | None:
        """The page that connects, as the browser says."""
        return self.headers.get("origin")


def parse_head(data: bytes) -> Head:
    """Reads a head, without its final empty line.

    A value with a control character or a line separator (VT, FF, FS, GS, RS, NEL and others) is refused: some parsers
    split lines there, and a forged header would appear.
    """
    first, *lines = data.split(b"\r\n")
    line = _request_line(first)
    if line is None:
        raise HeadError("malformed request line")
    headers: dict[str, str] = {}
    repeated = set()
    for text in lines:
        header = _header(text)
        if header is None:
            raise HeadError("malformed header line or a control character in a header")
        name, value = header[1].decode("ascii").lower(), header[2].strip(b" \t").decode("latin-1")
        if name in headers:
            repeated.add(name)
            value = f"{headers[name]}, {value}"
        headers[name] = value
    method, target = line[1].decode("ascii"), line[2].decode("ascii")
    return Head(method, target, line[3] == b"1", headers, frozenset(repeated))


def is_upgrade(head: Head) -> bool:
    """Whether the client asks for WebSocket."""
    return _has(head.headers.get("upgrade", ""), "websocket")


def upgrade(head: Head) -> Handshake:
    """The handshake that the head asks for, or :class:`HeadError` (RFC 6455 §4.2.1)."""
    headers = head.headers
    if head.method != "GET" or not head.is_http11:
        raise HeadError("an upgrade takes GET and HTTP/1.1")
    for name in ("host", "origin", "sec-websocket-key", "sec-websocket-version"):
        if name in head.repeated:
            raise HeadError(f"the header {name} appears twice")
    if "host" not in headers:
        raise HeadError("the header host is missing")
    if not _has(headers.get("connection", ""), "upgrade"):
        raise HeadError("the header connection lacks 'upgrade'")
    if headers.get("sec-websocket-version") != "13":
        raise HeadError("the header sec-websocket-version takes 13")
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise HeadError("the header sec-websocket-key takes base64 of 16 bytes")
    if head.headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise HeadError("an upgrade has no body")
    path, _, query = head.target.partition("?")
    return Handshake(_slashes.sub("/", unquote(path)), _query(query), headers, key)


def accept_response(handshake: Handshake, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The 101 that completes the handshake (RFC 6455 §4.2.2)."""
    digest = base64.b64encode(hashlib.sha1(handshake.key.encode() + _MAGIC, usedforsecurity=False).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Accept: {digest}", *(f"{name}: {value}" for name, value in extra), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def refusal(refused: Refused, extra: tuple[tuple[str, str], ...] = ()) -> bytes:
    """An HTTP answer that refuses the upgrade, with ``{"error", "code"}`` as its body."""
    body = encode({"error": refused.text, "code": refused.code.value})
    status = HTTPStatus(HTTP_STATUS[refused.code])
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        "Connection: close",
    ]
    if refused.retry_after is not None:
        lines.append(f"Retry-After: {max(1, round(refused.retry_after))}")
    lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in extra), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _has(value: str, token: str) -> bool:
    return any(part.strip().lower() == token for part in value.split(","))


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except ValueError:  # binascii.Error is one; a character beyond ASCII is another
        return False


def _query(query: str) -> dict[str, str]:
    try:
        return {name: values[0] for name, values in parse_qs(query, max_num_fields=100).items()}
    except ValueError as e:
        raise HeadError("the query has too many fields") from e
