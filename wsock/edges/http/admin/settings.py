"""Settings of apps and namespaces, as they are answered."""

from __future__ import annotations

from typing import Any

import msgspec

from wsock.edges.http.operations import Answer
from wsock.protocol.rates import Rate
from wsock.records import Settings

__all__ = ["RateAnswer", "SettingsAnswer", "settings_answer"]


class RateAnswer(Answer, frozen=True):
    """At most ``events`` in ``seconds`` in the long run, and at most ``burst`` at once."""

    events: float
    seconds: float
    burst: int


class SettingsAnswer(Answer, frozen=True):
    """Settings. What is null is left to what stands behind: the app, then the server."""

    history: bool | None
    history_ttl_seconds: int | None
    recovery_seconds: int | None
    presence: bool | None
    presence_grace_seconds: float | None
    message_bytes: int | None
    client_publish: bool | None
    slow_consumer: str | None
    rate_mode: str | None
    app_rate: RateAnswer | None
    channel_rate: RateAnswer | None
    user_rate: RateAnswer | None
    connection_rate: RateAnswer | None


def settings_answer(settings: Settings) -> SettingsAnswer:
    """The settings as they are answered."""
    values = msgspec.structs.asdict(settings)
    return SettingsAnswer(**{name: _shown(value) for name, value in values.items()})


def _shown(value: Any) -> Any:
    if not isinstance(value, Rate):
        return value
    return RateAnswer(events=value.events, seconds=value.seconds, burst=value.limit)
