"""The test cases that every test of the project derives from."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

from twisted.trial import unittest

__all__ = ["SynchronousTestCase", "TestCase"]

_FIXTURES = ("setUp", "tearDown")


class TestCase(unittest.TestCase):
    """A test case whose tests, ``setUp`` and ``tearDown`` may be ``async def``; trial waits for them."""


class SynchronousTestCase(unittest.SynchronousTestCase):
    """A test case that needs no reactor: ``successResultOf(coroutine)`` stands in for ``await``.

    trial calls an ``async def`` test of such a class, drops the coroutine, and counts a success. So a class
    that has one, of its own or from a mix-in, is refused when it is defined.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = [n for n in dir(cls) if n.startswith("test") or n in _FIXTURES]
        never_run = [n for n in names if _is_async(getattr(cls, n))]
        if never_run:
            raise TypeError(
                f"{cls.__name__} is synchronous, so {', '.join(never_run)} would pass without running: "
                "derive it from tests.base.TestCase, or use successResultOf in a plain 'def'"
            )


def _is_async(candidate: object) -> bool:
    return iscoroutinefunction(candidate) or isasyncgenfunction(candidate)
