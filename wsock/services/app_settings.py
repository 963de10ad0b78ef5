"""Settings of apps and namespaces as people change them, and what they may not go beyond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from wsock.errors import Code, Refused
from wsock.protocol.rates import Rate
from wsock.records import Plan, Settings, SlowConsumer

__all__ = ["Bounds", "RateChange", "SettingsChange", "check_settings"]

_MOST_EVENTS = 1_000_000
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.001, 3600.0
_RATES = ("app_rate", "channel_rate", "user_rate", "connection_rate")
_OF_APPS = ("app_rate", "user_rate", "connection_rate", "rate_mode")

_Seconds = Annotated[int, Meta(ge=0, le=3_162_240_000)]


class RateChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """At most ``events`` in ``seconds`` in the long run, and at most ``burst`` at once.

    Without a ``burst`` it is what the rate allows in a second.
    """

    events: Annotated[float, Meta(gt=0, le=_MOST_EVENTS)]
    seconds: Annotated[float, Meta(gt=0, le=2_678_400)] = 1.0
    burst: Annotated[int, Meta(ge=0, le=_MOST_EVENTS)] = 0


class SettingsChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Settings. What is not given stays as it is; null leaves one to what stands behind: the app, then the server."""

    history: bool | None | UnsetType = UNSET
    history_ttl_seconds: _Seconds | None | UnsetType = UNSET
    recovery_seconds: _Seconds | None | UnsetType = UNSET
    presence: bool | None | UnsetType = UNSET
    presence_grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] | None | UnsetType = UNSET
    message_bytes: Annotated[int, Meta(ge=1, le=500_000)] | None | UnsetType = UNSET
    client_publish: bool | None | UnsetType = UNSET
    slow_consumer: SlowConsumer | None | UnsetType = UNSET
    rate_mode: Literal["observe", "enforce"] | None | UnsetType = UNSET
    app_rate: RateChange | None | UnsetType = UNSET
    channel_rate: RateChange | None | UnsetType = UNSET
    user_rate: RateChange | None | UnsetType = UNSET
    connection_rate: RateChange | None | UnsetType = UNSET

    def applied(self, settings: Settings) -> Settings:
        """The settings with this change."""
        return replace(settings, **{name: _stored(value) for name, value in self.given.items()})

    @property
    def given(self) -> Mapping[str, Any]:
        """What is to be changed."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}


def _stored(value: Any) -> Any:
    return Rate(value.events, value.seconds, value.burst) if isinstance(value, RateChange) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the server's configuration allows; a rate that is ``None`` is not bounded."""

    message_bytes: int = 500_000
    history: bool = True
    history_ttl_seconds: float = 3_162_240_000
    recovery_seconds: float = 604_800
    app_rate: Rate | None = None
    channel_rate: Rate | None = None
    user_rate: Rate | None = None
    connection_rate: Rate | None = None

    @property
    def has_rates(self) -> bool:
        """Whether the server limits any rate."""
        return any(getattr(self, name) is not None for name in _RATES)


def check_settings(
    change: SettingsChange,
    plan: Plan | None,
    bounds: Bounds,
    *,
    is_namespace: bool = False,
    is_operator: bool = False,
) -> None:
    """Refuses settings beyond what the server or the plan allow, naming the limit, and those with no place here.

    An operator may give an app more of a rate than the server gives to all.
    """
    settings = change.applied(Settings())
    if is_namespace:
        for name in _OF_APPS:
            if getattr(settings, name) is not None:
                raise Refused(Code.BAD_REQUEST, f"{_field(name)} is a setting of the app, not of a namespace")
    for name in ("message_bytes", "history_ttl_seconds", "recovery_seconds"):
        _check_size(name, getattr(settings, name), plan, getattr(bounds, name))
    if settings.history and not bounds.history:
        raise _beyond("history", "true", "history.enabled", "false")
    for name in _RATES:
        _check_rate(name, getattr(settings, name), None if is_operator else getattr(bounds, name))
    if settings.rate_mode == "observe" and bounds.has_rates and not is_operator:
        raise _beyond("rate_mode", "observe", "limits.rate_mode", "enforce")


_SETTINGS = {
    "message_bytes": "limits.message_bytes",
    "history_ttl_seconds": "history.ttl_seconds",
    "recovery_seconds": "recovery.seconds",
    "app_rate": "limits.app_publish_rate",
    "channel_rate": "limits.channel_publish_rate",
    "user_rate": "limits.user_publish_rate",
    "connection_rate": "limits.connection_rate",
}


def _check_size(name: str, value: int | None, plan: Plan | None, most: float) -> None:
    if value is None:
        return
    if value > most:
        raise _beyond(name, value, _SETTINGS[name], f"{most:.15g}")
    allowed = getattr(plan.limits, name, None) if plan is not None else None
    if plan is not None and allowed is not None and value > allowed:
        text = f"{_field(name)} is {value}, and the plan '{plan.id}' allows {allowed}: ask for less, or a larger plan"
        raise Refused(Code.LIMIT_EXCEEDED, text)


def _check_rate(name: str, rate: Rate | None, most: Rate | None) -> None:
    if rate is None:
        return
    if not _SHORTEST_SECONDS <= rate.window_seconds <= _LONGEST_SECONDS:
        raise Refused(
            Code.BAD_REQUEST,
            f"{_field(name)}: a burst of {rate.limit} takes {rate.window_seconds:g} s at this rate; that window takes"
            f" {_SHORTEST_SECONDS:g} s to {_LONGEST_SECONDS:g} s",
        )
    if most is None:
        return
    if rate.events / rate.seconds > most.events / most.seconds or rate.limit > most.limit:
        shown = f"{rate.events:g} in {rate.seconds:g} s, {rate.limit} at once"
        allowed = f"{most.events:g} in {most.seconds:g} s, {most.limit} at once"
        raise _beyond(name, shown, _SETTINGS[name], allowed)


def _field(name: str) -> str:
    first, *rest = name.split("_")
    return f"'settings.{first}{''.join(word.capitalize() for word in rest)}'"


def _beyond(name: str, value: object, setting: str, allowed: object) -> Refused:
    return Refused(Code.LIMIT_EXCEEDED, f"{_field(name)} is {value}, and {setting} of the server allows {allowed}")
