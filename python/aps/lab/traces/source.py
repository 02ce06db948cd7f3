"""Opening a trace: plain or gzip, its text in chunks of lines, and the error that says where it went wrong."""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

GZIP = b"\x1f\x8b"
CHUNK = 1 << 11  # lines read at a time: they stay in the processor's cache
BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


class TraceError(ValueError):
    """A trace that cannot be read. The message says the file, the line where there is one, and what was expected."""

    def __init__(self, name: str, says: str, line: int | None = None) -> None:
        super().__init__(f"{name}{'' if line is None else f', line {line}'}: {says}")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked when it is gzip. The stream can go back to its start.

    Raises TraceError: no such file, not a file, may not be read, broken gzip.
    """
    if not os.path.exists(path):  # never raises, whatever the name
        raise TraceError(str(path), "no such file")
    if not os.path.isfile(path):
        raise TraceError(str(path), "is not a file; expected a trace")
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(len(GZIP))[: len(GZIP)] == GZIP
            yield cast(BinaryIO, BufferedReader(gzip.GzipFile(fileobj=raw))) if packed else raw
    except BROKEN as error:
        says = f"the gzip data are truncated or damaged ({error}); expected the whole file"
        raise TraceError(str(path), says, _first_unread_line(path)) from None
    except OSError as error:
        raise TraceError(str(path), f"cannot be read: {error.strerror or error}") from None


def _first_unread_line(path: Path) -> int | None:
    """The first line of a broken gzip file that cannot be unpacked; None when what can be is not text."""
    line = 1
    with (
        suppress(*BROKEN),
        open(path, "rb") as raw,
        TextIOWrapper(gzip.GzipFile(fileobj=raw), encoding="utf-8", errors="replace") as text,
    ):
        for content in text:
            if "\0" in content:
                return None
            line += 1
    return line


class Lines:
    """The text of a stream, in order. UTF-8 with or without a byte-order mark; lines may end in LF, CRLF or CR."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        # a surrogate stands for a byte that is not UTF-8, so that its line is known
        self._text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=None)
        self.name = name
        self.next = 1  # number of the line to come

    def take(self, most: int = CHUNK) -> list[str]:
        """The next lines with their ends, at most so many; none at the end of the file."""
        lines = list(islice(self._text, most))
        if not "".join(lines).isascii():
            for at, line in enumerate(lines):
                if any("\udc80" <= letter <= "\udcff" for letter in line):
                    raise TraceError(self.name, "expected UTF-8 text", self.next + at)
        self.next += len(lines)
        return lines

    def close(self) -> None:
        """Let go of the stream without closing it."""
        self._text.detach()
