"""Tests for :mod:`wsock.cli.output`."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from wsock.cli.output import Column, column, details, number, printable, shown_time, table, text, width_of

AT = 1_767_225_600_123
ROWS = [
    {"id": "app_1", "name": "Chat", "count": 1234, "isEnabled": True},
    {"id": "app_22", "name": "聊天室", "count": 7, "isEnabled": False},
]
COLUMNS = (column("id"), column("name"), number("count"), column("enabled", "isEnabled"))


class TableTests(SynchronousTestCase):
    """Tables for people."""

    def test_aligned(self) -> None:
        """Columns are as wide as what is in them, wide characters counted as two; numbers stand to the right."""
        self.assertEqual(
            table(ROWS, COLUMNS).splitlines(),
            [
                "ID      NAME    COUNT  ENABLED",
                "app_1   Chat    1,234  yes",
                "app_22  聊天室      7  no",
            ],
        )

    def test_narrow_terminal(self) -> None:
        """In a terminal the widest column is cut, but no id and no number."""
        rows = [{"id": "x" * 30, "name": "n" * 60, "count": 1}]
        lines = table(rows, (column("id"), column("name"), number("count")), 60).splitlines()

        self.assertLessEqual(max(map(width_of, lines)), 60)
        self.assertIn("x" * 30, lines[1])
        self.assertIn("n…", lines[1])
        self.assertTrue(lines[1].endswith("    1"))

    def test_too_narrow(self) -> None:
        """Where even that is not enough, lines are longer than the terminal: ids are to be copied."""
        [_, line] = table([{"id": "x" * 30, "name": "n" * 60}], (column("id"), column("name")), 20).splitlines()

        self.assertEqual(line, "x" * 30 + "  nnnnnnn…")

    def test_cut_between_wide_characters(self) -> None:
        """A wide character is shown as a whole or not at all."""
        [_, line] = table([{"name": "聊" * 20}], (column("name"),), 10).splitlines()

        self.assertEqual(line, "聊聊聊聊…")

    def test_missing(self) -> None:
        """What is not there, or empty, is a hyphen."""
        [_, line] = table([{"a": None, "b": ""}], (column("a"), column("b"), column("c.d"))).splitlines()

        self.assertEqual(line.split(), ["-", "-", "-"])

    def test_own_cell(self) -> None:
        """A column may make its cells itself."""
        self.assertIn("2", table([{"x": 1}], (Column(title="y", cell=lambda row: str(row["x"] + 1)),)))


class TextTests(SynchronousTestCase):
    """Single values."""

    def test_times(self) -> None:
        """Times are told from numbers by their names, and shown in UTC."""
        self.assertEqual(text("createdAt", AT), "2026-01-01 00:00:00Z")
        self.assertEqual(text("messages", AT), "1,767,225,600,123")
        self.assertEqual(text("expiresAt", 5), "5")
        self.assertEqual(shown_time(1 << 62), str(1 << 62))

    def test_lists_and_objects(self) -> None:
        """Lists of texts are joined, everything else is JSON."""
        self.assertEqual(text("origins", ["a", "b"]), "a, b")
        self.assertEqual(text("origins", []), "-")
        self.assertEqual(text("x", [1, {"a": "ü"}]), '[1, {"a": "ü"}]')

    def test_printable(self) -> None:
        """What moves a cursor, turns the writing or can't be encoded is escaped; other writing is left alone."""
        self.assertEqual(printable("a\x1b[31mb\r\n\x9b\u202e\u2028\ud800"), r"a\x1b[31mb\r\n\x9b\u202e\u2028\ud800")
        self.assertEqual(printable("Zoë 聊天室 👩\u200d👩"), "Zoë 聊天室 👩\u200d👩")

    def test_width(self) -> None:
        """Marks take no room, wide characters take two columns."""
        self.assertEqual([width_of(one) for one in ("abc", "e\u0301", "聊", "a\u200db")], [3, 1, 2, 2])

    def test_details(self) -> None:
        """An object has a line for each value, the names in words, inner ones behind outer ones."""
        content = {"id": "k", "createdAt": AT, "limits": {"messageBytes": 5}, "permissions": {"a.*": ["publish"]}}

        self.assertEqual(
            details(content).splitlines(),
            [
                "id                    k",
                "created at            2026-01-01 00:00:00Z",
                "limits message bytes  5",
                "permissions a.*       publish",
            ],
        )

    def test_details_of_nothing(self) -> None:
        """An empty object has no lines, an empty one inside is a hyphen."""
        self.assertEqual(details({}), "")
        self.assertEqual(details({"settings": {}}), "settings  -")
