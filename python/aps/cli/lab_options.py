"""What the verbs of the laboratory share: which requests, on which GPUs, held against which SLO, reported where."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps.cli.common import UsageError, positive
from aps.cli.key_options import of_key

if TYPE_CHECKING:
    from aps.lab.figures import Slo
    from aps.lab.run import Setup
    from aps.lab.workload import Workload

PROFILE = "a100-llama2-7b"
LONG_READ = 20_000_000  # bytes of a trace that take about two seconds
SEEDS = 5  # of a scenario, when the number is not given; a trace is what it is


@contextmanager
def usage() -> Iterator[None]:
    """The library's errors about what it was given, and files that cannot be read, as UsageError."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """WORKLOAD and what changes it."""
    parser.add_argument(
        "workload",
        metavar="WORKLOAD",
        nargs="?",
        help="a scenario, the shipped trace azure-code, or a trace's path; --list shows them",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter of the workload, as often as needed; WORKLOAD --list shows them",
    )
    parser.add_argument(
        "--list", action="store_true", help="the workloads there are, or the parameters of WORKLOAD, and nothing else"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all that is drawn at random (default %(default)s)"
    )
    parser.add_argument(
        "--until-s", type=positive, metavar="S", help="stop at this virtual second (default: the workload's own end)"
    )


def add_setup_options(parser: argparse.ArgumentParser) -> None:
    """The simulated GPUs."""
    group = parser.add_argument_group("GPUs")
    group.add_argument(
        "--profile",
        metavar="NAME|FILE",
        help=f"what a GPU is: a name of `aps profiles`, or a TOML file (default {PROFILE}; of a record: its own)",
    )
    for name, key, unit, what in (
        ("--gpus", "devices.gpus", "N", "how many (default 1; of a record: its own)"),
        ("--slots", "devices.slots", "N", "requests at once on one (default: the profile's)"),
        ("--kv-tokens", "devices.kv_tokens", "N", "tokens that its KV cache holds (default: the profile's)"),
        ("--token-budget", "devices.token_budget", "N", "tokens in a step; 0: whole prompts (default: the profile's)"),
        ("--price", "price.gpu_hour_dollars", "DOLLARS", "of a GPU-hour (default: the profile's, with its source)"),
    ):
        group.add_argument(name, type=of_key(key), metavar=unit, help=what)


def add_slo_options(parser: argparse.ArgumentParser) -> None:
    """What a request must meet to count as goodput."""
    group = parser.add_argument_group("SLO", "what a finished request must meet to count as goodput")
    for name, what in (
        ("ttft", "arrival to first token"),
        ("tpot", "mean time of each token after the first"),
        ("e2e", "arrival to last token"),
    ):
        group.add_argument(
            f"--slo-{name}", type=positive, default=inf, metavar="S", help=f"{what}, at most (virtual seconds)"
        )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where the result goes."""
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, no tables")
    parser.add_argument(
        "--out", metavar="DIR", help="also write a report there: report.html, plots (PNG), tables (CSV), report.json"
    )


def listed(options: argparse.Namespace) -> bool:
    """Whether --list was given; then the list is printed. UsageError when there is neither it nor a WORKLOAD."""
    if options.list:
        from aps.lab import catalog

        with usage():
            says = catalog.describe(options.workload)
        print(says)
        return True
    if options.workload is None:
        raise UsageError("needs a WORKLOAD; --list shows those there are")
    return False


def workload_of(options: argparse.Namespace, seed: int) -> "Workload":
    """The workload of one seed. UsageError: no such workload, parameter or value; a malformed trace."""
    from aps.lab.catalog import open_workload

    with usage():
        path = Path(options.workload)
        if path.is_file() and path.stat().st_size > LONG_READ:
            print(f"aps {options.verb}: reading {path} ...", file=sys.stderr, flush=True)
        found = open_workload(options.workload, seed, _parameters(options.set))
        if not len(found):
            raise UsageError(f"{options.workload} has no requests")
        if options.until_s is None:
            return found
        cut = found.until(options.until_s)
        if not len(cut):
            raise UsageError(
                f"--until-s must be after the first arrival of {options.workload}, got {options.until_s:g}"
            )
        return cut


def workloads_of(options: argparse.Namespace) -> "tuple[list[int], list[Workload]]":
    """The seeds, and the workload of each; one seed where all of them would be the same workload."""
    from aps.lab.scenarios import SCENARIOS

    number = options.seeds or (SEEDS if options.workload in SCENARIOS else 1)
    seeds = list(range(options.seed, options.seed + number))
    first = workload_of(options, seeds[0])
    if number == 1:
        return seeds, [first]
    second = workload_of(options, seeds[1])
    if first.digest() == second.digest():
        note = f"nothing is drawn at random, so {number} seeds would be one and the same workload: one run"
        return seeds[:1], [replace(first, notes=(*first.notes, note))]
    return seeds, [first, second, *(workload_of(options, one) for one in seeds[2:])]


def setup_of(options: argparse.Namespace) -> "Setup":
    """The simulated GPUs: what is not given is as the record says, where the workload is one.

    UsageError: no such profile, or numbers that no GPU can have.
    """
    from aps.lab.catalog import SHIPPED
    from aps.lab.record_setup import recorded_setup
    from aps.lab.run import Setup
    from aps.lab.scenarios import SCENARIOS
    from aps.profiles import profile_named

    with usage():
        profile = None if options.profile is None else profile_named(options.profile)
        named = options.workload in SCENARIOS or options.workload in SHIPPED
        recorded = None if named else recorded_setup(options.workload, profile)
        setup = recorded or Setup(profile or profile_named(PROFILE))
        numbers = {name: getattr(options, name) for name in ("gpus", "slots", "kv_tokens", "token_budget")}
        changed: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
        if options.price is not None:
            changed["profile"] = replace(setup.profile, dollars_per_hour=options.price, price_source="--price")
        return replace(setup, **changed)


def slo_of(options: argparse.Namespace) -> "Slo":
    """The bounds of goodput."""
    from aps.lab.figures import Slo

    return Slo(ttft_s=options.slo_ttft, tpot_s=options.slo_tpot, e2e_s=options.slo_e2e)


def check_out(options: argparse.Namespace) -> None:
    """UsageError when --out names what cannot be written; before anything is simulated."""
    if options.out is not None:
        from aps.lab.report import check_destination

        with usage():
            check_destination(options.out)


@contextmanager
def report(options: argparse.Namespace) -> Iterator[Path]:
    """The directory of --out, for the time it takes to write it: seconds, with plots, so stderr says so."""
    print(f"aps {options.verb}: writing {options.out} ...", file=sys.stderr, flush=True)
    with usage():
        yield Path(options.out)


def seed(text: str) -> int:
    """An option's value: an integer that seeds random numbers."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be an integer, 0 to 2^63 - 1, got {text!r}")
    return int(text)


def _parameters(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set must be KEY=VALUE, got {text!r}")
        if key in found:
            raise UsageError(f"--set {key} is given twice")
        found[key] = value
    return found
