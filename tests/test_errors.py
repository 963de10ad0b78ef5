"""Tests of :mod:`wsock.errors`."""

from __future__ import annotations

from http import HTTPStatus

from tests.base import SynchronousTestCase
from wsock.errors import (
    HTTP_STATUS,
    CloseCode,
    Code,
    ConfigError,
    Gone,
    Malformed,
    Refused,
    Unavailable,
    WsockError,
)


class CodeTests(SynchronousTestCase):
    """The tables of codes."""

    def test_values(self) -> None:
        """The codes on the wire are those that the protocol names; programs rely on them."""
        self.assertEqual(
            {str(code) for code in Code},
            {
                "bad_request",
                "unknown_action",
                "channel_name",
                "too_large",
                "unauthorized",
                "token_expired",
                "forbidden",
                "not_found",
                "conflict",
                "rate_limited",
                "quota_exceeded",
                "limit_exceeded",
                "unavailable",
                "recovery_failed",
                "internal",
            },
        )

    def test_every_code_has_a_status(self) -> None:
        """Every code is answered over HTTP with a status that says it failed."""
        self.assertEqual(set(HTTP_STATUS), set(Code))
        for status in HTTP_STATUS.values():
            self.assertTrue(400 <= HTTPStatus(status) < 600)

    def test_refusals_at_the_upgrade(self) -> None:
        """The SDKs tell credentials, permissions, rates and outages apart by these statuses."""
        codes = (Code.UNAUTHORIZED, Code.TOKEN_EXPIRED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.UNAVAILABLE)

        self.assertEqual([HTTP_STATUS[code] for code in codes], [401, 401, 403, 429, 503])

    def test_close_codes(self) -> None:
        """The close codes are numbers that RFC 6455 lets an endpoint send."""
        self.assertEqual({code.value for code in CloseCode}, {1000, 1001, 1002, 1007, 1008, 1009, 1012, 4401, 4403})


class ExceptionTests(SynchronousTestCase):
    """The exceptions carry what the client is told."""

    def test_refused(self) -> None:
        """A refusal has a code, a text and maybe a time to wait."""
        refused = Refused(Code.RATE_LIMITED, "slow down", retry_after=1.5)

        self.assertEqual((refused.code, refused.text, refused.retry_after), (Code.RATE_LIMITED, "slow down", 1.5))
        self.assertEqual(str(refused), "slow down")

    def test_malformed(self) -> None:
        """A malformed text is a bad request unless another code says more, and names what could be read."""
        self.assertEqual(Malformed("no").code, Code.BAD_REQUEST)

        unknown = Malformed("no", Code.UNKNOWN_ACTION, channel="c", id="i")

        self.assertEqual((unknown.code, unknown.channel, unknown.id), (Code.UNKNOWN_ACTION, "c", "i"))
        self.assertIsNone(unknown.retry_after)

    def test_unavailable(self) -> None:
        """That a store is away is a refusal, and may say when to try again."""
        away = Unavailable("the journal is full", retry_after=2)

        self.assertEqual((away.code, away.retry_after), (Code.UNAVAILABLE, 2))

    def test_hierarchy(self) -> None:
        """Whoever catches refusals catches all that answer one request, and nothing else."""
        self.assertTrue(issubclass(Malformed, Refused))
        self.assertTrue(issubclass(Unavailable, Refused))
        self.assertFalse(issubclass(Gone, Refused))
        self.assertFalse(issubclass(ConfigError, Refused))
        for error in (Refused, Gone, ConfigError):
            self.assertTrue(issubclass(error, WsockError))
