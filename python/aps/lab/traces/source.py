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

    Raises TraceError: no such file, not a file, may not be read, broken gzip. What a reader finds wrong in a file whose
    gzip data are damaged is their damage.
    """
    if not os.path.exists(path):  # never raises, whatever the name
        raise TraceError(str(path), "no such file")
    if not os.path.isfile(path):
        raise TraceError(str(path), "is not a file; expected a trace")
    packed = False
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(len(GZIP))[: len(GZIP)] == GZIP
            yield cast(BinaryIO, BufferedReader(gzip.GzipFile(fileobj=raw))) if packed else raw
    except (TraceError, *BROKEN):
        if packed and (damage := _damage(path)):
            raise damage from None
        raise
    except OSError as error:
        raise TraceError(str(path), f"cannot be read: {error.strerror or error}") from None


def beginning(path: Path, most: int) -> bytes:
    """The first bytes of what `opened` gives, as far as they can be unpacked."""
    found = b""
    with open(path, "rb") as raw, suppress(*BROKEN):
        packed = raw.peek(len(GZIP))[: len(GZIP)] == GZIP
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        while len(found) < most and (piece := stream.read1(most - len(found))):
            found += piece
    return found


def _damage(path: Path) -> TraceError | None:
    """Of a gzip file, with the first line that cannot be unpacked, if it has lines that can; None: it is whole."""
    line, is_text = 1, True
    try:
        with open(path, "rb") as raw:
            for content in TextIOWrapper(gzip.GzipFile(fileobj=raw), encoding="utf-8", errors="replace"):
                is_text = is_text and "\0" not in content
                line += 1
    except BROKEN as error:
        says = f"the gzip archive is truncated or damaged ({error}); expected the whole file"
        return TraceError(str(path), says, line if is_text and line > 1 else None)
    return None


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
