"""The promised test: against a running service, or with --virtual in virtual time, where all five figures are judged.

The burst: 50 requests of stress_vip at bid 10 and 50 of stress_free at bid 1, all at once; prompts of 590 and outputs
of 128 tokens, +-25 %; the tenants' shares are 85:15. The limits: 50 requests of 50 tokens from each of tenant_a and
tenant_b, which both bursts hold, then 20 of 700; who is admitted, who gets 429 and with what Retry-After. The trace:
Azure's coding service in 2023 (CC BY 4.0), dealt to tenant_a, tenant_b and tenant_c, which obey Retry-After. All are
tenants of `aps serve`'s default configuration; to a service that lacks them, or has keys, they are brought with its
admin key, APS_ADMIN_KEY, and removed at the end. It passes when every request of the burst completed and every 429
said when to come back.

With --virtual nothing is sent: W1, the burst on 200 seeds, and W2, a VIP over a free tier that keeps the GPU full, are
simulated, each promised figure is printed with what it is and what we get, and it passes when all five are met.
"""

import argparse
import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import Any

from aps.cli.common import UsageError, count, need_lab_extra, need_service_extra, not_negative
from aps.cli.lab_options import check_out, usage

HELP = "the promised test, against a running service or in virtual time"
EPILOG = """examples:
  aps serve --time-scale 10 &
  aps stress                                    everything against http://127.0.0.1:8000
  aps stress --trace-s 0 --no-limits --json     the burst alone, for programs
  APS_ADMIN_KEY=aps_... aps stress --url http://10.0.0.5:8000    a service with keys and tenants of its own
  aps stress --trace-start-s 1080 --trace-s 30  a busier part of the trace
  aps stress --virtual                          the five promised figures, without a service, in seconds
  aps stress --virtual --out promised           with plots and the runs behind them
"""

VIRTUAL_ONLY = ("seeds", "out")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps stress`."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service (default %(default)s)")
    live = add_plan_options(parser)
    parser.set_defaults(live={name: parser.get_default(name) for name in ("url", *live)})
    group = parser.add_argument_group("in virtual time")
    group.add_argument("--virtual", action="store_true", help="simulate it and judge the promised figures; no service")
    group.add_argument("--seeds", type=count, metavar="N", help="of W1, from 0 up (default 200, as the promise has it)")
    group.add_argument(
        "--out", metavar="DIR", help="also write a report there: report.html, plots (PNG), tables (CSV), report.json"
    )


def add_plan_options(parser: argparse.ArgumentParser) -> list[str]:
    """The options that say what to send and how to report it; returns the names of the former."""
    parser.add_argument(
        "--per-tenant", type=count, default=50, metavar="N", help="burst requests of each tenant (default 50)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the burst's lengths (default %(default)s)")
    parser.add_argument(
        "--no-limits", action="store_true", help="leave out the part in which tenants meet their limits"
    )
    parser.add_argument(
        "--trace-start-s", type=not_negative, default=0.0, metavar="S", help="where in the trace to begin (default 0)"
    )
    parser.add_argument(
        "--trace-s", type=not_negative, default=60.0, metavar="S", help="simulated seconds of it; 0: none (default 60)"
    )
    parser.add_argument(
        "--patience-s",
        type=not_negative,
        default=60.0,
        metavar="S",
        help="simulated seconds during which a trace request obeys Retry-After before it gives up (default 60)",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout, no tables")
    return ["per_tenant", "seed", "no_limits", "trace_start_s", "trace_s", "patience_s"]


def run(options: argparse.Namespace) -> int:
    """Run the test; 0 when it passed, 1 when it did not."""
    if options.virtual:
        return _virtual(options)
    _refuse(options, dict.fromkeys(VIRTUAL_ONLY), "needs --virtual")
    need_service_extra()
    report = report_on(options.url, options)
    print_live(report, options.json)
    return 0 if report["passed"] else 1


def _refuse(options: argparse.Namespace, defaults: dict[str, Any], why: str) -> None:
    for name, default in defaults.items():
        if getattr(options, name) != default:
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def _virtual(options: argparse.Namespace) -> int:
    _refuse(options, options.live, "is of the test against a service, not of --virtual")
    need_lab_extra()
    check_out(options)
    data = simulated(options.seeds)
    from aps.lab.promise.view import print_promised, write_report

    if options.out is not None:
        with usage():
            write_report(data, options.out, options.command_line)
    if options.json:
        print(json.dumps(data["figures"], indent=2, allow_nan=False))
    else:
        print_promised(data)
    return 0 if data["met"] else 1


def simulated(seeds: int | None = None) -> dict[str, Any]:
    """The promised test in virtual time, with progress on stderr: see `aps.lab.promise.promised`."""
    from aps.cli.progress import Bar
    from aps.lab.promise import BURST_SEEDS, promised

    with Bar("the promised figures in virtual time") as bar:
        return promised(seeds or BURST_SEEDS, on_progress=bar.update)


def report_on(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the test against `url`: see `aps.stress.run.stress`. UsageError when there is no such service."""
    from aps.stress.bars import Bars
    from aps.stress.client import ServiceError
    from aps.stress.run import Plan, stress

    plan = Plan(
        options.per_tenant,
        options.seed,
        not options.no_limits,
        options.trace_start_s,
        options.trace_s,
        options.patience_s,
    )

    async def go() -> dict[str, Any]:
        _end_at_sigterm()
        with Bars() as bars:
            return await stress(url, plan, bars, admin_key=os.environ.get("APS_ADMIN_KEY"))

    try:
        return asyncio.run(go())
    except ServiceError as error:
        raise UsageError(str(error)) from error
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


def _end_at_sigterm() -> None:
    """As Ctrl-C does: what was brought to the service is taken away again."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError, RuntimeError, ValueError):  # not on the main thread, or not of this system
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def print_live(report: dict[str, Any], as_json: bool) -> None:
    """The report of a test against a service, to stdout."""
    from aps.stress.tables import print_report

    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)
