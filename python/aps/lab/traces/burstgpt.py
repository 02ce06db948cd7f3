"""BurstGPT: csv of ChatGPT and GPT-4 calls, with 6 columns or, from version 1.2 on, with 8 (session, elapsed time)."""

from aps.lab.traces.options import TraceOptions
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.table import Table

NAME = "BurstGPT csv"
COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read(table: Table, rows: Rows, options: TraceOptions) -> Recorded:
    """Timestamps are seconds. Failed calls have 0 response tokens. `Elapsed time` and `Total tokens` are not used."""
    for chunk in table.chunks():
        rows.add(
            chunk,
            at_s=chunk.seconds("Timestamp"),
            prompt_tokens=chunk.tokens("Request tokens"),
            output_tokens=chunk.tokens("Response tokens"),
        )
    return rows.recorded(NAME)
