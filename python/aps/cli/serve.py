"""Serve the scheduler over HTTP in front of simulated GPUs."""

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from aps.cli.common import UsageError, gpus, need_service_extra, not_negative_or_inf, port, positive
from aps.policy import Policy
from aps.profiles import PROFILES

NAME = "serve"
HELP = "start the HTTP service"
EPILOG = """examples:
  aps serve                                     on http://127.0.0.1:8000, in real time
  aps serve --time-scale 10 --gpus 2            ten simulated seconds in each of yours, two GPUs
  aps serve --policy strict                     highest bid first, no fairness
  aps serve --tenants tenants.toml              your tenants: [tenants.NAME] with weight, rate, burst, ...

then:
  curl -s localhost:8000/infer -d '{"tenant_id": "tenant_a", "prompt": "Why is the sky blue?", "max_tokens": 64}'
  curl -s localhost:8000/tenants/tenant_a/status
  curl -s localhost:8000/metrics

The default tenants: tenant_a 500 tokens/s with a burst of 5,000, tenant_b 300 and 3,000, tenant_c 1,000 and 10,000;
and stress_vip and stress_free, shares 85:15, for `aps stress`.
"""

POLICIES = ("aps", "fifo", "strict", "vtc", "fair", "bids")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps serve`."""
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    where.add_argument("--port", type=port, default=8000, help="0: any free port (default %(default)s)")
    where.add_argument(
        "--insecure-open",
        action="store_true",
        help="allow an address beyond this machine although anyone may then use it",
    )
    gpu = parser.add_argument_group("GPUs")
    gpu.add_argument("--gpus", type=gpus, default=1, help="simulated GPUs (default %(default)s)")
    gpu.add_argument(
        "--profile",
        default="reference",
        metavar="NAME|FILE.toml",
        help=f"how fast they are: {', '.join(PROFILES)}, or a file of yours (default %(default)s; see aps profiles)",
    )
    gpu.add_argument(
        "--time-scale", type=positive, default=1.0, metavar="X", help="simulated seconds in a wall second (default 1)"
    )
    gpu.add_argument(
        "--gpu-hour-dollars",
        type=positive,
        metavar="USD",
        help="price of a GPU-hour behind the dollar figures (default: the profile's)",
    )
    order = parser.add_argument_group("who goes first")
    order.add_argument(
        "--policy", choices=POLICIES, default="aps", help="a point on the plane of two knobs (default %(default)s)"
    )
    order.add_argument(
        "--aging-horizon",
        type=not_negative_or_inf,
        metavar="S",
        help="seconds after which a waiting bid 1 ranks with a fresh bid 10 (aps: 30)",
    )
    order.add_argument(
        "--fairness-window",
        type=not_negative_or_inf,
        metavar="TOKENS",
        help="how far a tenant may get ahead of the least served one (aps: 2048)",
    )
    order.add_argument("--tenants", type=Path, metavar="FILE", help="tenants in TOML, in place of the default ones")
    life = parser.add_argument_group("life")
    life.add_argument(
        "--drain-s",
        type=positive,
        default=30.0,
        metavar="S",
        help="wall seconds that accepted requests get to finish after SIGTERM (default 30)",
    )
    life.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    need_service_extra()
    _check_host(options.host, options.insecure_open)
    from aps.backends.simulated import SimulatedBackend
    from aps.driver import Driver
    from aps.scheduler import Scheduler
    from aps.service.app import create_app
    from aps.service.config import Settings
    from aps.service.server import listen, serve
    from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS, read_tenants

    try:
        tenants = read_tenants(options.tenants) if options.tenants else DEFAULT_TENANTS + STRESS_TENANTS
        policy = _policy(options)
        backend = SimulatedBackend(options.profile, gpus=options.gpus, time_scale=options.time_scale)
        driver = Driver(Scheduler(tenants, policy=policy, devices=backend.devices), backend)
        listener = listen(options.host, options.port)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    app = create_app(
        driver, settings=Settings(gpu_hour_dollars=options.gpu_hour_dollars or backend.spec.dollars_per_hour)
    )
    host, number = listener.getsockname()[:2]
    _say(f"APS serves http://{f'[{host}]' if ':' in host else host}:{number}  (documentation: /docs)")
    _say(f"  {options.gpus} x simulated GPU, profile {backend.profile}, time scale {options.time_scale:g}")
    _say(f"  policy {options.policy}: {policy.knobs}")
    for tenant in tenants:
        limit = f"{tenant.rate:g} tokens/s, burst {tenant.burst:g}" if tenant.rate < float("inf") else "no rate limit"
        _say(f"  tenant {tenant.name}: weight {tenant.weight:g}, {limit}")
    _say("  OPEN: no keys; whoever reaches this address may spend any tenant's tokens")
    serve(app, driver, listener, drain_s=options.drain_s, say=_say, log_level=options.log_level)
    return 0


def _policy(options: argparse.Namespace) -> Policy:
    knobs = {"aging_horizon_s": options.aging_horizon, "fairness_window": options.fairness_window}
    changes = {name: value for name, value in knobs.items() if value is not None}
    policy: Policy = getattr(Policy, options.policy)(**changes)
    return policy


def _check_host(host: str, insecure_open: bool) -> None:
    """Without keys the service is open to all who reach it, so it stays on this machine unless told otherwise."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not insecure_open:
        raise UsageError(
            f"--host {host} is reachable from other machines and the service has no keys: add --insecure-open"
        )


def _say(line: str) -> None:
    """To stdout; when nobody reads that any more the service goes on without."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
