"""Fit the constants of a GPU's physics to measured engine steps, and write them as a profile.

FILE is a CSV file with a row for each measured step and these columns:

  batch           sequences that decode in the step, each one token
  context         tokens cached of each of them before the step (their mean, rounded, if they differ)
  prefill_tokens  tokens prefilled in the step, in one chunk that ends its prompt
  cached          tokens of that prompt cached before the chunk (optional; 0 without the column)
  seconds         how long the step took

Decodes alone at several batches and contexts, and some prefills alone, tell most constants. What the rows cannot tell
is kept from the base profile, and the table says why.
"""

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aps.cli.common import UsageError, need_lab_extra

if TYPE_CHECKING:
    from aps.lab.calibrate import Calibration
    from aps.lab.measured_steps import MeasuredSteps
    from aps.profiles import Profile
    from aps_core.physics import PhysicsModel

HELP = "fit a GPU's constants to your own measured steps"
EPILOG = """examples:
  aps calibrate examples/steps.csv
  aps calibrate rows.csv --base a100-llama2-13b --write my.toml
  aps calibrate rows.csv --all --json > fit.json
"""
MANY = 1000  # rows that may take more than two seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps calibrate`."""
    parser.add_argument("rows", metavar="FILE", help="the measured steps, CSV")
    parser.add_argument(
        "--base",
        default="a100-llama2-7b",
        metavar="PROFILE",
        help="a physics profile of the model that was measured (default %(default)s)",
    )
    parser.add_argument("--write", metavar="TOML", help="write the fitted profile to this file")
    parser.add_argument("--force", action="store_true", help="let --write replace a file")
    parser.add_argument("--all", action="store_true", help="print every row, not the ten worst")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, no tables")
    parser.add_argument("--out", metavar="DIR", help="also write a report to this directory")


def run(options: argparse.Namespace) -> int:
    """Always 0: a poor fit is said in words."""
    need_lab_extra()
    from aps.lab.calibrate_view import plain, print_calibration, report_of
    from aps.lab.measured_steps import read_steps
    from aps.lab.report import check_destination, dumps, write
    from aps.profiles import profile_named
    from aps_core.physics import PhysicsModel

    if options.force and not options.write:
        raise UsageError("--force counts for nothing without --write TOML")
    try:
        base = profile_named(options.base)
        if not isinstance(base.step_time, PhysicsModel):
            raise UsageError(f"--base must be a physics profile, {base.name} is none")
        if options.write:
            _check_target(Path(options.write), options.force)
        if options.out:
            check_destination(options.out)
        measured = read_steps(options.rows)
        calibration = _calibrate(measured, base.step_time)
        if options.write:
            _write(Path(options.write), _fitted(calibration, measured, base, Path(options.write).stem))
        if options.out:
            write(report_of(calibration, measured.file, base.name, options.command_line), options.out)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.json:
        print(dumps(plain(calibration, measured.file, base.name)), end="")
    else:
        print(f"{len(measured.steps)} measured steps of {measured.file}, base {base.name}\n")
        print_calibration(calibration, every_row=options.all)
        if options.write:
            print(f"\nWritten: {options.write} (slots, KV cache, price and data-sheet FLOP/s are those of {base.name})")
    return 0


def _calibrate(measured: "MeasuredSteps", base: "PhysicsModel") -> "Calibration":
    from rich.console import Console

    from aps.lab.calibrate import calibrate

    shown = Console(stderr=True)
    rows = len(measured.steps)
    slow = rows > MANY and shown.is_terminal
    with shown.status(f"fitting {rows:,} rows") if slow else nullcontext():
        try:
            calibration = calibrate(measured.steps, base)
        except ValueError as error:
            raise ValueError(f"{measured.file}: {error}") from error
    if measured.ignored_columns:
        calibration.notes.append(f"Columns that mean nothing here: {', '.join(measured.ignored_columns)}.")
    return calibration


def _fitted(calibration: "Calibration", measured: "MeasuredSteps", base: "Profile", name: str) -> "Profile":
    everything = calibration.loads[-1]
    return replace(
        base,
        name=name,
        description=f"{base.name} with constants fitted to measured steps",
        step_time=calibration.model,
        measured_on=f"{len(measured.steps)} steps of {Path(measured.file).name}, "
        f"mean error {100 * everything.mean:.1f} %, at most {100 * everything.max:.1f} %",
    )


def _check_target(path: Path, force: bool) -> None:
    from aps.lab.report.writer import check_file

    check_file(path)
    if path.exists() and not force:
        raise ValueError(f"{path} is there already; --force replaces it")


def _write(path: Path, profile: "Profile") -> None:
    from aps.lab.report.writer import whole_file
    from aps.profile_files import to_toml

    with whole_file(path) as out:
        out.write(to_toml(profile).encode())
