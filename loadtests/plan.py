"""What a load test sends and what must come out of it: `profiles.toml`, checked."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

OWN = Path(__file__).with_name("profiles.toml")
ROLES = ("vip", "free", "bursty", "abusive")
DEFAULT = "mixed"


class PlanError(ValueError):
    """The file, or what was asked of it, is wrong; the message names where."""


@dataclass(frozen=True)
class Role:
    """How the users of one kind of tenant behave. Seconds are the client's."""

    bid: int = 5
    prompt_tokens: tuple[int, int] = (64, 256)
    max_tokens: tuple[int, int] = (32, 96)
    think_s: float = 0.0
    stream: float = 0.0
    at_once: int = 1
    every_s: float = 0.0
    obeys: bool = True


@dataclass(frozen=True)
class Step:
    """From `at` on (a part of the run) `users` more of `role`, or `leave` fewer, the last that came first."""

    at: float
    role: str = ""
    users: int = 0
    leave: int = 0
    phase: str = ""


@dataclass(frozen=True)
class Thresholds:
    """What must hold; None or empty: not judged. `p99_ratio`: role -> limit, and the phases under `of` and `to`."""

    errors: float | None = None
    requests_per_s: float | None = None
    output_tokens_per_s: float | None = None
    jain: float | None = None
    p99_s: Mapping[str, float] = field(default_factory=dict)
    ttft_p99_s: Mapping[str, float] = field(default_factory=dict)
    p99_ratio: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """One named load."""

    name: str
    says: str
    seconds: float
    roles: Mapping[str, Role]
    steps: tuple[Step, ...]
    thresholds: Thresholds

    def phase(self, elapsed_s: float) -> str:
        """The name of the phase at this time; empty when the profile has none."""
        names = [step.phase for step in self.steps if step.phase and step.at * self.seconds <= elapsed_s]
        return names[-1] if names else next((step.phase for step in self.steps if step.phase), "")


def read_profiles(path: Path = OWN) -> dict[str, Profile]:
    """Every profile of a file. PlanError names the file and the key that is wrong."""
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PlanError(f"{path}: {error}") from error
    try:
        _known(document, {"roles", "profiles"}, "the file")
        roles = _roles({name: Role() for name in ROLES}, document.get("roles", {}), "roles")
        return {name: _profile(name, table, roles) for name, table in document.get("profiles", {}).items()}
    except (PlanError, TypeError) as error:
        raise PlanError(f"{path}: {error}") from error


def chosen(environ: Mapping[str, str] = os.environ) -> Profile:
    """The profile that `APS_LOAD_PROFILE` names, of `APS_LOAD_PROFILES`, `APS_LOAD_SECONDS` long. PlanError."""
    profiles = read_profiles(Path(environ.get("APS_LOAD_PROFILES", OWN)))
    name = environ.get("APS_LOAD_PROFILE", DEFAULT)
    if name not in profiles:
        raise PlanError(f"there is no profile {name!r}; there are {', '.join(profiles)}")
    profile = profiles[name]
    seconds = environ.get("APS_LOAD_SECONDS")
    if seconds is None:
        return profile
    try:
        return replace(profile, seconds=_between(float(seconds), 1.0, 1e6, "APS_LOAD_SECONDS"))
    except ValueError as error:
        raise PlanError(f"APS_LOAD_SECONDS must be a number of seconds from 1 up, got {seconds!r}") from error


def _profile(name: str, table: dict[str, Any], roles: Mapping[str, Role]) -> Profile:
    where = f"profiles.{name}"
    _known(table, {"says", "seconds", "steps", "roles", "thresholds"}, where)
    steps = tuple(_step(step, f"{where}.steps[{at}]") for at, step in enumerate(table.get("steps", [])))
    if not steps or any(a.at > b.at for a, b in pairwise(steps)):
        raise PlanError(f"{where}.steps: at least one, in the order of their `at`")
    there = 0
    for step in steps:
        there += step.users - step.leave
        if there < 1:
            raise PlanError(f"{where}.steps: nobody would be left at {step.at:g}")
    thresholds = table.get("thresholds", {})
    _known(thresholds, {field.name for field in fields(Thresholds)}, f"{where}.thresholds")
    for key in ("p99_s", "ttft_p99_s", "p99_ratio"):
        _known(thresholds.get(key, {}), {*ROLES, *(("of", "to") if key == "p99_ratio" else ())}, f"{where}.{key}")
    return Profile(
        name,
        str(table.get("says", "")),
        _between(table.get("seconds", 60.0), 1.0, 1e6, f"{where}.seconds"),
        _roles(roles, table.get("roles", {}), f"{where}.roles"),
        steps,
        Thresholds(**thresholds),
    )


def _roles(before: Mapping[str, Role], tables: dict[str, Any], where: str) -> dict[str, Role]:
    _known(tables, set(ROLES), where)
    return {name: _role(role, tables.get(name, {}), f"{where}.{name}") for name, role in before.items()}


def _role(role: Role, table: dict[str, Any], where: str) -> Role:
    _known(table, {field.name for field in fields(Role)}, where)
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    changed = replace(role, **given)
    for key in ("prompt_tokens", "max_tokens"):
        least, most = getattr(changed, key)
        if not 1 <= least <= most:
            raise PlanError(f"{where}.{key}: the least and the most, 1 or more, got {[least, most]}")
    _between(changed.bid, 1, 10, f"{where}.bid")
    _between(changed.stream, 0, 1, f"{where}.stream")
    _between(changed.at_once, 1, 10_000, f"{where}.at_once")
    return changed


def _step(table: dict[str, Any], where: str) -> Step:
    _known(table, {field.name for field in fields(Step)}, where)
    step = Step(**table)
    _between(step.at, 0, 1, f"{where}.at")
    comes, goes = step.role in ROLES and step.users > 0, step.leave > 0 and not step.role
    if not ((comes and not step.leave) or (goes and not step.users)):
        raise PlanError(f"{where}: either `role` (one of {', '.join(ROLES)}) and `users`, or `leave`; got {table}")
    return step


def _known(table: Mapping[str, Any], names: set[str], where: str) -> None:
    if unknown := sorted(set(table) - names):
        raise PlanError(f"{where} has no {unknown[0]!r}; it has {', '.join(sorted(names))}")


def _between(value: float, least: float, most: float, where: str) -> float:
    if not least <= value <= most:
        raise PlanError(f"{where} must be {least:g} to {most:g}, got {value!r}")
    return value
