"""The record of our own service: JSON lines, the calls of one scheduler in the order in which it got them.

Version 2 is what the service writes (aps.record, docs/record.md): all of its files are read, a torn end is left out.
Version 1 is one file, for other programs to write. The first line is the header:

    {"aps_record": 1, "tenants": [{"name": "a", "weight": 2.0}]}

`aps_record`: the version of the format. `tenants`: may be absent; the fields of `aps.Tenant`, each but the name may be
absent. Every other line is one call:

    {"t": 0.25, "op": "submit", "id": 1, "tenant": "a", "bid": 5, "prompt_tokens": 512, "max_tokens": 256,
     "output_tokens": 130, "verdict": "admitted", "deadline_s": 30}
    {"t": 0.75, "op": "cancel", "id": 1}
    {"t": 1.50, "op": "end", "id": 1, "output_tokens": 130}

`t`: seconds of the scheduler's clock, not falling. `id`: an int or a str, another one for each submit. `bid` as
asked for (absent: the tenant's default). `verdict`: admitted, throttled or rejected. `output_tokens`: generated in all;
who writes a submit before that is known leaves it out there and gives it in `end`. `deadline_s`: seconds after `t`.
`verdict`, `output_tokens` and `deadline_s` may be absent or null. No text of a prompt or answer is in a record.

Keys and calls that are not listed are passed over (calls are counted): later versions may add some.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from math import inf
from typing import Any, TextIO

import numpy as np

from aps.lab.policies import spec_of
from aps.lab.traces.jsonl import Json, Objects, instant, objects, whole
from aps.lab.traces.recorded import Recorded
from aps.lab.traces.source import Lines, TraceError
from aps.record import RecordError, chain, schema
from aps.tenants import Tenant

NAME = "record of an APS service"
VERSION = 1
VERDICTS = ("admitted", "throttled", "rejected")
UNKNOWN = -1  # output tokens
CHANGES = ("rebid", "remove_tenant", "set_policy", "set_tenant")  # of version 2; its other calls follow from these
SERVICE = re.compile(rb'\{"aps_record":2\b')  # how the service begins
SEEN = tuple(f'"{op}"'.encode() for op in ("submit", "cancel", "end", "add_tenant", "restore", *CHANGES))
_FIELDS = {field.name for field in fields(Tenant)}


def write(stream: TextIO, tenants: Iterable[Tenant], calls: Iterable[Json]) -> None:
    """The header and a line for each call. Raises ValueError for a number that JSON has not (NaN, infinite)."""
    described = [
        {name: value for name in sorted(_FIELDS) if (value := getattr(tenant, name)) not in (None, inf)}
        for tenant in tenants
    ]
    for line in ({"aps_record": VERSION, "tenants": described}, *calls):
        stream.write(json.dumps(line, allow_nan=False) + "\n")


def read(lines: Lines, head: bytes) -> Recorded:
    """Calls that were refused are asked again, and cancelled ones run to the output that they had.

    head: how the file begins.
    """
    if SERVICE.match(head):
        return _whole(lines.name)
    calls: _Calls | None = None
    for chunk in objects(lines):
        for row in range(len(chunk.objects)):
            if calls is None:
                calls = _Calls(chunk)
            else:
                calls.add(chunk, row)
    if calls is None:
        raise TraceError(lines.name, "is empty; expected the header of a record")
    return calls.recorded()


def _whole(name: str) -> Recorded:
    """All files of a record of version 2."""
    try:
        files = chain.chain(name)
        calls = _Calls(Objects(str(files.parts[0].path), [1], [files.parts[0].header]))
        calls.notes.extend(_made(files.parts[0].header))
        if files.parts[0].number > 1:
            calls.notes.append(f"the record begins with part {files.parts[0].number}, the files before are gone")
        for file, number, line in files.lines():
            if line.startswith(SEEN, line.find(b'"op":') + 5):
                calls.add(Objects(str(file), [number], [_decoded(line, str(file), number)]), 0)
    except RecordError as error:
        where, _, says = str(error).partition(": ")  # it names its file
        raise TraceError(where, says) from None
    calls.notes.extend(files.torn)
    return calls.recorded()


def _made(header: Json) -> Iterable[str]:
    """Under which policy and on what it was recorded: what others are held against."""
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        slots = {device["slots"] for device in header["devices"]}
        if isinstance(profile := header["profile"], str) and len(slots) == 1:
            devices = f"{len(header['devices'])} x {profile} with {slots.pop()} slots"
            yield f"recorded under {spec_of(schema.policy_of(header))} on {devices}"


def _decoded(line: bytes, name: str, number: int) -> Json:
    try:
        call = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(name, f"expected a JSON object, {error}", number) from None
    if type(call) is not dict:
        raise TraceError(name, "expected a JSON object", number)
    return call


class _Calls:
    """What the lines say so far."""

    def __init__(self, chunk: Objects) -> None:
        header = chunk.objects[0]
        self.version = header.get("aps_record")
        if self.version not in (VERSION, schema.VERSION):
            raise chunk.wrong(0, "aps_record", f"{VERSION} or {schema.VERSION}, the versions that are read here")
        self._name = chunk.name
        self._tenants: dict[str, Tenant] = {}
        for given in self._listed(chunk):
            try:
                tenant = schema.tenant_of(given)
            except (TypeError, ValueError) as error:
                raise TraceError(chunk.name, f"tenants: {error}", chunk.lines[0]) from None
            if tenant.name in self._tenants:
                raise TraceError(chunk.name, f"tenants: {tenant.name!r} is there twice", chunk.lines[0])
            self._tenants[tenant.name] = tenant
        self._index = {name: at for at, name in enumerate(self._tenants)}
        self._rows: list[tuple[float, int, int, int, int, float, int]] = []
        self._outputs: list[int] = []
        self._ids: dict[int | str, int] = {}
        self._counts: Counter[str] = Counter()
        self.notes: list[str] = []

    @staticmethod
    def _listed(chunk: Objects) -> list[Json]:
        tenants = chunk.objects[0].get("tenants", [])
        if not isinstance(tenants, list) or not all(isinstance(one, dict) and "name" in one for one in tenants):
            raise chunk.wrong(0, "tenants", "a list of objects with a name")
        return tenants

    def add(self, chunk: Objects, row: int) -> None:
        call = chunk.objects[row]
        op = call.get("op")
        if not isinstance(op, str):
            raise chunk.wrong(row, "op", '"submit", "cancel", "end" or the name of another call')
        at_s = instant(call.get("t"))
        if at_s is None:
            raise chunk.wrong(row, "t", "seconds, a number from 0 to 1e12")
        if op == "add_tenant" and self.version == schema.VERSION:
            self._add_tenant(chunk, row)
            return
        if op in CHANGES and self.version == schema.VERSION:
            self._counts["changes"] += 1
            return
        if op == "restore" and self.version == schema.VERSION:
            self.notes.append("the record begins with the state of an earlier run, not used: buckets start full")
            return
        if op not in ("submit", "cancel", "end"):
            self._counts["other"] += 1
            return
        if "ids" in call and op == "end":
            self._ends(chunk, row)
            return
        name = call.get("id")
        if type(name) not in (int, str):
            raise chunk.wrong(row, "id", "an int or a str")
        if op == "submit":
            self._submit(chunk, row, at_s, name)
        elif name not in self._ids:
            self._counts["lost"] += 1
        elif op == "cancel":
            self._counts["cancelled"] += 1
        if op != "submit" and name in self._ids and call.get("output_tokens") is not None:
            self._outputs[self._ids[name]] = self._tokens(chunk, row, "output_tokens", 0)

    def _ends(self, chunk: Objects, row: int) -> None:
        """Several at once."""
        call = chunk.objects[row]
        ids, outputs = call["ids"], call.get("output_tokens")
        if not isinstance(ids, list) or not isinstance(outputs, list) or len(ids) != len(outputs):
            raise chunk.wrong(row, "output_tokens", "a list, an element for each of ids")
        for name, tokens in zip(ids, outputs, strict=True):
            one = call | {"id": name, "output_tokens": tokens}
            del one["ids"]
            self.add(Objects(chunk.name, [chunk.lines[row]], [one]), 0)

    def _add_tenant(self, chunk: Objects, row: int) -> None:
        """A name that is there already keeps its first settings."""
        try:
            tenant = schema.tenant_of(chunk.objects[row]["tenant"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise TraceError(chunk.name, f"tenant: {error}", chunk.lines[row]) from None
        if tenant.name in self._tenants:
            self._counts["changes"] += 1
            return
        self._index[tenant.name] = len(self._tenants)
        self._tenants[tenant.name] = tenant

    def _submit(self, chunk: Objects, row: int, at_s: float, name: Any) -> None:
        call = chunk.objects[row]
        if name in self._ids:
            raise chunk.wrong(row, "id", "another one for each submit")
        tenant = self._tenant(chunk, row)
        bid = call.get("bid", tenant.default_bid)
        if type(bid) is not int or not 1 <= bid <= 10:
            raise chunk.wrong(row, "bid", "an int in 1..10")
        verdict = call.get("verdict")
        if verdict not in (None, *VERDICTS):
            raise chunk.wrong(row, "verdict", " or ".join(VERDICTS))
        self._counts["refused"] += verdict in VERDICTS[1:]
        deadline = call.get("deadline_s")
        deadline_s = inf if deadline is None else instant(deadline)
        if deadline_s is None:
            raise chunk.wrong(row, "deadline_s", "a number of seconds from 0 to 1e12")
        output = UNKNOWN if call.get("output_tokens") is None else self._tokens(chunk, row, "output_tokens", 0)
        prompt = self._tokens(chunk, row, "prompt_tokens", 0)
        most = self._tokens(chunk, row, "max_tokens", 1)
        self._ids[name] = len(self._rows)
        self._rows.append((at_s, self._index[tenant.name], prompt, most, bid, deadline_s, chunk.lines[row]))
        self._outputs.append(output)

    def _tenant(self, chunk: Objects, row: int) -> Tenant:
        name = chunk.objects[row].get("tenant")
        known = self._tenants.get(name) if isinstance(name, str) else None
        if known is not None:
            return known
        try:
            tenant = Tenant(name)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise TraceError(chunk.name, f"tenant: {error}", chunk.lines[row]) from None
        self._index[tenant.name] = len(self._tenants)
        self._tenants[tenant.name] = tenant
        return tenant

    @staticmethod
    def _tokens(chunk: Objects, row: int, key: str, least: int) -> int:
        tokens = whole(chunk.objects[row].get(key))
        if tokens is None or tokens < least:
            raise chunk.wrong(row, key, f"a whole number from {least} to 2147483647")
        return tokens

    def recorded(self) -> Recorded:
        if not self._rows:
            raise TraceError(self._name, "has no calls; expected at least one submit")
        at_s, tenant, prompt, most, bid, deadline_s, lines = map(np.array, zip(*self._rows, strict=True))
        output = np.array(self._outputs)
        unknown = output == UNKNOWN
        counts = {
            "lines of other calls, not used": self._counts["other"],
            "changes of tenants, bids and policy while it ran, not replayed": self._counts["changes"],
            "lines about an id that no submit has, not used": self._counts["lost"],
            "cancels, not replayed (the request runs to the output that it had)": self._counts["cancelled"],
            "calls refused then, asked again": self._counts["refused"],
            "calls without output_tokens, taken to be max_tokens": int(np.count_nonzero(unknown)),
        }
        return Recorded(
            name=self._name,
            format=NAME,
            at_s=at_s,
            prompt_tokens=prompt,
            output_tokens=np.where(unknown, most, output),
            lines=lines,
            tenants=tuple(self._tenants.values()),
            tenant=tenant.astype(np.int32),
            own=True,
            max_tokens=most,
            bid=bid,
            deadline_s=deadline_s if np.any(deadline_s < inf) else None,
            notes=(*self.notes, *(f"{says}: {count:,}" for says, count in counts.items() if count)),
        )
