"""Show the simulated GPUs and what they come to, or write one out as a file to start from."""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from aps.cli.common import UsageError
from aps.profile import DECODE_CONTEXT, MIX_OUTPUT, MIX_PROMPT, MIX_REQUESTS, PROMPT, Profile
from aps.profile_files import to_toml
from aps.profiles import PROFILES, REFERENCE, profile_named

HELP = "simulated GPUs: tokens/s, KV tokens, dollars per million tokens"
EPILOG = """examples:
  aps profiles                                  the built-in ones
  aps profiles a100-llama2-7b --toml > my.toml  a file to start from; its keys: docs/profiles.md
  aps profiles my.toml                          what yours comes to
  aps serve --profile my.toml                   serve on it
"""

MIX = f"{MIX_REQUESTS} requests of {MIX_PROMPT} prompt and {MIX_OUTPUT} output tokens back to back, 16 at once"
DEFINITIONS = {
    "decode_tokens_per_s": f"output tokens/s while 1 or 16 sequences decode, each with {DECODE_CONTEXT} cached tokens",
    "speedup": "decoding at batch 16 over batch 1",
    "prefill_tokens_per_s": f"tokens/s of a prompt of {PROMPT:,} tokens alone on the GPU, to its first output token",
    "mix_tokens_per_s": f"prompt + output tokens/s: {MIX} (fewer when fewer fit)",
    "mix_output_tokens_per_s": "of them, output tokens/s",
    "dollars_per_million": "of those prompt + output tokens, at dollars_per_hour",
    "kv_tokens": "tokens that the KV cache holds",
}
CURVE = (
    "reference: b sequences decode at 128 s(b) tokens/s; s rises in a straight line from 1 at b = 1 to 2.5 at b = 16"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps profiles`."""
    parser.add_argument("profile", nargs="?", metavar="NAME|FILE.toml", help="this one alone, with its constants")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything as JSON on stdout, no table")
    form.add_argument("--toml", action="store_true", help="the profile as a TOML file on stdout")


def run(options: argparse.Namespace) -> int:
    """Print the profiles; 0."""
    try:
        chosen = [profile_named(options.profile)] if options.profile is not None else list(PROFILES.values())
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    if options.toml:
        if options.profile is None:
            raise UsageError("--toml needs the profile to write: one of " + ", ".join(PROFILES) + ", or a .toml file")
        print(to_toml(chosen[0]), end="")
    elif options.json:
        print(json.dumps(report(chosen), indent=2))
    else:
        if find_spec("rich") is None:
            raise UsageError('needs rich for its table: pip install "aps-scheduler[lab]"; --json needs nothing')
        _print_table(chosen, alone=options.profile is not None)
    return 0


def report(profiles: Iterable[Profile]) -> dict[str, Any]:
    """The profiles and what they come to, as plain data."""
    return {"definitions": DEFINITIONS, "stylised": stylised(), "profiles": [_plain(profile) for profile in profiles]}


def stylised() -> str:
    """What must be known of `reference`, in one line."""
    real = PROFILES["a100-llama2-7b"].implications().mix_tokens_per_s
    ours = REFERENCE.implications().mix_tokens_per_s
    assert real is not None and ours is not None
    times = f"{real / ours:.1f} times with Llama-2-7B, by dollars per million"
    return f"reference is stylised: a real A100 is several times faster ({times})"


def _plain(profile: Profile) -> dict[str, Any]:
    implied = asdict(profile.implications())
    step_time = {"kind": type(profile.step_time).__name__, **profile.step_time.constants()}
    fields = {name: getattr(profile, name) for name in profile.__dataclass_fields__}
    fields |= {
        "step_time": step_time,
        "model": None if profile.model is None else asdict(profile.model),
        "flops_per_token": profile.flops_per_token,
    }
    return fields | {"implied": implied}


def _print_table(profiles: list[Profile], *, alone: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    table.add_column("profile", overflow="fold")
    for head in ("decode,\nbatch 1", "batch\n16", "speed-\nup", "\nprefill", "KV\ntokens", "\nslots", "$ per\nmillion"):
        table.add_column(head, justify="right", no_wrap=True)
    for profile in profiles:
        table.add_row(profile.name, *_cells(profile))
    out.print(table)
    prices = dict.fromkeys(f"${p.dollars_per_hour:g} a GPU-hour ({p.price_source})" for p in profiles)
    lines = [
        f"decode: {DEFINITIONS['decode_tokens_per_s']}",
        f"prefill: {DEFINITIONS['prefill_tokens_per_s']}",
        f"$ per million prompt + output tokens: {MIX}, at {'; '.join(prices)}",
        *([CURVE] if REFERENCE in profiles else []),
        stylised(),
    ]
    out.print("", *lines, sep="\n")
    if alone:
        out.print("", *_constants(profiles[0]), sep="\n")


def _constants(profile: Profile) -> Iterator[str]:
    yield f"{profile.name}: {profile.description or 'no description'}"
    budget = f"{profile.token_budget} tokens a step" if profile.token_budget else "whole prompts"
    yield f"  measured on: {profile.measured_on}; {budget}"
    if profile.model is not None:
        size, cached = f"{profile.model.parameters / 1e9:.2f}e9 parameters", f"{profile.kv_bytes_per_token:,} bytes"
        yield f"  model: {size}, {cached} of KV cache a token"
    for name, value in profile.step_time.constants().items():
        yield f"  {name} = {value:g}"


def _cells(profile: Profile) -> Iterator[str]:
    implied = profile.implications()
    yield _number(implied.decode_tokens_per_s[1], ",.0f")
    yield _number(implied.decode_tokens_per_s[16], ",.0f")
    yield _number(implied.speedup, ".1f")
    yield _number(implied.prefill_tokens_per_s, ",.0f")
    yield f"{profile.kv_tokens:,}"
    yield str(profile.slots)
    yield _number(implied.dollars_per_million, ".3f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
