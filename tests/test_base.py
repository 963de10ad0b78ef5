"""The project's test cases keep a test from passing without running."""

from __future__ import annotations

from twisted.internet.defer import succeed
from twisted.trial.reporter import TestResult

from tests.base import SynchronousTestCase, TestCase


class _AsyncMixin:
    async def test_waits(self) -> None:
        await succeed(None)


class SynchronousTestCaseTests(SynchronousTestCase):
    def test_async_test_is_refused(self) -> None:
        """An ``async def`` test is refused when its class is defined, and the message names it."""
        with self.assertRaises(TypeError) as caught:

            class _Wrong(SynchronousTestCase):
                async def test_never_run(self) -> None: ...

        self.assertIn("test_never_run", str(caught.exception))

    def test_async_test_from_a_mixin_is_refused(self) -> None:
        """A contract suite with ``async def`` tests cannot be mixed into a synchronous class."""
        with self.assertRaisesRegex(TypeError, "test_waits"):

            class _Wrong(_AsyncMixin, SynchronousTestCase): ...

    def test_async_fixture_is_refused(self) -> None:
        """``async def setUp`` would not run either."""
        with self.assertRaisesRegex(TypeError, "setUp"):

            class _Wrong(SynchronousTestCase):
                async def setUp(self) -> None: ...  # type: ignore[override]  # what the class refuses

    def test_async_generator_is_refused(self) -> None:
        """A test with ``yield`` in an ``async def`` is a generator that nobody iterates."""
        with self.assertRaisesRegex(TypeError, "test_yields"):

            class _Wrong(SynchronousTestCase):
                async def test_yields(self) -> object:
                    yield

    def test_plain_test_is_accepted(self) -> None:
        """An ordinary test runs, and other coroutine methods are nobody's business."""

        class _Right(SynchronousTestCase):
            async def answer(self) -> int:
                return 42

            def test_answer(self) -> None:
                self.assertEqual(self.successResultOf(self.answer()), 42)

        result = TestResult()
        _Right("test_answer").run(result)

        self.assertEqual((result.testsRun, result.successes), (1, 1))


class TestCaseTests(SynchronousTestCase):
    def test_async_test_is_waited_for(self) -> None:
        """The failure of an ``async def`` test counts, also when it comes after an ``await``."""

        class _Fails(TestCase):
            async def test_fails(self) -> None:
                await succeed(None)
                self.fail("as it should")

        result = TestResult()
        _Fails("test_fails").run(result)

        self.assertEqual(len(result.failures), 1)
