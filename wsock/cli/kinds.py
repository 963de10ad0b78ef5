"""Kinds of arguments: lengths of time, moments, names with values, and how what is deleted is asked about."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["LENGTH", "Moment", "camel", "confirm", "json_or_text", "permissions_of", "secret_from_input", "setting"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_length = re.compile(r"([0-9]{1,9})([smhdw])").fullmatch


class _Length(click.ParamType):  # type: ignore[type-arg]  # generic, but not yet in Click 8.1
    """A length of time, such as ``90s``, ``12h`` or ``30d``, in seconds."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Click's hook."""
        match = _length(str(value))
        if match is None or not int(match[1]):
            self.fail(
                f"'{value}' is no length of time: it takes a number with s, m, h, d or w, such as 30d", param, ctx
            )
        return int(match[1]) * _UNITS[match[2]]


LENGTH = _Length()


class Moment(click.ParamType):  # type: ignore[type-arg]  # as above
    """A moment, in milliseconds since 1970: a date and time (ISO 8601, UTC if it says nothing), or so long ago."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Click's hook."""
        ago = _length(str(value))
        if ago is not None:
            return int((time.time() - int(ago[1]) * _UNITS[ago[2]]) * 1000)
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"'{value}' is no moment: it takes 2026-01-31, 2026-01-31T12:00, or 24h for so long ago", param, ctx
            )
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def camel(name: str) -> str:
    """The name as the API writes it, from ``history-ttl-seconds``, ``history_ttl_seconds`` or its own form."""
    first, *others = re.split(r"[-_]", name)
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def setting(text: str) -> tuple[str, Any]:
    """The name and the value of ``NAME=VALUE``; without a value it is ``None``, which leaves the setting unset.

    A value is on or off, a number, or a rate such as ``100/s`` or ``6000/m:100``, whose last part is the burst.
    """
    name, is_given, value = text.partition("=")
    if not name or not is_given:
        raise click.UsageError(f"'{text}' takes the form NAME=VALUE; NAME= leaves the setting to the server")
    found = _value(value)
    if camel(name).endswith("Rate") and isinstance(found, str):
        raise click.UsageError(f"'{value}' is no rate: it takes 100/s, or 60/m:10 for 60 a minute, 10 of them at once")
    return camel(name), found


_rate = re.compile(r"([0-9]+(?:\.[0-9]+)?)/([0-9]*)([smhd])(?::([0-9]+))?").fullmatch
_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False, "": None, "null": None}


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    rate = _rate(text)
    if rate is not None:
        seconds = float(int(rate[2] or 1) * _UNITS[rate[3]])
        return {"events": float(rate[1]), "seconds": seconds, "burst": int(rate[4] or 0)}
    return json_or_text(text)


def json_or_text(text: str) -> Any:
    """What the text says as JSON, or the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> None:
    # Python reads NaN and Infinity; JSON does not have them.
    raise ValueError(name)


def permissions_of(texts: tuple[str, ...]) -> dict[str, list[str]] | None:
    """Permissions from ``PATTERN=OPERATION,...`` each; a pattern alone means all operations. ``None`` for no text."""
    found: dict[str, list[str]] = {}
    for text in texts:
        pattern, is_given, operations = text.rpartition("=")
        if not is_given:
            pattern, operations = operations, "*"
        found[pattern] = [name.strip() for name in operations.split(",") if name.strip()]
    return found or None


def confirm(question: str, yes: bool) -> None:
    """Goes on if somebody says yes, or has said so with ``--yes``. Where nobody can be asked, that is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is nobody to ask: --yes says so")
    click.confirm(question, abort=True, err=True)


def secret_from_input(prompt: str, *, is_new: bool = False) -> str:
    """A secret, asked for without showing it, or a line of standard input: it never is an argument."""
    if sys.stdin.isatty():
        answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=is_new, err=True)
        return answer
    line = sys.stdin.readline()
    if not line:
        raise click.UsageError(f"{prompt}: there is no terminal to ask at, and no line on standard input")
    return line.rstrip("\r\n")
