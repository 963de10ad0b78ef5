"""Mail without a mail server: the embedded sender."""

from __future__ import annotations

from twisted.logger import Logger
from zope.interface import implementer

from wsock.interfaces import IMailSender, Mail

__all__ = ["LogMailSender"]


@implementer(IMailSender)
class LogMailSender:
    """Writes each mail to the server's log: whoever reads that can use the links, as an operator can anyway."""

    _log = Logger()

    async def send(self, mail: Mail) -> None:
        """Logs it."""
        self._log.info("mail to {to}: {subject}\n{text}", to=mail.to, subject=mail.subject, text=mail.text)
