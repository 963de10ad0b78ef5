"""What the REST API is made of: groups of operations, declared where they are done.

::

    class Teams(Group):
        tag, about = "Teams", "People who run apps together."

        @operation("POST", "/api/admin/teams", status=201, needs=LOGIN)
        async def create(self, call: Call[NewTeam, NoQuery]) -> TeamAnswer:
            \"\"\"Creates a team, whose owner is who asks.\"\"\"

What a request has to look like is what the annotations say: the types of the body and of the query, and that of the
answer. The same declarations make ``/api/openapi.json`` (:mod:`wsock.edges.http.openapi`). Which requests reach an
operation is decided by :mod:`wsock.edges.http.router`. That somebody is logged in is seen to here; what they may do is
for the services to decide, which know the team: ``needs`` tells what they decide by.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta
from twisted.web.server import Request

from wsock.edges.http.callers import Caller, header
from wsock.errors import Code
from wsock.protocol.permissions import Operation as ChannelRight
from wsock.services.access import Actor
from wsock.services.auth import Credential
from wsock.services.roles import Permission

__all__ = [
    "ANYONE",
    "LOGIN",
    "Answer",
    "AppOr",
    "Body",
    "Call",
    "Document",
    "Group",
    "Items",
    "Milliseconds",
    "Need",
    "Needs",
    "NoBody",
    "NoQuery",
    "Operation",
    "Page",
    "Query",
    "Right",
    "Version",
    "operation",
]

T = TypeVar("T")
B = TypeVar("B", covariant=True)
Q = TypeVar("Q", covariant=True)
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

Milliseconds = Annotated[int, Meta(ge=0, le=1 << 53, description="Milliseconds since 1970.")]
"""A time in a body or a query."""
Version = Annotated[int, Meta(ge=1, le=1 << 53, description="The version that was read; refused when it is another.")]
"""The version of what is to be changed, in a body."""


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a request holds, as a JSON object."""


class Query(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What stands behind the question mark."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is answered, as a JSON object. It says each field itself: no record of a store is an answer."""


class NoBody(Body, frozen=True):
    """Nothing is asked for in a body; an empty object is fine."""


class NoQuery(Query, frozen=True):
    """Nothing may stand behind the question mark."""


class Page(Query, frozen=True):
    """Which part of a list is asked for."""

    cursor: Annotated[
        str | None,
        Meta(description="The `next` of the part before. It is good for the list that it came from only."),
    ] = None
    limit: Annotated[int, Meta(ge=1, le=100, description="How many at most.")] = 50


class Items(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list; ``next`` is the cursor of the part behind it, null at the end."""

    items: list[T]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """An answer that is no JSON: a page, under its content type."""

    kind: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Need(Enum):
    """What an operation needs that is no permission."""

    ANYONE = "anyone"
    """Nothing: who asks is not known."""
    LOGIN = "login"
    """Any account: a session, or an access token."""


ANYONE, LOGIN = Need.ANYONE, Need.LOGIN


@dataclass(frozen=True, slots=True)
class Right:
    """An API key or a JWT of an app, with this right on the ``channel`` of the path; ``None``: with whatever right."""

    name: ChannelRight | None = None


@dataclass(frozen=True, slots=True)
class AppOr:
    """An API key or a JWT of an app, or a login with this permission in the app's team.

    The operation sees to what the former may do.
    """

    permission: Permission


Needs = Permission | Need | Right | AppOr


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[B, Q]):
    """A request that is well-formed, from somebody who is who they say."""

    request: Request
    ip: str
    path: Mapping[str, str]
    body: B
    query: Q
    is_secure: bool = False
    """Whether it came by TLS, perhaps to a proxy that is trusted."""
    _caller: Caller | None = None
    _credential: Credential | None = None

    @property
    def actor(self) -> Actor:
        """Who is logged in."""
        return self.caller.actor

    @property
    def caller(self) -> Caller:
        """The same with how: which session, and whether by a cookie."""
        assert self._caller is not None, "the operation needs no login"
        return self._caller

    @property
    def is_login(self) -> bool:
        """Whether it is somebody who is logged in, where an app's credential would do too."""
        return self._caller is not None

    @property
    def credential(self) -> Credential:
        """The API key's or JWT's."""
        assert self._credential is not None, "the operation needs no credential of an app"
        return self._credential

    def set_header(self, name: str, value: str) -> None:
        """Sets a header of the answer."""
        self.request.setHeader(name.encode("ascii"), value.encode("ascii"))

    def header(self, name: str) -> str:
        """A header of the request, empty when there is none."""
        return header(self.request, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation as it was declared. ``function`` takes the group and the call."""

    function: Callable[..., Awaitable[Any]]
    method: str
    path: str
    needs: Needs
    status: int
    errors: tuple[Code, ...]
    body: Any
    query: type[Query]
    answer: Any
    takes: Any
    example: Any
    asks_cluster: bool
    summary: str
    description: str
    parameters: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """What it is called within its group."""
        return self.function.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    method: str
    path: str
    needs: Needs
    status: int | None
    errors: tuple[Code, ...]
    takes: Any
    gives: Any
    example: Any
    asks_cluster: bool


def operation(
    method: str,
    path: str,
    *,
    needs: Needs,
    status: int | None = None,
    errors: tuple[Code, ...] = (),
    takes: Any = None,
    gives: Any = None,
    example: Any = None,
    asks_cluster: bool = False,
) -> Callable[[F], F]:
    """Declares what a method of a :class:`Group` answers.

    The method takes a ``Call[Body, Query]``; a body of ``msgspec.Raw`` is handed over as it is (checked for depth and
    digits only), and ``takes`` is its type for the documentation then. ``gives`` documents another type than the
    annotation of the result. The status is 200, or 204 for ``None``. ``errors`` are codes besides those that every such
    operation may answer with (see :func:`wsock.edges.http.openapi.codes`). ``example`` is a body that is good. What
    ``asks_cluster`` is work for every node, and limited for each key and account.
    """
    declared = _Declared(
        method=method,
        path=path,
        needs=needs,
        status=status,
        errors=errors,
        takes=takes,
        gives=gives,
        example=example,
        asks_cluster=asks_cluster,
    )

    def declare(function: F) -> F:
        function.__operation__ = declared  # type: ignore[attr-defined]  # read by Group.operations
        return function

    return declare


class Group:
    """Operations on one kind of thing. ``tag`` is its name and ``about`` a paragraph on the page of the API."""

    tag: str
    about: str

    @classmethod
    def operations(cls) -> Iterator[Operation]:
        """Its operations, in the order in which they were declared."""
        for function in vars(cls).values():
            declared = getattr(function, "__operation__", None)
            if isinstance(declared, _Declared):
                yield _operation(function, declared)


def _operation(function: Callable[..., Awaitable[Any]], declared: _Declared) -> Operation:
    hints = get_type_hints(function, include_extras=True)
    answer = hints.pop("return")
    [call] = hints.values()
    body, query = get_args(call)
    is_nothing = answer is type(None)
    summary, _, description = inspect.cleandoc(function.__doc__ or "").partition("\n")
    return Operation(
        function=function,
        method=declared.method,
        path=declared.path,
        needs=declared.needs,
        status=declared.status or (204 if is_nothing else 200),
        errors=declared.errors,
        body=body,
        query=query,
        answer=None if is_nothing else declared.gives or answer,
        takes=declared.takes or body,
        example=declared.example,
        asks_cluster=declared.asks_cluster,
        summary=summary,
        description=description.strip(),
        parameters=tuple(part[1:-1] for part in declared.path.split("/") if part.startswith("{")),
    )
