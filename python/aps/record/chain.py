"""Reading a record: its files in order, their whole lines."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aps.record.files import GZIP, PIECE, older
from aps.record.schema import VERSION, Json

MOST_FILES = 1000


class RecordError(ValueError):
    """What cannot be read as a record. The message says the file, the line if there is one, and what was expected."""


@dataclass(slots=True)
class Part:
    """A file of a record, with its header."""

    path: Path
    header: Json

    @property
    def number(self) -> int:
        """1 for the first file."""
        number: int = self.header.get("part", 1)
        return number


@dataclass(slots=True)
class Chain:
    """The files of one run, in order. torn: what was cut off at the end of which file, once it has been read."""

    parts: list[Part]
    torn: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[tuple[Path, int, bytes]]:
        """Each line that ends, without its end: the file, its number there (the header is 1), the text."""
        for part in self.parts:
            number = 0
            rest = b""
            for text, cut in _texts(part.path):
                *lines, rest = (rest + text).split(b"\n")
                for line in lines:
                    number += 1
                    if number > 1:
                        yield part.path, number, line
                if cut or (not text and rest):
                    self.torn.append(f"{part.path} ends within line {number + 1}, which is left out")


def chain(path: str | Path) -> Chain:
    """The files that belong to a record, given any one of them. RecordError: no file, not one of a record."""
    path = Path(path)
    given = _part(path)
    run = given.header.get("run")
    parts = {given.number: given}
    base = path.with_suffix("") if path.suffix[1:].isdecimal() else path
    for age in range(MOST_FILES):
        other = older(base, age)
        if not other.exists():
            if age:
                break
            continue
        if other == path or run is None:
            continue
        try:
            part = _part(other)
        except RecordError:
            continue
        if part.header.get("run") == run:
            parts[part.number] = part
    return Chain([parts[number] for number in sorted(parts)])


def _part(path: Path) -> Part:
    line = b""
    for text, _ in _texts(path):
        line += text
        if b"\n" in text:
            break
    try:
        header = json.loads(line.partition(b"\n")[0])
        version = header["aps_record"]
    except (ValueError, KeyError, TypeError):
        raise RecordError(f"{path}, line 1: expected the header of a record, a JSON object with aps_record") from None
    if version != VERSION:
        raise RecordError(f"{path}, line 1: aps_record must be {VERSION}, the version with every call, got {version!r}")
    number = header.get("part", 1)
    if type(number) is not int or number < 1:
        raise RecordError(f"{path}, line 1: part must be an int, at least 1, got {number!r}")
    return Part(path, header)


def _texts(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The content, unpacked, as far as it goes, and b"" at the end; with it whether gzip data are cut off there."""
    try:
        with open(path, "rb") as raw:
            packed = raw.peek(len(GZIP))[: len(GZIP)] == GZIP
            unpacker = zlib.decompressobj(wbits=31) if packed else None
            try:
                while piece := raw.read(PIECE):
                    yield unpacker.decompress(piece) if unpacker else piece, False
            except zlib.error:
                pass
            yield b"", unpacker is not None and not unpacker.eof
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from None
