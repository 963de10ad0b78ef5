"""Tests of :mod:`wsock.protocol.frames`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests.base import SynchronousTestCase
from tests.vectors import EVENTS
from wsock.protocol import frames
from wsock.protocol.codec import encode
from wsock.protocol.frames import EMPTY_OBJECT, NULL, Event, Member, spread_member

repeatable = settings(max_examples=200)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
keys = st.sampled_from(["clientId", "data", "joinedAt", "client_id", "a", ""]) | st.text(max_size=5)


class GoldenTests(SynchronousTestCase):
    """The bytes of the events."""

    def test_bytes(self) -> None:
        """Every event is exactly these bytes."""
        for name, event, text in EVENTS:
            self.assertEqual(encode(event), text, name)

    def test_complete(self) -> None:
        """There is a vector of every event."""
        known = {thing for thing in vars(frames).values() if _is_event(thing)}

        self.assertEqual(known, {type(event) for _, event, _ in EVENTS})

    def test_types(self) -> None:
        """The types hold that SDKs die of otherwise (protocol.md II.2.2)."""
        for name, _, text in EVENTS:
            for path, value in _walk(json.loads(text)):
                self.assertIsInstance(value, _types(path), f"{name}: {path}")

    def test_small(self) -> None:
        """Absent fields are absent, never null: Java and C# throw on those."""
        for name, event, text in EVENTS:
            top = json.loads(text)
            absent = [k for k, v in top.items() if v is None and k != "data"]
            self.assertEqual(absent, [], f"{name} ({event})")


def _is_event(thing: object) -> bool:
    return (
        isinstance(thing, type)
        and issubclass(thing, Event)
        and thing.__struct_config__.tag not in ("Event", "_Presence")
    )


_STRINGS = ("action", "channel", "epoch", "id", "publisherId", "clientId", "error", "code", "reason", "resumeToken")
_INTEGERS = ("timestamp", "sequence", "joinedAt", "delay")


def _types(name: str) -> type | tuple[type, ...]:
    if name in _STRINGS:
        return str
    if name in _INTEGERS:
        return int
    return {"messages": list, "members": list, "recovered": list, "lost": list, "hasMore": bool}.get(name, object)


def _walk(event: dict[str, Any]) -> list[tuple[str, Any]]:
    """The names and values of an event and of what is nested in it by us, the user's own data left out."""
    found = list(event.items())
    for name in ("data", "members", "messages"):
        inner = event.get(name)
        if event["action"] == "message":
            continue
        for each in inner if isinstance(inner, list) else [inner]:
            found += each.items() if isinstance(each, dict) else []
    return found


class SpreadMemberTests(SynchronousTestCase):
    """The member with the user's own keys beside its own."""

    def test_no_data(self) -> None:
        """Without keys of the user's it is the member."""
        self.assertEqual(bytes(spread_member(Member("a", EMPTY_OBJECT, 5))), b'{"clientId":"a","data":{},"joinedAt":5}')

    def test_bytes_are_kept(self) -> None:
        """The values are passed through byte for byte, big integers and floats among them."""
        data = b'{"n":12345678901234567890123,"f":1.0,"s":"\\u00e9","o":{ "x" : [1] }}'

        self.assertEqual(
            bytes(spread_member(Member("a", Raw(data), 5))),
            data[:-1] + b',"clientId":"a","data":' + data + b',"joinedAt":5}',
        )

    @repeatable
    @given(st.dictionaries(keys, scalars | st.lists(scalars, max_size=3), max_size=6), st.text(), st.integers(0, 2**53))
    def test_both_find_theirs(self, data: dict[str, Any], client_id: str, joined_at: int) -> None:
        """No key of the user's replaces one of the member's; all others are there; ``data`` is whole."""
        member = Member(client_id, Raw(msgspec.json.encode(data)), joined_at)

        spread = json.loads(bytes(spread_member(member)))

        self.assertEqual(spread, {**data, "clientId": client_id, "data": data, "joinedAt": joined_at})


class ConstantTests(SynchronousTestCase):
    """The texts that stand for absent data."""

    def test_texts(self) -> None:
        """Absent message data is null, absent presence data an empty object."""
        self.assertEqual((bytes(NULL), bytes(EMPTY_OBJECT)), (b"null", b"{}"))
