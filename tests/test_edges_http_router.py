"""Tests for :mod:`wsock.edges.http.router`, :mod:`wsock.edges.http.operations` and :mod:`wsock.edges.http.reading`."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, UnsetType
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.base import SynchronousTestCase
from tests.http_client import Answer, World, answers, http_exchange, open_http, request
from wsock.edges.http.operations import (
    ANYONE,
    LOGIN,
    Body,
    Call,
    Document,
    Group,
    Items,
    NoBody,
    NoQuery,
    Page,
    Right,
    operation,
)
from wsock.errors import Code, Conflict, Refused


class Thing(Body, frozen=True):
    """A thing."""

    name: str
    max_size: Annotated[int, Meta(ge=1, le=9)] = 1
    parts: dict[str, list[int]] | UnsetType = UNSET


class Filter(Page, frozen=True):
    """Which things."""

    is_old: bool | None = None


class Things(Group):
    """Things, for the tests: each operation answers what it was given."""

    tag, about = "Things", "Things."

    def __init__(self) -> None:
        self.waiting: Deferred[None] = Deferred()
        self.was_done = False

    @operation("GET", "/api/things", needs=ANYONE)
    async def things(self, call: Call[NoBody, Filter]) -> Items[str]:
        """Lists things."""
        query = call.query
        return Items([f"{query.cursor} {query.limit} {query.is_old}"], None)

    @operation("POST", "/api/things", status=201, needs=ANYONE)
    async def create(self, call: Call[Thing, NoQuery]) -> dict[str, object]:
        """Makes a thing."""
        return {"name": call.body.name, "size": call.body.max_size}

    @operation("GET", "/api/things/all", needs=ANYONE)
    async def whole(self, call: Call[NoBody, NoQuery]) -> str:
        """All things."""
        return "all"

    @operation("DELETE", "/api/things/{thingId}", needs=ANYONE)
    async def delete(self, call: Call[NoBody, NoQuery]) -> None:
        """Deletes a thing."""
        if call.path["thingId"] == "used":
            raise Conflict("it is used")
        call.set_header("X-Deleted", call.path["thingId"])

    @operation("PUT", "/api/things/{thingId}", needs=LOGIN)
    async def put(self, call: Call[NoBody, NoQuery]) -> None:
        """Needs a login."""

    @operation("GET", "/api/channels/{channel}/things", needs=Right("history"))
    async def in_channel(self, call: Call[NoBody, NoQuery]) -> str:
        """Needs a right on the channel."""
        return f"{call.credential.app} {call.path['channel']}"

    @operation("POST", "/api/raw", needs=Right(None), takes=Thing)
    async def raw(self, call: Call[Raw, NoQuery]) -> Raw:
        """Answers the text that was sent."""
        return call.body

    @operation("GET", "/api/page", needs=ANYONE)
    async def page(self, call: Call[NoBody, NoQuery]) -> Document:
        """A page."""
        return Document(kind="text/plain", content=b"hello", headers={"X-Page": "1"})

    @operation("GET", "/api/wait", needs=ANYONE)
    async def wait_reading(self, call: Call[NoBody, NoQuery]) -> str:
        """Waits."""
        await self.waiting
        self.was_done = True
        return "done"

    @operation("POST", "/api/wait", needs=ANYONE)
    async def wait_writing(self, call: Call[NoBody, NoQuery]) -> str:
        """Waits as well."""
        return await self.wait_reading(call)

    @operation("GET", "/api/fault", needs=ANYONE)
    async def fault(self, call: Call[NoBody, NoQuery]) -> None:
        """Has a fault."""
        raise KeyError("secret detail")

    @operation("GET", "/api/busy", needs=ANYONE)
    async def busy(self, call: Call[NoBody, NoQuery]) -> None:
        """Is busy."""
        raise Refused(Code.RATE_LIMITED, "later", retry_after=2.5)


class RouterCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.things = Things()
        self.world = World(groups=[self.things])
        self.successResultOf(self.world.create())

    def ask(self, *args: Any, **kwargs: Any) -> Answer:
        return self.world.ask(*args, **kwargs)

    def assert_refused(self, answer: Answer, status: int, code: str, *names: str) -> None:
        self.assertEqual((answer.status, answer.json["code"]), (status, code), answer.body)
        self.assertEqual(set(answer.json), {"error", "code"})
        for name in names:
            self.assertIn(name, answer.json["error"])


class AnswerTests(RouterCase):
    def test_json(self) -> None:
        """The result is answered as JSON under the declared status."""
        answer = self.ask("POST", "/api/things", {"name": "a", "maxSize": 3})

        self.assertEqual((answer.status, answer.json), (201, {"name": "a", "size": 3}))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["cache-control"], "no-store")

    def test_nothing(self) -> None:
        """No result is 204 without a body; headers are the operation's."""
        answer = self.ask("DELETE", "/api/things/a%2Fb")

        self.assertEqual((answer.status, answer.body, answer.headers["x-deleted"]), (204, b"", "a/b"))
        self.assertNotIn("content-type", answer.headers)

    def test_document(self) -> None:
        """A document is answered as what it is."""
        answer = self.ask("GET", "/api/page")

        self.assertEqual((answer.body, answer.headers["content-type"]), (b"hello", "text/plain"))
        self.assertEqual((answer.headers["x-page"], answer.headers["x-content-type-options"]), ("1", "nosniff"))

    def test_refused(self) -> None:
        """What the operation refuses is answered under the status of the code."""
        busy = self.ask("GET", "/api/busy")

        self.assert_refused(self.ask("DELETE", "/api/things/used"), 409, "conflict", "it is used")
        self.assert_refused(busy, 429, "rate_limited")
        self.assertEqual(busy.headers["retry-after"], "3")

    def test_fault(self) -> None:
        """A fault is logged, and answered without details."""
        answer = self.ask("GET", "/api/fault")

        self.assert_refused(answer, 500, "internal")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_head(self) -> None:
        """HEAD is GET without the body."""
        [answer] = answers(http_exchange(self.world.site, request("HEAD", "/api/things")), heads_only=1)

        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers["content-length"]), 2)

    def test_starting(self) -> None:
        """While the server starts nothing is done."""
        self.world.state = "starting"

        self.assert_refused(self.ask("GET", "/api/things"), 503, "unavailable")

    def test_one_after_the_other(self) -> None:
        """Several requests on one connection are answered in their order."""
        found = self.world.asks(request("GET", "/api/things/all"), request("GET", "/api/page"), request("GET", "/x"))

        self.assertEqual([answer.status for answer in found], [200, 200, 404])


class PathTests(RouterCase):
    def test_method(self) -> None:
        """A method that no operation of the path has is 405, with those that there are."""
        answer = self.ask("PATCH", "/api/things")

        self.assert_refused(answer, 405, "bad_request", "GET, HEAD, OPTIONS, POST")
        self.assertEqual(answer.headers["allow"], "GET, HEAD, OPTIONS, POST")

    def test_words_come_first(self) -> None:
        """A word in the path counts more than a parameter; what only the parameter has is had there too."""
        self.assertEqual(self.ask("GET", "/api/things/all").json, "all")
        self.assertEqual(self.ask("DELETE", "/api/things/all").headers["x-deleted"], "all")
        self.assertEqual(self.ask("PATCH", "/api/things/all").headers["allow"], "DELETE, GET, HEAD, OPTIONS, PUT")

    def test_unknown(self) -> None:
        """What is beside, before or behind a path is 404."""
        for path in ("/api/thing", "/api", "/api/things/a/b", "/things", "/api/things%2Fall", "/api/page/x"):
            self.assert_refused(self.ask("GET", path), 404, "not_found")

    def test_bad_ids(self) -> None:
        """What can be no id is not found."""
        for segment in ("%00", "%FF", "%0A", "x" * 256, "%C2%85"):
            self.assert_refused(self.ask("DELETE", f"/api/things/{segment}"), 404, "not_found", "thingId")

    def test_channels(self) -> None:
        """A channel in the path keeps to the grammar of names."""
        self.assertEqual(self.ask("GET", "/api/channels/a%2Fb%20c/things").json, "a a/b c")
        for segment in ("%00", "%FF", "x" * 256):
            self.assert_refused(self.ask("GET", f"/api/channels/{segment}/things"), 400, "channel_name")

    def test_twice(self) -> None:
        """An operation that is declared twice is a fault of the program."""
        self.assertRaises(ValueError, World, groups=[Things(), Things()])


class WhoTests(RouterCase):
    def test_right(self) -> None:
        """An operation of an app takes a credential of one, with its right on the channel."""
        path = "/api/channels/news/things"

        self.assert_refused(self.ask("GET", path, key=None), 401, "unauthorized", "Authorization: Bearer")
        self.assert_refused(self.ask("GET", path, key="key-zzz"), 401, "unauthorized")
        self.assert_refused(self.ask("GET", path, key="key-none"), 403, "forbidden", "'history'", "'news'")
        self.assertEqual(self.ask("GET", path, key="key-b").json, "b news")

    def test_any_right(self) -> None:
        """Where no right is named any credential will do."""
        self.assertEqual(self.ask("POST", "/api/raw", {"a": 1}, key="key-none").json, {"a": 1})

    def test_app_id(self) -> None:
        """X-App-Id may name the credential's app and no other."""
        path = "/api/channels/news/things"

        self.assert_refused(self.ask("GET", path, headers={"X-App-Id": "b"}), 403, "forbidden", "X-App-Id")

    def test_origin(self) -> None:
        """A page from an origin that the app doesn't allow is refused."""
        evil = {"Origin": "https://evil.example"}

        self.assert_refused(self.ask("GET", "/api/channels/x/things", key="key-b", headers=evil), 403, "forbidden")

    def test_login(self) -> None:
        """An operation that takes a login is nobody's where there are no accounts."""
        self.assert_refused(self.ask("PUT", "/api/things/a"), 401, "unauthorized", "no accounts")

    def test_first_of_all(self) -> None:
        """Whoever may not ask learns nothing of what is wrong with the request."""
        answer = self.ask("GET", "/api/channels/%00/things?x=1", b"{", key=None)

        self.assert_refused(answer, 401, "unauthorized")


class ReadingTests(RouterCase):
    def test_fields(self) -> None:
        """What is wrong with a body is said of its field, in the words of JSON."""
        for body, *names in (
            ({}, "'name' is missing"),
            ({"name": None}, "'name'", "expected 'str', got 'null'"),
            ({"name": "a", "maxSize": 10}, "'maxSize'", "<= 9"),
            ({"name": "a", "max_size": 1}, "'max_size' is no field: it takes name, maxSize, parts"),
            ({"name": "a", "parts": {"x": ["y"]}}, "'parts[...][0]'", "expected 'int'"),
            ([1], "expected 'object', got 'array'"),
            (b"nul", "not JSON"),
            (b'{"name": ' + b"1" * 1001 + b"}", "digits"),
        ):
            self.assert_refused(self.ask("POST", "/api/things", body), 400, "bad_request", *names)

    def test_no_body(self) -> None:
        """Where there is no body, none, an empty one and an empty object are fine, and nothing else."""
        bodies: tuple[Any, ...] = (None, b"", b" ", {})
        for body in bodies:
            self.assertEqual(self.ask("GET", "/api/things", body).status, 200)
        self.assert_refused(self.ask("GET", "/api/things", {"a": 1}), 400, "bad_request", "'a'", "there is none")

    def test_raw(self) -> None:
        """A raw body is checked for what could hurt, and is not empty."""
        self.assertEqual(self.ask("POST", "/api/raw", [1, {"a": None}]).json, [1, {"a": None}])
        self.assert_refused(self.ask("POST", "/api/raw", b""), 400, "bad_request", "empty")
        self.assert_refused(self.ask("POST", "/api/raw", b"[" * 65), 400, "bad_request", "nested")

    def test_too_large(self) -> None:
        """In somebody else's site a body is bounded all the same."""
        self.world.edge._router._max_body_bytes = 100
        data = http_exchange(self.world.foreign_site, request("POST", "/api/things", {"name": "x" * 100}))

        self.assertTrue(data.startswith(b"HTTP/1.1 413 "))

    def test_query(self) -> None:
        """A query has its fields, each once, of their types."""
        self.assertEqual(self.ask("GET", "/api/things").json["items"], ["None 50 None"])
        self.assertEqual(self.ask("GET", "/api/things?cursor=a%2Fb&limit=7&isOld=true").json["items"], ["a/b 7 True"])
        for query, *names in (
            ("limit=0", "'limit'", ">= 1"),
            ("limit=101", "'limit'", "<= 100"),
            ("limit=x", "'limit'", "'int'"),
            ("limit=", "'limit'"),
            ("isOld=maybe", "'isOld'", "bool"),
            ("lim=1", "'lim' is no field: it takes cursor, limit, isOld"),
            ("cursor=a&cursor=b", "'cursor'", "more than once"),
            ("cursor=%FF", "UTF-8"),
            ("&".join(f"a{n}=1" for n in range(101)), "100 fields"),
        ):
            self.assert_refused(self.ask("GET", f"/api/things?{query}"), 400, "bad_request", "query", *names)


class EndTests(RouterCase):
    def leave(self, method: str) -> None:
        """A client asks and is gone before it is answered."""
        transport = open_http(self.world.site)
        transport.protocol.dataReceived(request(method, "/api/wait"))
        transport.protocol.connectionLost(Failure(ConnectionDone()))

    def test_reading(self) -> None:
        """What was only to be read ends with its client."""
        self.leave("GET")
        self.assertFalse(self.things.was_done)
        self.assertTrue(self.things.waiting.called)

    def test_writing(self) -> None:
        """What changes something is done to its end, and the server waits for it before it ends."""
        self.leave("POST")
        stopping = Deferred.fromCoroutine(self.world.edge.stop())
        self.assertNoResult(stopping)
        self.things.waiting.callback(None)

        self.assertTrue(self.things.was_done)
        self.successResultOf(stopping)

    def test_stop(self) -> None:
        """With nothing under way the end is at once."""
        self.ask("GET", "/api/things")

        self.successResultOf(Deferred.fromCoroutine(self.world.edge.stop()))


class DeclarationTests(SynchronousTestCase):
    def test_operations(self) -> None:
        """A group tells what its methods declare, in their order."""
        found = {one.name: one for one in Things.operations()}

        self.assertEqual(list(found)[:3], ["things", "create", "whole"])
        self.assertEqual((found["create"].body, found["create"].status), (Thing, 201))
        self.assertEqual((found["things"].query, found["things"].answer), (Filter, Items[str]))
        self.assertEqual((found["delete"].status, found["delete"].answer), (204, None))
        self.assertEqual(found["delete"].parameters, ("thingId",))
        self.assertEqual((found["raw"].body, found["raw"].takes), (Raw, Thing))
        self.assertEqual(found["whole"].summary, "All things.")
