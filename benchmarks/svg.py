"""Plots as SVG: a few lines of it, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Plot"]

_WIDTH, _HEIGHT = 680, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 44, 56
_INK = "#7d8590"
_COLOURS = ("#2f81f7", "#db8b0b", "#2da44e", "#bf5af2")
_FONT = "font-family='system-ui,sans-serif' font-size='13'"


@dataclass(slots=True)
class Plot:
    """Lines over a common x. An axis with ``log`` has a step for each power of ten, or 1, 2, 5 of it."""

    title: str
    x_label: str
    y_label: str
    x_log: bool = False
    y_log: bool = False
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        """Adds a line."""
        if points:
            self.lines[name] = sorted(points)

    def svg(self) -> str:
        """The file."""
        points = [point for line in self.lines.values() for point in line]
        x, x_ticks = _scale([p[0] for p in points], self.x_log, _LEFT, _WIDTH - _RIGHT)
        y, y_ticks = _scale([p[1] for p in points], self.y_log, _HEIGHT - _BOTTOM, _TOP)
        parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' {_FONT}>",
            f"<title>{escape(self.title)}</title>",
            _text(_LEFT, 20, self.title, "start", "font-weight='600'"),
            *(_tick_y(y(value), value) for value in y_ticks),
            *(_tick_x(x(value), value) for value in x_ticks),
            _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, self.x_label),
            _text(18, _HEIGHT / 2, self.y_label, "middle", f"transform='rotate(-90 18 {_HEIGHT / 2:g})'"),
        ]
        for number, (name, line) in enumerate(self.lines.items()):
            parts += _line(name, number, [(x(a), y(b)) for a, b in line], len(self.lines) > 1)
        return "\n".join([*parts, "</svg>", ""])


def _line(name: str, number: int, points: list[tuple[float, float]], is_named: bool) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts = [f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>"]
    parts += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='3.5' fill='{colour}'/>" for a, b in points]
    if is_named:
        at = _WIDTH - _RIGHT - 130 * (number + 1)
        parts.append(f"<rect x='{at}' y='11' width='12' height='12' fill='{colour}'/>")
        parts.append(_text(at + 18, 22, name, "start"))
    return parts


def _scale(values: list[float], log: bool, low: float, high: float) -> tuple[Callable[[float], float], list[float]]:
    """Where a value stands, and the values that are marked."""
    ticks = _log_ticks(min(values), max(values)) if log else _ticks(max(values))
    put = (lambda value: math.log10(value)) if log else (lambda value: value)
    first, last = put(ticks[0]), put(ticks[-1])
    return (lambda value: low + (put(value) - first) / ((last - first) or 1.0) * (high - low)), ticks


def _ticks(most: float) -> list[float]:
    step = 10 ** math.floor(math.log10(most or 1.0))
    for part in (0.2, 0.25, 0.5, 1.0, 2.0):
        if most / (step * part) <= 6:
            step *= part
            break
    return [step * n for n in range(math.ceil(most / step - 1e-9) + 1)]


def _log_ticks(least: float, most: float) -> list[float]:
    found = [
        m * 10.0**e for e in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1) for m in (1, 2, 5)
    ]
    below = [value for value in found if value <= least * 1.001]
    above = [value for value in found if value >= most * 0.999]
    return [value for value in found if below[-1] <= value <= above[0]]


def _tick_x(at: float, value: float) -> str:
    foot = _HEIGHT - _BOTTOM
    return f"<path d='M{at:.1f} {foot}v5' stroke='{_INK}'/>" + _text(at, foot + 20, _number(value))


def _tick_y(at: float, value: float) -> str:
    line = f"<path d='M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}' stroke='{_INK}' stroke-opacity='0.3'/>"
    return line + _text(_LEFT - 8, at + 4, _number(value), "end")


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{_INK}' {more}>{escape(text)}</text>"


def _number(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1_000:g}k" if value >= 1_000 else f"{value:.3g}"
