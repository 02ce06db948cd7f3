"""Say what `aps serve` would be with this configuration, or everything that is wrong with it."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aps.cli.common import UsageError, need_service_extra

if TYPE_CHECKING:
    from aps.service.config import Config
    from aps.service.kept import Look

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
        look = _looked(config)
    except ConfigError as error:
        if not options.json:
            raise UsageError(counted(error.problems)) from error
        print(json.dumps({"right": False, "problems": error.problems}, indent=2))
        return 2
    if options.json:
        differing = [] if look is None else [difference.plain for difference in look.differences]
        shown = config if look is None else look.config
        print(json.dumps({"right": True, **plain(shown), "differing": differing}, indent=2))
    else:
        print("\n".join([*lines(config if look is None else look.config), *_of_store(look)]))
    return 0


def _looked(config: "Config") -> "Look | None":
    """None: it names no store."""
    if config.settings.store is None:
        return None
    need_service_extra()
    from aps.service.kept import looked

    return looked(config)


def _of_store(look: "Look | None") -> list[str]:
    if look is None or not (look.said or look.differences):
        return []
    from aps.service.kept import told

    return ["", "The store:", *(f"  {line}" for line in ([look.said] if look.said else told(look.differences)))]


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
    width = max((len(tenant.name) for tenant in config.tenants), default=0)
    for tenant in config.tenants:
        keys = "" if config.open else f", keys: {config.working_keys(tenant.name)}"
        share = f"weight {tenant.weight:g} ({tenant.weight / weights:.1%})"
        out.append(f"  tenant      {tenant.name:{width}}  {share}, {limit(tenant)}{keys}")
    changed = [f"  {name} by {origin}" for name, origin in config.origins.items()]
    if changed:
        out += ["", "Set, the rest are defaults:", *changed]
    noted = [f"  {note}" for note in notes(config)]
    if noted:
        out += ["", "Most likely not meant:", *noted]
    return out
