"""Golden vectors of the wire: the exact bytes of every event, and every request that the published SDKs send.

Requests are listed by the SDK that writes them so (protocol.md II.2.1), events by what they say. A change here is
a change of the protocol.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw

from wsock.protocol.frames import (
    Ack,
    ErrorEvent,
    Event,
    History,
    HistoryEntry,
    HistoryPage,
    Member,
    MessageEvent,
    Pong,
    PresenceEnter,
    PresenceLeave,
    PresenceMembers,
    PresenceUpdate,
    Reconnect,
    Resumed,
    Subscribed,
    Token,
    Unsubscribed,
    spread_member,
)
from wsock.protocol.position import Position

__all__ = ["EVENTS", "REQUESTS", "REQUEST_ERRORS", "TOKENS", "RequestVector", "TokenVector"]

_T = 1767225600000
_MEMBER = Member("ana", Raw(b'{"mood":"ok","clientId":"x","joinedAt":1}'), _T)
_BARE = Member("bo", Raw(b"{}"), _T)
_ENTRY = HistoryEntry("m1", "chat", Raw(b"12345678901234567890"), "ana", _T, 3)

_MEMBER_JSON = b'{"clientId":"ana","data":{"mood":"ok","clientId":"x","joinedAt":1},"joinedAt":1767225600000}'
_BARE_JSON = b'{"clientId":"bo","data":{},"joinedAt":1767225600000}'
_SPREAD_JSON = b'{"mood":"ok",' + _MEMBER_JSON[1:]
_ENTRY_JSON = (
    b'{"id":"m1","channel":"chat","data":12345678901234567890,"publisherId":"ana",'
    b'"timestamp":1767225600000,"sequence":3}'
)

EVENTS: list[tuple[str, Event, bytes]] = [
    (
        "subscribed",
        Subscribed("chat", "e1", 0),
        b'{"action":"subscribed","channel":"chat","epoch":"e1","sequence":0}',
    ),
    ("unsubscribed", Unsubscribed("chat"), b'{"action":"unsubscribed","channel":"chat"}'),
    (
        "message with an object",
        MessageEvent("chat", "m1", Raw(b'{"a": 1.0}'), _T, "ana", 3),
        b'{"action":"message","channel":"chat","id":"m1","data":{"a": 1.0},"timestamp":1767225600000,'
        b'"publisherId":"ana","sequence":3}',
    ),
    (
        "message with null",
        MessageEvent("chat", "m1", Raw(b"null"), _T, "ana", 3),
        b'{"action":"message","channel":"chat","id":"m1","data":null,"timestamp":1767225600000,'
        b'"publisherId":"ana","sequence":3}',
    ),
    (
        "message on a channel beyond ASCII",
        MessageEvent('caf\u00e9 "\u732b"', "m1", Raw(b'"\\u00e9"'), _T, "ana", 3),
        b'{"action":"message","channel":"caf\xc3\xa9 \\"\xe7\x8c\xab\\"","id":"m1","data":"\\u00e9",'
        b'"timestamp":1767225600000,"publisherId":"ana","sequence":3}',
    ),
    (
        "ack of a publish",
        Ack("m1", "chat", _T, 3),
        b'{"action":"ack","id":"m1","channel":"chat","timestamp":1767225600000,"sequence":3}',
    ),
    (
        "ack of a resume",
        Ack("resume", data=Resumed(["a"], ["b"])),
        b'{"action":"ack","id":"resume","data":{"recovered":["a"],"lost":["b"]}}',
    ),
    (
        "ack with a token",
        Ack("resume", data=Token("eyJ9")),
        b'{"action":"ack","id":"resume","data":{"resumeToken":"eyJ9"}}',
    ),
    ("ack of auth", Ack("auth"), b'{"action":"ack","id":"auth"}'),
    (
        "presence.enter",
        PresenceEnter("chat", spread_member(_MEMBER), "ana", _T),
        b'{"action":"presence.enter","channel":"chat","data":'
        + _SPREAD_JSON
        + b',"clientId":"ana","joinedAt":1767225600000}',
    ),
    (
        "presence.update without data",
        PresenceUpdate("chat", spread_member(_BARE), "bo", _T),
        b'{"action":"presence.update","channel":"chat","data":'
        + _BARE_JSON
        + b',"clientId":"bo","joinedAt":1767225600000}',
    ),
    (
        "presence.leave",
        PresenceLeave("chat", spread_member(_BARE), "bo", _T, "node_lost"),
        b'{"action":"presence.leave","channel":"chat","data":'
        + _BARE_JSON
        + b',"clientId":"bo","joinedAt":1767225600000,"reason":"node_lost"}',
    ),
    (
        "presence.members",
        PresenceMembers("chat", [_MEMBER, _BARE], [_MEMBER, _BARE]),
        b'{"action":"presence.members","channel":"chat","data":[%b,%b],"members":[%b,%b],"hasMore":false}'
        % (_MEMBER_JSON, _BARE_JSON, _MEMBER_JSON, _BARE_JSON),
    ),
    (
        "presence.members of an empty channel",
        PresenceMembers("chat", [], []),
        b'{"action":"presence.members","channel":"chat","data":[],"members":[],"hasMore":false}',
    ),
    (
        "history",
        History("chat", HistoryPage("chat", [_ENTRY], True), [_ENTRY], True),
        b'{"action":"history","channel":"chat","data":{"channel":"chat","messages":[%b],"hasMore":true},'
        b'"messages":[%b],"hasMore":true}' % (_ENTRY_JSON, _ENTRY_JSON),
    ),
    (
        "history of an empty channel",
        History("chat", HistoryPage("chat", [], False), [], False),
        b'{"action":"history","channel":"chat","data":{"channel":"chat","messages":[],"hasMore":false},'
        b'"messages":[],"hasMore":false}',
    ),
    ("error", ErrorEvent("no", "internal"), b'{"action":"error","error":"no","code":"internal"}'),
    (
        "error of a request",
        ErrorEvent("slow down", "rate_limited", "chat", "m1", 0.25),
        b'{"action":"error","error":"slow down","code":"rate_limited","channel":"chat","id":"m1","retryAfter":0.25}',
    ),
    ("pong", Pong(), b'{"action":"pong"}'),
    ("reconnect", Reconnect(1500), b'{"action":"reconnect","delay":1500}'),
]
"""What is said, the event, and its bytes."""


@dataclass(frozen=True, slots=True)
class RequestVector:
    """A frame as an SDK writes it, and the request it is: all fields not named have their defaults."""

    sdk: str
    text: bytes
    action: str
    fields: dict[str, Any] = field(default_factory=dict)


def _vector(sdk: str, text: str, action: str, **fields: Any) -> RequestVector:
    return RequestVector(sdk, text.encode(), action, fields)


_UUID = "6f1c8a52-2b0e-4c8e-9d3a-0f0d4c1b2a39"
_UPPER = "6F1C8A52-2B0E-4C8E-9D3A-0F0D4C1B2A39"

REQUESTS: list[RequestVector] = [
    # subscribe
    _vector("JS", '{"action":"subscribe","channel":"chat"}', "subscribe", channel="chat"),
    _vector("JS, rewind", '{"action":"subscribe","channel":"chat","rewind":5}', "subscribe", channel="chat", rewind=5),
    _vector(
        "Python, rewind",
        '{"action": "subscribe", "channel": "caf\\u00e9", "rewind": 10}',
        "subscribe",
        channel="caf\u00e9",
        rewind=10,
    ),
    _vector(
        "Go, keys sorted",
        '{"action":"subscribe","channel":"a\\u0026b","rewind":2}',
        "subscribe",
        channel="a&b",
        rewind=2,
    ),
    _vector("Kotlin, Swift, Dart, Ruby", '{"channel":"chat","action":"subscribe"}', "subscribe", channel="chat"),
    _vector("PHP, escaped slash", '{"action":"subscribe","channel":"a\\/b"}', "subscribe", channel="a/b"),
    _vector("unknown field", '{"x":[{}],"action":"subscribe","channel":"c"}', "subscribe", channel="c"),
    _vector("null rewind", '{"action":"subscribe","channel":"c","rewind":null}', "subscribe", channel="c"),
    # unsubscribe
    _vector("all", '{"action":"unsubscribe","channel":"chat"}', "unsubscribe", channel="chat"),
    # publish
    _vector(
        "JS",
        f'{{"action":"publish","channel":"chat","data":{{"text":"hi"}},"id":"{_UUID}"}}',
        "publish",
        channel="chat",
        data=b'{"text":"hi"}',
        id=_UUID,
    ),
    _vector(
        "JS, undefined data, fallback id",
        '{"action":"publish","channel":"chat","id":"1767225600000-k3j9x2"}',
        "publish",
        channel="chat",
        id="1767225600000-k3j9x2",
    ),
    _vector(
        "JS, persist false",
        '{"action":"publish","channel":"chat","data":1,"id":"i","persist":false}',
        "publish",
        channel="chat",
        data=b"1",
        id="i",
        persist=False,
    ),
    _vector(
        "Python",
        f'{{"action": "publish", "channel": "chat", "data": {{"n": 1.50, "s": "\\u00e9"}}, "id": "{_UUID}"}}',
        "publish",
        channel="chat",
        data=b'{"n": 1.50, "s": "\\u00e9"}',
        id=_UUID,
    ),
    _vector(
        "Go, id of milliseconds and hex",
        '{"action":"publish","channel":"chat","data":[1,2],"id":"1767225600000-9f86d081"}',
        "publish",
        channel="chat",
        data=b"[1,2]",
        id="1767225600000-9f86d081",
    ),
    _vector(
        "Kotlin, null data is absent",
        f'{{"action":"publish","channel":"chat","id":"{_UUID}"}}',
        "publish",
        channel="chat",
        id=_UUID,
    ),
    _vector(
        "Kotlin, Swift, Dart, Ruby, Elixir: persist true",
        f'{{"action":"publish","channel":"chat","data":"hi","id":"{_UUID}","persist":true}}',
        "publish",
        channel="chat",
        data=b'"hi"',
        id=_UUID,
        persist=True,
    ),
    _vector(
        "Ruby, null data",
        '{"action":"publish","channel":"chat","data":null,"id":"i"}',
        "publish",
        channel="chat",
        data=b"null",
        id="i",
    ),
    _vector(
        "Pascal, uppercase GUID",
        f'{{"action":"publish","channel":"chat","data":{{}},"id":"{_UPPER}","persist":true}}',
        "publish",
        channel="chat",
        data=b"{}",
        id=_UPPER,
        persist=True,
    ),
    _vector(
        "big integers stay as they are",
        '{"action":"publish","channel":"c","data":{"n":123456789012345678901234567890}}',
        "publish",
        channel="c",
        data=b'{"n":123456789012345678901234567890}',
    ),
    _vector(
        "null id, null persist",
        '{"action":"publish","channel":"c","id":null,"persist":null}',
        "publish",
        channel="c",
    ),
    # history
    _vector("JS, no options", '{"action":"history","channel":"chat"}', "history", channel="chat"),
    _vector(
        "JS, all options",
        '{"action":"history","channel":"chat","limit":20,"before":1767225600000,"after":1,"direction":"forward"}',
        "history",
        channel="chat",
        limit=20,
        before=1767225600000,
        after=1,
        direction="forward",
    ),
    _vector(
        "Python, floats",
        '{"action": "history", "channel": "chat", "limit": 20.0, "before": 1767225600000.5}',
        "history",
        channel="chat",
        limit=20.0,
        before=1767225600000.5,
    ),
    _vector(
        "C#, PHP, Java: zero and negative",
        '{"action":"history","channel":"chat","limit":0,"before":-1,"after":0}',
        "history",
        channel="chat",
        limit=0,
        before=-1,
        after=0,
    ),
    _vector(
        "Swift, Dart: nulls",
        '{"action":"history","channel":"chat","limit":null,"before":null,"after":null,"direction":null}',
        "history",
        channel="chat",
    ),
    _vector(
        "Elixir, any option",
        '{"action":"history","channel":"chat","limit":5,"color":"red","direction":"backward"}',
        "history",
        channel="chat",
        limit=5,
        direction="backward",
    ),
    # presence
    _vector(
        "JS, Go, PHP, Java, Kotlin: no data",
        '{"action":"presence.enter","channel":"chat"}',
        "presence.enter",
        channel="chat",
    ),
    _vector(
        "Python, Ruby, Elixir, C#, Dart, Swift: null data",
        '{"action":"presence.enter","channel":"chat","data":null}',
        "presence.enter",
        channel="chat",
        data=b"null",
    ),
    _vector(
        "PHP, empty array",
        '{"action":"presence.enter","channel":"chat","data":[]}',
        "presence.enter",
        channel="chat",
        data=b"[]",
    ),
    _vector(
        "all, with data",
        '{"action":"presence.enter","channel":"chat","data":{"name":"Ana"}}',
        "presence.enter",
        channel="chat",
        data=b'{"name":"Ana"}',
    ),
    _vector(
        "all",
        '{"action":"presence.update","channel":"chat","data":{"away":true}}',
        "presence.update",
        channel="chat",
        data=b'{"away":true}',
    ),
    _vector("all", '{"action":"presence.leave","channel":"chat"}', "presence.leave", channel="chat"),
    _vector("all", '{"action":"presence.get","channel":"chat"}', "presence.get", channel="chat"),
    # the connection
    _vector("JS", '{"action":"ping"}', "ping"),
    _vector("Python", '{"action": "ping"}', "ping"),
    _vector(
        "JS, Python, Go, C#, PHP, Java",
        '{"action":"resume","resumeToken":"eyJ9"}',
        "resume",
        resume_token="eyJ9",
    ),
    _vector("Kotlin, Swift, Dart, Ruby, Elixir", '{"action":"resume","token":"eyJ9=="}', "resume", token="eyJ9=="),
    _vector(
        "PHP, escaped slash in the token",
        '{"action":"resume","resumeToken":"ab\\/+"}',
        "resume",
        resume_token="ab/+",
    ),
    _vector(
        "wsock",
        '{"action":"resume","positions":{"a":{"epoch":"e1","sequence":7},"b":{"epoch":"","sequence":0}}}',
        "resume",
        positions={"a": Position("e1", 7), "b": Position("", 0)},
    ),
    _vector("wsock", '{"action":"auth","token":"h.p.s"}', "auth", token="h.p.s"),
]
"""Every request of every SDK."""

REQUEST_ERRORS: list[tuple[bytes, str, str | None, str | None]] = [
    (b"", "bad_request", None, None),
    (b"[]", "bad_request", None, None),
    (b'"ping"', "bad_request", None, None),
    (b"null", "bad_request", None, None),
    (b"{}", "bad_request", None, None),
    (b'{"action":"ping"', "bad_request", None, None),
    (b'{"action":"ping"}{"action":"ping"}', "bad_request", None, None),
    (b'\xef\xbb\xbf{"action":"ping"}', "bad_request", None, None),
    (b'{"action":null,"channel":"c","id":"i"}', "bad_request", "c", "i"),
    (b'{"action":7}', "bad_request", None, None),
    (b'{"channel":"c"}', "bad_request", "c", None),
    (b'{"action":"hello","channel":"c"}', "unknown_action", "c", None),
    (b'{"action":"","id":"i"}', "unknown_action", None, "i"),
    (b'{"action":"PING"}', "unknown_action", None, None),
    (b'{"action":"publish"}', "bad_request", None, None),
    (b'{"action":"publish","channel":null,"id":"i"}', "bad_request", None, "i"),
    (b'{"action":"publish","channel":"c","id":7}', "bad_request", "c", None),
    (b'{"action":"publish","channel":"c","id":"i","persist":"no"}', "bad_request", "c", "i"),
    (b'{"action":"publish","channel":"c","data":{"a":1,}}', "bad_request", None, None),
    (b'{"action":"publish","channel":"c","data":NaN}', "bad_request", None, None),
    (b'{"action":"publish","channel":"c","data":"\\ud800"}', "bad_request", None, None),
    (b'{"action":"publish","channel":"c","data":"a\nb"}', "bad_request", None, None),
    (b'{"action":"subscribe","channel":"c","rewind":"5"}', "bad_request", "c", None),
    (b'{"action":"history","channel":"c","limit":true}', "bad_request", "c", None),
    (b'{"action":"history","channel":"c","limit":1e999}', "bad_request", "c", None),
    (b'{"action":"resume","positions":{"c":7}}', "bad_request", None, None),
    (b'{"action":"resume","positions":{"c":{"epoch":"e","sequence":-1}}}', "bad_request", None, None),
    (b'{"action":"resume","positions":{"c":{"epoch":"e","sequence":%b}}}' % (b"9" * 30), "bad_request", None, None),
    (b'{"action":"auth"}', "bad_request", None, None),
]
"""Texts that are no request: the code that answers, and the channel and id that can be told of them."""


@dataclass(frozen=True, slots=True)
class TokenVector:
    """A resume token as an SDK makes it, and what it says."""

    sdk: str
    token: str
    channels: tuple[str, ...]
    since: int


def _token(
    sdk: str, content: str, *channels: str, since: int = _T, charset: str = "utf-8", alphabet: bytes = b"-_", pad: bool
) -> TokenVector:
    """The content as the SDK's charset and base64 make it a token."""
    text = base64.b64encode(content.encode(charset, "replace"), alphabet).decode()
    return TokenVector(sdk, text if pad else text.rstrip("="), channels, since)


_STANDARD = b"+/"

TOKENS: list[TokenVector] = [
    _token("JS", '{"channels":["a","b"],"lastTs":1767225600000}', "a", "b", alphabet=_STANDARD, pad=True),
    _token(
        "JS, Latin-1",
        '{"channels":["caf\u00e9","\u00ff\u00fe"],"lastTs":1767225600000}',
        "caf\u00e9",
        "\u00ff\u00fe",
        charset="latin-1",
        alphabet=_STANDARD,
        pad=True,
    ),
    _token(
        "Python",
        '{"channels": ["a", "caf\\u00e9", "\\ud83d\\ude00"], "lastTs": 1767225600000}',
        "a",
        "caf\u00e9",
        "\U0001f600",
        pad=False,
    ),
    _token("Python, float", '{"channels": ["a"], "lastTs": 1767225600000.0}', "a", pad=False),
    _token("Go", '{"channels":["a","x\\u003ey","\u732b"],"lastTs":1767225600000}', "a", "x>y", "\u732b", pad=True),
    _token("C#", '{"channels":["caf\\u00E9","x\\u002By"],"lastTs":1767225600000}', "caf\u00e9", "x+y", pad=False),
    _token("PHP", '{"channels":["a\\/b","caf\\u00e9"],"lastTs":1767225600000}', "a/b", "caf\u00e9", pad=False),
    _token("Java", '{"channels":["caf\u00e9"],"lastTs":1767225600000}', "caf\u00e9", pad=False),
    _token(
        "Java, platform charset US-ASCII",
        '{"channels":["caf\u00e9","b"],"lastTs":1767225600000}',
        "caf?",
        "b",
        charset="ascii",
        pad=False,
    ),
    _token("Kotlin", '{"channels":["a","\u732b"],"since":1767225600000}', "a", "\u732b", pad=False),
    _token("Swift", '{"since":1767225600000,"channels":["a\\/b"]}', "a/b", alphabet=_STANDARD, pad=True),
    _token("Dart", '{"channels":["a","b?>"],"since":1767225600000}', "a", "b?>", pad=True),
    _token("Ruby", '{"channels":["caf\u00e9"],"since":1767225600000}', "caf\u00e9", pad=False),
    _token("Elixir", '{"channels":["a"],"since":1767225600000}', "a", pad=False),
]
"""A token of every SDK (protocol.md II.3.1)."""
