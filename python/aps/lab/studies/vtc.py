"""The workloads on which VTC was published: its qualitative results, and its bound beside ours.

Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024 (arXiv 2401.00588), section 5.2 and theorem
4.4. What they measured, on an A10G, is computed from the files of the artifact, github.com/Ying1123/VTC-artifact,
commit 192c2e2, `fair_bench/*/all_results_*.jsonl`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from aps.lab import describe
from aps.lab.figures import figures
from aps.lab.parallel import Parallel
from aps.lab.progress import Progress
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.studies.capacity import capacity
from aps.lab.studies.results import HERE, judged, panel, plot, result, table
from aps.lab.studies.vtc_service import PRICES, difference, mean_ttft_s, our_bound, shares, their_bound
from aps.policy import Policy
from aps.profiles import profile_named

PROFILE = "a100-llama2-7b"
POLICIES = {"vtc": Policy.vtc(**PRICES), "fifo": Policy.fifo(**PRICES), "aps": Policy.aps(**PRICES)}
SEEDS = 3
POINTS = 4096  # bins of a run, in which differences of service are looked for
TENTH = 0.1
EVEN = 0.02  # of a share

DEFINITIONS = {
    "service": "prompt + 2 x output tokens computed for a client, over its weight where clients have weights",
    "difference": "the most by which the service of two clients grew apart over any stretch throughout which both had "
    f"requests waiting, the worst pair; looked for in steps of a {POINTS}th part of the run",
    "their bound": "2 max(w_p L, w_q M), theorem 4.4, over the least weight: w_p = 1, w_q = 2; L the longest prompt; M "
    "the most tokens of a running batch, slots times the longest prompt + output or the KV cache",
    "our bound": "2 (D + c_max + F c') over the least weight (docs/promises.md, service delivered): D the window, "
    "c_max the largest charge at a dispatch and the surplus in flight, F the slots, c' the largest charge of a request",
    "gap": "the most that a contending client's charged service was ahead of the least served one, in its own cost, "
    "over its bound D + c_max",
    "mean TTFT": "arrival to first token over a client's requests; one without a token by the end counts with the time "
    "until then",
}

SHOWN = ("workload", "policy", "difference", "their_bound", "our_bound", "shares", "mean_ttft_s")

Runs = Mapping[str, Run]
Rows = list[dict[str, Any]]


class Case(NamedTuple):
    """A published workload. published: what they found there, with their figures. judge: rows about our runs."""

    scenario: str
    variant: str | None
    published: str
    judge: Callable[[Runs], Rows]

    @property
    def name(self) -> str:
        return self.scenario.removeprefix("vtc-") + (f", {self.variant}" if self.variant else "")


def study(seeds: int = SEEDS, *, parallel: Parallel = HERE, on_progress: Progress | None = None) -> dict[str, Any]:
    """Every published workload under VTC, FIFO and APS at the paper's prices, at the published load of the device.

    Seeds differ in the arrivals; what is judged must hold on each, and the worst is reported. The tables: seed 0.
    """
    setup = Setup(profile=profile_named(PROFILE))
    per_s = capacity(SCENARIOS["vtc-overload"].build(0), setup)
    keys = list(product(range(len(CASES)), range(seeds)))
    found = parallel.map(partial(_play, setup, per_s), keys, on_progress)
    claims, bounds, tables = zip(*found, strict=True)
    records = [record for (_, seed), rows in zip(keys, tables, strict=True) if seed == 0 for record in rows]
    return result(
        "vtc",
        "VTC's published workloads",
        [*_worst(claims), *_worst(bounds)],
        [
            table(
                "vtc_published", "What was published", [{"workload": c.name, "published": c.published} for c in CASES]
            ),
            table("vtc", "What we get", records, SHOWN),
        ],
        [_plot(records)],
        [_sentence(records)],
        DEFINITIONS,
        capacity_per_s=per_s,
        seeds=seeds,
        setup=describe.setup(setup),
    )


def _play(setup: Setup, per_s: float, key: tuple[int, int]) -> tuple[Rows, Rows, Rows]:
    """Of one workload with one seed: what is judged of its claim, and of the bounds; a record a policy."""
    at, seed = key
    case = CASES[at]
    variant = {"variant": case.variant} if case.variant else {}
    workload = SCENARIOS[case.scenario].build(seed, capacity_per_s=per_s, **variant)
    runs = {name: simulate(workload, policy, setup, points=POINTS) for name, policy in POLICIES.items()}
    rows = [{**row, "name": f"{case.name}: {row['name']}"} for row in case.judge(runs)]
    return rows, _bounds(runs), [_record(case, name, run) for name, run in runs.items()]


def _worst(found: Iterable[Rows]) -> Rows:
    """Of each thing that is judged the seed that fails, or comes nearest to failing."""
    worst: dict[str, dict[str, Any]] = {}
    for row in (row for rows in found for row in rows):
        before = worst.setdefault(row["name"], row)
        if _badness(row) > _badness(before):
            worst[row["name"]] = row
    return list(worst.values())


def _badness(row: Mapping[str, Any]) -> tuple[bool, float]:
    target, measured = row["target"], row["measured"]
    if target.startswith("at most"):
        off = measured
    elif target.startswith(("at least", "above")):
        off = -measured
    else:
        off = abs(measured - float(target.split()[0]))
    return not row["met"], off


# What is judged on one workload


def _fair(runs: Runs) -> Rows:
    """All clients are overloaded: VTC keeps them together, FIFO does not."""
    bound = their_bound(runs["vtc"])
    apart = difference(runs["fifo"]) / bound
    return [judged("FIFO: difference over their bound", "above 1", apart, apart > 1)]


def _even(runs: Runs) -> Rows:
    """Fair, and equal shares (of weighted service) over the whole run."""
    found = shares(runs["vtc"])
    off = float(np.abs(found - 1 / len(found)).max())
    return [*_fair(runs), judged("VTC: a client's share off an equal one", f"at most {EVEN}", off, off <= EVEN)]


def _isolated(*clients: int, since: float = 0.0) -> Callable[[Runs], Rows]:
    """These ask for less than their share: served at once under VTC, not under FIFO; and nothing is left idle."""

    def judge(runs: Runs) -> Rows:
        begin_s = since * runs["vtc"].workload.until_s
        ours, fifo = (mean_ttft_s(runs[name], begin_s) for name in ("vtc", "fifo"))
        part = max(ours[client] / fifo[client] for client in clients)
        kept = runs["vtc"].output_tokens / runs["fifo"].output_tokens
        return [
            judged("mean TTFT below the share, VTC over FIFO", f"at most {TENTH}", part, part <= TENTH),
            judged("output tokens, VTC over FIFO", "at least 0.99", kept, kept >= 0.99),
        ]

    return judge


def _shift(runs: Runs) -> Rows:
    """Who asked for less before is not paid back: equal service as soon as both ask for more than their share."""
    first = float(shares(runs["vtc"], 330.0, 600.0)[0])
    return [judged("VTC: client 1's share from 330 to 600 s", f"0.5 +- {EVEN}", first, abs(first - 0.5) <= EVEN)]


def _weighted(runs: Runs) -> Rows:
    """Shares as the weights; with all weights 1 the fourth client gets no more than the others."""
    run = runs["vtc"]
    plain = run.workload.with_tenants([replace(tenant, weight=1.0) for tenant in run.workload.tenants])
    unweighted = float(shares(simulate(plain, run.policy, run.setup, points=POINTS))[-1])
    return [
        _even(runs)[-1],
        judged("unweighted VTC: client 4's share", "at most 0.3", unweighted, unweighted <= 0.3),
    ]


def _bounds(runs: Runs) -> Rows:
    vtc = difference(runs["vtc"])
    theirs, ours = vtc / their_bound(runs["vtc"]), vtc / our_bound(runs["vtc"])
    aps = difference(runs["aps"]) / our_bound(runs["aps"])
    gap = max(runs[name].widest_gap / runs[name].gap_bound for name in ("vtc", "aps"))
    return [
        judged("VTC: difference over their bound, the worst", "at most 1", theirs, theirs <= 1),
        judged("VTC: difference over our bound, the worst", "at most 1", ours, ours <= 1),
        judged("APS: difference over our bound, the worst", "at most 1", aps, aps <= 1),
        judged("VTC and APS: gap over its bound, the worst", "at most 1", gap, gap <= 1),
    ]


CASES = (
    Case("vtc-overload", "two", "both get the same, FCFS serves by demand (241,021 and 241,920; 262,110 apart)", _even),
    Case("vtc-overload", "eight", "all eight get the same (3,705 apart; FCFS 24,072)", _even),
    Case(
        "vtc-proportional",
        None,
        "clients below their share are served at once (mean TTFT 4.8, 4.9 and 124 s; FCFS 97, 97 and 96 s)",
        _isolated(0, 1),
    ),
    Case(
        "vtc-on-off",
        "less",
        "an on-off client below its share is served at once, the other gets the rest (3.5, 102 s; FCFS 85, 93 s)",
        _isolated(0),
    ),
    Case("vtc-on-off", "overload", "the same for both, through the pauses (8,827 apart; FCFS 378,500)", _fair),
    Case("vtc-poisson", "short-long", "the same for short and long requests (18,014 apart; FCFS 220,526)", _fair),
    Case(
        "vtc-poisson", "input-output", "the same for long prompts and long outputs (41,509 apart; FCFS 339,047)", _fair
    ),
    Case(
        "vtc-rising",
        None,
        "a steady client does not feel the rising one (mean TTFT 0.35 s; FCFS 7.2 s; in the last quarter 0.5 and 26 s)",
        _isolated(0, since=0.75),
    ),
    Case(
        "vtc-shift",
        None,
        "no debt from the first phase: client 1 gets 50 % from 330 to 600 s (57 % under LCF, which lifts no counter)",
        _shift,
    ),
    Case(
        "vtc-weighted", None, "service as the weights, 1 : 2.00 : 3.00 : 4.01; 1.03 : 1 : 1 : 1.02 without", _weighted
    ),
)


def _record(case: Case, policy: str, run: Run) -> dict[str, Any]:
    apart = difference(run)
    bound = our_bound(run)
    whole = figures(run)["whole"]
    return {
        "workload": case.name,
        "policy": policy,
        "difference": apart,
        "their_bound": their_bound(run) if policy == "vtc" else None,
        "our_bound": None if np.isinf(bound) else bound,
        "gap_part": None if np.isinf(bound) else run.widest_gap / run.gap_bound,
        "shares": " ".join(f"{share:.1%}" for share in shares(run)),
        "mean_ttft_s": " ".join(f"{seconds:.2f}" for seconds in mean_ttft_s(run)),
        "output_tokens_per_s": whole["output_tokens_per_s"],
    }


def _plot(records: Rows) -> dict[str, Any]:
    by = {policy: [row for row in records if row["policy"] == policy] for policy in POLICIES}
    bounds = [row["their_bound"] for row in by["vtc"]]
    return plot(
        "vtc",
        "How far apart does two clients' service come, over the bound of VTC's authors?",
        [row["workload"] for row in by["vtc"]],
        [
            panel(
                f"{policy}: difference / bound",
                [row["difference"] / bound for row, bound in zip(rows, bounds, strict=True)],
                better="lower",
            )
            for policy, rows in by.items()
        ],
        ["published workloads"] * len(bounds),
    )


def _sentence(records: Rows) -> str:
    worst = max(
        (row for row in records if row["policy"] == "vtc"), key=lambda row: row["difference"] / row["their_bound"]
    )
    return (
        f"VTC's largest difference is {worst['difference']:,.0f} of the {worst['their_bound']:,.0f} that its authors "
        f"prove ({worst['workload']}) and of the {worst['our_bound']:,.0f} that ours allows."
    )
