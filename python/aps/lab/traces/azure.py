"""Azure's LLM inference traces of 2023 and 2024: csv, `TIMESTAMP,ContextTokens,GeneratedTokens`."""

from aps.data.instants import INSTANT, nanoseconds
from aps.lab.traces.options import TraceOptions
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.source import TraceError
from aps.lab.traces.table import Chunk, Table

NAME = "Azure csv"
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(table: Table, rows: Rows, options: TraceOptions) -> Recorded:
    """Other columns are passed over, such as NumImages of the multimodal trace."""
    first: int | None = None
    for chunk in table.chunks():
        try:
            at_ns = nanoseconds(chunk.columns["TIMESTAMP"])
        except ValueError:
            raise _wrong(chunk) from None
        first = int(at_ns[0]) if first is None else first
        rows.add(
            chunk,
            at_s=(at_ns - first) / 1e9,
            prompt_tokens=chunk.tokens("ContextTokens"),
            output_tokens=chunk.tokens("GeneratedTokens"),
        )
    return rows.recorded(
        NAME, notes=("images are not counted: NumImages is not used",) if "NumImages" in table.header else ()
    )


def _wrong(chunk: Chunk) -> TraceError:
    """The error for the first instant that cannot be read."""
    for row, text in enumerate(chunk.columns["TIMESTAMP"]):
        try:
            nanoseconds([text])
        except ValueError:
            return chunk.wrong(row, "TIMESTAMP", INSTANT)
    raise AssertionError("every instant can be read")
