"""From what a trace says to a workload: order, part, tenants, bids, lengths, rate. What is left out is counted."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab.traces.options import Purpose, TraceOptions
from aps.lab.traces.recorded import Recorded
from aps.lab.traces.source import TraceError
from aps.lab.traces.tenancy import assigned
from aps.lab.workload import Workload
from aps.tenants import Tenant

DEFAULT_BID = 5
LONGEST_S = 3e8  # what a workload may last
TIES = 0.5  # with more than this part of the gaps 0, times are taken for rounded
ROWS_TO_JUDGE = 100


class _Requests:
    """Columns of the rows still in, and the notes on those that are not."""

    def __init__(self, columns: Mapping[str, NDArray[Any] | None]) -> None:
        self.columns = {name: column for name, column in columns.items() if column is not None}
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.columns["at_s"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def wanted(self) -> dict[str, Any]:
        """The columns of a workload."""
        return {name: column for name, column in self.columns.items() if name != "lines"}

    def take(self, which: NDArray[Any] | slice) -> None:
        self.columns = {name: column[which] for name, column in self.columns.items()}

    def leave_out(self, which: NDArray[np.bool_], why: str) -> None:
        count = int(np.count_nonzero(which))
        if count:
            self.notes.append(f"{count:,} of {len(self):,} rows left out: {why}")
            self.take(~which)


def assemble(recorded: Recorded, options: TraceOptions) -> Workload:
    """Raises TraceError (what the file says) and ValueError (options that do not go with it)."""
    rows = _Requests(
        {
            "at_s": recorded.at_s,
            "prompt_tokens": recorded.prompt_tokens,
            "output_tokens": recorded.output_tokens,
            "tenant": recorded.tenant,
            "max_tokens": recorded.max_tokens,
            "bid": recorded.bid,
            "deadline_s": recorded.deadline_s,
            "lines": recorded.lines,
        }
    )
    _put_in_order(rows, recorded, options)
    tenants = _assign_tenants(rows, recorded, options)
    _cut_out_part(rows, options)
    _settle_zeros(rows, options)
    _set_lengths(rows, options)
    if options.limit is not None and len(rows) > options.limit:
        rows.leave_out(np.arange(len(rows)) >= options.limit, f"the limit is {options.limit:,} requests")
    if not len(rows):
        raise TraceError(recorded.name, "; ".join(["no request is left", *rows.notes]))
    _set_rate(rows, recorded, options)
    tenants = _set_bids_and_weights(rows, tenants, options)
    return Workload(
        name=recorded.name.rpartition("/")[2],
        description=f"{recorded.format}, {len(rows):,} requests over {rows['at_s'][-1]:,.0f} s",
        tenants=tenants,
        context_tokens=options.context_tokens,
        notes=(*recorded.notes, *rows.notes),
        **rows.wanted(),
    )


def _put_in_order(rows: _Requests, recorded: Recorded, options: TraceOptions) -> None:
    at_s = rows["at_s"]
    falls = np.flatnonzero(at_s[1:] < at_s[:-1])
    if len(falls):
        if not options.sort:
            row = int(falls[0]) + 1
            back_s = at_s[row - 1] - at_s[row]
            says = (
                f"times must not fall, this one is {back_s:.6g} s before the row above it (sort=yes puts them in order)"
            )
            raise TraceError(recorded.name, says, int(rows["lines"][row]))
        rows.take(np.argsort(at_s, kind="stable"))
        rows.notes.append(f"{len(falls):,} of {len(rows):,} rows were earlier than the row above them; sorted by time")
    if not recorded.generated:
        rows.columns["at_s"] = rows["at_s"] - rows["at_s"][0]
    if options.tick_s > 0:
        rows.columns["at_s"] = rows["at_s"] + options.rng(Purpose.TICKS).random(len(rows)) * options.tick_s
        rows.take(np.argsort(rows["at_s"], kind="stable"))
        rows.notes.append(f"arrivals spread evenly over {options.tick_s:g} s after the recorded instant (drawn)")
        return
    gaps = np.diff(rows["at_s"])
    ties = float(np.mean(gaps == 0)) if len(rows) >= ROWS_TO_JUDGE else 0.0
    if TIES < ties < 1:
        step = float(np.median(gaps[gaps > 0]))
        says = f"{ties:.0%} of the gaps are 0 and the usual step is {step:g} s: times look rounded"
        rows.notes.append(f"{says}; tick_s={step:g} spreads arrivals inside it")


def _assign_tenants(rows: _Requests, recorded: Recorded, options: TraceOptions) -> tuple[Tenant, ...]:
    rule = options.tenancy()
    if rule.rule == "column":
        if recorded.own:
            raise ValueError(f"tenants={options.tenants}: {recorded.format} has tenants of its own, and no columns")
        rows.notes.append(f"synthetic tenants: the values of {rule.column!r}")
        return recorded.tenants
    if rule.rule == "own" and recorded.own:
        return recorded.tenants
    if rule.rule == "own":
        rule = replace(rule, rule="single")
    names, rows.columns["tenant"] = assigned(rule, len(rows), options.rng(Purpose.TENANTS))
    how = {
        "single": "all requests are one tenant's",
        "round-robin": f"{rule.tenants} in turn",
        "zipf": f"{rule.tenants} drawn for each request, in proportion to rank ** -{rule.exponent:g}",
    }[rule.rule]
    own = f"; the trace's own {len(recorded.tenants)} are not used" if recorded.own else "; the trace names none"
    rows.notes.append(f"synthetic tenants: {how}{own}")
    return tuple(map(Tenant, names))


def _cut_out_part(rows: _Requests, options: TraceOptions) -> None:
    end_s = options.start_s + options.duration_s
    if options.start_s > 0 or end_s < inf:
        at_s = rows["at_s"]
        outside = (at_s < options.start_s) | (at_s >= end_s)
        until = "on" if end_s == inf else f"to {end_s:g} s"
        rows.leave_out(outside, f"outside the part from {options.start_s:g} s {until}")
        rows.columns["at_s"] = rows["at_s"] - options.start_s


def _settle_zeros(rows: _Requests, options: TraceOptions) -> None:
    for column, called in (("output_tokens", "output tokens"), ("prompt_tokens", "prompt tokens")):
        empty = rows[column] == 0
        if options.zero_tokens == "skip":
            rows.leave_out(empty, f"no {called}")
        elif count := int(np.count_nonzero(empty)):
            rows.columns[column] = np.maximum(rows[column], 1)
            rows.notes.append(f"{count:,} of {len(rows):,} rows have no {called}; counted as 1")


def _set_lengths(rows: _Requests, options: TraceOptions) -> None:
    output = rows["output_tokens"]
    if options.max_tokens is not None:
        limit = np.full(len(rows), options.max_tokens, dtype=np.int64)
    elif "max_tokens" in rows.columns and options.max_tokens_factor == 1:
        limit = rows["max_tokens"]
    else:
        limit = np.ceil(output * options.max_tokens_factor).astype(np.int64)
    if int(limit.max(initial=0)) > 2**31 - 1:
        raise ValueError(f"max_tokens_factor={options.max_tokens_factor:g} makes max_tokens of 2**31 and more")
    rows.columns["max_tokens"] = limit
    if cut := int(np.count_nonzero(output > limit)):
        rows.notes.append(f"{cut:,} outputs are longer than their max_tokens and end there")
    context = options.context_tokens
    if context is None:
        return
    over = rows["prompt_tokens"] + limit > context
    if options.over_context == "skip":
        rows.leave_out(over, f"prompt + max_tokens above the context of {context:,} tokens")
        return
    count = int(np.count_nonzero(over))
    if not count:
        return
    longer = f"{count:,} of {len(rows):,} requests are longer than the context of {context:,} tokens"
    if options.over_context == "reject":
        rows.notes.append(f"{longer}; they stay, for the scheduler to refuse")
        return
    rows.columns["max_tokens"] = np.minimum(limit, context - 1)
    rows.columns["prompt_tokens"] = np.minimum(rows["prompt_tokens"], context - rows["max_tokens"])
    rows.notes.append(f"{longer}; prompts cut to fit, and max_tokens where that alone does not")


def _set_rate(rows: _Requests, recorded: Recorded, options: TraceOptions) -> None:
    scale = options.rate_scale or 1.0
    if options.arrivals_per_s is not None and not recorded.generated:
        last_s = float(rows["at_s"][-1])
        if not last_s > 0:
            raise ValueError("arrivals_per_s needs arrivals at different times")
        scale = options.arrivals_per_s * last_s / len(rows)
    if scale != 1 and not recorded.generated:
        rows.columns["at_s"] = rows["at_s"] / scale
        rows.notes.append(f"times divided by {scale:.6g}")
    if not rows["at_s"][-1] <= LONGEST_S:
        says = f"the last request is {rows['at_s'][-1]:.3g} s after the start; expected at most {LONGEST_S:g} s"
        raise TraceError(recorded.name, says, int(rows["lines"][-1]) or None)


def _set_bids_and_weights(rows: _Requests, tenants: tuple[Tenant, ...], options: TraceOptions) -> tuple[Tenant, ...]:
    index = {tenant.name: at for at, tenant in enumerate(tenants)}
    for option, given in (("bids", options.bids), ("weights", options.weights)):
        unknown = sorted(set(given) - set(index))
        if unknown:
            known = ", ".join([*list(index)[:20], *(["..."] if len(index) > 20 else [])])
            raise ValueError(f"{option}: no tenant {unknown[0]!r}; there are {known}")
    bid = np.full(len(rows), DEFAULT_BID) if options.bid is None else np.full(len(rows), options.bid)
    if options.bid is None and "bid" in rows.columns:
        bid = rows["bid"].copy()
    for name, value in options.bids.items():
        bid[rows["tenant"] == index[name]] = int(value)
    rows.columns["bid"] = bid
    return tuple(replace(tenant, weight=options.weights.get(tenant.name, tenant.weight)) for tenant in tenants)
