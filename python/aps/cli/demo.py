"""The whole path once, under a minute: over HTTP, then in virtual time.

Over HTTP: start the service on a free port at ten times real time, run `aps stress` against it, stop it. In virtual
time: the promised figures as `aps stress --virtual` has them, then a comparison of policies with its plot.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from aps.cli.common import UsageError, need_lab_extra, need_service_extra, positive
from aps.cli.lab_options import usage
from aps.cli.stress import add_plan_options, print_live, report_on, simulated

NAME = "demo"
HELP = "the whole path once: service, stress test, promised figures, policies; under a minute"
EPILOG = """examples:
  aps demo
  aps demo --time-scale 20 --seed 1
  aps demo --out /tmp/demo          where the reports and plots go
"""

SCENARIO, LOAD, SEEDS = "poisson", 0.95, 3  # what policies are compared on

STARTED = re.compile(r"http://\S+")
STOP_WITHIN_S = 40.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps demo`."""
    parser.add_argument(
        "--time-scale", type=positive, default=10.0, metavar="X", help="simulated seconds in a wall second (default 10)"
    )
    add_plan_options(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), metavar="DIR", help="reports and plots (default %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 when the burst and the promised figures passed and the service stopped cleanly, else 1."""
    need_service_extra()
    need_lab_extra()
    _check_out(options.out)
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--time-scale", str(options.time_scale)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
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
    files = _write(options.out, virtual, comparison)
    if options.json:
        found = {"http": live, "virtual": virtual["figures"], "comparison": comparison.data, "files": files}
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print(virtual, comparison.data, files)
    return 0 if live["passed"] and virtual["met"] and not stopped else 1


def _check_out(directory: Path) -> None:
    """Early, and without the directories that are to be made."""
    from aps.lab.report import check_destination

    with usage():
        directory.mkdir(parents=True, exist_ok=True)
        for name in REPORTS:
            check_destination(directory / name)


REPORTS = ("promised", "policies")


def _comparison() -> Any:
    from aps.lab.compare import compare
    from aps.lab.policies import POLICIES
    from aps.lab.run import Setup
    from aps.lab.scenarios import SCENARIOS
    from aps.profiles import profile_named

    workloads = [SCENARIOS[SCENARIO].build(seed, load=LOAD) for seed in range(SEEDS)]
    return compare(workloads, list(POLICIES.values()), Setup(profile_named("a100-llama2-7b")))


def _write(directory: Path, virtual: dict[str, Any], comparison: Any) -> dict[str, str]:
    """The reports; the path of the plot of each."""
    from aps.lab.promise.view import write_report
    from aps.lab.report import write_compare

    promised, policies = (directory / name for name in REPORTS)
    again = f"aps compare {SCENARIO} --set load={LOAD:g} --seeds {SEEDS}"
    with usage():
        write_report(virtual, promised, "aps stress --virtual")
        write_compare(comparison.data, policies, runs=comparison.runs, command=again)
    return {"promised": str(promised / "promised.png"), "policies": str(policies / "policies.png")}


def _head(title: str, quiet: bool = False) -> None:
    if not quiet:
        print(f"\n== {title}", flush=True)


def _print(virtual: dict[str, Any], comparison: dict[str, Any], files: dict[str, str]) -> None:
    from rich.console import Console

    from aps.lab.promise.view import print_figures
    from aps.lab.tables import grid

    out = Console(highlight=False)
    _head("In virtual time: the promised figures (more of them: aps stress --virtual)")
    print_figures(virtual)
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
    out.print()
    for name, path in files.items():
        print(f"{name}: {path}, with its report beside it", flush=True)


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
