"""Make an API key: the key, for whoever is to use it, and its hash, for the configuration.

The key is not stored anywhere; who loses it makes another. A configuration holds hashes only.
"""

import argparse
import json
import sys

from aps.cli.common import UsageError

HELP = "make an API key and its hash"
EPILOG = """examples:
  aps keygen --tenant gold                      the key, and the lines for aps.toml
  export APS_ADMIN_KEY="$(aps keygen --quiet)"  the admin key, straight into the environment
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps keygen`."""
    parser.add_argument("--tenant", default="NAME", metavar="NAME", help="whose key it is, in the lines for the file")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quiet", action="store_true", help="the key alone")
    how.add_argument("--json", action="store_true", help="both as JSON")


def run(options: argparse.Namespace) -> int:
    """Print a new key."""
    from aps.service.keys import hash_line, new_key
    from aps.tenants import Tenant

    try:
        Tenant(options.tenant)
    except ValueError as error:
        raise UsageError(f"--tenant: {error}") from error
    key = new_key()
    if options.quiet:
        print(key)
    elif options.json:
        print(json.dumps({"key": key, "hash": hash_line(key)}))
    else:
        name = (
            options.tenant if options.tenant.replace("_", "").replace("-", "").isalnum() else json.dumps(options.tenant)
        )
        print(f"{key}\n")
        print("The key, shown this once; send it as  Authorization: Bearer KEY. Of a tenant, its hash for aps.toml:\n")
        print(f'[tenants.{name}]\nkeys = ["{hash_line(key)}"]\n')
        print(
            "For the admin or the metrics role: APS_ADMIN_KEY or APS_METRICS_KEY, the key or its hash.", file=sys.stderr
        )
    return 0
