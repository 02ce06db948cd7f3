"""Play a workload or a trace in virtual time under one policy, and report what it did.

The scheduler is the compiled one that `aps serve` runs; the GPUs are simulated. All times are virtual seconds. A
workload is a scenario (burst, vip, noisy, ...), the shipped trace azure-code, or the path of a trace.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from aps.cli import lab_options
from aps.cli.common import need_lab_extra

if TYPE_CHECKING:
    from aps.lab.run import Run

HELP = "a workload or trace under one policy, in virtual time"
STAYS = 200_000  # requests in slots that a step trace holds
EPILOG = """examples:
  aps simulate --list                                   the workloads there are
  aps simulate noisy --list                             the parameters of one
  aps simulate burst --profile reference                the promised burst on the stylised GPU
  aps simulate noisy --set noisy_factor=20 --policy fifo
  aps simulate azure-code --set tenants=zipf:5 --slo-ttft 2 --slo-tpot 0.1
  aps simulate vip --policy aps:fairness_window=32768,preemption=recompute --until-s 60
  aps simulate burst --json > burst.json                for programs
  aps simulate burst --out burst --trace-out burst.trace.json
                                                        a report, and every slot in ui.perfetto.dev

policies: fifo, strict, bids, vtc, weighted-vtc, aps; each takes changes of its fields, aps:aging_horizon_s=60,...
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps simulate`."""
    lab_options.add_workload_options(parser)
    parser.add_argument(
        "--policy", default="aps", metavar="NAME[:KEY=VALUE,...]", help="how requests are ordered (default %(default)s)"
    )
    lab_options.add_setup_options(parser)
    lab_options.add_slo_options(parser)
    lab_options.add_output_options(parser)
    parser.add_argument(
        "--trace-out", metavar="FILE.json", help="also write who was in which slot when, in the Chrome/Perfetto format"
    )


def run(options: argparse.Namespace) -> int:
    """Simulate and report; 0."""
    if lab_options.listed(options):
        return 0
    need_lab_extra()
    from aps.cli.lab_tables import print_run

    data, played = simulated(options)
    if options.out is not None:
        from aps.lab.report import write_run

        with lab_options.report(options) as directory:
            write_run(played, data, directory, command=options.command_line)
    if options.trace_out is not None:
        from aps.lab.report import write_trace

        with lab_options.usage():
            write_trace(played, Path(options.trace_out))
        assert played.stays is not None
        if played.stays.dropped:
            left_out = f"{played.stays.dropped:,} later stays in slots are left out"
            print(f"aps simulate: {options.trace_out} holds the first {STAYS:,}; {left_out}", file=sys.stderr)
    if options.json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        print_run(data)
    return 0


def simulated(options: argparse.Namespace) -> "tuple[dict[str, Any], Run]":
    """The result as plain data, and the run. UsageError for what cannot be simulated or written."""
    from aps.cli.progress import Bar
    from aps.lab import describe
    from aps.lab.figures import figures
    from aps.lab.policies import parse
    from aps.lab.run import simulate

    lab_options.check_out(options)
    with lab_options.usage():
        if options.trace_out is not None:
            from aps.lab.report import check_file

            check_file(options.trace_out)
        policy = parse(options.policy)
    setup, slo = lab_options.setup_of(options), lab_options.slo_of(options)
    workload = lab_options.workload_of(options, options.seed)
    stays = STAYS if options.trace_out is not None else 0
    began = perf_counter()
    with lab_options.usage(), Bar(f"aps simulate: {workload.name} under {policy.name}") as bar:
        seen = workload.with_tenants(policy.tenants(workload.tenants))
        played = simulate(seen, policy.policy, setup, stays=stays, on_progress=bar.update)
    wall_s = perf_counter() - began
    data = {
        "kind": "simulate",
        "workload": describe.workload(workload),
        "setup": describe.setup(setup),
        "policy": describe.policy(policy),
        "slo": slo.plain(),
        "seed": options.seed,
        "figures": figures(played, slo, weights=[tenant.weight for tenant in workload.tenants]),
        "simulated": {
            "virtual_s": played.ended_at,
            "steps": played.steps,
            "wall_s": wall_s,
            "steps_per_s": played.steps / wall_s,
            "virtual_s_per_s": played.ended_at / wall_s,
        },
    }
    return data, played
