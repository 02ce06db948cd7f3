"""Record row: what a record of every call costs a request on the scheduler's own thread.

The face's hold model (submit, next_batch, settle: three lines a request) with a recorder and without. Beside the
difference one `json.dumps` of what the submit's line says, which would be the least of a recorder in Python.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtests.micro.request_rows import SMALL, WAITING, FaceHold
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import Case, Timed, measure


class RecordedHold(FaceHold):
    """With a record on the disk."""

    def watched(self, scheduler: Any) -> Any:
        from aps.record import Recorder

        self.folder = tempfile.TemporaryDirectory()
        self.recorder = Recorder(Path(self.folder.name) / "bench.jsonl", files=2)
        return self.recorder.watch(scheduler)

    def close(self) -> None:
        self.recorder.close()
        self.folder.cleanup()
        if self.recorder.failed is not None:
            raise AssertionError(self.recorder.failed)


def dumps() -> Timed:
    """The text of one line."""
    call = {
        "t": 1234.567891234,
        "op": "submit",
        "id": 123456,
        "tenant": "tenant-7",
        "bid": 5,
        "prompt_tokens": 321,
        "max_tokens": 123,
        "verdict": "admitted",
    }

    def timed() -> int:
        encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
        for _ in range(1000):
            encode(call)
        return 1000

    return timed


def whole_request(quick: bool) -> Iterator[Row]:
    waiting, chunk, rounds = (2_000, 512, 2) if quick else (WAITING, 4_096, 31)
    plain, recorded = FaceHold(waiting, 100, chunk, SMALL), RecordedHold(waiting, 100, chunk, SMALL)
    cases: dict[str, Case] = {"plain": plain, "recorded": recorded, "dumps": dumps}
    try:
        costs = measure(cases, rounds)
        written = recorded.recorder
        written.flush()
        note = f"three lines a request, {written.bytes / written.lines:.0f} bytes a line"
    finally:
        recorded.close()
    note += f"; {costs['recorded']:.0f} ns with, {costs['plain']:.0f} ns without; {rounds} rounds of {chunk:,}"
    yield BY_NAME["record.request"].judge(costs["recorded"] - costs["plain"], costs["dumps"], note)
