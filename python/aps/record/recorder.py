"""Records what a scheduler does while it works: text in memory on its thread, files on another."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

from aps import _checks as check
from aps.record import schema
from aps.record.files import Files
from aps.scheduler import Scheduler
from aps.state import SchedulerState
from aps.tenants import Tenant
from aps.verdicts import REASONS, RELEASES, STATUSES
from aps_core.json_lines import JsonLines
from aps_core.recorded import Recorded

LOG = logging.getLogger("aps.record")
TURN_S = 0.1  # how often the thread looks for text
FLUSH_S = 1.0  # and how often it sends it to the disk

_STATUSES = tuple(status.encode() for status in STATUSES)
_REASONS = tuple(reason.encode() for reason in REASONS)
_RELEASES = tuple((release or "").encode() for release in RELEASES)


class Recorder:
    """Records one scheduler: `driver = Driver(scheduler, backend, recorder=Recorder("night.jsonl.gz"))`.

    path: the newest file; `.gz` packs. max_mb: megabytes (2**20) a file; files: how many are kept, path, path.1, ...
    waiting_mb: text that may wait for the disk. about: what else the header shall say, as JSON.

    When the disk is full or too slow, recording stops for good: an error in the log "aps.record", and `failed` says
    why. What was written until then stays a record that can be replayed. The scheduler never waits for the disk, and no
    error reaches it. Call `close` when the scheduler has been used for the last time.

    Raises OSError (the file cannot be made), ValueError (a number; the file is there and is no record).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_mb: float = 256,
        files: int = 10,
        waiting_mb: float = 32,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        check.number("max_mb", max_mb, "megabytes, 0.001..1e6", lambda x: 0.001 <= x <= 1e6)
        check.integer("files", files, 1, 1000)
        check.number("waiting_mb", waiting_mb, "megabytes, 0.1..1e4", lambda x: 0.1 <= x <= 1e4)
        self.failed: str | None = None
        self._about = dict(about or {})
        self._run = token_hex(8)
        self._lines = JsonLines(int(waiting_mb * 2**20))
        self._files = Files(Path(path), int(max_mb * 2**20), files, self._header)
        self._scheduler: Watched | None = None
        self._thread = threading.Thread(target=self._write, name="aps-record", daemon=True)
        self._closing = threading.Event()
        self._turn = threading.Lock()
        self.bytes = 0

    @property
    def path(self) -> Path:
        """The newest file."""
        return self._files.path

    @property
    def lines(self) -> int:
        """Lines so far, without headers."""
        return self._lines.count

    @property
    def parts(self) -> int:
        """Files begun so far."""
        return self._files.part

    def watch(self, scheduler: Scheduler) -> Scheduler:
        """The same scheduler, recorded: call this one from now on, and the other no more.

        ValueError: it is not as it was made, so that a replay could not begin there; this recorder has one already.
        """
        if self._scheduler is not None:
            raise ValueError("a recorder watches one scheduler, it has one already")
        _must_be_fresh(scheduler)
        self._scheduler = watched = Watched(scheduler, self._lines)
        self._files.open()
        self._thread.start()
        return watched

    def flush(self) -> None:
        """Everything so far is in the file when this returns."""
        self._take(flush=True)

    def close(self) -> None:
        """End the record; the scheduler goes on without."""
        if self._scheduler is None or self._closing.is_set():
            return
        if not self._lines.stopped:
            self._scheduler.recorded.note(b"closed", b"")
        self._lines.stop()
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _header(self, part: int) -> bytes:
        assert self._scheduler is not None
        own = {
            "run": self._run,
            "part": part,
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        more = own | self._about | own  # whoever has a "run" of his own does not break the chain
        return schema.encoded(schema.header(self._scheduler, self._scheduler.known, more))

    # On the thread

    def _write(self) -> None:
        flushed_at = time.monotonic()
        while True:
            last = self._closing.wait(TURN_S)
            due = last or time.monotonic() - flushed_at >= FLUSH_S
            if due:
                flushed_at = time.monotonic()
            if not self._take(due) or last:
                break
        with self._turn:
            try:
                self._files.close()
            except OSError as error:
                self._fail(f"{self.path}: {error.strerror or error}")

    def _take(self, flush: bool) -> bool:
        """False: nothing more will come."""
        with self._turn:
            if self.failed is not None:
                return False
            full = self._lines.overflowed
            text = self._lines.take()
            try:
                if text:
                    self._files.write(text)
                    self.bytes += len(text)
                if flush or full:
                    self._files.flush()
            except (OSError, ValueError) as error:
                self._fail(f"{self.path}: {getattr(error, 'strerror', None) or error}")
            if full:
                self._fail(f"{self.path}: the disk is too slow, more text waited for it than may")
            return self.failed is None

    def _fail(self, why: str) -> None:
        if self.failed is None:
            self.failed = why
            self._lines.stop()
            self._lines.take()
            self._files.give_up()
            with suppress(Exception):
                LOG.error("recording has stopped: %s. The service goes on without a record", why)


FIELDS = *Scheduler.__slots__, "_accounts", "_core_submit", "_handles", "_ids", "_verdict_type"  # and those of Front


class Watched(Scheduler):
    """A scheduler with another's insides, whose core writes down what it is called with."""

    __slots__ = ("known", "recorded")

    def __init__(self, scheduler: Scheduler, lines: JsonLines) -> None:
        core = scheduler._core
        self.recorded = recorded = Recorded(core, _STATUSES, _REASONS, _RELEASES, lines)
        for slot in FIELDS:
            value = getattr(scheduler, slot)
            if value is core:
                value = recorded
            elif getattr(value, "__self__", None) is core:
                value = getattr(recorded, value.__name__)
            setattr(self, slot, value)
        self.known: tuple[Tenant, ...] = ()  # replaced as a whole, for another thread to read
        for name in self._roster.active:
            self._name(name)

    def add_tenant(self, tenant: Tenant, *, now: float) -> None:
        """See Scheduler."""
        super().add_tenant(tenant, now=now)
        self._name(tenant.name)
        self._note("add_tenant", tenant=schema.tenant_fields(tenant))

    def set_tenant(self, tenant: Tenant, *, now: float) -> None:
        """See Scheduler."""
        super().set_tenant(tenant, now=now)
        self._name(tenant.name)
        self._note("set_tenant", tenant=schema.tenant_fields(tenant))

    def remove_tenant(self, name: str, *, now: float) -> None:
        """See Scheduler."""
        super().remove_tenant(name, now=now)
        self.known = tuple(self._roster.active.values())
        self._note("remove_tenant", tenant=name)

    def set_policy(
        self, aging_horizon_s: float | None = None, fairness_window: float | None = None, *, now: float
    ) -> None:
        """See Scheduler."""
        super().set_policy(aging_horizon_s, fairness_window, now=now)
        turned = {"aging_horizon_s": aging_horizon_s, "fairness_window": fairness_window}
        self._note("set_policy", **{knob: schema.plain(float(x)) for knob, x in turned.items() if x is not None})

    def restore(self, state: SchedulerState, *, passed_s: float, now: float) -> None:
        """See Scheduler."""
        super().restore(state, passed_s=passed_s, now=now)
        self._note("restore", passed_s=float(passed_s), state=schema.state_fields(state))

    def _name(self, name: str) -> None:
        self.recorded.name(self._roster.slot(name), schema.encoded(name))
        self.known = tuple(self._roster.active.values())

    def _note(self, call: str, **arguments: object) -> None:
        rest = schema.encoded(arguments)[1:-1]
        self.recorded.note(call.encode(), b"," + rest if rest else b"")


def _must_be_fresh(scheduler: Scheduler) -> None:
    """As it was made: nothing has happened, tenants in the order of their slots, with full buckets."""
    if scheduler._core.restored:
        raise ValueError("a state is restored after recording has begun: what is not recorded cannot be replayed")
    slots = [account[0] for account in scheduler._accounts.values()]
    snapshot = scheduler.snapshot(now=scheduler.now)
    if (
        isinstance(scheduler, Watched)
        or scheduler.now != scheduler.epoch
        or slots != list(range(1, len(slots) + 1))
        or any(
            row.admitted or row.throttled or row.rejected or row.level != scheduler.tenants[name].burst
            for name, row in snapshot.tenants.items()
        )
    ):
        raise ValueError("a scheduler is recorded from its beginning: it must be as it was made, without any calls")
