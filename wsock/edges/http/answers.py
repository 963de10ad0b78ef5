"""How every HTTP answer of ours is written: JSON, with its length, refusals included."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from math import ceil
from typing import Any, Concatenate, ParamSpec, TypeVar
from typing import Protocol as Typing

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.web.server import Request

from wsock.errors import HTTP_STATUS, Code, Refused
from wsock.protocol.codec import encode

__all__ = ["Hinted", "answers_json", "document_answer", "internal_error", "json_answer", "refused_answer", "send"]

P = ParamSpec("P")


class Hinted(Refused):
    """A refusal with a hint for programs: what to ask people for, where the code alone doesn't tell."""

    def __init__(self, refused: Refused, hint: str) -> None:
        super().__init__(refused.code, refused.text, retry_after=refused.retry_after)
        self.hint = hint


class _Logs(Typing):
    _log: Logger


S = TypeVar("S", bound=_Logs)


def json_answer(request: Request, status: int, content: Any) -> bytes:
    """Sets status and headers; what is returned is the body to write."""
    return document_answer(request, status, "application/json", encode(content))


def document_answer(
    request: Request, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """The same for what is no JSON: ``kind`` is its content type."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", kind.encode("ascii"))
    request.setHeader(b"Content-Length", b"%d" % len(body))
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    for name, value in (headers or {}).items():
        request.setHeader(name.encode("ascii"), value.encode("ascii"))
    return body


def refused_answer(request: Request, refused: Refused, status: int | None = None) -> bytes:
    """The same for a refusal: ``{"error", "code"}`` under the status of its code, if no other is given."""
    if refused.retry_after is not None:
        request.setHeader(b"Retry-After", b"%d" % max(1, ceil(refused.retry_after)))
    if refused.code in (Code.UNAUTHORIZED, Code.TOKEN_EXPIRED):
        request.setHeader(b"WWW-Authenticate", b"Bearer")
    content = {"error": refused.text, "code": refused.code.value}
    if isinstance(refused, Hinted):
        content["hint"] = refused.hint
    return json_answer(request, status or HTTP_STATUS[refused.code], content)


def internal_error() -> Refused:
    """What a client is told of a fault of ours: nothing but that."""
    return Refused(Code.INTERNAL, "the server failed to do this; its log tells why")


def send(request: Request, body: bytes) -> None:
    """Writes the body and ends the request, whatever its method."""
    request.write(body)
    request.finish()


def answers_json(
    handler: Callable[Concatenate[S, Request, P], Coroutine[Any, Any, Any]],
) -> Callable[Concatenate[S, Request, P], Coroutine[Any, Any, bytes]]:
    """Makes an answer of what the coroutine returns or raises. Errors are turned into JSON here and nowhere else."""

    @wraps(handler)
    async def answer(self: S, request: Request, /, *args: P.args, **kwargs: P.kwargs) -> bytes:
        try:
            return json_answer(request, 200, await handler(self, request, *args, **kwargs))
        except Refused as e:
            return refused_answer(request, e)
        except CancelledError:
            # The client is gone: there is nobody to answer.
            raise
        except Exception:
            self._log.failure("{name} failed", name=handler.__name__)
            return refused_answer(request, internal_error())

    return answer
