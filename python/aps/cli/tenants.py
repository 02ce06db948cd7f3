"""Tenants, their limits and their keys: look at them and change them, in the store or through a running service.

A change is checked as a configuration is, written together with a line of the audit, and takes hold in every service on
that store: at once through --url, else within its store.poll_s (half a second).
"""

import argparse
import json
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from aps.cli import tenant_tables as tables
from aps.cli.books import Books, Row, add_where, books, said
from aps.cli.common import UsageError, count, not_negative, positive
from aps.cli.tenants_apply import apply

HELP = "look at tenants and their keys, and change them"
EPILOG = """examples:
  aps tenants list --store aps.db
  aps tenants add gold weight=3 rate=2000 burst=20000 --store aps.db
  aps tenants set gold max_in_flight=8 rate=inf burst=inf --url http://127.0.0.1:8000
  aps tenants keys issue gold --label "batch jobs" --store aps.db
  aps tenants keys rotate gold 3f9ac0d21b77 --overlap 3600 --store aps.db
  aps tenants audit --store aps.db              who changed what
  aps tenants apply aps.toml --dry-run          what would change; then without --dry-run

Fields are those of [tenants.NAME] in docs/configuration.md; none or inf: no limit. APS_STORE_URL names the database
when no option does. aps tenants VERB --help says more.
"""
FIELDS_HELP = "weight=3 rate=2000 burst=20000 ...; the fields of [tenants.NAME] in docs/configuration.md"
DAY_S = 86_400.0
LONGEST_OVERLAP_S = 366 * DAY_S  # as over HTTP
LONGEST_S = 10 * LONGEST_OVERLAP_S
MOST_ENTRIES = 1000  # as over HTTP
Verb = Callable[[argparse.Namespace], int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verbs of `aps tenants`."""
    verbs = parser.add_subparsers(dest="tenants_verb", required=True, metavar="VERB")

    def verb(
        under: Any, name: str, does: Verb, text: str, example: str, *, service: bool = True
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = under.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(does=does)
        add_where(made, service=service)
        made.add_argument("--json", action="store_true", help="the result as JSON")
        return made

    verb(verbs, "list", _list, "every tenant with its limits", "aps tenants list --store aps.db")
    show = verb(verbs, "show", _show, "one tenant, with its keys", "aps tenants show gold --store aps.db")
    add = verb(verbs, "add", _add, "a new tenant", "aps tenants add gold weight=3 rate=2000 burst=20000 --store aps.db")
    put = verb(verbs, "set", _set, "change fields of a tenant", "aps tenants set gold weight=5 rate=inf burst=inf")
    remove = verb(verbs, "remove", _remove, "a tenant and its keys; its usage stays", "aps tenants remove gold")
    for made in (show, add, put, remove):
        made.add_argument("name", metavar="NAME", help="the tenant")
    add.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help=FIELDS_HELP)
    put.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help=FIELDS_HELP)
    example = "aps tenants apply aps.toml --store aps.db --dry-run"
    made = verb(verbs, "apply", apply, "make the store what a configuration says", example, service=False)
    made.add_argument("file", type=Path, metavar="FILE", help="TOML; its [store] too, unless --store names another")
    made.add_argument("--dry-run", action="store_true", help="say what would change; exit with 1 if anything would")
    made.add_argument("--no-remove", action="store_true", help="leave tenants that are not in the file")
    _add_keys(verbs, verb)
    example = "aps tenants audit --store aps.db --limit 10"
    made = verb(verbs, "audit", _audit, "who changed what, the newest first", example)
    made.add_argument("--limit", type=_entries, default=50, metavar="N", help="at most so many (50)")
    made.add_argument("--tenant", metavar="NAME", help="of this one alone")


def _add_keys(verbs: Any, verb: Callable[..., argparse.ArgumentParser]) -> None:
    keys = verbs.add_parser("keys", help="a tenant's API keys: list, issue, revoke, rotate")
    under = keys.add_subparsers(dest="keys_verb", required=True, metavar="VERB")
    look = verb(under, "list", _keys, "a tenant's keys", "aps tenants keys list gold --store aps.db")
    issue = verb(
        under, "issue", _issue, "a new key: shown once", "aps tenants keys issue gold --label web --store aps.db"
    )
    revoke = verb(under, "revoke", _revoke, "a key stops working at once", "aps tenants keys revoke gold 3f9ac0d21b77")
    rotate = verb(
        under,
        "rotate",
        _rotate,
        "a new key in place of one",
        "aps tenants keys rotate gold 3f9ac0d21b77 --overlap 3600",
    )
    for made in (look, issue, revoke, rotate):
        made.add_argument("name", metavar="NAME", help="the tenant")
    for made in (revoke, rotate):
        made.add_argument("id", metavar="KEY", help="the public id of the key, as keys list shows it")
    issue.add_argument("--label", default="", metavar="TEXT", help="what you call it")
    issue.add_argument(
        "--expires-in", type=_lifetime, metavar="S", help="wall seconds that it works (default: for ever)"
    )
    rotate.add_argument(
        "--overlap", type=_overlap, default=DAY_S, metavar="S", help="seconds that the old one goes on (86400)"
    )


def _entries(text: str) -> int:
    number = count(text)
    if number > MOST_ENTRIES:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_ENTRIES}, got {number}")
    return number


def _lifetime(text: str) -> float:
    return _at_most(LONGEST_S, positive(text))


def _overlap(text: str) -> float:
    return _at_most(LONGEST_OVERLAP_S, not_negative(text))


def _at_most(most_s: float, seconds: float) -> float:
    if seconds > most_s:
        raise argparse.ArgumentTypeError(
            f"must be at most {most_s:.0f} seconds, {most_s / DAY_S:.0f} days, got {seconds:g}"
        )
    return seconds


def run(options: argparse.Namespace) -> int:
    """What the verb says. 0: done; 1: `apply --dry-run` would change something; 2: it cannot be."""
    return int(options.does(options))


def parsed_fields(pairs: list[str]) -> Row:
    """`field=value` pairs as fields of a tenant. UsageError: the first that is none."""
    from aps.service.config_keys import TENANT_KEYS
    from aps.service.config_reader import meant, parsed

    known = {key.name: key for key in TENANT_KEYS if key.name != "keys"}
    fields: Row = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r}: expected FIELD=VALUE, such as weight=3")
        if name == "keys":
            raise UsageError("keys are not set: aps tenants keys issue, revoke or rotate")
        if name not in known:
            raise UsageError(f"unknown field {name!r}, there are {', '.join(known)}{meant(name, known)}")
        if name in fields:
            raise UsageError(f"{name} is given twice")
        key = known[name]
        if text == "none" and (key.optional or key.default == inf):
            fields[name] = None if key.optional else inf
        else:
            fields[name] = parsed(text, key)
    return fields


def _checked(name: str, fields: Row) -> None:
    """UsageError: no tenant has such a field. Only together with the rest is it known whether it fits."""
    from aps.tenants import Tenant

    for field, value in fields.items():
        pair = dict.fromkeys(_bucket(field), 1.0) if value != inf else {}
        try:
            Tenant(name, **{**pair, field: value})
        except (TypeError, ValueError) as error:
            raise UsageError(said(error)) from error


def _bucket(field: str) -> tuple[str, ...]:
    """The two fields of the bucket that a field is of: one alone cannot be checked."""
    pairs = (("rate", "burst"), ("request_rate", "request_burst"))
    return next((pair for pair in pairs if field in pair), ())


def _list(options: argparse.Namespace) -> int:
    with books(options, writes=False) as book:
        found = book.tenants()
    return _told(options, found, lambda: tables.tenants(found))


def _show(options: argparse.Namespace) -> int:
    with books(options, writes=False) as book:
        found = book.tenant(options.name) | {"api_keys": _known_keys(book, options)}
    return _told(options, {"tenant": options.name, **found}, lambda: tables.tenant(options.name, found))


def _known_keys(book: Books, options: argparse.Namespace) -> list[Row] | None:
    """None: the service keeps no keys."""
    try:
        return book.keys(options.name)
    except UsageError:
        if options.url is None:
            raise
        return None


def _add(options: argparse.Namespace) -> int:
    fields = parsed_fields(options.fields)
    _checked(options.name, fields)
    with books(options, writes=True) as book:
        book.add(options.name, fields)
        found = book.tenant(options.name)
    said = {"tenant": options.name, **found}
    return _told(options, said, lambda: print(f"added tenant {options.name}; aps tenants keys issue gives it a key"))


def _set(options: argparse.Namespace) -> int:
    fields = parsed_fields(options.fields)
    _checked(options.name, fields)
    with books(options, writes=True) as book:
        before = book.tenant(options.name)
        book.set(options.name, fields)
        found = book.tenant(options.name)
    return _told(options, {"tenant": options.name, **found}, lambda: tables.change(options.name, before, found))


def _remove(options: argparse.Namespace) -> int:
    with books(options, writes=True) as book:
        book.remove(options.name)
    return _told(options, {"removed": options.name}, lambda: print(f"removed tenant {options.name} and its keys"))


def _keys(options: argparse.Namespace) -> int:
    with books(options, writes=False) as book:
        found = book.keys(options.name)
    return _told(options, found, lambda: tables.keys(found))


def _issue(options: argparse.Namespace) -> int:
    with books(options, writes=True) as book:
        found = book.issue(options.name, options.label, options.expires_in)
    return _told(options, found, lambda: _show_key(found))


def _revoke(options: argparse.Namespace) -> int:
    with books(options, writes=True) as book:
        found = book.revoke(options.name, options.id)
    return _told(options, found, lambda: print(f"key {options.id} of tenant {options.name} is revoked"))


def _rotate(options: argparse.Namespace) -> int:
    with books(options, writes=True) as book:
        found = book.rotate(options.name, options.id, options.overlap)

    def say() -> None:
        _show_key(found["new"])
        until = "is revoked" if found["old"]["revoked_at"] else f"works until {found['old']['expires_at']}"
        print(f"The old one, {options.id}, {until}.", file=sys.stderr)

    return _told(options, found, say)


def _audit(options: argparse.Namespace) -> int:
    with books(options, writes=False) as book:
        found = book.audit(options.limit, options.tenant)
    return _told(options, found, lambda: tables.audit(found))


def _show_key(found: Row) -> None:
    """The key alone goes to stdout, so that it can be piped."""
    print(found["key"])
    print(f"Key {found['id']} of tenant {found['tenant']}: shown this once, and kept nowhere.", file=sys.stderr)
    print("Send it as  Authorization: Bearer KEY", file=sys.stderr)


def _told(options: argparse.Namespace, found: object, say: Callable[[], None]) -> int:
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        say()
    return 0
