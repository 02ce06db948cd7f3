"""ServeGen's files: `chunk-N-trace.csv` and `chunk-N-dataset.json` of every client, in a tar archive or a folder."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from math import inf
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from aps.lab.traces.source import BROKEN, Lines, TraceError
from aps.lab.traces.table import INT32_MAX, shortened

MEMBER = re.compile(r"(?P<folder>.*/|)chunk-(?P<client>[0-9]{1,9})-(?P<kind>trace\.csv|dataset\.json)")
USUAL_WINDOW_S = 600.0  # where there is one window alone
FAMILIES = ("Gamma", "Weibull")
COLUMNS = 6  # window start, rate, CV of the gaps, family, shape, scale
SURE = 1e-3  # how far probabilities may be from adding up to 1


@dataclass(frozen=True, slots=True)
class Windows:
    """A client's arrivals, w windows in order of time. rate: requests/s, 0 where it is silent. weibull: whether gaps
    are Weibull, else gamma; shape: of that distribution."""

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    rate: NDArray[np.float64]
    weibull: NDArray[np.bool_]
    shape: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution of lengths. values: (v,) tokens; shares: (v,) running sum of their probabilities."""

    values: NDArray[np.int64]
    shares: NDArray[np.float64]


@dataclass(slots=True)
class Client:
    """lengths: prompt and output, as text, by the start of the window (seconds)."""

    number: int
    windows: Windows | None = None
    lengths: dict[int, tuple[object, object]] = field(default_factory=dict)
    has_lengths: bool = False
    dataset: str = ""

    def histograms(self, window: int) -> tuple[Histogram, Histogram] | None:
        """Of prompts and outputs in a window of `lengths`; None: it has none."""
        prompt, output = self.lengths[window]
        prompts = _histogram(prompt, self.dataset, f"input_tokens of {window}")
        outputs = _histogram(output, self.dataset, f"output_tokens of {window}")
        return None if prompts is None or outputs is None else (prompts, outputs)


def clients_of_archive(stream: BinaryIO, name: str) -> list[Client]:
    """Of a tar archive, unpacked. Raises TraceError."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            return _clients(_members(archive), name)
    except (tarfile.TarError, *BROKEN) as error:
        raise TraceError(name, f"the tar archive is truncated or damaged ({error})") from None


def clients_of_folder(folder: Path) -> list[Client]:
    """Raises TraceError."""
    return _clients(
        ((path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()), str(folder)
    )


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        content = archive.extractfile(member) if member.isfile() and MEMBER.fullmatch(member.name) else None
        if content is not None:
            yield member.name, content.read()


def _clients(files: Iterator[tuple[str, bytes]], name: str) -> list[Client]:
    """Those that have arrivals, by number."""
    clients: dict[int, Client] = {}
    folders = set()
    for path, content in files:
        found = MEMBER.fullmatch(path)
        if found is None:
            continue
        folders.add(found["folder"])
        if len(folders) > 1:
            raise TraceError(name, f"holds several models, expected one: {', '.join(sorted(folders))}")
        number = int(found["client"])
        client = clients.setdefault(number, Client(number))
        if found["kind"] == "trace.csv":
            client.windows = _windows(content, f"{name}: {path}")
        else:
            client.dataset = f"{name}: {path}"
            client.lengths = _lengths(content, client.dataset)
            client.has_lengths = True
    arriving = sorted((one for one in clients.values() if one.windows is not None), key=lambda one: one.number)
    if not arriving:
        raise TraceError(name, "has no client; expected files chunk-N-trace.csv and chunk-N-dataset.json of ServeGen")
    return arriving


def _windows(content: bytes, name: str) -> Windows:
    rows = []
    lines = Lines(BytesIO(content), name)
    while texts := lines.take():
        first = lines.next - len(texts)
        rows += [_window(text, name, line) for line, text in enumerate(texts, first) if text.strip()]
    if not rows:
        raise TraceError(name, "is empty; expected windows of arrivals")
    start_s, rate, weibull, shape, numbers = map(np.array, zip(*rows, strict=True))
    steps = np.diff(start_s)
    if np.any(steps <= 0):
        raise TraceError(name, "window starts must rise", int(numbers[int(np.argmax(steps <= 0)) + 1]))
    last_s = steps[-1] if len(steps) else USUAL_WINDOW_S
    return Windows(start_s, np.append(start_s[1:], start_s[-1] + last_s), rate, weibull, shape)


def _window(text: str, name: str, line: int) -> tuple[float, float, bool, float, int]:
    cells = text.strip().split(",")
    if len(cells) != COLUMNS:
        raise TraceError(
            name, f"expected {COLUMNS} columns (start, rate, CV, family, shape, scale), got {len(cells)}", line
        )
    start_s = _number(cells[0], "window start", 0, 1e9, name, line)
    rate = _number(cells[1], "rate", 0, 1e9, name, line)
    if rate == 0:
        return start_s, 0.0, False, 1.0, line
    family = cells[3].strip()
    if family not in FAMILIES:
        raise TraceError(name, f"family must be {' or '.join(FAMILIES)} where the rate is not 0, got {family!r}", line)
    return start_s, rate, family == "Weibull", _number(cells[4], "shape", 1e-6, 1e6, name, line), line


def _number(text: str, column: str, low: float, high: float, name: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = inf
    if not low <= value <= high:
        raise TraceError(name, f"{column} must be a number in {low:g}..{high:g}, got {shortened(text)!r}", line)
    return value


def _lengths(content: bytes, name: str) -> dict[int, tuple[object, object]]:
    try:
        windows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TraceError(name, f"expected JSON: {error}") from None
    found: dict[int, tuple[object, object]] = {}
    for start, given in windows.items() if isinstance(windows, dict) else [("", None)]:
        if not (start.isascii() and start.isdigit() and len(start) <= 9 and isinstance(given, dict)):
            raise TraceError(name, f"expected an object by window start (seconds), got {shortened(start)!r}")
        for key in ("input_tokens", "output_tokens"):
            if key not in given:
                raise TraceError(name, f"window {start} has no {key}")
        found[int(start)] = given["input_tokens"], given["output_tokens"]
    return dict(sorted(found.items()))


def _histogram(given: object, name: str, where: str) -> Histogram | None:
    """Of `{value: probability, ...}`, written as a text or as an object; None: empty."""
    if isinstance(given, str):
        body = given.strip()
        if not (body.startswith("{") and body.endswith("}")):
            raise TraceError(name, f"{where} must be {{tokens: probability, ...}}, got {shortened(body)!r}")
        pairs = [pair.partition(":") for pair in body[1:-1].split(",")] if body[1:-1].strip() else []
        cells = [(value, share) for value, _, share in pairs]
    elif isinstance(given, dict):
        cells = list(given.items())
    else:
        raise TraceError(name, f"{where} must be {{tokens: probability, ...}}, got {type(given).__name__}")
    if not cells:
        return None
    try:
        values = np.array([int(value) for value, _ in cells], dtype=np.int64)
        shares = np.array([float(share) for _, share in cells])
    except (ValueError, TypeError, OverflowError):
        raise TraceError(name, f"{where} must be {{tokens: probability, ...}}, whole numbers and numbers") from None
    if np.any((values < 0) | (values > INT32_MAX)):
        raise TraceError(name, f"{where} must have lengths of 0 to {INT32_MAX} tokens")
    if not (np.all(shares >= 0) and abs(shares.sum() - 1) <= SURE):
        raise TraceError(name, f"{where} must have probabilities that add up to 1, got a sum of {shares.sum():g}")
    return Histogram(values, shares.cumsum())
