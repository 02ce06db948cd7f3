"""What a comparison says, in words: nothing that its paired intervals do not support."""

from collections.abc import Iterator, Mapping, Sequence
from math import floor, log10
from typing import Any, Literal, NamedTuple

FEW_TENANTS = 6  # so many are named one by one
THROUGHPUT = "throughput"
SAME = 0.005  # relative; differences within it are called equal to within 0.5 %

Kind = Literal["better", "worse", "equal", "same", "untold"]


class Question(NamedTuple):
    """A figure that is looked at. keys: as in the differences. what: in words. more: whether more is better."""

    keys: tuple[str, ...]
    what: str
    more: bool
    unit: str


class Answer(NamedTuple):
    """kind: "equal": in every pair; "same": within 0.5 %; "untold": the interval includes zero."""

    keys: tuple[str, ...]
    kind: Kind
    what: str
    amount: str


def verdict(data: Mapping[str, Any]) -> list[str]:
    """Sentences about a comparison's data (see `aps.lab.compare.compare`): first how to read them, then each policy's.

    With several seeds a difference is stated only where the 95 % intervals of the paired difference and of its ratio to
    the baseline exclude zero; with one, it is marked as one run.
    """
    questions = list(_questions(data))
    if not data["differences"]:
        return ["One policy: nothing to hold it against."]
    seeds = len(data["seeds"])
    if seeds == 1:
        first = "One run of each policy: no intervals, another seed or trace may say otherwise."
    else:
        first = (
            f"Differences are taken pair by pair over {seeds} seeds; (a to b) is the 95 % confidence interval. Of "
            f"{len(questions) * len(data['differences'])} differences looked at, one in twenty would seem "
            "real by chance where there is none."
        )
    return [first, *(_sentence(name, found, questions, data) for name, found in data["differences"].items())]


def _questions(data: Mapping[str, Any]) -> Iterator[Question]:
    tenants = [tenant["name"] for tenant in data["workload"]["tenants"]]
    judged = any(bound is not None for bound in data["slo"].values())
    for name in tenants:
        yield Question(("tenants", name, "queue_wait_s", "p99"), f"{name} p99 queue wait", False, " s")
        yield Question(("tenants", name, "ttft_s", "p99"), f"{name} p99 TTFT", False, " s")
        if judged:
            yield Question(("tenants", name, "slo_share"), f"{name} requests within the SLO", True, "")
    yield Question(("whole", "starvation_s"), "longest starvation", False, " s")
    yield Question(("whole", "tokens_per_s"), THROUGHPUT, True, " tokens/s")


def _sentence(name: str, differences: Sequence[Any], questions: Sequence[Question], data: Mapping[str, Any]) -> str:
    base = data["baseline"]
    found = {tuple(difference["keys"]): difference for difference in differences}
    asked = [question for question in questions if question.keys in found]
    answers = [_answer(question, found[question.keys]) for question in asked]
    run = " (one run)" if len(data["seeds"]) == 1 else ""
    if all(answer.kind == "equal" for answer in answers):
        return f"{name}{run} is equal to {base} in each of the {len(answers)} figures looked at."
    crowd = len(data["workload"]["tenants"]) > FEW_TENANTS
    tenants = [answer for answer in answers if answer.keys[0] == "tenants"]
    rest = [answer for answer in answers if answer.keys[0] != "tenants" and answer.what != THROUGHPUT]
    throughput = [answer for answer in answers if answer.what == THROUGHPUT]
    named = rest if crowd else [*_without_repeats(tenants), *rest]
    parts = []
    for kind, words in (("better", "beats {base} on"), ("worse", "is behind {base} on")):
        those = [f"{answer.what} {answer.amount}" for answer in named if answer.kind == kind]
        if those:
            parts.append(f"{words.format(base=base)} {', '.join(those)}")
    if crowd:
        parts += _crowd(tenants)
    parts += [
        f"{'gains' if answer.kind == 'better' else 'costs'} throughput {answer.amount}"
        for answer in throughput
        if answer.kind in ("better", "worse")
    ]
    for kind, words in (("equal", "equal"), ("same", "equal to within 0.5 %"), ("untold", "not told apart")):
        those = [answer.what for answer in (*named, *throughput) if answer.kind == kind]
        if those:
            parts.append(f"{words}: {', '.join(those)}")
    return f"{name}{run} {'; '.join(parts)}."


def _without_repeats(answers: Sequence[Answer]) -> Iterator[Answer]:
    """A tenant's TTFT is told only where it says something else than its queue wait."""
    waits = {answer.keys[1]: answer.kind for answer in answers if "queue_wait_s" in answer.keys}
    for answer in answers:
        if "ttft_s" not in answer.keys or waits.get(answer.keys[1]) != answer.kind:
            yield answer


def _crowd(answers: Sequence[Answer]) -> Iterator[str]:
    """Too many tenants to name: how many fare better."""
    kinds: dict[str, list[Kind]] = {}
    for answer in answers:
        kinds.setdefault(answer.what.removeprefix(f"{answer.keys[1]} "), []).append(answer.kind)
    if kinds.get("p99 TTFT") == kinds.get("p99 queue wait"):
        kinds.pop("p99 TTFT", None)
    for what, found in kinds.items():
        better, worse = found.count("better"), found.count("worse")
        rest = len(found) - better - worse
        told = f"{what}: better for {better} of {len(found)} tenants, worse for {worse}"
        yield f"{told}, equal or not told apart for {rest}" if rest else told


def _answer(question: Question, found: Mapping[str, Any]) -> Answer:
    difference, relative = found["difference"], found["relative"]
    if difference["low"] == difference["high"] == 0.0:
        return Answer(question.keys, "equal", question.what, "")
    if difference["ci95"] is None:
        sure, within = difference["mean"] != 0.0, relative is not None and abs(relative["mean"]) <= SAME
    else:
        intervals = [one["ci95"] for one in (difference, relative) if one is not None]
        sure = all(low > 0 for low, _ in intervals) or all(high < 0 for _, high in intervals)
        within = relative is not None and -SAME <= relative["ci95"][0] <= relative["ci95"][1] <= SAME
    kind: Kind = "better" if (difference["mean"] > 0) == question.more else "worse"
    if within or not sure:
        kind = "same" if within else "untold"
    return Answer(question.keys, kind, question.what, _amount(question, found))


def _amount(question: Question, found: Mapping[str, Any]) -> str:
    """ "by 38 % (31 to 45 %)"; "(3.2 times as much, 2.9 to 3.6)" above twice; in units where there is no ratio."""
    relative = found["relative"]
    if relative is None:
        return f"by {_three(abs(found['difference']['mean']))}{question.unit}" + _between(
            found["difference"]["ci95"], found["difference"]["mean"], 1.0, question.unit
        )
    if relative["mean"] > 1.0:
        interval = relative["ci95"]
        between = "" if interval is None else f", {_three(1 + interval[0])} to {_three(1 + interval[1])}"
        return f"({_three(1 + relative['mean'])} times as much{between})"
    return f"by {_percent(abs(relative['mean']))} %" + _between(relative["ci95"], relative["mean"], 100.0, " %")


def _between(interval: Sequence[float] | None, mean: float, scale: float, unit: str) -> str:
    if interval is None:
        return ""
    low, high = sorted(bound * scale * (1 if mean > 0 else -1) for bound in interval)
    show = _whole if scale != 1.0 else _three
    return f" ({show(low)} to {show(high)}{unit})"


def _percent(share: float) -> str:
    return _whole(share * 100)


def _whole(percent: float) -> str:
    """Whole per cent; one decimal below 10 and above 99."""
    return f"{percent:.1f}" if abs(percent) < 10 or abs(percent) > 99 else f"{percent:.0f}"


def _three(value: float) -> str:
    """Three digits that count, no exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.{max(0, 2 - floor(log10(abs(rounded))))}f}" if rounded else "0"
