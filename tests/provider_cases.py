"""What the tests of push providers share: messages, and an HTTP client that is told what to answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from wsock.interfaces import PushMessage, Reply

__all__ = ["NOW", "Posted", "RecordedPosting", "message", "reply"]

NOW = 1_800_000_000.0


def message(**values: Any) -> PushMessage:
    """A message of now."""
    return PushMessage(**{"id": "m1", "created": int(NOW * 1000), "title": "Hello", **values})


def reply(status: int, body: Any = b"", **headers: str) -> Reply:
    """An answer; a body that is not bytes is JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=content, seconds=0.1)


@dataclass(frozen=True)
class Posted:
    """A request that was made."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    options: Mapping[str, Any]


class RecordedPosting:
    """Keeps what is posted in ``posted``; each post takes the next of ``answers``, or raises it, or waits for it."""

    def __init__(self, *answers: Any) -> None:
        self.posted: list[Posted] = []
        self.answers = list(answers)

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        guard: bool = True,
        kind: str = "push",
        max_body: int = 1024,
    ) -> Reply:
        """See Posting."""
        self.posted.append(Posted(url, headers, body, {"guard": guard, "kind": kind, "max_body": max_body}))
        answer = self.answers.pop(0)
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Reply)
        return answer
