"""Send the promised burst and a slice of a real trace to a running service, and report what it did.

The burst: 50 requests of stress_vip at bid 10 and 50 of stress_free at bid 1, all at once; prompts of 590 and outputs
of 128 tokens, +-25 %; the tenants' shares are 85:15. The trace: Azure's coding service in 2023 (CC BY 4.0), dealt to
tenant_a, tenant_b and tenant_c, which meet their limits and obey Retry-After. Both are tenants of `aps serve`'s
default configuration. It passes when every request of the burst completed.
"""

import argparse
import asyncio
import json
from typing import Any

from aps.cli.common import UsageError, count, need_service_extra, not_negative

NAME = "stress"
HELP = "the promised 100-request test and a real trace, against a running service"
EPILOG = """examples:
  aps serve --time-scale 10 &
  aps stress                                    both phases against http://127.0.0.1:8000
  aps stress --trace-s 0 --json > burst.json    the burst alone, for programs
  aps stress --trace-start-s 1080 --trace-s 30  a busier part of the trace
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps stress`."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service (default %(default)s)")
    add_plan_options(parser)


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what to send and how to report it."""
    parser.add_argument(
        "--per-tenant", type=count, default=50, metavar="N", help="burst requests of each tenant (default 50)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the burst's lengths (default %(default)s)")
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


def run(options: argparse.Namespace) -> int:
    """Run the test; 0 when it passed, 1 when it did not."""
    need_service_extra()
    return report_on(options.url, options)


def report_on(url: str, options: argparse.Namespace) -> int:
    """Run the test against `url` and print its report. UsageError when there is no such service."""
    from aps.stress.bars import Bars
    from aps.stress.client import ServiceError
    from aps.stress.run import Plan, stress
    from aps.stress.tables import print_report

    plan = Plan(options.per_tenant, options.seed, options.trace_start_s, options.trace_s, options.patience_s)

    async def go() -> dict[str, Any]:
        with Bars() as bars:
            return await stress(url, plan, bars)

    try:
        report = asyncio.run(go())
    except ServiceError as error:
        raise UsageError(str(error)) from error
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_report(report)
    return 0 if report["passed"] else 1
