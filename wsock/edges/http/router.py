"""Brings requests to the operations they are for, and their outcome back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger
from twisted.web.server import Request

from wsock.edges.http.answers import document_answer, internal_error, json_answer, refused_answer, send
from wsock.edges.http.callers import Callers, client_address, is_secure
from wsock.edges.http.operations import ANYONE, AppOr, Call, Document, Group, Operation, Right
from wsock.edges.http.reading import read_body, read_parameter, read_query
from wsock.errors import Code, Refused

__all__ = ["Router"]


@dataclass(slots=True)
class _Place:
    """A place in the tree of paths: what is behind it, and what is done at it."""

    below: dict[str, _Place] = field(default_factory=dict)
    parameter: _Place | None = None
    methods: dict[str, tuple[Group, Operation]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """What a path leads to: the operation of each method, and the values of its parameters, still encoded.

    A path may lead to several places, ``/x/all`` to both ``/x/all`` and ``/x/{id}``: the first one that has the method
    counts.
    """

    methods: Mapping[str, tuple[Group, Operation, tuple[str, ...]]]

    @property
    def allowed(self) -> str:
        """The methods, for ``Allow``."""
        also = {"HEAD"} if "GET" in self.methods else set()
        return ", ".join(sorted({*self.methods, *also, "OPTIONS"}))


class Router:
    """Answers requests by the operations of ``groups``.

    ``callers`` tells who asks, ``state`` what state the server is in, and ``trusted_proxies`` how many proxies are
    believed. ``max_body_bytes`` bounds bodies where the site does not. ``changed`` is awaited after what people asked
    to be changed, before the answer.
    """

    _log = Logger()

    def __init__(
        self,
        groups: Iterable[Group],
        callers: Callers,
        state: Callable[[], str],
        *,
        max_body_bytes: int,
        trusted_proxies: int = 0,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._callers = callers
        self._changed = changed
        self._state = state
        self._max_body_bytes = max_body_bytes
        self._trusted_proxies = trusted_proxies
        self._tree = _Place()
        self._pending: set[Deferred[None]] = set()
        for group in groups:
            for operation in group.operations():
                self._add(group, operation)

    def _add(self, group: Group, operation: Operation) -> None:
        place = self._tree
        for part in operation.path.strip("/").split("/"):
            if part.startswith("{"):
                place.parameter = place = place.parameter or _Place()
            else:
                place = place.below.setdefault(part, _Place())
        if operation.method in place.methods:
            raise ValueError(f"{operation.method} {operation.path} is declared twice")
        place.methods[operation.method] = (group, operation)

    def match(self, segments: list[str]) -> Match | None:
        """What is at this path, whose segments are percent-encoded; ``None`` when there is nothing."""
        found: dict[str, tuple[Group, Operation, tuple[str, ...]]] = {}
        for place, values in _walk(self._tree, segments, ()):
            for method, (group, operation) in place.methods.items():
                found.setdefault(method, (group, operation, values))
        return Match(found) if found else None

    def answer(self, request: Request, match: Match) -> None:
        """Answers the request, in its time."""
        method = request.method.decode("latin-1")
        found = match.methods.get("GET" if method == "HEAD" else method)
        if found is None:
            request.setHeader(b"Allow", match.allowed.encode("ascii"))
            refused = Refused(Code.BAD_REQUEST, f"this path takes {match.allowed}")
            send(request, refused_answer(request, refused, 405))
            return
        gone: list[bool] = []
        performing = Deferred.fromCoroutine(self._answer(request, *found, gone))
        self._pending.add(performing)
        request.notifyFinish().addErrback(self._left, gone, performing, method)
        performing.addErrback(lambda failure: failure.trap(CancelledError))
        performing.addBoth(lambda _: self._pending.discard(performing))

    @staticmethod
    def _left(_: object, gone: list[bool], performing: Deferred[None], method: str) -> None:
        """The client is gone. What it asked to be changed is done to its end all the same, and recorded."""
        gone.append(True)
        if method in ("GET", "HEAD"):
            performing.cancel()

    async def stop(self) -> None:
        """Waits for what is being done."""
        await gatherResults(list(self._pending), consumeErrors=True)

    async def _answer(
        self, request: Request, group: Group, operation: Operation, values: tuple[str, ...], gone: list[bool]
    ) -> None:
        try:
            body = await self._perform(request, group, operation, values)
        except Refused as e:
            body = refused_answer(request, e)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{tag}: {name} failed", tag=group.tag, name=operation.name)
            body = refused_answer(request, internal_error())
        if not gone:
            send(request, body)

    async def _perform(self, request: Request, group: Group, operation: Operation, values: tuple[str, ...]) -> bytes:
        if self._state() == "starting":
            raise Refused(Code.UNAVAILABLE, "the server is starting: try again", retry_after=1.0)
        call = await self._call(request, operation, values)
        result = await operation.function(group, call)
        is_administration = not isinstance(operation.needs, Right | AppOr)
        if self._changed is not None and operation.method != "GET" and is_administration:
            await self._changed()
        if isinstance(result, Document):
            return document_answer(request, operation.status, result.kind, result.content, result.headers)
        if operation.status != 204:
            return json_answer(request, operation.status, result)
        request.setResponseCode(204)
        request.setHeader(b"Cache-Control", b"no-store")
        return b""

    async def _call(self, request: Request, operation: Operation, values: tuple[str, ...]) -> Call[Any, Any]:
        """The request, once it is known who asks, and that it is well-formed."""
        needs = operation.needs
        ip = client_address(request, self._trusted_proxies)
        secure = is_secure(request, self._trusted_proxies)
        caller = credential = None
        is_app = isinstance(needs, AppOr) and not self._callers.is_login(request, secure=secure)
        if isinstance(needs, Right) or is_app:
            credential = await self._callers.credential(request)
        elif needs is not ANYONE:
            caller = await self._callers.caller(request, ip, secure=secure)
        if operation.asks_cluster:
            await self._callers.admit_question(request, caller, credential)
        path = {name: read_parameter(name, value) for name, value in zip(operation.parameters, values, strict=True)}
        if credential is not None and isinstance(needs, Right) and needs.name is not None and "channel" in path:
            credential.permissions.require(needs.name, path["channel"])
        return Call(
            request=request,
            ip=ip,
            path=path,
            query=read_query(request, operation.query),
            body=read_body(request, operation.body, self._max_body_bytes),
            is_secure=secure,
            _caller=caller,
            _credential=credential,
        )


def _walk(place: _Place, segments: list[str], values: tuple[str, ...]) -> Iterable[tuple[_Place, tuple[str, ...]]]:
    """The places that a path leads to, those that name more of it first."""
    if not segments:
        yield place, values
        return
    first, *rest = segments
    if first in place.below:
        yield from _walk(place.below[first], rest, values)
    if place.parameter is not None:
        yield from _walk(place.parameter, rest, (*values, first))
