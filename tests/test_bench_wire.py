"""Tests for :mod:`wsock.bench.wire`."""

from __future__ import annotations

from tests.base import SynchronousTestCase
from wsock.bench.errors import BenchError
from wsock.bench.wire import Ack, Chunk, ErrorFrame, Masker, Reader, Run, Subscribed
from wsock.protocol.wire import close_frame, complete_texts, pong_frame, text_frame


def message(source: int, channel: int, number: int, padding: str = "") -> bytes:
    """A message as the server sends it."""
    text = (
        f'{{"action":"message","channel":"c","id":"{source}-{number}","data":[{source},{channel},{number},7,"{padding}"],'
        '"timestamp":1,"publisherId":"p","sequence":1}'
    )
    return text_frame(text.encode())


class MaskerTests(SynchronousTestCase):
    def test_server_reads_it(self) -> None:
        """The server's own reader finds the payloads, of each form of length."""
        masker = Masker(b"\x01\x80\xff\x00")
        texts = [b"", b"x", b"y" * 125, b"z" * 126, b"z" * 127, b"a" * 65_535, b"b" * 65_536]

        read, end = complete_texts(b"".join(map(masker.frame, texts)), 1 << 20)

        self.assertEqual(read, texts)
        self.assertEqual(end, sum(len(masker.frame(text)) for text in texts))


class ReaderTests(SynchronousTestCase):
    def test_messages(self) -> None:
        """Messages whose numbers follow one another are a run; another publisher or channel begins a new one."""
        frames = [message(0, 0, 4), message(0, 0, 5), message(1, 0, 6), message(1, 2, 7), message(1, 2, 9)]
        data = b"".join(frames)

        chunk = Reader().read(data)

        self.assertEqual(chunk.runs, [Run(0, 0, 4, 2), Run(1, 0, 6, 1), Run(1, 2, 7, 1), Run(1, 2, 9, 1)])
        self.assertEqual((chunk.count, chunk.times, chunk.end), (5, [7] * 5, len(data)))

    def test_long_messages(self) -> None:
        """Frames with longer forms of the length are read as well."""
        chunk = Reader().read(message(0, 0, 0, "x" * 300) + message(0, 0, 1, "x" * 70_000))

        self.assertEqual(chunk.runs, [Run(0, 0, 0, 2)])

    def test_answers(self) -> None:
        """Answers come in their order; what a client passes over is passed over."""
        texts = [
            b'{"action":"subscribed","channel":"c","epoch":"e","sequence":0}',
            b'{"action":"pong"}',
            b'{"action":"ack","id":"0-1","channel":"c","timestamp":1,"sequence":1}',
            b'{"action":"error","error":"no","code":"forbidden","channel":"c","id":"0-2"}',
        ]

        chunk = Reader().read(b"".join(map(text_frame, texts)))

        self.assertEqual(chunk.answers, [Subscribed("c"), Ack("0-1"), ErrorFrame("no", "forbidden", "0-2")])
        self.assertEqual(chunk.strays, 0)

    def test_strays(self) -> None:
        """A message that is not the benchmark's is a stray."""
        foreign = text_frame(b'{"action":"message","channel":"c","id":"1","data":{"a":1},"timestamp":1}')

        self.assertEqual(Reader().read(foreign + message(0, 0, 0)).strays, 1)

    def test_control(self) -> None:
        """Pings are to be answered, pongs are not, and a close has its payload."""
        chunk = Reader().read(b"\x89\x02{}" + pong_frame(b"x") + close_frame(1001, "bye"))

        self.assertEqual((chunk.pings, chunk.close), ([b"{}"], b"\x03\xe9bye"))

    def test_cut(self) -> None:
        """A frame that is cut stays for later, wherever it is cut."""
        whole, cut = message(0, 0, 0), message(0, 0, 1, "x" * 300)

        for size in range(len(cut)):
            chunk = Reader().read(whole + cut[:size])
            self.assertEqual((chunk.count, chunk.end), (1, len(whole)))

    def test_same_bytes(self) -> None:
        """The same bytes are read once, others anew."""
        reader = Reader()
        first = reader.read(message(0, 0, 0))

        self.assertIs(reader.read(message(0, 0, 0)), first)
        self.assertEqual(reader.read(message(0, 0, 1)).runs, [Run(0, 0, 1, 1)])

    def test_nothing(self) -> None:
        """Nothing is an empty chunk."""
        self.assertEqual(Reader().read(b""), Chunk())

    def test_no_server(self) -> None:
        """What a server may not send ends the measurement with words."""
        for data in (b"\x81\x81\x01\x02\x03\x04x", b"\x82\x01x", b"\xc1\x01x", text_frame(b"{"), text_frame(b"\xff")):
            self.assertRaises(BenchError, Reader().read, data)
