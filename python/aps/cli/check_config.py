"""Say what `aps serve` would be with this configuration, or everything that is wrong with it."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aps.cli.common import UsageError

if TYPE_CHECKING:
    from aps.service.config import Config

NAME = "check-config"
HELP = "check a configuration and say what the service would be"
EPILOG = """examples:
  aps check-config aps.toml
  APS_SERVER_PORT=80 aps check-config aps.toml --json
  aps check-config                              the defaults and the environment alone
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps check-config`."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="TOML (default: what APS_CONFIG names, else none)"
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON, problems too")


def run(options: argparse.Namespace) -> int:
    """0: the configuration is right; 2: it is not, and everything that is wrong has been said."""
    from aps.service.config_reader import ConfigError, config_file, read_config
    from aps.service.config_view import plain

    try:
        config = read_config(config_file(options.file, os.environ), os.environ)
    except ConfigError as error:
        if not options.json:
            raise UsageError(counted(error.problems)) from error
        print(json.dumps({"right": False, "problems": error.problems}, indent=2))
        return 2
    if options.json:
        print(json.dumps({"right": True, **plain(config)}, indent=2))
    else:
        print("\n".join(lines(config)))
    return 0


def counted(problems: tuple[str, ...]) -> str:
    """One problem as it is; several with their number, a line each."""
    if len(problems) == 1:
        return problems[0]
    return "\n".join([f"{len(problems)} problems", *(f"  {problem}" for problem in problems)])


def lines(config: "Config") -> list[str]:
    """The configuration for people."""
    from aps.service.config_view import limit, notes, words

    out = [f"{config.file or 'No file'}: a right configuration", ""]
    out += [f"  {topic:11} {text}" for topic, text in words(config)]
    weights = sum(tenant.weight for tenant in config.tenants)
    width = max(len(tenant.name) for tenant in config.tenants)
    for tenant in config.tenants:
        keys = "" if config.open else f", keys: {len(config.keys.get(tenant.name, ()))}"
        share = f"weight {tenant.weight:g} ({tenant.weight / weights:.1%})"
        out.append(f"  tenant      {tenant.name:{width}}  {share}, {limit(tenant)}{keys}")
    changed = [f"  {name} by {origin}" for name, origin in config.origins.items()]
    if changed:
        out += ["", "Set, the rest are defaults:", *changed]
    noted = [f"  {note}" for note in notes(config)]
    if noted:
        out += ["", "Most likely not meant:", *noted]
    return out
