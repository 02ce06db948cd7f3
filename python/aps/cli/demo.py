"""The whole path once, under a minute: over HTTP, then in virtual time.

Over HTTP: start the service on a free port at ten times real time, run `aps stress` against it, stop it. In virtual
time: the promised figures as `aps stress --virtual` has them, then a comparison of policies with its plot.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps.cli.common import UsageError, need_lab_extra, need_service_extra
from aps.cli.key_options import of_key
from aps.cli.lab_options import usage
from aps.cli.stress import add_plan_options, print_live, report_on, simulated

if TYPE_CHECKING:
    from aps.lab.compare import Comparison

HELP = "the whole path once: service, stress test, promised figures, policies; under a minute"
EPILOG = """examples:
  aps demo
  aps demo --time-scale 20 --seed 1
  aps demo --out /tmp/demo          where the comparison's report goes
"""

SCENARIO, LOAD, SEEDS = "poisson", 0.95, 3  # what policies are compared on
PLOT = "policies.png"

STARTED = re.compile(r"http://\S+")
STOP_WITHIN_S = 40.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps demo`."""
    parser.add_argument(
        "--time-scale",
        type=of_key("devices.time_scale"),
        default=10.0,
        metavar="X",
        help="simulated seconds in a wall second (default 10)",
    )
    add_plan_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/demo"),
        metavar="DIR",
        help="the comparison's report (default %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 when the burst and the promised figures passed and the service stopped cleanly, else 1."""
    need_service_extra()
    need_lab_extra()
    _check_out(options.out)
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--time-scale", str(options.time_scale)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("APS_")}  # no configuration
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as service:
        try:
            _head("Over HTTP: the service, and the stress test against it", options.json)
            live = report_on(_url(service, quiet=options.json), options)
        finally:
            stopped = _stop(service)
    if stopped:
        print(f"aps demo: the service ended with exit code {stopped}", file=sys.stderr)
    if not options.json:
        print_live(live, False)
    virtual, comparison = simulated(), _comparison()
    plot = _write(options.out, comparison)
    if options.json:
        found = {"http": live, "virtual": virtual["figures"], "comparison": comparison.data, "plot": plot}
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print(live, virtual, comparison.data, plot)
    return 0 if live["passed"] and virtual["met"] and not stopped else 1


def _check_out(directory: Path) -> None:
    """UsageError when no report can be written there; its parents are made."""
    from aps.lab.report import check_destination

    with usage():
        directory.parent.mkdir(parents=True, exist_ok=True)
        check_destination(directory)


def _comparison() -> "Comparison":
    from aps.lab.compare import compare
    from aps.lab.policies import POLICIES
    from aps.lab.run import Setup
    from aps.lab.scenarios import SCENARIOS
    from aps.profiles import profile_named

    workloads = [SCENARIOS[SCENARIO].build(seed, load=LOAD) for seed in range(SEEDS)]
    return compare(workloads, list(POLICIES.values()), Setup(profile_named("a100-llama2-7b")))


def _write(directory: Path, comparison: "Comparison") -> str:
    """The report of the comparison; the path of its first plot."""
    from aps.lab.report import write_compare

    again = f"aps compare {SCENARIO} --set load={LOAD:g} --seeds {SEEDS}"
    with usage():
        write_compare(comparison.data, directory, runs=comparison.runs, command=again)
    return str(directory / PLOT)


def _head(title: str, quiet: bool = False) -> None:
    if not quiet:
        print(f"\n== {title}", flush=True)


def _print(live: dict[str, Any], virtual: dict[str, Any], comparison: dict[str, Any], plot: str) -> None:
    from rich.console import Console

    from aps.lab.promise.definitions import FIGURES
    from aps.lab.tables import NOTHING, grid

    out = Console(highlight=False)
    _head(f"In virtual time: six policies on {SCENARIO}, {LOAD:.0%} of what the GPU can do (aps compare)")
    tenants = [tenant["name"] for tenant in comparison["workload"]["tenants"]]
    rows = (
        [name, *(f"{tree['tenants'][tenant]['queue_wait_s']['p99']['mean']:.2f}" for tenant in tenants)]
        for name, tree in comparison["figures"].items()
    )
    out.print(grid(("p99 queue wait, s", *tenants), rows))
    for sentence in comparison["verdict"]:
        if sentence.startswith("aps"):
            out.print(sentence)
    print(f"\nThe plot: {plot}; the report of it: {Path(plot).with_name('report.html')}", flush=True)
    _head("The promised figures, over HTTP and in virtual time (in full: aps stress --virtual)")
    over_http = {**live["phases"][0], "jain": live["phases"][0]["jain_computed"]}
    cells = []
    for figure, row in zip(FIGURES, virtual["figures"], strict=True):
        measured = over_http.get(figure.name)  # the burst; an open loop of VIPs is not sent
        cells.append(
            (
                figure.title,
                format(figure.promised, figure.form),
                NOTHING if measured is None else format(measured, figure.form),
                format(row["measured"], figure.form),
                f"{row['low']:{figure.form}} to {row['high']:{figure.form}}",
                "yes" if row["met"] else "NO",
            )
        )
    seeds = len(virtual["burst"]["seeds"])
    out.print(grid(("", "promised", "HTTP,\n1 seed", f"virtual,\n{seeds} seeds", "lowest to\nhighest", "met"), cells))


def _url(service: "subprocess.Popen[str]", quiet: bool) -> str:
    """The address that the service prints first. UsageError when it ends before."""
    assert service.stdout is not None
    line = service.stdout.readline()
    match = STARTED.search(line)
    if match is None:
        raise UsageError(f"the service did not start (exit code {service.wait()})")
    if not quiet:
        print(line, end="", flush=True)
    return match[0]


def _stop(service: "subprocess.Popen[str]") -> int:
    """SIGTERM, and the exit code that follows; a service that does not stop is killed."""
    if service.poll() is None:
        service.send_signal(signal.SIGTERM)
    try:
        service.communicate(timeout=STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        service.kill()
        service.communicate()
    return service.returncode
