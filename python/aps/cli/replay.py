"""Replay the record of a service: the same calls at the same instants must have the same answers, byte for byte."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps.cli.common import UsageError

if TYPE_CHECKING:
    from aps.record.replaying import ReplayResult

HELP = "replay a record exactly"
EPILOG = """examples:
  aps serve --record night.jsonl.gz             writes one
  aps replay night.jsonl.gz                     every verdict, dispatch and charge again, and compared
  aps replay night.jsonl.gz --json              for programs
  aps compare night.jsonl.gz                    the same requests under other policies

The older files beside it (night.jsonl.gz.1, ...) are found and belong to it; any one of them may be named.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps replay`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a record, as aps serve --record writes it")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def run(options: argparse.Namespace) -> int:
    """0: the same; 1: it differs, and the first difference is printed."""
    from aps.record import RecordError, replay

    try:
        result = replay(options.file)
    except RecordError as error:
        raise UsageError(str(error)) from error
    if options.json:
        print(json.dumps(plain(result), indent=2))
    else:
        _print(result)
    return 0 if result.same else 1


def plain(result: "ReplayResult") -> dict[str, Any]:
    """What a replay found, as JSON has it: the fields of `ReplayResult`, and `same`."""
    return {"same": result.same, **asdict(result)}


def _print(result: "ReplayResult") -> None:
    for note in result.notes:
        print(f"note: {note}")
    said = f"{result.calls:,} calls, {result.requests:,} requests, {result.dispatches:,} dispatches"
    if result.difference is None:
        print(f"{said}: the same dispatch order, byte for byte")
        return
    print(f"{said}: the same so far; then {result.difference.file}, line {result.difference.line}")
    print(f"  recorded: {result.difference.recorded}")
    print(f"  replayed: {result.difference.replayed}")
