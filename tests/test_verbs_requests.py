"""Tests of the requests in the verb table: what the published SDKs send, decoded (protocol.md II.2.1)."""

from __future__ import annotations

import json
import random  # noqa: TID251 - seeded, so that a failure repeats

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tests import vectors
from tests.base import SynchronousTestCase
from wsock.errors import Malformed
from wsock.protocol.codec import Codec, encode
from wsock.protocol.frames import Request
from wsock.verbs import REQUESTS, VERBS

repeatable = settings(max_examples=400)
CODEC = Codec(REQUESTS)
TEXTS = [vector.text for vector in vectors.REQUESTS]


def fields(request: Request) -> dict[str, object]:
    """The fields of a request by name, raw data as bytes."""
    values = {name: getattr(request, name) for name in request.__struct_fields__}
    return {name: bytes(value) if isinstance(value, Raw) else value for name, value in values.items()}


def defaults(request: Request) -> dict[str, object]:
    """The defaults of those fields of a request's type that have one."""
    values = {f.name: f.default for f in msgspec.structs.fields(request) if f.default is not msgspec.NODEFAULT}
    return {name: bytes(value) if isinstance(value, Raw) else value for name, value in values.items()}


class SdkRequestTests(SynchronousTestCase):
    """The requests of the SDKs."""

    def test_each(self) -> None:
        """Every request of every SDK is read as what it means; whatever it leaves out has its default."""
        for vector in vectors.REQUESTS:
            request = CODEC.decode(vector.text)
            self.assertEqual(request.__struct_config__.tag, vector.action, vector.sdk)
            self.assertEqual(fields(request), defaults(request) | vector.fields, (vector.sdk, vector.text))

    def test_complete(self) -> None:
        """There is a vector for every request, and every request has its answer in the table."""
        self.assertEqual(REQUESTS, tuple(VERBS))
        self.assertEqual({t.__struct_config__.tag for t in REQUESTS}, {vector.action for vector in vectors.REQUESTS})

    def test_absent_data(self) -> None:
        """Absent data is null in a message and an empty object in presence."""
        for text, data in [
            (b'{"action":"publish","channel":"c"}', b"null"),
            (b'{"action":"presence.enter","channel":"c"}', b"{}"),
            (b'{"action":"presence.update","channel":"c"}', b"{}"),
        ]:
            self.assertEqual(fields(CODEC.decode(text))["data"], data)

    def test_order(self) -> None:
        """What changes the connection starts in order; what only asks or publishes need not wait."""
        free = {t.__struct_config__.tag for t in REQUESTS if not t.in_order}

        self.assertEqual(free, {"publish", "history", "ping"})


class RefusedRequestTests(SynchronousTestCase):
    """Texts that are no request."""

    def test_each(self) -> None:
        """Each is answered with its code, and names the channel and the id where they can be told."""
        for text, code, channel, id in vectors.REQUEST_ERRORS:
            e = self.assertRaises(Malformed, CODEC.decode, text)
            self.assertEqual((e.code, e.channel, e.id), (code, channel, id), text)

    def test_texts_are_for_people(self) -> None:
        """The text of an error names the action and the field."""
        e = self.assertRaises(Malformed, CODEC.decode, b'{"action":"subscribe","channel":"c","rewind":"5"}')

        self.assertIn("subscribe:", e.text)
        self.assertIn("rewind", e.text)


class HostileRequestTests(SynchronousTestCase):
    """Nothing but Malformed escapes the real table."""

    def check(self, text: bytes) -> None:
        """The text is malformed, or a request of which whatever is passed on is JSON."""
        try:
            request = CODEC.decode(text)
        except Malformed as e:
            encode({"error": e.text, "channel": e.channel, "id": e.id})
            return
        for value in fields(request).values():
            if isinstance(value, bytes):
                json.loads(value)

    def test_mutations(self) -> None:
        """Requests of the SDKs with bytes changed, removed and doubled."""
        dice = random.Random(2026)
        alphabet = b'{}[]",:\\u0e-1 \xc3'
        for _ in range(5000):
            text = bytearray(dice.choice(TEXTS))
            for _ in range(dice.randrange(1, 4)):
                at = dice.randrange(len(text))
                text[at : at + dice.randrange(3)] = bytes(dice.choices(alphabet, k=dice.randrange(3)))
            self.check(bytes(text))

    def test_spliced(self) -> None:
        """The head of one request with the tail of another."""
        dice = random.Random(2027)
        for _ in range(3000):
            one, other = dice.choice(TEXTS), dice.choice(TEXTS)
            self.check(one[: dice.randrange(len(one))] + other[dice.randrange(len(other)) :])

    @repeatable
    @given(
        st.sampled_from([t.__struct_config__.tag for t in REQUESTS]),
        st.dictionaries(
            st.sampled_from(sorted({f.encode_name for t in REQUESTS for f in msgspec.structs.fields(t)})),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                lambda inner: (
                    st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["epoch", "sequence"]), inner)
                ),
                max_leaves=5,
            ),
        ),
    )
    def test_any_types(self, action: object, values: dict[str, object]) -> None:
        """Every action with fields of any type."""
        self.check(json.dumps({"action": action, **values}).encode())
