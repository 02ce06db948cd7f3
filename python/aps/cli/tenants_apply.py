"""`aps tenants apply`: the tenants of a file into the store, all of it or nothing."""

import argparse
import json
import os

from aps.cli.books import actor, opened_store, refusing
from aps.cli.common import UsageError, need_service_extra


def apply(options: argparse.Namespace) -> int:
    """0: the store is what the file says; 1: --dry-run, and it is not."""
    need_service_extra()
    from aps.service.config_reader import ConfigError, read_config
    from aps.store import plan

    try:
        config = read_config(options.file, os.environ)
    except ConfigError as error:
        raise UsageError("\n  ".join(error.problems)) from error
    if not config.names_tenants:
        raise UsageError(f"{options.file} names no tenants: a table [tenants.NAME] for each")
    if options.store is None and options.config is None and config.settings.store is not None:
        options.store = config.settings.store
    remove = not options.no_remove
    store = opened_store(options, writes=not options.dry_run, make=not options.dry_run)
    try:
        with refusing(""):
            found = plan.compared(store.read(), config.tenants, config.keys)
            planned = [one for one in found if one.mendable and (remove or one.field or one.given)]
            if not options.dry_run:
                with store.changing(f"{actor()}, {options.file}") as change:
                    plan.apply(change, config.tenants, config.keys, remove=remove)
    finally:
        store.database.close()
    left = [one for one in found if one not in planned]
    if options.json:
        kept = {"changes": [one.plain for one in planned], "left": [one.plain for one in left]}
        print(json.dumps({"applied": not options.dry_run, **kept}, indent=2, ensure_ascii=False))
    else:
        for one in planned:
            print(one.line if options.dry_run else f"{one.line}: {one.mended}")
        for one in left:
            print(f"{one.line}: stays so")
        things = f"{len(planned)} difference{'' if len(planned) == 1 else 's'}"
        print(f"{things}; nothing has been changed" if options.dry_run else f"applied: {things}")
    return 1 if options.dry_run and planned else 0
