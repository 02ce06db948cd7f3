"""Exact replay: the recorded calls, at their instants, on a fresh scheduler whose record must be the same text."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from aps.record import schema
from aps.record.chain import Chain, RecordError, chain
from aps.record.recorder import Watched
from aps_core.json_lines import JsonLines

_DECODE = json.JSONDecoder(parse_float=Decimal).decode
_ENOUGH = 1 << 30  # bytes that one call may write


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line that came out otherwise. recorded, replayed: what was answered then, and what is now."""

    file: str
    line: int
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found.

    calls: lines that came out the same. requests: submitted, refused ones included. dispatches: starts of requests.
    difference: None when the whole record came out the same, byte for byte. notes: what of it could not be looked at.
    """

    calls: int
    requests: int
    dispatches: int
    difference: Difference | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def same(self) -> bool:
        """Whether every verdict, dispatch and charge is what it was."""
        return self.difference is None


def replay(path: str | Path) -> ReplayResult:
    """Feed the calls of a record to a fresh scheduler and compare all that it answers.

    path: any file of it; the others beside it are found. RecordError: it cannot be read, or its beginning is gone.
    """
    files = chain(path)
    first = files.parts[0]
    if first.number != 1:
        raise RecordError(
            f"{path}: the record begins with part {first.number}, the parts before are gone; a replay needs them all"
        )
    for before, after in zip(files.parts, files.parts[1:], strict=False):
        if after.number != before.number + 1:
            raise RecordError(f"{path}: part {before.number + 1} of the record is missing, a replay needs them all")
    try:
        player = _Player(first.header)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{first.path}, line 1: {error!r}") from None
    return player.play(files)


class _Player:
    """Makes the calls of lines."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._lines = JsonLines(_ENOUGH)
        self._scheduler = Watched(schema.scheduler_of(header), self._lines)
        self._core = self._scheduler.recorded
        self._handles: dict[int, int] = {}  # by arrival number
        self._last: dict[int, tuple[list[int], list[int], list[int]]] = {}  # the last report about a device
        self._calls: dict[str, Callable[[Mapping[str, Any], float], None]] = {
            "submit": self._submit,
            "batch": self._batch,
            "progress": self._progress,
            "step": self._step,
            "end": self._end,
            "cancel": lambda call, now: self._leave(call, self._core.cancel(self._handles[call["id"]], now)),
            "preempt": lambda call, now: self._core.preempt(self._handles[call["id"]], now),
            "restart": lambda call, now: self._core.restart(self._handles[call["id"]], now),
            "rebid": self._rebid,
            "ended": self._ended,
            "add_tenant": lambda call, now: self._scheduler.add_tenant(_tenant(call), now=now),
            "set_tenant": lambda call, now: self._scheduler.set_tenant(_tenant(call), now=now),
            "remove_tenant": lambda call, now: self._scheduler.remove_tenant(call["tenant"], now=now),
            "set_policy": self._set_policy,
            "restore": self._restore,
            "closed": self._closed,
        }
        self._requests = self._dispatches = 0

    def play(self, files: Chain) -> ReplayResult:
        calls = 0
        closed = False
        for file, number, line in files.lines():
            try:
                call = _DECODE(line.decode())
                op, ns = call["op"], int(Decimal(call["t"]) * 10**9)
                make = self._calls[op]
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                raise RecordError(f"{file}, line {number}: expected a call, {error!r}") from None
            try:
                make(call, self._core.at(ns))
                came = self._lines.take().rstrip(b"\n")
            except (IndexError, KeyError, TypeError, ValueError) as error:
                came = f"an error: {error!r}".encode()
            if came != line:
                difference = Difference(str(file), number, _text(line), _text(came) or "nothing")
                return ReplayResult(calls, self._requests, self._dispatches, difference, tuple(files.torn))
            calls += 1
            closed = op == "closed"
        notes = files.torn + ([] if closed else ["the record was not closed: its service was killed, or still runs"])
        return ReplayResult(calls, self._requests, self._dispatches, None, tuple(notes))

    def _submit(self, call: Mapping[str, Any], now: float) -> None:
        due = call.get("deadline_s")
        wait_ns = 0 if due is None else int(Decimal(due) * 10**9)
        verdict = self._scheduler.submit(
            call["tenant"],
            prompt_tokens=call["prompt_tokens"],
            max_tokens=call["max_tokens"],
            bid=call["bid"],
            now=now,
            deadline_at=None if due is None else self._core.at(int(Decimal(call["t"]) * 10**9) + wait_ns),
            expected_output=call.get("expected_output"),
        )
        if verdict.admitted:
            self._handles[call["id"]] = verdict.id  # type: ignore[assignment]
        self._requests += 1

    def _batch(self, call: Mapping[str, Any], now: float) -> None:
        self._dispatches += self._core.next_batch(call["device"], now)

    def _progress(self, call: Mapping[str, Any], now: float) -> None:
        self._last[call["device"]] = (call["ids"], call["computed"], call["generated"])
        self._report(call["device"], now)

    def _step(self, call: Mapping[str, Any], now: float) -> None:
        ids, computed, generated = self._last[call["device"]]
        self._last[call["device"]] = (ids, computed, [tokens + call["tokens"] for tokens in generated])
        self._report(call["device"], now)

    def _report(self, device: int, now: float) -> None:
        ids, computed, generated = self._last[device]
        self._core.progress_many(self._handles_of(ids), np.array(computed), np.array(generated), now)

    def _end(self, call: Mapping[str, Any], now: float) -> None:
        if "id" in call:
            self._leave(call, self._core.settle(self._handles[call["id"]], call["output_tokens"], now))
        else:
            self._core.settle_many(self._handles_of(call["ids"]), np.array(call["output_tokens"]), now)
            self._forget(call["ids"])

    def _rebid(self, call: Mapping[str, Any], now: float) -> None:
        self._core.rebid(self._handles[call["id"]], call["bid"], now)

    def _ended(self, call: Mapping[str, Any], now: float) -> None:
        self._core.next_wakeup(now)
        self._core.ended()
        self._forget(call["ids"])

    def _set_policy(self, call: Mapping[str, Any], now: float) -> None:
        horizon_s, window = (schema.number(call.get(knob)) for knob in ("aging_horizon_s", "fairness_window"))
        self._scheduler.set_policy(
            None if horizon_s is None else float(horizon_s), None if window is None else float(window), now=now
        )

    def _restore(self, call: Mapping[str, Any], now: float) -> None:
        given = {name: _floats(value) for name, value in call["state"].items()}
        self._scheduler.restore(schema.state_of(given), passed_s=float(call["passed_s"]), now=now)

    def _closed(self, call: Mapping[str, Any], now: float) -> None:
        self._core.next_wakeup(now)
        self._core.note(b"closed", b"")

    def _leave(self, call: Mapping[str, Any], _: float) -> None:
        self._forget([call["id"]])

    def _forget(self, ids: list[int]) -> None:
        for number in ids:
            self._handles.pop(number, None)

    def _handles_of(self, ids: list[int]) -> Any:
        return np.array([self._handles[number] for number in ids], np.int64)


def _floats(value: Any) -> Any:
    """Decimals, and those in a list, as floats."""
    if isinstance(value, list):
        return list(map(_floats, value))
    return float(value) if isinstance(value, Decimal) else value


def _tenant(call: Mapping[str, Any]) -> Any:
    given = call["tenant"]
    return schema.tenant_of({name: _floats(x) for name, x in given.items()})


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
