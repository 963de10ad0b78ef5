"""What commands print: aligned tables and lines for people, the API's JSON for programs.

What came from elsewhere, such as names and messages, is printed so that it does nothing to a terminal.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

__all__ = [
    "Column",
    "Output",
    "Row",
    "column",
    "details",
    "number",
    "printable",
    "shown_time",
    "table",
    "text",
    "width_of",
    "words",
]

Row = Mapping[str, Any]
_GAP = "  "
_LEAST = 8
_NOTHING = "-"
_BIDI = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
_MILLISECONDS = 100_000_000_000
"""Times of today in milliseconds are above it, whatever is counted is below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: its title, what stands in it, and whether it may be cut short."""

    title: str
    cell: Callable[[Row], str]
    is_number: bool = False
    is_whole: bool = False


def column(title: str, key: str | None = None, *, is_whole: bool = False) -> Column:
    """The value under ``key``, by default the title; ``a.b`` is that of ``b`` in ``a``. Ids stay whole: for copying."""
    path = (key or title).split(".")
    return Column(title=title, cell=lambda row: text(path[-1], _at(row, path)), is_whole=is_whole or title == "id")


def number(title: str, key: str | None = None) -> Column:
    """The same for a number, which stands to the right."""
    path = (key or title).split(".")
    return Column(title=title, cell=lambda row: text(path[-1], _at(row, path)), is_number=True, is_whole=True)


def _at(row: Row, path: Sequence[str]) -> Any:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text(key: str, value: Any) -> str:
    """A value of the API as people read it; ``key`` tells times from other numbers."""
    match value:
        case None | "":
            return _NOTHING
        case bool():
            return "yes" if value else "no"
        case int() if _is_time(key) and (value >= _MILLISECONDS or not value):
            return shown_time(value) if value else _NOTHING
        case int():
            return f"{value:,}"
        case str():
            return printable(value)
        case float():
            return f"{value:,g}"
        case dict() if not value:
            return _NOTHING
        case list() if all(isinstance(part, str) for part in value):
            return ", ".join(printable(part) for part in value) or _NOTHING
    return printable(json.dumps(value, ensure_ascii=False))


def _is_time(key: str) -> bool:
    return key.endswith("At") or key in ("at", "since", "until", "timestamp")


def shown_time(milliseconds: int) -> str:
    """A time in milliseconds since 1970, in UTC."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)


def printable(text: str) -> str:
    """The text with each character escaped that could move the cursor, turn the writing, or not be encoded."""
    return "".join(map(_escaped, text)) if not text.isprintable() else text


def _escaped(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Cn", "Co", "Zl", "Zp") or unicodedata.bidirectional(character) in _BIDI:
        return character.encode("unicode_escape").decode("ascii")
    return character


def width_of(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    if width_of(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"


def table(rows: Sequence[Row], columns: Sequence[Column], width: int | None = None) -> str:
    """The rows in aligned columns under their titles; within ``width``, where there is one, as far as ids allow."""
    cells = [[one.title.upper() for one in columns], *([one.cell(row) for one in columns] for row in rows)]
    widths = [max(width_of(line[place]) for line in cells) for place in range(len(columns))]
    if width is not None:
        _narrow(widths, columns, width)
    return "\n".join(_line(line, widths, columns) for line in cells)


def _narrow(widths: list[int], columns: Sequence[Column], width: int) -> None:
    """Takes from the widest column that may be cut, until all fit or nothing is left to take."""
    places = [place for place, one in enumerate(columns) if not one.is_whole]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        widest = max(places, key=lambda place: widths[place], default=None)
        if widest is None or widths[widest] <= _LEAST:
            return
        widths[widest] -= 1


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    parts = []
    for cell, width, one in zip(cells, widths, columns, strict=True):
        kept = _cut(cell, width)
        space = " " * (width - width_of(kept))
        parts.append(space + kept if one.is_number else kept + space)
    return _GAP.join(parts).rstrip()


def details(content: Row) -> str:
    """An object, a line for each value."""
    lines = [(words(key), value) for key, value in _flat(content, "")]
    width = max((width_of(name) for name, _ in lines), default=0)
    return "\n".join(f"{name}{' ' * (width - width_of(name))}{_GAP}{value}" for name, value in lines)


def _flat(content: Row, before: str) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        name = f"{before} {key}".strip()
        if isinstance(value, Mapping) and value and not any(isinstance(part, list) for part in value.values()):
            yield from _flat(value, name)
        elif isinstance(value, Mapping) and value:
            yield from ((f"{name} {printable(part)}", text(part, inner)) for part, inner in value.items())
        else:
            yield name, text(key, value)


def words(key: str) -> str:
    """A name of the API in words."""
    return printable(re.sub(r"(?<=[a-z0-9])[A-Z]", lambda match: f" {match[0].lower()}", key))


class Output:
    """Prints answers, as JSON or for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def json(self, content: Any) -> None:
        """Prints JSON in ASCII: there is no terminal and no pipe that does not take it."""
        click.echo(json.dumps(content, indent=2))

    def answer(self, content: Any, people: Callable[[], str]) -> None:
        """Prints the content, or what is made of it for people."""
        if self.as_json:
            self.json(content)
        else:
            click.echo(people())

    def object(self, content: Row) -> None:
        """Prints an object."""
        self.answer(content, lambda: details(content))

    def rows(self, listing: Row, columns: Sequence[Column]) -> None:
        """Prints a list; whoever reads it is told when that is not all of it, or nothing."""
        items = listing["items"]
        if self.as_json:
            self.json(listing)
            return
        if items:
            click.echo(table(items, columns, _terminal_width()))
        else:
            self.note("there are none")
        if listing.get("next"):
            self.note("there are more: --limit 0 shows all")
        self.warn_of_parts(listing)

    def warn_of_parts(self, content: Row) -> None:
        """Says so when a node of the cluster did not answer."""
        if content.get("isComplete") is False and not self.as_json:
            self.note("a node of the cluster did not answer: there may be more")

    def done(self, content: Any, text: str) -> None:
        """Prints that something was done."""
        self.answer(content, lambda: text)

    def secrets(self, content: Row, secrets: Mapping[str, Any]) -> None:
        """Prints an object, and apart from it the secrets that nobody will see again."""
        if self.as_json:
            self.json(content)
            return
        click.echo(details({key: value for key, value in content.items() if key not in secrets}))
        self.note("\nThis is shown once. Keep it now:\n")
        click.echo(details({name: value for name, value in secrets.items() if value}))

    @staticmethod
    def note(text: str) -> None:
        """Says something to people, apart from the answer."""
        click.echo(text, err=True)


def _terminal_width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
