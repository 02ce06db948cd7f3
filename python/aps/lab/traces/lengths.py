"""Lengths as Vidur writes them: csv, `num_prefill_tokens,num_decode_tokens`, with or without times (`arrived_at`)."""

from aps.lab.traces.options import Purpose, TraceOptions
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.source import TraceError
from aps.lab.traces.table import Table

NAME = "lengths csv"
COLUMNS = ("num_prefill_tokens", "num_decode_tokens")


def read(table: Table, rows: Rows, options: TraceOptions) -> Recorded:
    """`arrived_at` in seconds. Without it, requests come in the file's order by a Poisson process."""
    timed = "arrived_at" in table.header
    rate = options.arrivals_per_s
    if not timed and rate is None:
        raise TraceError(rows.name, "has lengths but no times; arrivals_per_s must be given", table.line)
    for chunk in table.chunks():
        times = {"at_s": chunk.seconds("arrived_at")} if timed else {}
        rows.add(
            chunk,
            prompt_tokens=chunk.tokens("num_prefill_tokens"),
            output_tokens=chunk.tokens("num_decode_tokens"),
            **times,
        )
    if timed or rate is None:
        return rows.recorded(NAME)
    at_s = options.rng(Purpose.ARRIVALS).exponential(1 / rate, len(rows)).cumsum()
    note = f"synthetic arrivals: a Poisson process, {rate:g} requests/s; the trace has lengths alone"
    return rows.recorded(NAME, at_s=at_s, generated=True, notes=(note,))
