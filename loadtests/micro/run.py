"""Run the microbenchmarks, print one table and write one JSON file.

    python loadtests/micro/run.py [--only GLOB] [--quick] [--json build/bench.json]

Each experiment runs in a process of its own (nobody's caches or heap disturb another's, and a crash costs only its own
rows); inside it ours and the peers take turns in short rounds. Missed targets do not change the exit status.
"""

import argparse
import fnmatch
import importlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.append(str(ROOT))  # last: an installed aps_core wins

from loadtests.micro import timing  # noqa: E402
from loadtests.micro.rows import BY_NAME, PROMISES, Row  # noqa: E402

EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "queue_rows.one_thousand": ("queue.bulk.1k", "queue.call.1k"),
    "queue_rows.one_thousand_100_tenants": ("queue.bulk.1k.100t", "queue.call.1k.100t"),
    "queue_rows.one_million": ("queue.bulk.1m", "queue.call.1m"),
    "queue_rows.growth": ("queue.growth.10m",),
    "queue_rows.reheapify": ("queue.reheapify",),
    "bucket_rows.libraries": ("bucket.call.library",),
    "bucket_rows.python": ("bucket.call.python", "bucket.bulk"),
    "request_rows.whole_request": ("request.call", "request.bulk", "request.face"),
    "request_rows.many_tenants": ("request.10k_tenants",),
    "request_rows.vllm": ("request.vllm",),
    "request_rows.litellm": ("request.litellm",),
    "record_rows.whole_request": ("record.request",),
    "sim_rows.light": ("sim.light",),
    "sim_rows.overload": ("sim.overload",),
    "sim_rows.growth": ("sim.backlog",),
    "sim_rows.simpy": ("sim.simpy",),
    "sim_memory.peak": ("sim.memory",),
    "driver_rows.call": ("driver.call",),
    "http_rows.answers": ("http.64", "http.512"),
    "http_rows.kept": ("store.64", "store.512"),
    "http_rows.streams": ("sse.64", "sse.512"),
    "memory_rows.waiting": ("memory.request",),
}

METHOD = """\
Method: each experiment in its own process, on one core; ours and the peers alive together and taking turns in short
rounds, GC off in the timed parts; CPU time, median of the rounds. Ratios within one run decide. `>=`: peer / ours,
`<=`: ours / peer. Call: one Python call an operation. Bulk: one Python call over NumPy arrays."""


def main() -> int:
    options = parse()
    if options.experiment:
        return run_experiment(options.experiment, options.quick, options.json)
    wanted = [promise.name for promise in PROMISES if fnmatch.fnmatch(promise.name, options.only)]
    if not wanted:
        print(f"no row matches {options.only!r}; rows: {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    found = {row["name"]: row for row in run_all(wanted, options.quick)}
    rows = [found[name] for name in wanted]
    print(METHOD)
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}, "
        f"{time.monotonic() - started:.0f} s{', QUICK: small sizes, not judged' if options.quick else ''}\n"
    )
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"\nwrote {options.json}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microbenchmarks of the core against named peers.")
    parser.add_argument("--only", metavar="GLOB", default="*", help="rows to run, e.g. 'queue.*' (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it all run? nothing is judged")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="where to write (default: build/bench.json for a full run)"
    )
    parser.add_argument("--experiment", choices=EXPERIMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json is None and options.only == "*" and not options.quick:
        options.json = ROOT / "build" / "bench.json"
    return options


def run_all(wanted: list[str], quick: bool) -> Iterator[Row]:
    """Every wanted row, whatever happens to the process that measures it."""
    for experiment, names in EXPERIMENTS.items():
        mine = [name for name in names if name in wanted]
        if not mine:
            continue
        rows, failure = in_child(experiment, quick)
        for name in mine:
            row = rows.get(name) or BY_NAME[name].failed(failure or "the experiment gave no such row")
            if quick:
                row = unjudged(row)
            print(line(row), file=sys.stderr, flush=True)
            yield row


def in_child(experiment: str, quick: bool) -> tuple[dict[str, Row], str]:
    """Run one experiment in a fresh interpreter: its rows by name, and why it failed ('' if it did not)."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--experiment", experiment, "--json", str(out)]
        done = subprocess.run(command + ["--quick"] * quick, stdout=sys.stderr, check=False)
        if not out.exists():
            return {}, f"its process ended with status {done.returncode}"
        answer = json.loads(out.read_text())
        return {row["name"]: row for row in answer["rows"]}, answer["failure"]


def run_experiment(experiment: str, quick: bool, out: Path) -> int:
    """In the child: measure, and write rows and failure to `out`."""
    print(f"-- {experiment}: {timing.pin()}", file=sys.stderr, flush=True)
    rows: list[Row] = []
    failure = ""
    module, function = experiment.split(".")
    try:
        measure: Callable[[bool], Iterator[Row]] = getattr(
            importlib.import_module(f"loadtests.micro.{module}"), function
        )
        for row in measure(quick):
            rows.append(row)
    except Exception as error:  # whatever it is, it becomes the row's reason
        failure = f"{type(error).__name__}: {error}"
    out.write_text(json.dumps({"rows": rows, "failure": failure}))
    return 0


def unjudged(row: Row) -> Row:
    judged = row.copy()
    judged["met"] = False
    judged["reason"] = "quick run, not judged" if row["value"] is not None else row["reason"]
    return judged


def line(row: Row) -> str:
    value = "-" if row["value"] is None else f"{row['value']:,.4g} {row['unit']}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    met = "met" if row["met"] else "NO"
    return f"{row['name']:<20} {value:>14} {ratio:>8} {row['target'] or '':>8} {met:<4} {row['reason']}"


def table(rows: list[Row]) -> str:
    """The rows as aligned text: name, ours, peer, ratio, target, met; then what there is to say."""
    cells = [("row", "ours", "ratio", "target", "met", "peer")]
    for row in rows:
        cells.append(
            (
                row["name"],
                "-" if row["value"] is None else f"{row['value']:,.4g} {row['unit']}",
                "" if row["ratio"] is None else f"{row['ratio']:,.3g}",
                row["target"] or "figure",
                "yes" if row["met"] else "no",
                row["peer"],
            )
        )
    widths = [max(len(cell[column]) for cell in cells) for column in range(6)]
    aligned = [
        "  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip() for cell in cells
    ]
    notes = [f"{row['name']}: {row['reason']}" for row in rows if row["reason"]]
    return "\n".join([*aligned, "", *notes])


if __name__ == "__main__":
    sys.exit(main())
