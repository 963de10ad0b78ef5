"""Tests for :mod:`wsock.kept`."""

from __future__ import annotations

import os
import sys

from tests.base import SynchronousTestCase
from tests.processes import RecordedProcess, RecordingReactor
from wsock.errors import ConfigError
from wsock.kept import Command, Kept, importing_alike, python


class KeptTests(SynchronousTestCase):
    """A program that is kept running."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()

    def kept(self, *, must_start: bool = False) -> Kept:
        """One."""
        command = Command(arguments=["/bin/x", "y"], environment={"A": "b"}, descriptors={0: "w"})
        return Kept("the program", command, self.reactor, must_start=must_start)

    @property
    def last(self) -> RecordedProcess:
        """The process that was started last."""
        return self.reactor.processes[-1]

    def test_starts(self) -> None:
        """It is started as the command says, and is ready when it says so for the first time."""
        starting = self.kept().start()
        self.assertNoResult(starting)
        self.last.serves()
        self.last.serves()

        self.assertIsNone(self.successResultOf(starting))
        self.assertEqual((self.last.arguments, self.last.env), (["/bin/x", "y"], {"A": "b"}))
        self.assertEqual(self.reactor.descriptors, [{0: "w"}])

    def test_is_given_up(self) -> None:
        """What must start and can't is not started again; how it ended is said."""
        for ending, words in (((1,), "the program ended with status 1"), ((0, 9), "was ended by signal 9")):
            starting = self.kept(must_start=True).start()
            self.last.ends(*ending)

            self.assertIn(words, str(self.failureResultOf(starting, ConfigError).value))
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.processes), 2)

    def test_starts_again(self) -> None:
        """One that has served before is started again, whatever it ended with."""
        starting = self.kept(must_start=True).start()
        self.last.serves()
        for ending in (0,), (1,), (0, 9):
            self.last.ends(*ending)
            self.reactor.advance(30)

        self.assertEqual(len(self.reactor.processes), 4)
        self.successResultOf(starting)

    def test_need_not_start(self) -> None:
        """One that need not start is started again even when it never served."""
        starting = self.kept().start()
        self.last.ends(1)
        self.reactor.advance(0.5)
        self.last.serves()

        self.successResultOf(starting)
        self.assertEqual(len(self.reactor.processes), 2)

    def test_pauses_grow(self) -> None:
        """The pause doubles up to half a minute, and is short again for one that ran well."""
        self.kept().start()
        pauses = []
        for lived in (0, 0, 0, 0, 0, 0, 0, 0, 60, 0):
            self.reactor.advance(lived)
            self.last.ends(1)
            [call] = self.reactor.getDelayedCalls()
            pauses.append(call.getTime() - self.reactor.seconds())
            self.reactor.advance(pauses[-1])

        self.assertEqual(pauses, [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 0.5])

    def test_stops(self) -> None:
        """It is asked to end, and not started again when it has."""
        kept = self.kept()
        kept.start()
        asked: list[object] = []
        stopping = kept.stop(asked.append, 5)
        self.assertNoResult(stopping)
        self.last.ends()

        self.successResultOf(stopping)
        self.assertEqual((asked, self.last.signals), ([self.last], []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_is_killed(self) -> None:
        """One that does not end in time is killed."""
        kept = self.kept()
        kept.start()
        stopping = kept.stop(lambda _: None, 5)
        self.reactor.advance(5)
        self.assertEqual(self.last.signals, ["KILL"])
        self.last.ends(0, 9)

        self.successResultOf(stopping)

    def test_stops_in_a_pause(self) -> None:
        """One that would have been started again is not."""
        kept = self.kept()
        kept.start()
        self.last.ends(1)

        self.successResultOf(kept.stop(self.fail, 5))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stops_before_its_start(self) -> None:
        """One that never ran has ended."""
        self.successResultOf(self.kept().stop(self.fail, 5))


class PythonTests(SynchronousTestCase):
    """A Python beside this one."""

    def test_python(self) -> None:
        """It is the same program, which does not import from where it is started."""
        self.assertEqual(python("-c", "pass"), [sys.executable, "-P", "-c", "pass"])

    def test_importing_alike(self) -> None:
        """It imports from the same places."""
        environment = importing_alike({"A": "b", "PYTHONPATH": "x"})

        self.assertEqual(environment["A"], "b")
        self.assertEqual(environment["PYTHONPATH"].split(os.pathsep), [os.path.abspath(entry) for entry in sys.path])
