"""What an app's records say of its channels and clients, compiled: values only, nothing is looked up here.

A setting is taken from the most special place that has it: the namespaces whose patterns match the channel's name, the
one with the longest literal beginning first; then the app; then the server. What the server's configuration and the
app's plan say of sizes and times are bounds: no setting goes beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from wsock.errors import Code, Malformed, Refused
from wsock.protocol.channels import Pattern
from wsock.protocol.permissions import Permissions
from wsock.protocol.rates import Rate, Rates
from wsock.records import App, Key, Namespace, Plan, PlanLimits, PushRule, Revocation, Revoked, Settings, SlowConsumer

__all__ = ["ChannelRules", "Defaults", "Facts", "Tenant"]

_T = TypeVar("_T")

_MAX_CHANNELS = 10_000
"""Channels whose rules an app has at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the server's configuration says, for apps that say nothing."""

    message_bytes: int = 65_536
    history: bool = True
    history_ttl_seconds: float = 604_800.0
    presence_grace_seconds: float = 10.0
    rates: Rates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRules:
    """What holds in one channel. Each ``..._by`` names for people where that is set.

    Where ``history_ttl_seconds`` or ``recovery_seconds`` is ``None``, only the server bounds it.
    """

    message_bytes: int
    message_bytes_by: str
    history: bool
    history_ttl_seconds: float | None
    recovery_seconds: float | None
    presence: bool
    presence_by: str
    presence_grace_seconds: float
    client_publish: bool
    client_publish_by: str
    slow_consumer: SlowConsumer

    def require_presence(self, channel: str) -> None:
        """Refuses with ``forbidden`` where presence is switched off."""
        if not self.presence:
            raise Refused(Code.FORBIDDEN, f"presence is switched off in '{channel}' ({self.presence_by})")

    def require_client_publish(self, channel: str) -> None:
        """Refuses with ``forbidden`` where clients must not publish."""
        if not self.client_publish:
            text = f"clients may not publish in '{channel}' ({self.client_publish_by}): publish by REST with an API key"
            raise Refused(Code.FORBIDDEN, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a tenant is made of, as it was read. ``keys`` are without their secrets and last uses."""

    app: App
    plan: Plan | None = None
    namespaces: tuple[Namespace, ...] = ()
    keys: tuple[Key, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    push_rules: tuple[PushRule, ...] = ()


@dataclass(frozen=True, slots=True)
class _Layer:
    """Settings, and the pattern of channels that they are for; ``name`` is for people."""

    name: str
    settings: Settings
    pattern: Pattern | None = None

    def matches(self, channel: str) -> bool:
        return self.pattern is None or self.pattern.matches(channel)


class Tenant:
    """An app with its settings, as they are until a change makes another one of it.

    ``now`` is the wall clock in seconds.
    """

    __slots__ = (
        "_channels",
        "_clients",
        "_defaults",
        "_layers",
        "_now",
        "_permissions",
        "_tokens",
        "connection_rate",
        "facts",
        "is_enforced",
        "is_lossy",
        "is_plain",
        "keys",
        "plan",
        "pushed",
        "rates",
    )

    def __init__(self, facts: Facts, defaults: Defaults, now: Callable[[], float]) -> None:
        self.facts = facts
        self._defaults = defaults
        self._now = now
        self.plan = facts.plan.limits if facts.plan is not None else PlanLimits()
        self.keys: Mapping[str, Key] = {key.id: key for key in facts.keys}
        self._layers = (*_by_speciality(facts.namespaces), _Layer("the app", facts.app.settings))
        self._channels: dict[str, ChannelRules] = {}
        self._permissions: dict[str, Permissions] = {}
        self._tokens = _revoked(facts.revocations, Revoked.TOKEN)
        self._clients = _revoked(facts.revocations, Revoked.CLIENT)
        settings = facts.app.settings
        self.connection_rate: Rate | None = settings.connection_rate
        self.is_enforced: bool | None = None if settings.rate_mode is None else settings.rate_mode == "enforce"
        self.rates: Rates | None = _rates(self._layers, settings, self.is_enforced, defaults.rates)
        self.is_lossy = any(layer.settings.slow_consumer not in (None, "disconnect") for layer in self._layers)
        self.pushed = tuple(Pattern(rule.pattern) for rule in facts.push_rules)
        is_bounded = self.plan.message_bytes is not None or self.plan.history_ttl_seconds is not None
        is_special = is_bounded or bool(self.pushed)
        self.is_plain = not is_special and all(layer.settings == Settings() for layer in self._layers)

    @property
    def app(self) -> App:
        """The app itself."""
        return self.facts.app

    def channel(self, name: str) -> ChannelRules:
        """What holds in this channel."""
        known = self._channels.get(name)
        return self._decide(name) if known is None else known

    def is_pushed(self, channel: str) -> bool:
        """Whether a message in this channel may ask to be pushed too."""
        return any(pattern.matches(channel) for pattern in self.pushed)

    def is_revoked(self, token_id: str | None, client_id: str | None) -> bool:
        """Whether a token of this id, or this client, is revoked."""
        return self.revoked(token_id, client_id) is not None

    def revoked(self, token_id: str | None, client_id: str | None) -> str | None:
        """What of the two is revoked, for people; ``None``: nothing."""
        if self._is_in(self._tokens, token_id):
            return f"the token with the id '{token_id}' (its 'jti') is revoked"
        if self._is_in(self._clients, client_id):
            return f"the client '{client_id}' is revoked"
        return None

    def permissions(self, key: Key) -> Permissions:
        """What the key allows, compiled once."""
        known = self._permissions.get(key.id)
        if known is None:
            try:
                known = Permissions(key.permissions)
            except Malformed as e:
                raise Refused(Code.UNAUTHORIZED, f"the key '{key.id}' is not usable: {e.text}") from e
            self._permissions[key.id] = known
        return known

    def history_seconds(self) -> float:
        """How long the channel lives on whose messages are kept longest."""
        longest = max(
            self._defaults.history_ttl_seconds if found is None else found
            for found in (_first((layer, self._layers[-1]), _ttl) for layer in self._layers)
        )
        return _least(longest, self._defaults.history_ttl_seconds, self.plan.history_ttl_seconds)

    def _is_in(self, revoked: Mapping[str, int | None], value: str | None) -> bool:
        if not revoked or value is None or value not in revoked:
            return False
        ends_at = revoked[value]
        return ends_at is None or self._now() * 1000 < ends_at

    def _decide(self, name: str) -> ChannelRules:
        layers = [layer for layer in self._layers if layer.matches(name)]
        message_bytes, message_bytes_by = self._message_bytes(layers)
        rules = ChannelRules(
            message_bytes=message_bytes,
            message_bytes_by=message_bytes_by,
            history=self._defaults.history and _first(layers, lambda s: s.history) is not False,
            history_ttl_seconds=self._bounded_ttl(layers),
            recovery_seconds=_first(layers, lambda s: s.recovery_seconds),
            presence=_first(layers, lambda s: s.presence) is not False,
            presence_by=_where(layers, "presence"),
            presence_grace_seconds=_or(
                _first(layers, lambda s: s.presence_grace_seconds), self._defaults.presence_grace_seconds
            ),
            client_publish=_first(layers, lambda s: s.client_publish) is not False,
            client_publish_by=_where(layers, "client_publish"),
            slow_consumer=_first(layers, lambda s: s.slow_consumer) or "disconnect",
        )
        if len(self._channels) >= _MAX_CHANNELS:
            self._channels.clear()
        self._channels[name] = rules
        return rules

    def _message_bytes(self, layers: list[_Layer]) -> tuple[int, str]:
        bounds = [(self._defaults.message_bytes, "limits.message_bytes")]
        if self.plan.message_bytes is not None and self.facts.plan is not None:
            bounds.append((self.plan.message_bytes, f"message_bytes of the plan '{self.facts.plan.id}'"))
        own = _first(layers, lambda s: s.message_bytes)
        if own is not None:
            bounds.append((own, _where(layers, "message_bytes")))
        return min(bounds, key=lambda bound: bound[0])

    def _bounded_ttl(self, layers: list[_Layer]) -> float | None:
        own, plan = _first(layers, _ttl), self.plan.history_ttl_seconds
        if own is None and plan is None:
            return None
        return _least(_or(own, self._defaults.history_ttl_seconds), self._defaults.history_ttl_seconds, plan)


def _by_speciality(namespaces: Iterable[Namespace]) -> list[_Layer]:
    """The longest literal beginning first; of equal ones, a name before a pattern, and the longer text."""

    def order(namespace: Namespace) -> tuple[int, bool, int, str]:
        literal, star, _ = namespace.pattern.partition("*")
        return (-len(literal), bool(star), -len(namespace.pattern), namespace.pattern)

    ordered = sorted(namespaces, key=order)
    return [_Layer(f"the namespace '{n.pattern}'", n.settings, Pattern(n.pattern)) for n in ordered]


def _ttl(settings: Settings) -> int | None:
    return settings.history_ttl_seconds


def _first(layers: Iterable[_Layer], value: Callable[[Settings], _T | None]) -> _T | None:
    return next((found for found in (value(layer.settings) for layer in layers) if found is not None), None)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _least(*values: float | None) -> float:
    return min(value for value in values if value is not None)


def _where(layers: Iterable[_Layer], name: str) -> str:
    """Where a setting comes from, for people."""
    by = next((layer.name for layer in layers if getattr(layer.settings, name) is not None), "the server")
    return f"the setting {name} of {by}"


def _revoked(revocations: Iterable[Revocation], kind: Revoked) -> dict[str, int | None]:
    return {r.value: r.expires_at for r in revocations if r.kind == kind}


def _rates(
    layers: Iterable[_Layer], settings: Settings, is_enforced: bool | None, default: Rates | None
) -> Rates | None:
    """The limits of an app's publishes; its own take the place of the server's, each by itself."""
    default = default or Rates()
    channels = tuple(
        ("*" if layer.pattern is None else layer.pattern.text, layer.settings.channel_rate)
        for layer in layers
        if layer.settings.channel_rate is not None
    )
    scopes = {"app": settings.app_rate, "channel": channels, "user": settings.user_rate}
    rates = Rates(
        app=settings.app_rate or default.app,
        user=settings.user_rate or default.user,
        channels=channels + default.channels,
        is_enforced=default.is_enforced if is_enforced is None else is_enforced,
        own=tuple(scope for scope, value in scopes.items() if value),
    )
    return rates if rates.app or rates.user or rates.channels else None
