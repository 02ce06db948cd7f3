"""A run in the Chrome trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

One process a device with one thread a slot; in a slot a slice for each stay of a request, named after its tenant, with
its prefill and decode inside; and counters over time. Instants are whole microseconds, rounded down: so what does not
overlap in the run does not overlap in the trace either.
"""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aps.lab.report.writer import whole_file
from aps.lab.run import Run

ALL = 1  # the process of what concerns all devices
RATES = 12  # tenants whose tokens/s are shown, at most
AT_ONCE = 4096  # events written together
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
END = {0: "finished", 1: "preempted", -1: "still running"}


def write_trace(run: Run, path: str | Path) -> None:
    """Write the run as a trace, whole or not at all; compressed when the name ends in ".gz".

    The run must have been made with `stays` above 0. ValueError when it was not, or when `path` cannot be written.
    """
    if run.stays is None:
        raise ValueError("a trace needs the log of stays: simulate with stays > 0")
    with whole_file(path) as raw:
        if str(path).endswith(".gz"):
            # neither a name nor a time, so that one run gives the same bytes
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                _write(run, packed)
        else:
            _write(run, raw)


class _Out(Protocol):
    def write(self, content: bytes, /) -> int: ...


def _write(run: Run, out: _Out) -> None:
    assert run.stays is not None
    other = {"workload": run.workload.name, "policy": run.policy.knobs, "stays_left_out": run.stays.dropped}
    out.write(b'{"displayTimeUnit": "ms", "otherData": ' + _json(other) + b', "traceEvents": [')
    separator = b"\n"
    found = events(run)
    while some := list(islice(found, AT_ONCE)):
        out.write(separator + b",\n".join(map(_json, some)))
        separator = b",\n"
    out.write(b"\n]}\n")


def events(run: Run) -> Iterator[dict[str, Any]]:
    """The trace's events: names of processes and threads, then slices (the outer before the inner), then counters."""
    yield from _names(run)
    yield from _slices(run)
    yield from _counters(run)


def _names(run: Run) -> Iterator[dict[str, Any]]:
    yield from _name("process", ALL, ALL, f"all devices: {run.workload.name}", 0)
    for device in range(run.setup.gpus):
        process, first = _place(run, device, 0)
        yield from _name("process", process, process, f"device {device}: {run.setup.profile.name}", device + 1)
        for slot in range(run.setup.devices[device].slots):
            yield from _name("thread", process, first + slot, f"slot {slot}", slot)


def _name(what: str, process: int, thread: int, name: str, sort: int) -> Iterator[dict[str, Any]]:
    where = {"ph": "M", "pid": process, "tid": thread}
    yield {**where, "name": f"{what}_name", "args": {"name": name}}
    yield {**where, "name": f"{what}_sort_index", "args": {"sort_index": sort}}


def _place(run: Run, device: int, slot: int) -> tuple[int, int]:
    """Process and thread. All differ: where they are one number, viewers see a main thread."""
    stride = max(1000, 10 ** len(str(run.setup.devices[device].slots)))
    return stride * (device + 1), stride * (device + 1) + slot + 1


def _slices(run: Run) -> Iterator[dict[str, Any]]:
    stays, workload = run.stays, run.workload
    assert stays is not None
    names = [tenant.name for tenant in workload.tenants]
    began, prefilled, ended = (
        _microseconds(instants, run.ended_at) for instants in (stays.began_at, stays.prefilled_at, stays.ended_at)
    )
    prefilled = np.minimum(prefilled, ended)
    waits = (run.started_at - run.submitted_at).tolist()
    for at in np.lexsort((stays.began_at, stays.slot, stays.device)).tolist():
        request = int(stays.request[at])
        process, thread = _place(run, int(stays.device[at]), int(stays.slot[at]))
        where = {"ph": "X", "pid": process, "tid": thread}
        args = {
            "request": request,
            "tenant": names[workload.tenant[request]],
            "bid": int(workload.bid[request]),
            "prompt_tokens": int(workload.prompt_tokens[request]),
            "generated_tokens": int(run.generated[request]),
            "queue_wait_s": None if isnan(waits[request]) else round(waits[request], 9),  # in a slot, no step yet
            "preemptions": int(run.preemptions[request]),
            "end": END[int(stays.end[at])],
        }
        times = [int(instants[at]) for instants in (began, prefilled, ended)]
        yield {**where, "name": args["tenant"], "cat": "stay", **_from(times[0], times[2]), "args": args}
        for phase, start, end in zip(("prefill", "decode"), times[:2], times[1:], strict=True):
            if end > start:
                yield {**where, "name": phase, "cat": phase, **_from(start, end), "args": {"request": request}}


def _from(start: int, end: int) -> dict[str, int]:
    return {"ts": start, "dur": end - start}


def _microseconds(instants: NDArray[np.float64], until_s: float) -> NDArray[np.int64]:
    """What has not happened is taken to be at the end."""
    return np.floor(np.where(np.isnan(instants), until_s, instants) * 1e6).astype(np.int64)


def _counters(run: Run) -> Iterator[dict[str, Any]]:
    """The means of the time series, at the beginning of each bin and 0 at the end."""
    series = run.series
    starts = _microseconds(series.edges_s, 0.0).tolist()
    for name, bins in (
        ("waiting requests", series.waiting),
        ("running requests", series.running),
        ("KV blocks held", series.held_blocks),
    ):
        for at, value in zip(starts, [*bins[:, 1].tolist(), 0.0], strict=True):
            yield _counter(name, at, round(value, 6))
    tokens = series.served.sum(axis=1)  # prompt and output
    if tokens.shape[1] <= RATES:
        for tenant, served in zip(run.workload.tenants, tokens.T, strict=True):
            for at, value in zip(starts, [*(served / np.diff(series.edges_s)).tolist(), 0.0], strict=True):
                yield _counter(f"tokens/s of {tenant.name}", at, round(value, 3))


def _counter(name: str, at: int, value: float) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": ALL, "tid": ALL, "ts": at, "args": {"value": value}}


def _json(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()
