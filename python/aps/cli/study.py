"""What APS must show, measured in virtual time: VIPs over a full GPU, a noisy neighbour, VTC's workloads, loads.

Each study states what it judges beside what it measured, and exits with 1 when something is not met. All times are
virtual seconds on simulated GPUs.
"""

import argparse
import json

from aps.cli import lab_options
from aps.cli.common import UsageError, count, need_lab_extra

HELP = "what APS must show, measured and judged: vip, noisy, vtc, load"
EPILOG = """examples:
  aps study --list                    the studies there are
  aps study vip                       p99 queue wait of a VIP, and what it costs the free tier
  aps study noisy --out noisy         with plots
  aps study vtc --json > vtc.json     for programs
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps study`."""
    parser.add_argument("study", metavar="NAME", nargs="?", help="vip, noisy, vtc or load")
    parser.add_argument("--list", action="store_true", help="the studies there are, and nothing else")
    parser.add_argument("--seeds", type=count, metavar="N", help="workloads, from seed 0 up (default: the study's own)")
    lab_options.add_output_options(parser)
    parser.add_argument("--jobs", type=count, metavar="N", help="processes at most (default: the machine's cores)")


def run(options: argparse.Namespace) -> int:
    """Run one; 0 when everything that it judges is met, else 1."""
    need_lab_extra()
    from aps.cli.progress import Bar
    from aps.lab.parallel import Parallel
    from aps.lab.studies import STUDIES, study_named

    if options.list:
        for study in STUDIES.values():
            print(f"{study.name:6} {study.says} ({study.seeds} seeds)")
        return 0
    if options.study is None:
        raise UsageError("needs the NAME of a study; --list shows those there are")
    with lab_options.usage():
        study = study_named(options.study)
    lab_options.check_out(options)
    with Bar(f"aps study {study.name}") as bar:
        data = study.run(options.seeds or study.seeds, parallel=Parallel(options.jobs or -1), on_progress=bar.update)
    if options.out is not None:
        from aps.lab.report import write
        from aps.lab.studies.view import report_of

        with lab_options.usage():
            write(report_of(data, options.command_line), options.out)
    if options.json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        from aps.lab.studies.view import print_study

        print_study(data)
    return 0 if data["met"] else 1
