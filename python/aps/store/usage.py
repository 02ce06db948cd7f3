"""The usage ledger: what each tenant used in each hour (UTC). Whole numbers, so that every sum is exact."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, String, Table, func, literal, select

from aps.store import schema
from aps.store.upserts import adding

By = Literal["tenant", "day", "hour"]
BY: tuple[By, ...] = ("tenant", "day", "hour")
NUMBERS = tuple(column.name for column in schema.usage.columns if not column.primary_key)
FORMS = {"hour": ("%Y-%m-%dT%H:00", 'YYYY-MM-DD"T"HH24:00'), "day": ("%Y-%m-%d", "YYYY-MM-DD")}


def hour_of(seconds: float) -> datetime:
    """The beginning of the hour (UTC) of a Unix time."""
    return datetime.fromtimestamp(seconds // 3600 * 3600, UTC)


class Deltas:
    """What was used and is in no row yet. Any number of them can be added to one another."""

    __slots__ = ("numbers", "refused")

    def __init__(self) -> None:
        self.numbers: dict[tuple[datetime, str], Sequence[int]] = {}
        self.refused: dict[tuple[datetime, str, str], int] = {}

    def __len__(self) -> int:
        """Rows to write."""
        return len(self.numbers) + len(self.refused)

    def note(
        self,
        hour: datetime,
        names: Sequence[str],
        numbers: Iterable[Sequence[int]],
        refused: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Of an hour. names: tenants, each once; numbers: a row for each, as NUMBERS; refused: by tenant and reason."""
        for name, row in zip(names, numbers, strict=True):
            if any(row):
                self._add((hour, name), row)
        for name, reasons in refused.items():
            for reason, count in reasons.items():
                key = hour, name, reason
                self.refused[key] = self.refused.get(key, 0) + count

    def merge(self, other: "Deltas") -> None:
        """Add another's."""
        for key, row in other.numbers.items():
            self._add(key, row)
        for refusal, count in other.refused.items():
            self.refused[refusal] = self.refused.get(refusal, 0) + count

    def _add(self, key: tuple[datetime, str], row: Sequence[int]) -> None:
        had = self.numbers.get(key)
        self.numbers[key] = row if had is None else [a + b for a, b in zip(had, row, strict=True)]


def lines(deltas: Deltas) -> Iterator[str]:
    """In words, a line for each tenant and hour: what is not 0."""
    refused: dict[tuple[datetime, str], list[str]] = {}
    for (hour, tenant, reason), count in sorted(deltas.refused.items()):
        refused.setdefault((hour, tenant), []).append(f"refused.{reason} {count}")
    for key in sorted(deltas.numbers.keys() | refused.keys()):
        numbers = zip(NUMBERS, deltas.numbers.get(key, ()), strict=False)
        said = [f"{name} {number}" for name, number in numbers if number] + refused.get(key, [])
        yield f"tenant {key[1]!r}, hour {key[0]:%Y-%m-%dT%H:00Z}: {', '.join(said)}"


def add(connection: Connection, deltas: Deltas) -> None:
    """Add to the ledger. In the order of their keys: several services that write at once wait for each other in it."""
    rows = [
        {"tenant": tenant, "hour": hour, **dict(zip(NUMBERS, numbers, strict=True))}
        for (hour, tenant), numbers in sorted(deltas.numbers.items())
    ]
    if rows:
        connection.execute(adding(connection, schema.usage, NUMBERS), rows)
    refusals = [
        {"tenant": tenant, "hour": hour, "reason": reason, "count": count}
        for (hour, tenant, reason), count in sorted(deltas.refused.items())
    ]
    if refusals:
        connection.execute(adding(connection, schema.refusals, ("count",)), refusals)


# Reading


def charged(micro: int) -> str:
    """Millionths of tokens as tokens, exactly: 1234.5."""
    whole, rest = divmod(micro, 1_000_000)
    return f"{whole}.{rest:06}".rstrip("0").rstrip(".")


class TooMany(ValueError):
    """More rows than were to be read."""


def instant_of(name: str, text: str) -> datetime:
    """A full hour, written as ISO 8601 has it: 2026-11-28, 2026-11-28T14, 2026-11-28T14:00+01:00; else in UTC.

    ValueError: it is none. name: what it is called.
    """
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        at = None
    if at is None or (at.minute, at.second, at.microsecond) != (0, 0, 0):
        allowed = "a full hour, as 2026-11-28 or 2026-11-28T14:00, in UTC unless it says otherwise"
        raise ValueError(f"{name} must be {allowed}, got {text[:60]!r}")
    return at


def check_order(name: str, since: datetime | None, until: datetime | None) -> None:
    """ValueError: `until`, which is called `name`, is not after `since`."""
    if since is not None and until is not None and until <= since:
        raise ValueError(f"{name} must be after {since:%Y-%m-%dT%H:%M}, where it begins, got {until:%Y-%m-%dT%H:%M}")


def check_tenant(connection: Connection, name: str) -> None:
    """KeyError, with a message: there is no such tenant, and the ledger has nothing of one that was removed."""
    for table, column in ((schema.tenants, "name"), (schema.usage, "tenant"), (schema.refusals, "tenant")):
        if connection.execute(select(literal(1)).select_from(table).where(table.c[column] == name).limit(1)).first():
            return
    raise KeyError(f"there is no tenant {name[:64]!r}, and the ledger has nothing of one that was")


@dataclass(frozen=True, slots=True)
class Used:
    """What a tenant used: requests, refusals by reason, tokens, micro-tokens charged, nanoseconds of devices.

    tenant: None in a total. period: of an hour or a day (UTC), as 2026-11-28T14:00 or 2026-11-28; None: the whole.
    """

    tenant: str | None
    period: str | None
    admitted: int = 0
    finished: int = 0
    cancelled: int = 0
    expired: int = 0
    dropped: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    charged_micro: int = 0
    gpu_ns: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON. Charges and times of devices are there as whole numbers, which are exact, and as what they mean."""
        return {
            "tenant": self.tenant,
            "period": self.period,
            **dict(zip(NUMBERS, numbers_of(self), strict=True)),
            "charged_tokens": self.charged_micro / 1e6,
            "gpu_s": self.gpu_ns / 1e9,
            "refused": dict(self.refused),
        }


def read(
    connection: Connection,
    *,
    tenant: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: By = "tenant",
    most: int | None = None,
) -> list[Used]:
    """What was used in the hours that begin at or after `since` and before `until`; by tenant, then by hour or day.

    most: rows, and refusals by reason; TooMany when there are more.
    """

    def query(table: Table, *columns: ColumnElement[Any]) -> Select[Any]:
        """Sums of a table, by what is asked for."""
        name, hour = table.c.tenant, table.c.hour
        period = literal(None, String) if by == "tenant" else _period(connection, hour, by)
        sums = select(name, period.label("period"), *columns).group_by(name)
        if by != "tenant":
            sums = sums.group_by("period")
        if tenant is not None:
            sums = sums.where(name == tenant)
        if since is not None:
            sums = sums.where(hour >= since)
        if until is not None:
            sums = sums.where(hour < until)
        return sums if most is None else sums.limit(most + 1)

    counted = query(schema.usage, *(func.sum(schema.usage.c[name]) for name in NUMBERS))
    found = {(row[0], row[1]): row[2:] for row in connection.execute(counted)}
    of_reasons = 0
    reason, count = schema.refusals.c.reason, func.sum(schema.refusals.c.count)
    refused: dict[tuple[str, str | None], dict[str, int]] = {}
    for row in connection.execute(query(schema.refusals, reason, count).group_by(reason)):
        of_reasons += 1
        refused.setdefault((row[0], row[1]), {})[row[2]] = int(row[3])
    if most is not None and max(len(found), of_reasons) > most:  # each was cut off there
        raise TooMany(f"there are more than {most} rows: ask for one tenant, a shorter time, or by day or tenant")
    nothing = [0] * len(NUMBERS)
    return [
        _used(key[0], key[1], map(int, found.get(key, nothing)), refused.get(key, {}))
        for key in sorted(found.keys() | refused.keys(), key=lambda key: (key[0], key[1] or ""))
    ]


def total(rows: Iterable[Used]) -> Used:
    """The sum of all."""
    sums, refused = [0] * len(NUMBERS), dict[str, int]()
    for row in rows:
        sums = [a + b for a, b in zip(sums, numbers_of(row), strict=True)]
        for reason, count in row.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    return _used(None, None, sums, refused)


def numbers_of(row: Used) -> Iterator[int]:
    """As NUMBERS."""
    return (getattr(row, name) for name in NUMBERS)


def _used(tenant: str | None, period: str | None, numbers: Iterable[int], refused: Mapping[str, int]) -> Used:
    return Used(tenant, period, refused=dict(sorted(refused.items())), **dict(zip(NUMBERS, numbers, strict=True)))


def _period(connection: Connection, hour: ColumnElement[datetime], by: By) -> ColumnElement[str]:
    sqlite, postgresql = FORMS[by]
    if connection.dialect.name == "postgresql":
        return func.to_char(func.timezone("UTC", hour), postgresql)
    return func.strftime(sqlite, hour)
