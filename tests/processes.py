"""Processes that are only recorded, for tests of what starts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ProcessDone, ProcessTerminated, ReactorNotRunning
from twisted.internet.interfaces import IAddress, IProcessProtocol, IProcessTransport
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

__all__ = ["RecordedProcess", "RecordingReactor"]


@implementer(IProcessTransport)
class RecordedProcess:
    """A process that runs until the test ends it. ``signals`` are those that it got."""

    def __init__(self, protocol: IProcessProtocol, pid: int, arguments: list[str], env: dict[str, str]) -> None:
        self.protocol: Any = protocol
        self.pid = pid
        self.arguments = arguments
        self.env = env
        self.signals: list[str] = []
        self.closed: list[int] = []

    def serves(self) -> None:
        """It says that it serves."""
        self.protocol.childDataReceived(3, b"serves\n")

    def ends(self, status: int = 0, signal: int | None = None) -> None:
        """It ends."""
        value = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.protocol.processExited(Failure(value))

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(0)

    def closeStdout(self) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(1)

    def closeStderr(self) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(2)

    def closeChildFD(self, descriptor: int) -> None:  # noqa: N802  # Twisted's name
        """See IProcessTransport."""
        self.closed.append(descriptor)

    def writeToChild(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803  # Twisted's names
        """See IProcessTransport."""

    def loseConnection(self) -> None:
        """See IProcessTransport."""

    def write(self, data: bytes) -> None:
        """See ITransport."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """See ITransport."""

    def getPeer(self) -> IAddress:
        """See ITransport."""
        return UNIXAddress("")

    def getHost(self) -> IAddress:
        """See ITransport."""
        return UNIXAddress("")

    def signalProcess(self, signalID: str | int) -> None:  # noqa: N802, N803  # Twisted's names
        """See IProcessTransport."""
        self.signals.append(str(signalID))


class RecordingReactor(MemoryReactorClock):
    """A reactor that starts no process; ``processes`` are those that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[RecordedProcess] = []
        self.descriptors: list[dict[int, int | str]] = []
        self.stops = 0
        self.is_stopped = False

    def spawnProcess(  # noqa: N802  # Twisted's name
        self,
        protocol: IProcessProtocol,
        executable: str,
        args: list[str],
        env: dict[str, str],
        childFDs: dict[int, int | str],  # noqa: N803  # Twisted's name
    ) -> RecordedProcess:
        """See IReactorProcess."""
        assert executable == args[0]
        process = RecordedProcess(protocol, 100 + len(self.processes), args, env)
        verifyObject(IProcessTransport, process)
        self.processes.append(process)
        self.descriptors.append(childFDs)
        return process

    def stop(self) -> None:
        """Counts."""
        if self.is_stopped:
            raise ReactorNotRunning("it has ended")
        self.is_stopped = True
        self.stops += 1
