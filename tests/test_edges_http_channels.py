"""Tests for :mod:`wsock.edges.http.channels`, :mod:`wsock.edges.http.posting` and :mod:`wsock.edges.http.answers`."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any
from urllib.parse import quote

import jwt
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from tests.http_client import NOW, SECRET, Answer, World, answers, open_http, request
from wsock.errors import Unavailable
from wsock.interfaces import Outcome
from wsock.protocol.messages import Receipt
from wsock.protocol.rates import Rate, Rates

MESSAGES = "/api/channels/news/messages"
PRESENCE = "/api/channels/news/presence"


class ApiTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.successResultOf(self.world.create())

    def ask(self, *args: Any, **kwargs: Any) -> Answer:
        return self.world.ask(*args, **kwargs)

    def assert_refused(self, answer: Answer, status: int, code: str, *names: str) -> None:
        """The answer is this refusal, and its text names these things."""
        self.assertEqual((answer.status, answer.json["code"]), (status, code), answer.body)
        self.assertEqual(set(answer.json), {"error", "code"})
        self.assertEqual(answer.headers["content-type"], "application/json")
        for name in names:
            self.assertIn(name, answer.json["error"])


class CredentialTests(ApiTestCase):
    def test_missing(self) -> None:
        """Without a credential the answer is 401 and says how to give one."""
        answer = self.ask("GET", MESSAGES, key=None)

        self.assert_refused(answer, 401, "unauthorized", "Authorization: Bearer")
        self.assertEqual(answer.headers["www-authenticate"], "Bearer")

    def test_other_scheme(self) -> None:
        """Only Bearer is a scheme of ours; its name is read without case."""
        basic = self.ask("GET", MESSAGES, key=None, headers={"Authorization": "Basic a2V5LWE6"})
        lower = self.ask("GET", MESSAGES, key=None, headers={"authorization": "bearer  key-a "})

        self.assert_refused(basic, 401, "unauthorized")
        self.assertEqual(lower.status, 200)

    def test_unknown_and_revoked(self) -> None:
        """A key that is not good is 401, and the answer doesn't hold it."""
        for key in ("key-zzz", "key-off"):
            answer = self.ask("GET", MESSAGES, key=key)
            self.assert_refused(answer, 401, "unauthorized")
            self.assertNotIn(key.encode(), answer.body)

    def test_query_is_no_credential(self) -> None:
        """A key in the query counts for WebSockets only: query strings end in logs."""
        self.assert_refused(self.ask("GET", MESSAGES + "?key=key-a", key=None), 401, "unauthorized")

    def test_jwt(self) -> None:
        """A JWT is a credential; its subject is the publisher."""
        token = jwt.encode({"sub": "ann"}, SECRET, algorithm="HS256", headers={"kid": "a"})
        posted = self.ask("POST", MESSAGES, {"data": 1}, key=token)
        page = self.ask("GET", MESSAGES, key=token)

        self.assertEqual(posted.status, 200)
        self.assertEqual([m["publisherId"] for m in page.json["messages"]], ["ann"])

    def test_anonymous_jwt(self) -> None:
        """A JWT without a subject is a client's: what it publishes is not the server's."""
        token = jwt.encode({}, SECRET, algorithm="HS256", headers={"kid": "a"})
        self.ask("POST", MESSAGES, {"data": 1}, key=token)

        [message] = self.ask("GET", MESSAGES).json["messages"]
        self.assertEqual(message["publisherId"], "anonymous")

    def test_expired_jwt(self) -> None:
        """An expired JWT has its own code."""
        claims = {"sub": "ann", "exp": NOW - 1000}
        token = jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "a"})

        self.assert_refused(self.ask("GET", MESSAGES, key=token), 401, "token_expired")

    def test_app_id(self) -> None:
        """X-App-Id may name the credential's app and no other."""
        self.assertEqual(self.ask("GET", MESSAGES, headers={"X-App-Id": "a"}).status, 200)
        self.assert_refused(self.ask("GET", MESSAGES, headers={"X-App-Id": "b"}), 403, "forbidden", "X-App-Id")

    def test_permissions(self) -> None:
        """Each operation takes its permission, which the answer names."""
        self.assert_refused(self.ask("GET", MESSAGES, key="key-none"), 403, "forbidden", "'history'")
        self.assert_refused(self.ask("GET", PRESENCE, key="key-none"), 403, "forbidden", "'presence'")
        self.assert_refused(self.ask("POST", MESSAGES, {"data": 1}, key="key-none"), 403, "forbidden", "'publish'")

    def test_origin(self) -> None:
        """A page from an origin that the app doesn't allow is refused."""
        allowed = self.ask("GET", MESSAGES, key="key-b", headers={"Origin": "https://b.example"})
        other = self.ask("GET", MESSAGES, key="key-b", headers={"Origin": "https://evil.example"})

        self.assertEqual(allowed.status, 200)
        self.assert_refused(other, 403, "forbidden", "origin")

    def test_tenants(self) -> None:
        """A key of one app never sees another's channel of the same name, nor shares its ids."""
        first = self.ask("POST", MESSAGES, {"data": "a", "id": "x"}, key="key-a")
        second = self.ask("POST", MESSAGES, {"data": "b", "id": "x"}, key="key-b")
        page = self.ask("GET", MESSAGES, key="key-b")

        self.assertFalse(second.json["duplicate"])
        self.assertNotEqual(first.json["epoch"], second.json["epoch"])
        self.assertEqual([m["data"] for m in page.json["messages"]], ["b"])


class PublishTests(ApiTestCase):
    def test_one(self) -> None:
        """A message is answered with its receipt."""
        answer = self.ask("POST", MESSAGES, {"data": {"text": "hi"}, "id": "m1"})

        self.assertEqual(answer.status, 200)
        self.assertEqual(
            answer.json,
            {
                "id": "m1",
                "channel": "news",
                "timestamp": int(NOW * 1000),
                "epoch": "e1",
                "sequence": 1,
                "duplicate": False,
            },
        )

    def test_repeated(self) -> None:
        """The same id gets the first receipt, and is told to be a duplicate."""
        first = self.ask("POST", MESSAGES, {"data": 1, "id": "m1"}).json
        again = self.ask("POST", MESSAGES, {"data": 2, "id": "m1"}).json

        self.assertEqual(again, {**first, "duplicate": True})

    def test_defaults(self) -> None:
        """Data is null, an id is made, and the publisher is the server."""
        self.ask("POST", MESSAGES, {})
        [message] = self.ask("GET", MESSAGES).json["messages"]

        self.assertEqual((message["data"], message["publisherId"]), (None, "server"))
        self.assertTrue(message["id"])

    def test_data_byte_for_byte(self) -> None:
        """What stands under data is passed on as it is written."""
        data = b'{"n": 123456789012345678901234567890,  "t":"\\u00e9 \xc3\xa9"}'
        self.ask("POST", MESSAGES, b'{"data":' + data + b"}")

        self.assertIn(b'"data":' + data, self.ask("GET", MESSAGES).body)

    def test_not_persistent(self) -> None:
        """A message that does not persist is no history; null means the default."""
        self.ask("POST", MESSAGES, {"data": 1, "persist": False})
        self.ask("POST", MESSAGES, {"data": 2, "persist": None})

        self.assertEqual([m["data"] for m in self.ask("GET", MESSAGES).json["messages"]], [2])

    def test_memory(self) -> None:
        """A message keeps its own text and not the body that it came in."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(10):
            self.assertEqual(self.ask("POST", MESSAGES, {"data": 1, "junk": "x" * 200_000}).status, 200)
        gc.collect()

        self.assertLess(tracemalloc.get_traced_memory()[0], 1_000_000)

    def test_malformed(self) -> None:
        """What is no JSON object or array of the right shape is 400."""
        bodies = [b"", b"{", b"1", b'"x"', b"null", b'{"id": 5}', b'{"persist": "no"}', b'{"messages": 1}', b"nan"]
        bodies += [b'{"data": yes}', b'{"data": 1} x', b'{"data":1,"messages":[{}]}']
        for body in bodies:
            self.assert_refused(self.ask("POST", MESSAGES, body), 400, "bad_request", "body")

    def test_hostile_texts(self) -> None:
        """Digits by the thousand, deep nesting and invalid UTF-8 are 400, wherever they stand."""
        digits, deep, invalid = b"1" * 5000, b"[" * 70 + b"]" * 70, b'"\xff\xfe"'
        deepest = b"[" * 100_000 + b"]" * 100_000
        for data in (digits, deep, invalid, deepest):
            self.assert_refused(self.ask("POST", MESSAGES, b'{"data":' + data + b"}"), 400, "bad_request")
            self.assert_refused(self.ask("POST", MESSAGES, b'[{"data":' + data + b"}]"), 400, "bad_request")

    def test_too_large(self) -> None:
        """Data beyond the limit is 413, naming the setting."""
        answer = self.ask("POST", MESSAGES, {"data": "x" * 70_000})

        self.assert_refused(answer, 413, "too_large", "limits.message_bytes")

    def test_long_id(self) -> None:
        """An id has at most 255 characters."""
        self.assert_refused(self.ask("POST", MESSAGES, {"id": "x" * 256}), 400, "bad_request", "255")

    def test_fan_out(self) -> None:
        """Subscribers get what is posted."""
        topic = self.successResultOf(Deferred.fromCoroutine(self.world.hub.open("a", "news")))
        self.ask("POST", MESSAGES, {"data": 1})

        self.assertEqual(topic.sequence, 1)

    def test_store_away(self) -> None:
        """When nothing was accepted the answer is 503 and may say when to try again."""

        def refuse(_: Any, outcome: Outcome) -> None:
            outcome.errback(Failure(Unavailable("the disk is full", retry_after=1.2)))

        self.patch(self.world.broker, "publish", refuse)
        answer = self.ask("POST", MESSAGES, {"data": 1})

        self.assert_refused(answer, 503, "unavailable", "disk")
        self.assertEqual(answer.headers["retry-after"], "2")

    def test_fault(self) -> None:
        """A fault of ours is logged, and its details stay in the log."""

        def fail(*_: Any) -> None:
            raise KeyError("secret detail")

        self.patch(self.world.broker, "publish", fail)
        answer = self.ask("POST", MESSAGES, {"data": 1})

        self.assert_refused(answer, 500, "internal")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_starting(self) -> None:
        """Before the stores are open the API answers 503; while draining it works."""
        self.world.state = "starting"
        answer = self.ask("POST", MESSAGES, {"data": 1})
        self.world.state = "draining"

        self.assert_refused(answer, 503, "unavailable")
        self.assertEqual(answer.headers["retry-after"], "1")
        self.assertEqual(self.ask("POST", MESSAGES, {"data": 1}).status, 200)


class BatchTests(ApiTestCase):
    def test_order(self) -> None:
        """The messages are accepted and answered in their order."""
        answer = self.ask("POST", MESSAGES, {"messages": [{"data": n, "id": f"m{n}"} for n in range(100)]})

        self.assertEqual([m["sequence"] for m in answer.json["messages"]], list(range(1, 101)))
        self.assertEqual([m["id"] for m in answer.json["messages"]], [f"m{n}" for n in range(100)])

    def test_array(self) -> None:
        """A bare array is a batch as well."""
        answer = self.ask("POST", MESSAGES, [{"data": 1}, {"data": 2}])

        self.assertEqual([m["sequence"] for m in answer.json["messages"]], [1, 2])

    def test_each_for_itself(self) -> None:
        """A bad message is answered with its error, and the others are published."""
        batch = [{"data": 1, "id": "x"}, 5, {"id": 7}, {"data": "x" * 70_000, "id": "big"}, {"data": 2, "id": "x"}]
        answer = self.ask("POST", MESSAGES, {"messages": batch})
        first, number, typed, large, repeated = answer.json["messages"]

        self.assertEqual(answer.status, 200)
        self.assertEqual((number["code"], typed["code"]), ("bad_request", "bad_request"))
        self.assertEqual((large["code"], large["id"]), ("too_large", "big"))
        self.assertEqual(repeated, {**first, "duplicate": True})

    def test_all_bad(self) -> None:
        """A batch of nothing but bad messages is answered with their errors."""
        answer = self.ask("POST", MESSAGES, [1, 2])

        self.assertEqual(answer.status, 200)
        self.assertEqual([m["code"] for m in answer.json["messages"]], ["bad_request"] * 2)

    def test_size(self) -> None:
        """A batch has 1 to 100 messages."""
        self.assert_refused(self.ask("POST", MESSAGES, []), 400, "bad_request")
        self.assert_refused(self.ask("POST", MESSAGES, {"messages": []}), 400, "bad_request")
        self.assert_refused(self.ask("POST", MESSAGES, [{}] * 101), 422, "limit_exceeded", "100")

    def test_outage(self) -> None:
        """What fails later, in the broker, is told for each message; a fault of ours is logged."""
        outcomes: list[Outcome] = []
        self.patch(self.world.broker, "publish", lambda _, outcome: outcomes.append(outcome))
        transport: Any = open_http(self.world.site)
        transport.protocol.dataReceived(request("POST", MESSAGES, [{"id": "x"}, {}]))
        outcomes[1].errback(Failure(KeyError("oops")))
        outcomes[0].errback(Failure(Unavailable("away", retry_after=3)))

        [answer] = answers(transport.value())
        away, fault = answer.json["messages"]
        self.assertEqual(away, {"error": "away", "code": "unavailable", "id": "x", "retryAfter": 3})
        self.assertEqual(fault["code"], "internal")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class RateTests(ApiTestCase):
    """Publishes beyond a rate."""

    def setUp(self) -> None:
        self.world = World(rates=Rates(app=Rate(3, 10.0, 3), user=Rate(2, 60.0, 2)))
        self.successResultOf(self.world.create())

    def test_refused(self) -> None:
        """It is 429 with Retry-After in whole seconds, and the text names the setting."""
        for _ in range(3):
            self.assertEqual(self.ask("POST", MESSAGES, {"data": 1}).status, 200)
        self.world.clock.advance(2.5)
        answer = self.ask("POST", MESSAGES, {"data": 1})

        self.assert_refused(answer, 429, "rate_limited", "limits.app_publish_rate", "3 messages in 10 s", "7.5 s")
        self.assertEqual(answer.headers["retry-after"], "8")
        self.world.clock.advance(7.5)
        self.assertEqual(self.ask("POST", MESSAGES, {"data": 1}).status, 200)

    def test_batch(self) -> None:
        """In a batch each message fares for itself, in order."""
        answer = self.ask("POST", MESSAGES, [{"data": n, "id": f"m{n}"} for n in range(5)])
        *accepted, fourth, fifth = answer.json["messages"]

        self.assertEqual([m["sequence"] for m in accepted], [1, 2, 3])
        self.assertEqual((fourth["code"], fourth["id"], fourth["retryAfter"]), ("rate_limited", "m3", 10))
        self.assertEqual(fifth["id"], "m4")

    def test_other_app(self) -> None:
        """An app's rate is its own."""
        for _ in range(4):
            self.ask("POST", MESSAGES, {"data": 1})
        self.assertEqual(self.ask("POST", MESSAGES, {"data": 1}, key="key-b").status, 200)


class ChannelNameTests(ApiTestCase):
    def test_encodings(self) -> None:
        """Every name can be given, percent-encoded."""
        for name in ("a/b", "a b", "a+b", "grüße", "日本", "%2F", "a?b#c", "..", "chat:general", "messages"):
            path = f"/api/channels/{quote(name, safe='')}/messages"
            self.assertEqual(self.ask("POST", path, {"data": name}).json["channel"], name)
            page = self.ask("GET", path).json
            self.assertEqual((page["channel"], page["messages"][0]["data"]), (name, name))

    def test_plus(self) -> None:
        """A plus in a path is a plus (RFC 3986), and letters may be encoded too."""
        self.ask("POST", "/%61pi/channels/a+b/mess%61ges", {"data": 1})

        self.assertEqual(len(self.ask("GET", "/api/channels/a%2Bb/messages").json["messages"]), 1)

    def test_bad_names(self) -> None:
        """What is no channel name is 400."""
        for encoded in ("%FF", "%C3%28", "%00", "a%0Ab", "%E2%80%A8", "x" * 256, "%ED%A0%80"):
            for method in ("GET", "POST"):
                answer = self.ask(method, f"/api/channels/{encoded}/messages")
                self.assert_refused(answer, 400, "channel_name")

    def test_slashes(self) -> None:
        """Repeated slashes are one."""
        self.assertEqual(self.ask("GET", "//api///channels//news/messages").status, 200)

    def test_unencoded_slash(self) -> None:
        """A slash that is not encoded separates segments."""
        self.assert_refused(self.ask("GET", "/api/channels/a/b/messages"), 404, "not_found")


class HistoryTests(ApiTestCase):
    def setUp(self) -> None:
        super().setUp()
        for number in range(1, 6):
            self.ask("POST", MESSAGES, {"data": number})

    def numbers(self, query: str) -> tuple[list[int], bool]:
        """The data of the page, and whether there is more."""
        answer = self.ask("GET", MESSAGES + query)
        self.assertEqual(answer.status, 200, answer.body)
        return [m["data"] for m in answer.json["messages"]], answer.json["hasMore"]

    def test_pages(self) -> None:
        """Limit, direction and bounds choose the page."""
        base = int(NOW * 1000)

        self.assertEqual(self.numbers(""), ([5, 4, 3, 2, 1], False))
        self.assertEqual(self.numbers("?limit=2"), ([5, 4], True))
        self.assertEqual(self.numbers("?limit=2&direction=forward"), ([1, 2], True))
        self.assertEqual(self.numbers(f"?after={base}&direction=forward&limit=1"), ([2], True))
        self.assertEqual(self.numbers(f"?before={base + 1}&direction=backward"), ([1], False))
        self.assertEqual(self.numbers("?unknown=1"), ([5, 4, 3, 2, 1], False))

    def test_fields(self) -> None:
        """An entry has the fields of history."""
        [entry] = self.ask("GET", MESSAGES + "?limit=1").json["messages"]

        self.assertEqual(set(entry), {"id", "channel", "data", "publisherId", "timestamp", "sequence"})

    def test_bad_parameters(self) -> None:
        """A wrong parameter is refused by name."""
        cases = {
            "limit": ("0", "1001", "-1", "1.5", "x", "", "9" * 5000, "%D9%A3"),
            "before": ("-1", "x", "9007199254740993"),
            "after": ("-1", "1e3", "+5"),
            "direction": ("up", "", "Forward"),
        }
        for name, values in cases.items():
            for value in values:
                answer = self.ask("GET", f"{MESSAGES}?{name}={value}")
                self.assert_refused(answer, 400, "bad_request", f"'{name}'")
            twice = self.ask("GET", f"{MESSAGES}?{name}=1&{name}=1")
            self.assert_refused(twice, 400, "bad_request", f"'{name}'")

    def test_many_fields(self) -> None:
        """A query has a bounded number of fields."""
        self.assert_refused(self.ask("GET", MESSAGES + "?" + "a=1&" * 200), 400, "bad_request", "query")

    def test_content_type_without_body(self) -> None:
        """The SDKs send a content type without content."""
        for length in ({}, {"Content-Length": "0"}):
            headers = {"Content-Type": "application/json; charset=utf-8", **length}
            self.assertEqual(self.ask("GET", MESSAGES, headers=headers).status, 200)

    def test_client_leaves(self) -> None:
        """A client that goes away while it waits is no error."""
        outcomes: list[Outcome] = []
        self.patch(self.world.broker, "publish", lambda _, outcome: outcomes.append(outcome))
        for body in ({"data": 1}, [{"data": 1}]):
            transport: Any = open_http(self.world.site)
            transport.protocol.dataReceived(request("POST", MESSAGES, body))
            transport.protocol.connectionLost(Failure(ConnectionDone()))
            outcomes.pop().callback(Receipt("m1", "news", 1, "e", 1))

        self.assertEqual(self.flushLoggedErrors(), [])


class PresenceTests(ApiTestCase):
    def test_members(self) -> None:
        """Members are listed with their data, in the order in which they came."""
        for name in ("ann", "bob"):
            data = json.dumps({"name": name}).encode()
            entering = self.world.presence.enter("a", "news", name, f"c-{name}", data)
            self.successResultOf(Deferred.fromCoroutine(entering))

        self.assertEqual(
            self.ask("GET", PRESENCE).json,
            {
                "channel": "news",
                "members": [
                    {"clientId": name, "data": {"name": name}, "joinedAt": int(NOW * 1000)} for name in ("ann", "bob")
                ],
                "total": 2,
            },
        )
        self.assertEqual(self.ask("GET", PRESENCE, key="key-b").json["total"], 0)
