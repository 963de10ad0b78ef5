"""Tests for :mod:`wsock.edges.http.openapi` and :mod:`wsock.edges.http.docs_page`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.base import SynchronousTestCase
from tests.rest import RestCase
from wsock.edges.http.docs_page import page
from wsock.edges.http.openapi import Description, codes
from wsock.edges.http.operations import ANYONE, Body, Call, Group, NoBody, NoQuery, Query, Right, operation
from wsock.errors import HTTP_STATUS, Code
from wsock.services.roles import PERMISSIONS, Permission


class Choice(Query, frozen=True):
    """A choice."""

    kind: Annotated[str, Meta(description="Which <kind>.")]
    size: Annotated[int, Meta(ge=1)] | None = None


class Hostile(Body, frozen=True):
    """A body with ``some_field`` & <b>markup</b>."""

    some_field: str = "<script>alert(1)</script>"


class Odd(Group):
    """A group with all that is odd."""

    tag, about = 'Odd <script>"things"</script>', "About `this` & <that>."

    @operation(
        "POST", "/api/odd/{oddId}", needs=Permission.KEYS_WRITE, errors=(Code.CONFLICT,), example={"a": "</pre>"}
    )
    async def first(self, call: Call[Hostile, Choice]) -> int | Hostile:
        """Does <b>something</b>.

        With a ``some_word`` in it.
        """
        return 1

    @operation("GET", "/api/channels/{channel}/odd", needs=Right("publish"))
    async def second(self, call: Call[NoBody, NoQuery]) -> None:
        """Reads."""

    @operation("GET", "/api/open", needs=ANYONE)
    async def third(self, call: Call[NoBody, NoQuery]) -> str:
        """Is open."""
        return ""


class DescriptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.document: Any = Description([Odd], "1").document
        self.first = self.document["paths"]["/api/odd/{oddId}"]["post"]

    def test_valid(self) -> None:
        """It is valid OpenAPI 3.1."""
        OpenAPIV31SpecValidator(self.document).validate()

    def test_texts(self) -> None:
        """Summary and description are the docstring's, with names as they are in JSON."""
        self.assertEqual(self.first["summary"], "Does <b>something</b>")
        self.assertEqual(self.first["description"], "With a `someWord` in it.")
        self.assertIn("`someField`", self.document["components"]["schemas"]["Hostile"]["description"])

    def test_parameters(self) -> None:
        """Parameters of path and query are there, without null: what is not given is left out."""
        found = {parameter["name"]: parameter for parameter in self.first["parameters"]}

        self.assertEqual((found["oddId"]["in"], found["oddId"]["required"]), ("path", True))
        self.assertEqual((found["kind"]["required"], found["kind"]["description"]), (True, "Which <kind>."))
        self.assertEqual(
            (found["size"]["required"], found["size"]["schema"]), (False, {"type": "integer", "minimum": 1})
        )

    def test_answers(self) -> None:
        """Every status that it may answer with is there, the good one with its schema."""
        answers = self.first["responses"]

        self.assertEqual(set(answers), {"200", "400", "401", "403", "404", "409", "413", "429", "500", "503"})
        schema = answers["200"]["content"]["application/json"]["schema"]
        self.assertEqual(schema, {"anyOf": [{"type": "integer"}, {"$ref": "#/components/schemas/Hostile"}]})
        self.assertEqual(
            set(self.document["paths"]["/api/open"]["get"]["responses"]), {"200", "400", "413", "500", "503"}
        )

    def test_needs(self) -> None:
        """What an operation needs is there: the role by the table of permissions, and how to prove it."""
        self.assertEqual((self.first["x-permission"], self.first["x-required-role"]), ("keys.write", "developer"))
        self.assertEqual(self.first["security"], [{"login": []}, {"cookie": [], "csrf": []}])
        second = self.document["paths"]["/api/channels/{channel}/odd"]["get"]
        self.assertEqual((second["x-required-right"], second["security"]), ("publish", [{"app": []}]))
        self.assertEqual(self.document["paths"]["/api/open"]["get"]["security"], [])

    def test_codes(self) -> None:
        """The codes are those that follow from the declaration, and no others."""
        first, second, third = Odd.operations()

        self.assertLessEqual({Code.CONFLICT, Code.NOT_FOUND, Code.RATE_LIMITED, Code.TOKEN_EXPIRED}, set(codes(first)))
        self.assertIn(Code.CHANNEL_NAME, codes(second))
        self.assertNotIn(Code.UNAUTHORIZED, codes(third))


class PageTests(SynchronousTestCase):
    def test_escaped(self) -> None:
        """Nothing of the description becomes markup."""
        text = page(Description([Odd], "1").document)

        for hostile in ("<script", "<b>something", "<that>", "</pre>&", "<kind>", "<b>markup"):
            self.assertNotIn(hostile, text)
        self.assertIn("&lt;script&gt;", text)
        self.assertIn("About <code>this</code> &amp; &lt;that&gt;.", text)

    def test_whole(self) -> None:
        """Each operation and each object is on the page, and each link leads somewhere on it."""
        text = page(Description([Odd], "1").document)
        targets = set(re.findall(r' id="([^"]+)"', text))

        for path in ("/api/odd/{oddId}", "/api/channels/{channel}/odd", "/api/open"):
            self.assertIn(f"<code>{path}</code>", text)
        self.assertEqual(set(re.findall(r'href="#([^"]+)"', text)) - targets, set())


class ServedTests(RestCase):
    """What a whole server says of itself."""

    def setUp(self) -> None:
        super().setUp()
        self.answer = self.ask("GET", "/api/openapi.json")
        self.document = self.answer.json

    def test_valid(self) -> None:
        """It is valid OpenAPI 3.1, for everybody."""
        self.assertEqual((self.answer.status, self.document["openapi"]), (200, "3.1.0"))
        OpenAPIV31SpecValidator(self.document).validate()

    def test_complete(self) -> None:
        """Every operation that is served is described, under a name of its own."""
        served = {(one.method.lower(), one.path) for group in self.server.plane.groups for one in group.operations()}
        described = {
            (method, path): one for path, methods in self.document["paths"].items() for method, one in methods.items()
        }

        self.assertEqual(served - set(described), set())
        names = [one["operationId"] for one in described.values()]
        self.assertEqual(len(names), len(set(names)))
        for one in described.values():
            self.assertTrue(one["summary"])
            self.assertNotRegex(one["summary"] + one.get("description", ""), r":\w+:`|``")

    def test_roles(self) -> None:
        """The role of each operation is the one that the server decides by."""
        for methods in self.document["paths"].values():
            for one in methods.values():
                if permission := one.get("x-permission"):
                    least = PERMISSIONS[Permission(permission)]
                    self.assertEqual(one["x-required-role"], least.value if least else "operator")

    def test_errors(self) -> None:
        """Every status that a code has is described once, as the error that all have."""
        self.assertEqual(
            set(self.document["components"]["responses"]), {str(status) for status in HTTP_STATUS.values()}
        )

    def test_no_secrets(self) -> None:
        """No answer has a field that holds a hash, and secrets are in those that are shown once only."""
        for name, schema in self.document["components"]["schemas"].items():
            for field in schema.get("properties", {}):
                self.assertNotRegex(field.lower(), r"hash", f"{name}.{field}")

    def test_page(self) -> None:
        """The page has no script, and a browser would run none."""
        answer = self.ask("GET", "/api/docs")

        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")
        policy = answer.headers["content-security-policy"]
        self.assertTrue(policy.startswith("default-src 'none';"))
        self.assertNotIn("script-src", policy)
        self.assertNotIn("unsafe", policy)
        for forbidden in (b"<script", b"http://", b"https://", b" style=", b"onload"):
            self.assertNotIn(forbidden, answer.body)
        self.assertIn(b'name="viewport"', answer.body)
