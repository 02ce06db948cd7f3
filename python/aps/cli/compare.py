"""Play a workload or a trace under several policies, on the same requests, and say which does what better.

Every seed makes one workload; each policy plays it, so differences are taken pair by pair (common random numbers).
All times are virtual seconds. With --batching the two batching modes are compared instead, at low, medium and
saturating load.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from aps.cli import lab_options
from aps.cli.common import UsageError, count, need_lab_extra

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
    from aps.cli.progress import Bar

    lab_options.check_out(options)
    what = _modes(options) if options.batching is not None else _policies(options)
    setup, slo = lab_options.setup_of(options), lab_options.slo_of(options)
    seeds, workloads = lab_options.workloads_of(options)
    began = perf_counter()
    with lab_options.usage(), Bar(f"aps compare: {workloads[0].name}, {what.name}") as bar:
        found = what.play(
            workloads,
            setup=setup,
            slo=slo,
            seeds=seeds,
            keep_runs=options.out is not None,
            jobs=options.jobs,
            on_progress=bar.update,
        )
    data = {**found.data, "wall_s": perf_counter() - began}
    if options.out is not None:
        with lab_options.report(options) as directory:
            what.write(data, directory, runs=found.runs, command=options.command_line)
    if options.json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        what.show(data)
    return 0


class _Compared(NamedTuple):
    """What is compared. play: simulates; gives plain data and runs. write: the report. show: the tables."""

    name: str
    play: Callable[..., Any]
    write: Callable[..., object]
    show: Callable[[dict[str, Any]], None]


def _policies(options: argparse.Namespace) -> _Compared:
    from aps.cli.lab_tables import print_comparison
    from aps.lab.compare import compare
    from aps.lab.policies import parse_list
    from aps.lab.report import write_compare

    with lab_options.usage():
        policies = parse_list(POLICIES if options.policies is None else options.policies)
    names = [policy.name for policy in policies]
    if options.baseline is not None and options.baseline not in names:
        raise UsageError(f"--baseline must be one of the policies {', '.join(names)}, got {options.baseline!r}")
    play = partial(compare, policies=policies, baseline=options.baseline)
    return _Compared(f"{len(policies)} policies", play, write_compare, print_comparison)


def _modes(options: argparse.Namespace) -> _Compared:
    from aps.cli.lab_tables import print_batching
    from aps.lab.batching import batching
    from aps.lab.policies import parse_list
    from aps.lab.report import write_batching

    if options.baseline is not None:
        raise UsageError("--baseline is for policies; with --batching the first mode is the baseline")
    with lab_options.usage():
        policies = parse_list("aps" if options.policies is None else options.policies)
    if len(policies) != 1:
        raise UsageError(f"--batching compares modes under one policy, got {len(policies)} in --policies")
    play = partial(batching, policy=policies[0], modes=options.batching.split(","))
    return _Compared(options.batching, play, write_batching, print_batching)
