"""Simulate the plane of the two knobs on a workload, and suggest a point of it.

Every point of the grid, aging horizon H x fairness window D, plays the workload of every seed. Printed, and drawn with
--out, are the p99 queue wait of the VIP (the tenants with the highest bid) and of the worst quiet tenant (the others
that ask for no more than 1.5 times their share), with the suggested point and the rule it comes from. H = 0 and D = 0
is fair queueing, H = 0 and D = inf arrival order, H = inf and D = inf strict priority. All times are virtual seconds.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from aps.cli import lab_options
from aps.cli.common import UsageError, count, need_lab_extra
from aps.cli.key_options import of_key

if TYPE_CHECKING:
    from rich.table import Table

HELP = "the plane of the two knobs on a workload, with a suggestion"
WIDTH = 110  # where stdout is no terminal
EPILOG = """examples:
  aps sweep vip                                         7 x 7 points, five seeds
  aps sweep vip --policy aps:preemption=recompute --out sweep
                                                        with heat maps
  aps sweep noisy --vip quiet_1                         who counts as the VIP
  aps sweep azure-code --set tenants=zipf:5 --vip tenant-5 --horizons 0,30,inf --windows 0,2048,32768
  aps sweep vip --joblib-backend dask:tcp://head:8786   on a Dask cluster
  RAY_ADDRESS=auto aps sweep vip --joblib-backend ray   on a Ray cluster

The suggestion is the same whatever computes it. A cluster's workers need aps in the same version.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps sweep`."""
    lab_options.add_workload_options(parser)
    parser.add_argument(
        "--policy",
        default="aps",
        metavar="NAME[:KEY=VALUE,...]",
        help="everything but the two knobs, and the point that the suggestion is held against (default %(default)s)",
    )
    parser.add_argument(
        "--horizons",
        type=knobs("policy.aging_horizon_s"),
        metavar="LIST",
        help="H, seconds or inf, with commas (default 0,3,10,30,100,300,inf)",
    )
    parser.add_argument(
        "--windows",
        type=knobs("policy.fairness_window"),
        metavar="LIST",
        help="D, cost units or inf, with commas (default 0,512,2048,8192,32768,131072,inf)",
    )
    parser.add_argument(
        "--vip", action="append", metavar="TENANT", help="the VIP, as often as needed (default: the highest bids)"
    )
    parser.add_argument(
        "--seeds",
        type=count,
        metavar="N",
        help=f"workloads, from --seed up (default {lab_options.SEEDS} of a scenario, 1 of a trace)",
    )
    lab_options.add_setup_options(parser)
    lab_options.add_output_options(parser)
    parser.add_argument("--jobs", type=count, metavar="N", help="points at once (default: all that the back end has)")
    parser.add_argument(
        "--joblib-backend",
        default="",
        metavar="NAME[:ADDRESS]",
        help="what joblib computes with: loky (processes, the default), threading, dask:SCHEDULER, ray",
    )


def knobs(full: str) -> Callable[[str], list[float]]:
    """The type of an option: different values of this key, with commas between them."""
    one = of_key(full)

    def values(text: str) -> list[float]:
        found = [one(value) for value in text.split(",")]
        if len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"must be different numbers with commas between them, got {text!r}")
        return found

    return values


def run(options: argparse.Namespace) -> int:
    """Sweep and report; 0."""
    if lab_options.listed(options):
        return 0
    need_lab_extra()
    lab_options.check_out(options)
    data = _swept(options)
    if options.out is not None:
        from aps.lab.report import write_sweep

        with lab_options.usage():
            write_sweep(data, Path(options.out), command=options.command_line)
    if options.json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        _print(data)
    return 0


def _swept(options: argparse.Namespace) -> dict[str, Any]:
    from aps.cli.progress import Bar
    from aps.lab.parallel import Parallel
    from aps.lab.policies import parse
    from aps.lab.sweep import HORIZONS_S, WINDOWS, sweep

    with lab_options.usage():
        policy = parse(options.policy)
    if policy.equal_weights:
        raise UsageError(f"--policy {options.policy} ignores weights: sweep its knobs as aps, with weights of 1")
    setup = lab_options.setup_of(options)
    seeds, workloads = lab_options.workloads_of(options)
    horizons, windows = options.horizons or HORIZONS_S, options.windows or WINDOWS
    points = len(horizons) * len(windows)
    began = perf_counter()
    with lab_options.usage(), Bar(f"aps sweep: {workloads[0].name}, {points} points x {len(seeds)} seeds") as bar:
        data = sweep(
            workloads,
            policy,
            setup,
            horizons_s=horizons,
            windows=windows,
            vip=options.vip,
            seeds=seeds,
            parallel=Parallel(options.jobs or -1, options.joblib_backend),
            on_progress=bar.update,
        )
    return {**data, "wall_s": perf_counter() - began}


def _print(data: dict[str, Any]) -> None:
    from rich.console import Console

    out = Console()
    if not out.is_terminal:
        out = Console(width=WIDTH)
    setup = data["setup"]
    head = (
        f"{data['workload']['name']} on {setup['gpus']} x {setup['profile']}, {setup['slots']} slots each; "
        f"{len(data['seeds'])} seeds, pooled. Policy {data['policy']['name']}."
    )
    for who in ("vip", "quiet", "heavy"):
        if data[who]:
            head += f"\n{who}: {', '.join(data[who])}"
    out.print(head, highlight=False, markup=False)
    for note in data["workload"]["notes"]:
        out.print(f"note: {note}", highlight=False, markup=False)
    for title, figure in (("the VIP", "vip_queue_wait_p99_s"), ("the worst quiet tenant", "quiet_queue_wait_p99_s")):
        out.print(f"\n[bold]p99 queue wait of {title}[/bold]; H down, D to the right (k: 1,024)", highlight=False)
        out.print(_plane(data, figure))
    marks = "" if data["given"] is None else ", (in parentheses): the policy given"
    out.print(f"<in brackets>: suggested{marks}.\n\n{data['suggestion']}\n", highlight=False, markup=False)
    out.print(data["rule"], highlight=False, markup=False)


def _plane(data: dict[str, Any], figure: str) -> "Table":
    from rich import box
    from rich.table import Table

    from aps.lab import labels

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    windows = data["windows"]
    for column in ("H", *(f"D = {labels.window(float(d))}" for d in windows)):
        found.add_column(column, justify="right")
    for row, horizon in enumerate(data["horizons_s"]):
        cells = []
        for at in range(row * len(windows), (row + 1) * len(windows)):
            text = labels.duration(data["cells"][at][figure])
            form = "<{}>" if at == data["suggested"] else "({})" if at == data["given"] else "{}"
            cells.append(form.format(text))
        found.add_row(labels.horizon(float(horizon)), *cells)
    return found
