"""Reads bodies, queries and paths, and says which part of them is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote_to_bytes

import msgspec
from msgspec import Raw
from twisted.web.server import Request

from wsock.edges.http.operations import NoBody
from wsock.errors import Code, Malformed, Refused
from wsock.protocol.channels import check_channel
from wsock.protocol.codec import check_text

__all__ = ["explain", "read_body", "read_parameter", "read_query"]

T = TypeVar("T")

_MAX_FIELDS = 100
_MAX_SEGMENT = 255

_place = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?$", re.DOTALL).fullmatch
_missing = re.compile(r"Object missing required field `(.+)`").fullmatch
_unknown = re.compile(r"Object contains unknown field `(.+)`", re.DOTALL).fullmatch


def explain(error: msgspec.ValidationError, wanted: Any = None) -> str:
    """What is wrong, and with which field, for people."""
    match = _place(str(error))
    assert match is not None, "the pattern takes every text"
    what, where = match[1], match[2] or ""
    if missing := _missing(what):
        return f"'{_inside(where, missing[1])}' is missing"
    if unknown := _unknown(what):
        return f"'{_inside(where, unknown[1])}' is no field{_fields(wanted) if not where else ''}"
    what = what[:1].lower() + what[1:].replace("`", "'")
    return f"'{where}': {what}" if where else what


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _fields(wanted: Any) -> str:
    names = getattr(wanted, "__struct_encode_fields__", None)
    if names is None:
        return ""
    return f": it takes {', '.join(names)}" if names else ": there is none"


def read_body(request: Request, wanted: Any, max_bytes: int) -> Any:
    """The body as this type; ``Raw`` gives its text. An empty one is an empty object.

    Raises :class:`Malformed`, or :class:`Refused` with ``too_large``.
    """
    content: Any = request.content
    content.seek(0)
    text: bytes = content.read(max_bytes + 1)
    if len(text) > max_bytes:
        raise Refused(Code.TOO_LARGE, f"the body has more than {max_bytes} bytes (limits.http_body_bytes)")
    if wanted is Raw:
        if not text:
            raise Malformed("the body is empty: it takes JSON")
        check_text(text)
        return Raw(text)
    if wanted is NoBody and not text.strip():
        return NoBody()
    check_text(text)
    try:
        return msgspec.json.decode(text or b"{}", type=wanted)
    except msgspec.ValidationError as e:
        raise Malformed(f"the body: {explain(e, wanted)}") from e
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise Malformed(f"the body is not JSON: {e}") from e


def read_query(request: Request, wanted: type[T]) -> T:
    """What stands behind the question mark, as this type. Raises :class:`Malformed`."""
    text = request.uri.partition(b"?")[2].decode("latin-1")
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except UnicodeDecodeError as e:
        raise Malformed("the query is not percent-encoded UTF-8") from e
    except ValueError as e:
        raise Malformed(f"the query has more than {_MAX_FIELDS} fields") from e
    for name, values in found.items():
        if len(values) > 1:
            raise Malformed(f"the query: '{name}' appears more than once")
    fields = {name: values[0] for name, values in found.items()}
    try:
        read = msgspec.convert(fields, wanted, strict=False)
    except msgspec.ValidationError as e:
        raise Malformed(f"the query: {explain(e, wanted)}") from e
    _check_integers(fields, read)
    return read


def _check_integers(fields: Mapping[str, str], read: Any) -> None:
    """Refuses texts like ``1e3`` and ``5.0``, which would pass for integers."""
    for name, attribute in zip(read.__struct_encode_fields__, read.__struct_fields__, strict=True):
        value = getattr(read, attribute)
        if type(value) is int and name in fields and fields[name] != str(value):
            raise Malformed(f"the query: '{name}' takes an integer, in digits only")


def read_parameter(name: str, segment: str) -> str:
    """What a segment of the path is the percent-encoding of.

    A ``channel`` keeps to the grammar of names; what can't be an id is ``not_found``.
    """
    try:
        value = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as e:
        if name == "channel":
            raise Refused(Code.CHANNEL_NAME, "the channel name in the path is not percent-encoded UTF-8") from e
        raise _no_id(name) from e
    if name == "channel":
        check_channel(value)
    elif len(value) > _MAX_SEGMENT or not value.isprintable():
        raise _no_id(name)
    return value


def _no_id(name: str) -> Refused:
    return Refused(Code.NOT_FOUND, f"'{name}' in the path can't be an id: there is nothing by it")
