"""The policies that are compared, by name: points on the plane of the two knobs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from aps.policy import Policy
from aps.tenants import Tenant


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy, what it is called and what it does.

    order: in words, whom it serves first. equal_weights: it takes every tenant's weight as 1.
    """

    name: str
    policy: Policy
    order: str
    equal_weights: bool = False

    @property
    def says(self) -> str:
        """The settings of the two knobs, and what they make: "H = 0 s, D = inf: arrival order"."""
        return f"{self.policy.knobs}: {self.order}"

    def tenants(self, tenants: Iterable[Tenant]) -> tuple[Tenant, ...]:
        """The tenants as this policy sees them."""
        return tuple(replace(tenant, weight=1.0) if self.equal_weights else tenant for tenant in tenants)


POLICIES = {
    named.name: named
    for named in (
        NamedPolicy("fifo", Policy.fifo(), "arrival order"),
        NamedPolicy("strict", Policy.strict(), "the highest bid first, for ever"),
        NamedPolicy("bids", Policy.bids(), "bids that age, no fairness between tenants"),
        NamedPolicy("vtc", Policy.vtc(), "the least served tenant first, all weights taken as 1", equal_weights=True),
        NamedPolicy("weighted-vtc", Policy.vtc(), "the tenant first that is least served for its weight"),
        NamedPolicy("aps", Policy.aps(), "bids that age, within a bounded gap of weighted service"),
    )
}


def parse(text: str) -> NamedPolicy:
    """A policy and changes of its fields: "aps", "aps:aging_horizon_s=60,fairness_window=4096".

    Raises ValueError naming the policy or key, the value and what is allowed.
    """
    name, _, changes = text.partition(":")
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {name!r}")
    known = POLICIES[name]
    if not changes:
        if ":" in text:
            raise ValueError(f"policy {text!r}: expected key=value after the colon")
        return known
    changed: dict[str, Any] = {}
    said = [known.order]
    for change in changes.split(","):
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"policy {text!r}: expected key=value, got {change!r}")
        if key not in _READERS:
            raise ValueError(f"policy {text!r}: key must be one of {', '.join(_READERS)}, got {key!r}")
        if key in changed:
            raise ValueError(f"policy {text!r}: {key} is given twice")
        changed[key] = _READERS[key](key, value)
        if key not in ("aging_horizon_s", "fairness_window"):  # the knobs are said anyway
            said.append(f"{key} = {value}")
    return NamedPolicy(text, replace(known.policy, **changed), ", ".join(said), known.equal_weights)


def spec_of(policy: Policy) -> str:
    """What `parse` makes the policy of, for tenants of their own weights."""
    for named in POLICIES.values():
        if named.policy == policy and not named.equal_weights:
            return named.name
    usual = Policy.aps()
    changed = {name: value for name in _READERS if (value := getattr(policy, name)) != getattr(usual, name)}
    return "aps:" + ",".join(f"{name}={'none' if value is None else value}" for name, value in changed.items())


def parse_list(text: str) -> tuple[NamedPolicy, ...]:
    """Several, in order: "fifo,strict,aps:aging_horizon_s=60,fairness_window=4096,vtc". ValueError as `parse`."""
    specs: list[str] = []
    for piece in text.split(","):
        if specs and "=" in piece and ":" not in piece:
            specs[-1] += f",{piece}"  # another key of the policy before
        else:
            specs.append(piece)
    found = tuple(parse(spec) for spec in specs)
    names = [named.name for named in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"each policy once, got {twice[0]!r} {names.count(twice[0])} times")
    return found


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"Policy.{key} must be a number, got {text!r}") from None


def _integer(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"Policy.{key} must be an integer, got {text!r}") from None


def _integer_or_none(key: str, text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"Policy.{key} must be an integer or none, got {text!r}") from None


def _word(key: str, text: str) -> str:
    return text


def _readers() -> dict[str, Callable[[str, str], Any]]:
    hints = get_type_hints(Policy)
    readers: dict[Any, Callable[[str, str], Any]] = {
        float: _number,
        int: _integer,
        int | None: _integer_or_none,
    }
    return {
        field.name: readers.get(hints[field.name], _word)
        for field in fields(Policy)
        if hints[field.name] in readers or all(isinstance(choice, str) for choice in get_args(hints[field.name]))
    }


_READERS = _readers()  # of every field of Policy, by its type
