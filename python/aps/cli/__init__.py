"""The command line: one module for each verb, found here. A verb imports what it needs when it runs."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from aps.cli import (
    calibrate,
    check_config,
    compare,
    demo,
    keygen,
    profiles,
    replay,
    serve,
    simulate,
    stress,
    study,
    sweep,
    tenants,
    usage,
    validate,
)
from aps.cli.common import UsageError
from aps.service.version import VERSION

VERBS = (
    serve,
    check_config,
    keygen,
    tenants,
    usage,
    stress,
    demo,
    simulate,
    compare,
    replay,
    sweep,
    study,
    profiles,
    validate,
    calibrate,
)

EXIT_CODES = """exit codes:
  0  done
  1  it ran and did not pass
  2  wrong usage, something missing, or nothing to reach
  130, 141  interrupted; nobody reads the output any more
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (`sys.argv` when None); returns its exit code."""
    options = parser().parse_args(argv)
    options.command_line = shlex.join(["aps", *(sys.argv[1:] if argv is None else argv)])
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"aps {options.verb}: {error}", file=sys.stderr)
        return 2
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


def parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    whole = argparse.ArgumentParser(
        prog="aps",
        description="Adaptive Priority Scheduling: several tenants share a few GPUs for LLM inference.",
        epilog="Start with `aps demo`. Each verb has its own --help.\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"aps {VERSION}")
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in VERBS:
        verb = verbs.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.__doc__,
            epilog=f"{module.EPILOG}\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(verb)
        verb.set_defaults(run=module.run)
    return whole
