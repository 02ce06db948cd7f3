"""Replay the record of a service: the same calls at the same instants must have the same answers, byte for byte."""

import argparse
from pathlib import Path

from aps.cli.common import UsageError

HELP = "replay a record exactly"
EPILOG = """examples:
  aps serve --record night.jsonl.gz             writes one
  aps replay night.jsonl.gz                     every verdict, dispatch and charge again, and compared
  aps compare night.jsonl.gz                    the same requests under other policies

The older files beside it (night.jsonl.gz.1, ...) are found and belong to it; any one of them may be named.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps replay`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a record, as aps serve --record writes it")


def run(options: argparse.Namespace) -> int:
    """0: the same; 1: it differs, and the first difference is printed."""
    from aps.record import RecordError, replay

    try:
        result = replay(options.file)
    except RecordError as error:
        raise UsageError(str(error)) from error
    for note in result.notes:
        print(f"note: {note}")
    said = f"{result.calls:,} calls, {result.requests:,} requests, {result.dispatches:,} dispatches"
    if result.difference is None:
        print(f"{said}: the same dispatch order, byte for byte")
        return 0
    print(f"{said}: the same so far; then {result.difference.file}, line {result.difference.line}")
    print(f"  recorded: {result.difference.recorded}")
    print(f"  replayed: {result.difference.replayed}")
    return 1
