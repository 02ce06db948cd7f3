"""The files of a record: plain or gzip (by the name), moved on when they are full.

FILE is the newest; FILE.1, FILE.2, ... are older. A file begins with a header and holds whole lines.
"""

import gzip
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

GZIP = b"\x1f\x8b"
LEVEL = 1  # gzip's fastest: a record shrinks to an eighth with it
PIECE = 1 << 18  # bytes written between two looks at the size


def older(path: Path, age: int) -> Path:
    """FILE.age; FILE itself for 0."""
    return path.with_name(f"{path.name}.{age}") if age else path


class Files:
    """Writes one record.

    path: the newest file; a name that ends in ".gz" is packed. max_bytes: of each file, on the disk. count: files that
    are kept, the newest included. header: gives the first line of part 1, 2, ... A record that is there already is
    moved on. Raises OSError; ValueError when the file is there and no record.
    """

    def __init__(self, path: Path, max_bytes: int, count: int, header: Callable[[int], bytes]) -> None:
        self.path, self.part = path, 0
        self._max_bytes, self._count, self._header = max_bytes, count, header
        self._raw: BinaryIO | None = None
        self._out: BinaryIO | None = None
        self._check()

    def open(self) -> None:
        """The next part."""
        self.close()
        if self.path.exists():
            self._move_on()
        self.part += 1
        self._raw = self._out = open(self.path, "xb")
        if self.path.suffix == ".gz":
            self._out = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw, mode="wb", compresslevel=LEVEL, filename=""))
        self._out.write(self._header(self.part) + b"\n")
        self.flush()

    def write(self, text: bytes) -> None:
        """Whole lines; a file ends after the line that fills it."""
        at = 0
        while at < len(text):
            assert self._out is not None and self._raw is not None
            cut = text.find(b"\n", min(at + self._room(), len(text) - 1)) + 1
            self._out.write(text[at:cut])
            at = cut
            if self._raw.tell() >= self._max_bytes:
                self.open()

    def flush(self) -> None:
        """So that what was written survives the end of the process."""
        if self._out is not None and self._raw is not None:
            self._out.flush()
            self._raw.flush()

    def close(self) -> None:
        """End the file."""
        out, raw, self._out, self._raw = self._out, self._raw, None, None
        try:
            if out is not None:
                out.close()
        finally:
            if raw is not None:
                raw.close()

    def give_up(self) -> None:
        """Close without a word, whatever the disk says."""
        with suppress(OSError, ValueError):
            self.close()

    def _room(self) -> int:
        """Bytes of text that go into the file without a look at its size."""
        assert self._raw is not None
        return max(1, min(PIECE, self._max_bytes - self._raw.tell()))

    def _check(self) -> None:
        try:
            with open(self.path, "rb") as file:
                head = file.read(1 << 12)
        except FileNotFoundError as error:
            if not self.path.parent.is_dir():
                raise FileNotFoundError(error.errno, f"there is no directory {self.path.parent}", self.path) from None
            return
        if head.startswith(GZIP):
            with gzip.open(self.path) as packed, suppress(EOFError, OSError):
                head = packed.read(1 << 12)
        if head and not head.startswith(b'{"aps_record"'):
            raise ValueError(f"{self.path} is there and is no record; name another file")

    def _move_on(self) -> None:
        with suppress(FileNotFoundError):
            os.remove(older(self.path, self._count - 1))
        for age in range(self._count - 2, -1, -1):
            with suppress(FileNotFoundError):
                os.replace(older(self.path, age), older(self.path, age + 1))
