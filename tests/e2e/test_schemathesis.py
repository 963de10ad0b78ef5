"""What nobody thought of to ask the REST API for, by everybody: never a fault, never an answer that is not described.

The requests are made by schemathesis from ``/api/openapi.json``, always the same ones. The server is whole, in memory.
"""

from __future__ import annotations

import contextlib
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.http_client import open_http
from tests.rest import RestAnswer
from tests.roles import PARAMETERS, RolesCase

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CALLERS = ("viewer", "developer", "admin", "owner", "operator", "stranger", "limited", "anonymous", "key", "subscriber")
_EXAMPLES = 4
_URL = "http://wsock.example"


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class SchemathesisTests(RolesCase):
    def send(self, case: schemathesis.Case[Any], caller: str) -> Response:
        """The answer to the request that the case is."""
        token = self.tokens[caller]
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        kwargs = case.as_transport_kwargs(base_url=_URL, headers=headers)
        names = ("method", "url", "headers", "params", "data", "json")
        allowed = {name: kwargs[name] for name in names if name in kwargs}
        prepared = requests.Request(**allowed).prepare()
        if token is None:
            prepared.headers.pop("Authorization", None)
        prepared.headers.pop("Cookie", None)
        content: Any = prepared.body or b""
        body: bytes = content.encode() if isinstance(content, str) else content
        lines = [f"{prepared.method} {prepared.path_url} HTTP/1.1", "Host: wsock.example"]
        lines += [
            f"{name}: {_text(value)}" for name, value in prepared.headers.items() if name.lower() != "content-length"
        ]
        lines.append(f"Content-Length: {len(body)}")
        transport = open_http(self.server._site)
        transport.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.memory.settle()
        answer = RestAnswer.read(bytes(transport.value()))
        listed = {name: [value] for name, value in answer.headers.items()}
        return Response(answer.status, listed, answer.body, prepared, 0.0, False)

    def ask_for_anything(self, caller: str, mode: GenerationMode = GenerationMode.POSITIVE) -> int:
        """Asks for every operation some times, and looks at each answer; returns how often it was no refusal."""
        good = 0
        schema = schemathesis.openapi.from_dict(self.ask("GET", "/api/openapi.json").json)
        for found in schema.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()

            @seed(5)
            @settings(
                max_examples=_EXAMPLES,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(mode), is_real=st.booleans())
            def ask(case: schemathesis.Case[Any], is_real: bool) -> None:
                nonlocal good
                for name in case.path_parameters or {}:
                    if is_real and name in PARAMETERS:
                        case.path_parameters[name] = PARAMETERS[name]
                response = self.send(case, caller)
                good += response.status_code < 400
                case.validate_response(response, checks=CHECKS)

            with contextlib.suppress(Unsatisfiable):  # where nothing can be wrong
                ask()
        return good

    def test_everybody(self) -> None:
        """Every answer to everybody is described, and none is a fault."""
        for caller in CALLERS:
            self.setUp()
            good = self.ask_for_anything(caller)
            self.assertGreater(good, 0, caller)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_wrong(self) -> None:
        """The same for requests that are not as described."""
        for caller in ("operator", "key"):
            self.setUp()
            self.ask_for_anything(caller, GenerationMode.NEGATIVE)
        self.assertEqual(self.flushLoggedErrors(), [])
