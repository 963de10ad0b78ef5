"""The description of the REST API in OpenAPI 3.1, made of the operations as they are declared.

What is not in a declaration follows from it: which errors an operation may answer with from what it needs and takes,
who may use it from the table of permissions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Raw

from wsock.edges.http.operations import ANYONE, AppOr, Document, Group, NoBody, NoQuery, Operation, Right
from wsock.errors import HTTP_STATUS, Code
from wsock.services.roles import PERMISSIONS, Permission

__all__ = ["Description", "codes"]

Schema = dict[str, Any]

_COMPONENT = "#/components/schemas/{name}"
_STATUSES = {
    200: "Done.",
    201: "Created.",
    202: "Taken up.",
    204: "Done.",
    400: "The request is not well-formed; the text names the field.",
    401: "The credential is missing, not good, or has expired.",
    403: "The credential is good, but not for this.",
    404: "There is none, or not for who asks.",
    409: "It was changed meanwhile, or something that must be unique is taken.",
    410: "Messages may have been missed.",
    413: "The body or a message in it is too large.",
    422: "A limit of the server is reached.",
    429: "Too many requests, or the plan's quota is used up.",
    500: "A fault of the server; its log tells why.",
    503: "The server is starting or ending, or a store is away: try again.",
}
_PARAMETERS = {
    "channel": "The name of a channel, percent-encoded, a slash in it as `%2F`.",
    "accountId": "The id of an account.",
    "appId": "The id of an app.",
    "keyId": "The id of a key.",
    "teamId": "The id of a team.",
}
_RATE_HEADERS = {
    "X-RateLimit-Limit": "How many such requests a minute may have.",
    "X-RateLimit-Remaining": "How many are left.",
    "X-RateLimit-Reset": "Seconds until all of them are there again.",
}
_ABOUT = """\
Everything that wsock does is in reach of this API. Errors are `{"error", "code"}`: the text is for people, the code is
for programs. Lists come in parts: `next` is the `cursor` of the part behind it. Times are milliseconds since 1970.
Fields and parameters that are not known are refused."""


def codes(operation: Operation) -> tuple[Code, ...]:
    """All codes that the operation may be refused with, in the order of the table."""
    found = {Code.BAD_REQUEST, Code.TOO_LARGE, Code.UNAVAILABLE, Code.INTERNAL, *operation.errors}
    if operation.needs is not ANYONE:
        found |= {Code.UNAUTHORIZED, Code.TOKEN_EXPIRED, Code.FORBIDDEN}
        if operation.asks_cluster or not isinstance(operation.needs, Right):
            found.add(Code.RATE_LIMITED)
    # Who names an app, in the path or otherwise, may name one that there is not.
    if operation.parameters or isinstance(operation.needs, Permission | AppOr):
        found.add(Code.NOT_FOUND)
    if "channel" in operation.parameters:
        found.add(Code.CHANNEL_NAME)
    return tuple(code for code in Code if code in found)


class Description:
    """The description of an API of these groups."""

    def __init__(self, groups: Sequence[type[Group]], version: str = "") -> None:
        self.groups = groups
        self._version = version

    @cached_property
    def text(self) -> bytes:
        """The description as JSON."""
        return msgspec.json.encode(self.document)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The description."""
        self._schemas = _Schemas(operation for group in self.groups for operation in group.operations())
        paths: dict[str, dict[str, Any]] = {}
        for group in self.groups:
            for operation in group.operations():
                described = self._operation(group, operation)
                paths.setdefault(operation.path, {})[operation.method.lower()] = described
        tags = {group.tag: {"name": group.tag, "description": group.about} for group in self.groups}
        return {
            "openapi": "3.1.0",
            "info": {"title": "wsock", "description": _ABOUT, "version": self._version},
            "tags": list(tags.values()),
            "paths": paths,
            "components": {
                "schemas": {**self._schemas.components, "Error": _error()},
                "responses": _responses(),
                "headers": _headers(),
                "securitySchemes": _security_schemes(),
            },
        }

    def _operation(self, group: type[Group], operation: Operation) -> dict[str, Any]:
        described: dict[str, Any] = {
            "operationId": operation_id(group, operation),
            "tags": [group.tag],
            "summary": _markdown(operation.summary.rstrip(".")),
            "security": _security(operation),
            "responses": self._answers(operation),
        }
        if operation.description:
            described["description"] = _markdown(operation.description)
        if parameters := [*map(_path_parameter, operation.parameters), *self._schemas.parameters(operation.query)]:
            described["parameters"] = parameters
        if operation.body is not NoBody:
            described["requestBody"] = self._body(operation)
        permission = operation.needs.permission if isinstance(operation.needs, AppOr) else operation.needs
        if isinstance(permission, Permission):
            described["x-permission"] = permission.value
            least = PERMISSIONS[permission]
            described["x-required-role"] = "operator" if least is None else least.value
        elif isinstance(operation.needs, Right):
            described["x-required-right"] = operation.needs.name or "any"
        return described

    def _body(self, operation: Operation) -> dict[str, Any]:
        content: dict[str, Any] = {"schema": self._schemas.of(operation.takes)}
        if operation.example is not None:
            content["example"] = operation.example
        required = getattr(operation.takes, "__struct_fields__", ()) and any(
            field.required for field in msgspec.structs.fields(operation.takes)
        )
        return {"required": bool(required) or operation.body is Raw, "content": {"application/json": content}}

    def _answers(self, operation: Operation) -> dict[str, Any]:
        good: dict[str, Any] = {"description": _STATUSES[operation.status]}
        if operation.answer is Document:
            good["content"] = {"text/html": {"schema": {"type": "string"}}}
        elif operation.answer is not None:
            good["content"] = {"application/json": {"schema": self._schemas.of(operation.answer)}}
        if Code.RATE_LIMITED in codes(operation):
            good["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in _RATE_HEADERS}
        statuses = sorted({HTTP_STATUS[code] for code in codes(operation)})
        refused = {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
        return {str(operation.status): good, **refused}


def operation_id(group: type[Group], operation: Operation) -> str:
    """What programs call the operation: no two have the same."""
    words = re.sub(r"[^A-Za-z0-9]+", " ", f"{group.tag} {operation.name}").split()
    return words[0].lower() + "".join(word.capitalize() for word in words[1:])


class _Schemas:
    """The schemas of all types that operations take and give."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = []
        queries: list[Any] = []
        for operation in operations:
            for one in (operation.takes, operation.answer):
                types += (part for part in _parts(one) if part not in types)
            queries += [operation.query] if operation.query not in queries else []
        schemas, self.components = msgspec.json.schema_components(types, ref_template=_COMPONENT)
        self._of = dict(zip(map(_key, types), schemas, strict=True))
        self._queries = {query: _inline(query) for query in queries}
        for schema in self.components.values():
            if "description" in schema:
                schema["description"] = _markdown(schema["description"])

    def of(self, wanted: Any) -> Schema:
        """The schema of a type, mostly a reference to a component."""
        found = [self._of[_key(part)] for part in _parts(wanted)]
        return found[0] if len(found) == 1 else {"anyOf": found}

    def parameters(self, query: type) -> list[dict[str, Any]]:
        """The parameters of a query."""
        return self._queries[query]


def _parts(wanted: Any) -> list[Any]:
    """The types of a union; structs without tags can't be described as one."""
    if wanted is None or wanted in (NoBody, NoQuery, Document):
        return []
    return list(get_args(wanted)) if get_origin(wanted) in (Union, UnionType) else [wanted]


def _key(wanted: Any) -> str:
    return repr(wanted)


def _inline(query: type) -> list[dict[str, Any]]:
    """The fields of a query as parameters: there is no null in a query, a field is left out instead."""
    (reference,), components = msgspec.json.schema_components([query], ref_template=_COMPONENT)
    whole = components.pop(reference["$ref"].rpartition("/")[2])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in whole["required"],
            **({"description": schema.pop("description")} if "description" in schema else {}),
            "schema": _resolved(schema, components),
        }
        for name, schema in whole["properties"].items()
    ]


def _resolved(schema: Schema, components: dict[str, Schema]) -> Schema:
    if "$ref" in schema:
        schema = {**components[schema["$ref"].rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    if "anyOf" not in schema:
        return schema
    choices = [_resolved(choice, components) for choice in schema["anyOf"] if choice != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices}


def _path_parameter(name: str) -> dict[str, Any]:
    described = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {**described, "description": _PARAMETERS.get(name, f"The id of {_noun(name)}.")}


def _noun(name: str) -> str:
    noun = re.sub(r"Id$", "", name)
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _error() -> Schema:
    return {
        "title": "Error",
        "type": "object",
        "description": "Why a request was refused: the text is for people, the code for programs.",
        "properties": {
            "error": {"type": "string"},
            "code": {"enum": [code.value for code in Code]},
            "hint": {"type": "string", "description": "What to ask people for, where the code alone doesn't tell."},
        },
        "required": ["error", "code"],
        "additionalProperties": False,
    }


def _responses() -> dict[str, Any]:
    reference = {"$ref": _COMPONENT.format(name="Error")}
    answers = {}
    for status in sorted(set(HTTP_STATUS.values())):
        content = {"application/json": {"schema": reference}}
        answers[str(status)] = {"description": _STATUSES[status], "content": content}
        if status in (429, 503):
            answers[str(status)]["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return answers


def _headers() -> dict[str, Any]:
    described = {**_RATE_HEADERS, "Retry-After": "Seconds after which to try again."}
    schema = {"type": "integer", "minimum": 0}
    return {name: {"description": text, "schema": schema} for name, text in described.items()}


def _security_schemes() -> dict[str, Any]:
    cookie = "The cookie of a session, by TLS `__Host-wsock_session`."
    csrf = "With the cookie, and where something is changed, the session's CSRF token."
    return {
        "login": {
            "type": "http",
            "scheme": "bearer",
            "description": "A session token, or an access token (`wst_...`).",
        },
        "app": {"type": "http", "scheme": "bearer", "description": "An API key of an app, or a JWT."},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "wsock_session", "description": cookie},
        "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token", "description": csrf},
    }


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    if operation.needs is ANYONE:
        return []
    if isinstance(operation.needs, Right):
        return [{"app": []}]
    by_cookie: dict[str, list[str]] = {"cookie": []}
    login: dict[str, list[str]] = {"login": []}
    ways = [login, by_cookie if operation.method == "GET" else {**by_cookie, "csrf": []}]
    return [{"app": []}, *ways] if isinstance(operation.needs, AppOr) else ways


def _markdown(docstring: str) -> str:
    """A docstring as Markdown, with the names of fields as they are in JSON."""
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", docstring)

    def renamed(match: re.Match[str]) -> str:
        first, *rest = match[1].split("_")
        return f"`{first}{''.join(word.capitalize() for word in rest)}`"

    text = re.sub(r"``([a-z]+(?:_[a-z]+)*)``", renamed, text)
    return re.sub(r"``(.+?)``", r"`\1`", text)
