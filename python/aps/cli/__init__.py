"""The command line: one module for each verb, found here. A verb imports what it needs when it runs."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from aps.cli import hangups
from aps.cli.common import TryAgain, UsageError
from aps.service.version import VERSION

VERBS = (  # names of modules here, with "-" for "_"
    "serve",
    "check-config",
    "keygen",
    "tenants",
    "usage",
    "stress",
    "demo",
    "simulate",
    "compare",
    "replay",
    "sweep",
    "study",
    "profiles",
    "validate",
    "calibrate",
)

EXIT_CODES = """exit codes:
  0  done
  1  it ran and did not pass
  2  wrong usage, something missing, or nothing to reach
  75 of serve: the store or the address cannot be had now; try again
  130, 143, 141  interrupted, told to end; nobody reads the output any more
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` when None); returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with hangups.noted() if words[:1] == ["serve"] else nullcontext():  # before its imports, which take long
        return _main(words)


def _main(words: Sequence[str]) -> int:
    named = [verb for verb in VERBS if words[:1] == [verb]]
    options = parser(named or VERBS).parse_args(words)
    options.command_line = shlex.join(["aps", *words])
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"aps {options.verb}: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL if isinstance(error, TryAgain) else 2
    except MemoryError:
        print(f"aps {options.verb}: out of memory", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _unread()
    except SystemExit as error:  # what rich makes of a broken pipe
        if isinstance(error.__context__, BrokenPipeError):
            return _unread()
        raise
    except OSError as error:  # no room on the disk, a file that may not be read, ...
        print(f"aps {options.verb}: {error}", file=sys.stderr)
        _drop_output()
        return 2


def _unread() -> int:
    """The exit code when whoever read our output has enough."""
    _drop_output()
    return 141


def _drop_output() -> None:
    """What is left of the output must not fail once more as Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Verb(argparse.ArgumentParser):
    """The parser of a verb. It refuses what it does not know itself: argparse would leave that to the whole's."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """All of `args`, or it ends with 2."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}")
        return options, unknown


def parser(names: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of these verbs; the modules of others are not imported."""
    whole = argparse.ArgumentParser(
        prog="aps",
        description="Adaptive Priority Scheduling: several tenants share a few GPUs for LLM inference.",
        epilog="Start with `aps demo`. Each verb has its own --help.\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"aps {VERSION}")
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Verb)
    for name in names:
        module = import_module(f"aps.cli.{name.replace('-', '_')}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=f"{module.EPILOG}\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(verb)
        verb.set_defaults(run=module.run)
    return whole
