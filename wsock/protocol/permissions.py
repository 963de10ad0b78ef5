"""What a credential may do: patterns over channel names, each with operations.

Compiled once for a credential; a decision is remembered, so the hot path asks one dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from wsock.errors import Code, Malformed, Refused
from wsock.protocol.channels import MAX_NAME_BYTES, Pattern

__all__ = ["EVERYTHING", "OPERATIONS", "Operation", "Permissions"]

Operation = Literal["subscribe", "publish", "presence", "history"]
OPERATIONS: frozenset[str] = frozenset(("subscribe", "publish", "presence", "history"))

_MAX_PATTERNS = 100
_MAX_REMEMBERED = 1000


class Permissions:
    """The operations that are allowed on each channel: the union over all patterns that match.

    ``rules`` is ``{pattern: [operation, ...]}``; ``"*"`` among the operations means all of them.
    ``within`` is a wider set that these never exceed: a JWT is bounded by the key that signed it.
    """

    __slots__ = ("_known", "_rules", "_within", "rules")

    def __init__(self, rules: Mapping[str, Iterable[str]], within: Permissions | None = None) -> None:
        if len(rules) > _MAX_PATTERNS:
            raise Malformed(f"permissions: more than {_MAX_PATTERNS} patterns")
        self.rules = {pattern: _operations(pattern, names) for pattern, names in rules.items()}
        self._rules = [(Pattern(pattern), names) for pattern, names in self.rules.items()]
        self._within = within
        self._known: dict[str, frozenset[str]] = {}

    def allows(self, operation: Operation, channel: str) -> bool:
        """Whether the operation is allowed on the channel."""
        known = self._known.get(channel)
        return operation in (self._decide(channel) if known is None else known)

    def require(self, operation: Operation, channel: str) -> None:
        """Refuses with ``forbidden``, naming the permission, unless it is held."""
        if not self.allows(operation, channel):
            raise Refused(Code.FORBIDDEN, f"this credential lacks the permission '{operation}' on '{channel}'")

    @property
    def is_narrowed(self) -> bool:
        """Whether these are a token's own, and not its key's."""
        return self._within is not None

    @property
    def is_everything(self) -> bool:
        """Whether all operations are allowed on all channels, in as many words."""
        return self.rules.get("*") == OPERATIONS and (self._within is None or self._within.is_everything)

    def under(self, key: Permissions) -> Permissions:
        """The same, of a key that allows this now; it is the same object when the key allows what it did."""
        before = self if self._within is None else self._within
        if before.rules == key.rules:
            return self
        return key if self._within is None else Permissions(self.rules, within=key)

    def _decide(self, channel: str) -> frozenset[str]:
        allowed = frozenset(n for pattern, names in self._rules if pattern.matches(channel) for n in names)
        if self._within is not None and allowed:
            allowed &= self._within._decide(channel)
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[channel] = allowed
        return allowed


def _operations(pattern: str, names: Iterable[str]) -> frozenset[str]:
    if not pattern or len(pattern.encode()) > MAX_NAME_BYTES:
        raise Malformed(f"permissions: a pattern takes 1 to {MAX_NAME_BYTES} bytes")
    if isinstance(names, str):
        raise Malformed(f"permissions: '{pattern}' takes a list of operations")
    chosen = frozenset(names)
    unknown = chosen - OPERATIONS - {"*"}
    if unknown:
        known = ", ".join(sorted(OPERATIONS))
        raise Malformed(f"permissions: '{pattern}' names unknown operations; known are {known}")
    return OPERATIONS if "*" in chosen else chosen


EVERYTHING = Permissions({"*": OPERATIONS})
"""All operations on all channels."""
