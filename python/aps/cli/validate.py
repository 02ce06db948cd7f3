"""Compare the physics profiles with published measurements of an A100-80GB, row by row; nothing is fitted to them.

LMDeploy's static batches judge the 7B and 13B profiles: mean error of throughput, and of token latency, over the rows
whose KV cache fits, at most 6 % and 12 %. Beside it stands what the engine of the simulator makes of the same batches.
TensorRT-LLM's rows, first tokens and attention kernels are shown too.
"""

import argparse

from aps.cli.common import UsageError, need_lab_extra

HELP = "the physics against published A100 measurements, row by row"
EPILOG = """examples:
  aps validate
  aps validate --all                  each row of the attention kernels too
  aps validate --json                 for programs
  aps validate --out validation/      a report: page, plots, CSV
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps validate`."""
    parser.add_argument("--all", action="store_true", help="print every row of the further checks")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, no tables")
    parser.add_argument("--out", metavar="DIR", help="also write a report to this directory")


def run(options: argparse.Namespace) -> int:
    """0 when the mean errors are within their limits, else 1."""
    need_lab_extra()
    from aps.lab.report import check_destination, dumps, write
    from aps.lab.validate import validate
    from aps.lab.validate_view import print_validation, report_of

    try:
        if options.out:
            check_destination(options.out)
        validation = validate()
        if options.out:
            write(report_of(validation, options.command_line), options.out)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.json:
        print(dumps(validation.plain()), end="")
    else:
        print_validation(validation, every_row=options.all)
    return 0 if validation.met else 1
