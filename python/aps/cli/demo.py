"""Start the service on a free port at ten times real time, run `aps stress` against it, stop it."""

import argparse
import re
import signal
import subprocess
import sys

from aps.cli.common import UsageError, need_service_extra, positive
from aps.cli.stress import add_plan_options, report_on

NAME = "demo"
HELP = "the whole path once: service, stress test, tables; under a minute"
EPILOG = """examples:
  aps demo
  aps demo --time-scale 20 --seed 1
"""

STARTED = re.compile(r"http://\S+")
STOP_WITHIN_S = 40.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps demo`."""
    parser.add_argument(
        "--time-scale", type=positive, default=10.0, metavar="X", help="simulated seconds in a wall second (default 10)"
    )
    add_plan_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 when the stress test passed and the service stopped cleanly, else 1."""
    need_service_extra()
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", "--time-scale", str(options.time_scale)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            code = report_on(_url(service, quiet=options.json), options)
        finally:
            stopped = _stop(service)
    if stopped:
        print(f"aps demo: the service ended with exit code {stopped}", file=sys.stderr)
    return code or (1 if stopped else 0)


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
