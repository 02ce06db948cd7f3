"""Play a workload or a trace under several policies, on the same requests, and say which does what better.

Every seed makes one workload; each policy plays it, so differences are taken pair by pair (common random numbers).
All times are virtual seconds. With --batching the two batching modes are compared instead, at low, medium and
saturating load.
"""

import argparse
import json
from time import perf_counter
from typing import Any

from aps.cli import lab_options
from aps.cli.common import UsageError, count, need_lab_extra

NAME = "compare"
HELP = "policies side by side on one workload or trace, with a verdict"
POLICIES = "fifo,strict,bids,vtc,weighted-vtc,aps"
EPILOG = """examples:
  aps compare --list                                    the workloads there are
  aps compare burst --profile reference                 the promised burst, six policies, five seeds
  aps compare azure-code --set tenants=zipf:5           the shipped trace, dealt to five tenants
  aps compare noisy --policies fifo,aps,aps:fairness_window=32768 --seeds 6
  aps compare vip --policies strict,aps --baseline strict --slo-ttft 0.5
  aps compare my-trace.csv.gz --gpus 4 --out comparison a report with plots
  aps compare burst --batching micro,continuous         batch sizes and waits at three loads

policies: fifo, strict, bids, vtc, weighted-vtc, aps; each takes changes of its fields, aps:aging_horizon_s=60,...
A difference is stated where its 95 % confidence interval over the seeds (Student's t) excludes zero.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps compare`."""
    lab_options.add_workload_options(parser)
    parser.add_argument(
        "--policies",
        metavar="LIST",
        help=f"with commas between them (default {POLICIES}; with --batching one, aps)",
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="the policy that the others are held against (default: the first)"
    )
    parser.add_argument(
        "--seeds",
        type=count,
        metavar="N",
        help=f"workloads, from --seed up (default {lab_options.SEEDS} of a scenario, 1 of a trace)",
    )
    parser.add_argument("--batching", metavar="MODES", help="compare these modes: micro,continuous")
    lab_options.add_setup_options(parser)
    lab_options.add_slo_options(parser)
    lab_options.add_output_options(parser)
    parser.add_argument("--jobs", type=count, metavar="N", help="threads at most (default: the machine's cores)")


def run(options: argparse.Namespace) -> int:
    """Compare and report; 0."""
    if lab_options.listed(options):
        return 0
    need_lab_extra()
    lab_options.check_out(options)
    return _modes(options) if options.batching is not None else _policies(options)


def _policies(options: argparse.Namespace) -> int:
    from aps.cli.lab_tables import print_comparison
    from aps.cli.progress import Bar
    from aps.lab.compare import compare
    from aps.lab.policies import parse_list

    with lab_options.usage():
        policies = parse_list(options.policies or POLICIES)
    names = [policy.name for policy in policies]
    if options.baseline is not None and options.baseline not in names:
        raise UsageError(f"--baseline must be one of the policies {', '.join(names)}, got {options.baseline!r}")
    setup, slo = lab_options.setup_of(options), lab_options.slo_of(options)
    seeds, workloads = lab_options.workloads_of(options)
    began = perf_counter()
    with lab_options.usage(), Bar(f"aps compare: {workloads[0].name}, {len(policies)} policies") as bar:
        found = compare(
            workloads,
            policies,
            setup,
            slo,
            baseline=options.baseline,
            seeds=seeds,
            keep_runs=options.out is not None,
            jobs=options.jobs,
            on_progress=bar.update,
        )
    data = {**found.data, "wall_s": perf_counter() - began}
    if options.out is not None:
        from aps.lab.report import write_compare

        with lab_options.report(options) as directory:
            write_compare(data, directory, runs=found.runs, command=options.command_line)
    if options.json:
        _print_json(data)
    else:
        print_comparison(data)
    return 0


def _modes(options: argparse.Namespace) -> int:
    from aps.cli.lab_tables import print_batching
    from aps.cli.progress import Bar
    from aps.lab.batching import batching
    from aps.lab.policies import parse_list

    if options.baseline is not None:
        raise UsageError("--baseline is for policies; with --batching the first mode is the baseline")
    with lab_options.usage():
        policies = parse_list(options.policies or "aps")
    if len(policies) != 1:
        raise UsageError(f"--batching compares modes under one policy, got {len(policies)} in --policies")
    setup, slo = lab_options.setup_of(options), lab_options.slo_of(options)
    seeds, workloads = lab_options.workloads_of(options)
    modes = options.batching.split(",")
    began = perf_counter()
    with lab_options.usage(), Bar(f"aps compare: {workloads[0].name}, {options.batching}") as bar:
        found = batching(
            workloads,
            policies[0],
            setup,
            slo,
            modes=modes,
            seeds=seeds,
            keep_runs=options.out is not None,
            jobs=options.jobs,
            on_progress=bar.update,
        )
    data = {**found.data, "wall_s": perf_counter() - began}
    if options.out is not None:
        from aps.lab.report import write_batching

        with lab_options.report(options) as directory:
            write_batching(data, directory, runs=found.runs, command=options.command_line)
    if options.json:
        _print_json(data)
    else:
        print_batching(data)
    return 0


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2, allow_nan=False))
