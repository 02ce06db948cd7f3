"""What tenants used: requests, refusals, tokens, charges and GPU time, from the ledger that the service keeps by hour.

From the database itself, whether a service runs or not, or through a running service. What a service has counted since
its last save is not in it yet (store.interval_s; after a clean stop everything is).
"""

import argparse
import csv
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aps.cli.books import client_of, error_of
from aps.cli.check_config import counted
from aps.cli.common import UsageError, need_service_extra

if TYPE_CHECKING:
    from datetime import datetime

    from aps.store.usage import By

HELP = "what tenants used, from the ledger in the store"
EPILOG = """examples:
  aps usage --store aps.db                               every tenant, since the beginning
  aps usage --config aps.toml --from 2026-11-01 --to 2026-12-01 --csv > november.csv
  aps usage --store aps.db --tenant gold --by hour --from 2026-11-28
  APS_ADMIN_KEY=... aps usage --url http://127.0.0.1:8000 --json

Hours are those of the clock, in UTC; requests count in the hour in which they end, GPU time in the one in which it
passes. charged_tokens is what buckets paid, bid premium included, exact to a millionth.
"""

BY = ("tenant", "day", "hour")
COUNTS = ("admitted", "finished", "cancelled", "expired", "dropped", "failed")
COLUMNS = ("tenant", "period", *COUNTS, "refused", "prompt_tokens", "output_tokens", "charged_tokens", "gpu_s")
Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `aps usage`."""
    where = parser.add_argument_group("where from")
    where.add_argument("--store", metavar="FILE|URL", help="the database (default: the configuration's, APS_STORE_URL)")
    where.add_argument("--config", type=Path, metavar="FILE", help="TOML (default: what APS_CONFIG names, else none)")
    where.add_argument("--url", help="of a running service, instead; APS_ADMIN_KEY has its admin key")
    what = parser.add_argument_group("what")
    what.add_argument("--tenant", metavar="NAME", help="this one alone")
    hour = "a full hour: 2026-11-28, 2026-11-28T14:00, in UTC unless it says otherwise"
    what.add_argument("--from", dest="since", metavar="HOUR", help=f"hours from this one on; {hour}")
    what.add_argument("--to", dest="until", metavar="HOUR", help="hours before this one")
    what.add_argument("--by", choices=BY, default="tenant", help="a row for each, of each tenant (default tenant)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything as JSON, refusals by reason too")
    form.add_argument("--csv", action="store_true", help="as CSV, with a line of names")


def run(options: argparse.Namespace) -> int:
    """Print the ledger; 0."""
    need_service_extra()
    if options.url is not None and (options.store, options.config) != (None, None):
        raise UsageError("--url is of a running service: give it, or --store and --config")
    found = _from_database(options) if options.url is None else _from_service(options)
    if options.json:
        print(json.dumps(found, indent=2))
    elif options.csv:
        _print_csv(found["rows"])
    else:
        _print_table(found["rows"], found["total"], options.by)
    return 0


def _from_database(options: argparse.Namespace) -> dict[str, Any]:
    from aps.store.database import Database, StoreError
    from aps.store.usage import check_order, check_tenant, read, total

    by: By = options.by
    since, until = _instant("--from", options.since), _instant("--to", options.until)
    try:
        check_order("--to", since, until)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        database = Database(_store(options), read_only=True)
        with closing(database):
            database.check()
            with database.reading() as connection:
                if options.tenant is not None:
                    check_tenant(connection, options.tenant)
                rows = read(connection, tenant=options.tenant, since=since, until=until, by=by)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from error
    except StoreError as error:
        raise UsageError(str(error)) from error
    return {"rows": [row.plain() for row in rows], "total": total(rows).plain()}


def _store(options: argparse.Namespace) -> str:
    from aps.service.config_reader import ConfigError, Given, config_file, read_config

    flags = {} if options.store is None else {"store.url": Given(options.store, "--store")}
    try:
        config = read_config(config_file(options.config, os.environ), os.environ, flags)
    except ConfigError as error:
        raise UsageError(counted(error.problems)) from error
    if config.settings.store is None:
        raise UsageError("there is no store: name one with --store, APS_STORE_URL or url in [store], or use --url")
    return config.settings.store


def _from_service(options: argparse.Namespace) -> dict[str, Any]:
    import httpx

    pairs = {"tenant": options.tenant, "from": options.since, "to": options.until, "by": options.by}
    asked = {name: value for name, value in pairs.items() if value is not None}
    try:
        with client_of(options.url) as client:
            answer = client.get("/admin/usage", params=asked)
        said = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"{options.url} does not answer as a service does: {error}") from error
    why = error_of(said)
    if answer.status_code == 404 and why.get("reason") == "not_found":
        raise UsageError(f"{options.url} has no ledger: it was started without a store, or without an admin key")
    if answer.status_code != 200:
        raise UsageError(str(why.get("message", f"{answer.status_code} {answer.reason_phrase}")))
    if not (isinstance(said, dict) and isinstance(said.get("rows"), list) and isinstance(said.get("total"), dict)):
        raise UsageError(f"{options.url} does not answer as a service does: there is no usage in what it says")
    return said


def _instant(name: str, text: str | None) -> "datetime | None":
    from aps.store.usage import instant_of

    try:
        return None if text is None else instant_of(name, text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _cells(row: Row) -> list[str]:
    """In the order of COLUMNS; numbers as they are."""
    from aps.store.usage import charged

    return [
        row["tenant"] or "",
        row["period"] or "",
        *(str(row[name]) for name in COUNTS),
        str(sum(row["refused"].values())),
        str(row["prompt_tokens"]),
        str(row["output_tokens"]),
        charged(row["charged_micro"]),
        f"{row['gpu_s']:.9f}".rstrip("0").rstrip("."),
    ]


def _print_csv(rows: list[Row]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerows(map(_cells, rows))


def _print_table(rows: list[Row], total: Row, by: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_footer=len(rows) > 1)
    dropped = [name for name in ("cancelled", "expired", "dropped", "failed") if not total[name]]
    hidden = {*dropped, *(("period",) if by == "tenant" else ())}
    for name, footer in zip(COLUMNS, _cells(total | {"tenant": "all"}), strict=True):
        if name not in hidden:
            words = name.replace("gpu_s", "GPU s").replace("_", " ")
            text = name in ("tenant", "period")
            table.add_column(words, _grouped(name, footer), justify="left" if text else "right", no_wrap=True)
    for row in rows:
        cells = zip(COLUMNS, _cells(row), strict=True)
        table.add_row(*(_grouped(name, cell) for name, cell in cells if name not in hidden))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    console.print(table if rows else "Nothing was counted for these tenants in this time.")
    if total["refused"]:
        reasons = sorted(total["refused"].items(), key=lambda pair: -pair[1])
        console.print("refused: " + ", ".join(f"{reason} {count:,}" for reason, count in reasons))


def _grouped(name: str, cell: str) -> str:
    """A number for people: thousands apart, charges and seconds to three places."""
    if name in ("tenant", "period"):
        return cell
    return f"{float(cell):,.3f}".rstrip("0").rstrip(".") if "." in cell else f"{int(cell):,}"
