"""Load on a running service of APS, by tenant: `locust -f loadtests/locustfile.py --host http://127.0.0.1:8000`.

`--load-profile NAME` and `--seconds N` choose what is sent (profiles.toml); `callers.py` says where tenants and keys
come from; README.md has the method. HTTP only: nothing of aps is imported. With `--headless` the exit code is 1 when
a threshold is missed.
"""

import json
import os
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

import gevent
from geventhttpclient import HTTPClient
from locust import LoadTestShape, User, events
from locust.env import Environment
from locust.runners import LocalRunner

sys.path.append(str(Path(__file__).resolve().parents[1]))

from loadtests.callers import Caller, callers, metrics_headers
from loadtests.figures import REFUSALS, Check, Tally, judge, rows, weighted_jain
from loadtests.plan import PlanError, Profile, Role, chosen

TIMEOUT_S = 120.0
LONGEST_WAIT_S = 30.0  # a user that obeys waits no longer than that
SPAWN_PER_S = 100.0
JSON_BODY = {"Content-Type": "application/json"}


class Run:
    """One run: what is sent, by whom, and what has come of it."""

    def __init__(self, host: str, profile: Profile) -> None:
        self.host, self.profile, self.callers = host.rstrip("/"), profile, callers()
        self.tally = Tally()
        self.before = _scrape(self.host)
        self.began = time.perf_counter()

    def phase(self) -> str:
        return self.profile.phase(time.perf_counter() - self.began)

    def end(self) -> dict[str, Any]:
        """The figures and the verdict, as plain data."""
        seconds = time.perf_counter() - self.began
        fairness, shared_s = None, 0.0
        if self.before is not None and (after := _scrape(self.host)) is not None:
            tenants = [self.callers[role].tenant for role in self.tally.roles()]
            fairness, shared_s = weighted_jain(self.before, after, tenants)
        checks = judge(self.tally, self.profile.thresholds, seconds, fairness)
        whole = self.tally.of()
        return {
            "profile": self.profile.name,
            "says": self.profile.says,
            "host": self.host,
            "seconds": seconds,
            "requests_per_s": whole.completed / seconds,
            "output_tokens_per_s": whole.output_tokens / seconds,
            "jain": fairness,
            "all_wait_s": shared_s,
            "tenants": {role: caller.tenant for role, caller in self.callers.items()},
            "rows": rows(self.tally, seconds),
            "errors": dict(whole.errors),
            "checks": [check._asdict() for check in checks],
            "met": all(check.met for check in checks),
        }


RUN: Run | None = None
CODE: int | None = None  # of the process, once a verdict is there


class Steps(LoadTestShape):
    """The steps of the profile: more users of one role, or fewer of the last, as time goes on."""

    _done = _users = 0
    _classes: list[type[User]]

    def reset_time(self) -> None:
        """A new run begins with the next tick."""
        super().reset_time()
        global RUN
        RUN = None

    def tick(self) -> tuple[int, float, list[type[User]]] | None:
        if RUN is None:
            self._begin()
        assert RUN is not None
        elapsed, profile = time.perf_counter() - RUN.began, RUN.profile
        if elapsed >= profile.seconds:
            return None
        due = [step for step in profile.steps if step.at * profile.seconds <= elapsed]
        if len(due) > self._done:  # one a tick: Locust spawns users of one class exactly, of several by weights
            step = due[self._done]
            self._done += 1
            self._users += step.users - step.leave
            if step.role:
                self._classes = [CLASSES[step.role]]
        return self._users, SPAWN_PER_S, self._classes

    def _begin(self) -> None:
        global RUN
        assert self.runner is not None
        environment = self.runner.environment
        RUN = Run(environment.host or "http://127.0.0.1:8000", _chosen(environment))
        self._done, self._users, self._classes = 0, 0, [Vip]


class Tenant(User):
    """One user of a tenant. Sends, waits for the answer, thinks, and again."""

    abstract = True
    role_name: ClassVar[str]

    def on_start(self) -> None:
        assert RUN is not None
        self.run_, self.role = RUN, RUN.profile.roles[self.role_name]
        self.caller: Caller = RUN.callers[self.role_name]
        self._http = HTTPClient.from_url(
            RUN.host, concurrency=self.role.at_once, connection_timeout=10.0, network_timeout=TIMEOUT_S
        )

    def on_stop(self) -> None:
        self._http.close()

    def wait(self) -> None:
        """Nothing: tasks pause themselves."""

    def again(self) -> None:
        role = self.role
        began = time.perf_counter()
        if role.at_once == 1:
            waits = [self.send()]
        else:
            together = [gevent.spawn(self.send) for _ in range(role.at_once)]
            waits = [sent.value or 0.0 for sent in gevent.joinall(together)]
        pause = random.expovariate(1 / role.think_s) if role.think_s else 0.0
        if role.every_s:
            pause = max(pause, role.every_s - (time.perf_counter() - began))
        if role.obeys:
            pause = max(pause, min(LONGEST_WAIT_S, max(waits)))
        gevent.sleep(pause)

    tasks = [again]  # noqa: RUF012

    def send(self) -> float:
        """One request, counted; the seconds after which to try again, 0 when it was not refused."""
        role, phase = self.role, self.run_.phase()
        streams = random.random() < role.stream
        cell = self.run_.tally.cell(self.role_name, phase)
        name = f"{self.caller.tenant} ({phase})" if phase else self.caller.tenant
        began = time.perf_counter()
        status, error, retry_after, length = 0, None, 0.0, 0
        try:
            status, answer, first_s = self._post(_body(role, self.caller.tenant, streams), streams)
            length = len(str(answer))
            if status in REFUSALS:
                retry_after = float(answer["error"].get("retry_after_s", 1.0))
            elif status != 200 or "error" in answer:
                error = f"{status} {answer['error']['reason']}"
            elif answer["output_tokens"] < 1:
                error = "no output"
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
        took = time.perf_counter() - began
        cell.sent += 1
        if error is not None:
            cell.errors[error] += 1
        elif status in REFUSALS:
            cell.refused[status] += 1
            cell.retry_after_s.append(retry_after)
        else:
            cell.completed += 1
            cell.prompt_tokens += answer["prompt_tokens"]
            cell.output_tokens += answer["output_tokens"]
            cell.e2e_s.append(took)
            if first_s is not None:
                cell.ttft_s.append(first_s)
        self.environment.events.request.fire(
            request_type=str(status) if status in REFUSALS else "SSE" if streams else "POST",
            name=name,
            response_time=took * 1000,
            response_length=length,
            exception=None if error is None else RuntimeError(error),
            context={},
        )
        return retry_after

    def _post(self, body: bytes, streams: bool) -> tuple[int, dict[str, Any], float | None]:
        """Status, answer (of a stream: its last event's), and the seconds to the first token of a stream."""
        began = time.perf_counter()
        reply = self._http.post("/infer", body=body, headers={**JSON_BODY, **self.caller.headers})
        status = reply.get_code()
        if not streams or "event-stream" not in str(reply.get("content-type", "")):
            return status, json.loads(reply.read()), None
        first_s, last = None, b""
        while event := bytes(reply.readline(b"\n\n")):
            if event.startswith(b":") or event == b"data: [DONE]\n\n":
                continue
            if first_s is None:
                first_s = time.perf_counter() - began
            last = event
        return status, json.loads(last.partition(b"data: ")[2]), first_s


class Vip(Tenant):
    """Urgent and interactive."""

    role_name = "vip"


class Free(Tenant):
    """Takes what there is."""

    role_name = "free"


class Bursty(Tenant):
    """Many at once, then nothing."""

    role_name = "bursty"


class Abusive(Tenant):
    """Beyond its limit, whatever Retry-After says."""

    role_name = "abusive"


CLASSES: dict[str, type[User]] = {kind.role_name: kind for kind in (Vip, Free, Bursty, Abusive)}


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("APS")
    group.add_argument("--load-profile", env_var="APS_LOAD_PROFILE", default="", help="of profiles.toml (mixed)")
    group.add_argument("--seconds", env_var="APS_LOAD_SECONDS", default="", help="in place of the profile's")
    group.add_argument("--figures", env_var="APS_LOAD_FIGURES", default="", help="a file for figures and verdict, JSON")


@events.init.add_listener
def _check(environment: Environment, **_: Any) -> None:
    try:
        callers()
        _chosen(environment)
    except PlanError as error:
        print(f"loadtests: {error}", file=sys.stderr)
        sys.exit(2)


@events.test_stop.add_listener
def _verdict(environment: Environment, **_: Any) -> None:
    global CODE
    if not isinstance(environment.runner, LocalRunner):
        print("loadtests: thresholds are judged in one process; these are Locust's tables alone", file=sys.stderr)
        CODE = 2
        return
    if RUN is None:
        return
    data = RUN.end()
    CODE = 0 if data["met"] else 1
    _print(data)
    if file := getattr(environment.parsed_options, "figures", ""):
        Path(file).write_text(json.dumps(data, indent=2))


@events.quitting.add_listener
def _exit_code(environment: Environment, **_: Any) -> None:
    environment.process_exit_code = 1 if CODE is None else CODE


def _chosen(environment: Environment) -> Profile:
    options = environment.parsed_options
    given = {"APS_LOAD_PROFILE": "load_profile", "APS_LOAD_SECONDS": "seconds"}
    asked = {name: getattr(options, option, "") for name, option in given.items()}
    return chosen({**os.environ, **{name: value for name, value in asked.items() if value}})


def _body(role: Role, tenant: str, streams: bool) -> bytes:
    fields = {
        "tenant_id": tenant,
        "prompt_tokens": random.randint(*role.prompt_tokens),
        "max_tokens": random.randint(*role.max_tokens),
        "bid": role.bid,
        "stream": streams,
    }
    return json.dumps(fields).encode()


def _scrape(host: str) -> str | None:
    """GET /metrics; None when it may not be read."""
    request = urllib.request.Request(f"{host}/metrics", headers=metrics_headers())
    try:
        with urllib.request.urlopen(request, timeout=10) as page:
            text: str = page.read().decode()
            return text
    except (OSError, ValueError) as error:
        print(f"loadtests: {host}/metrics: {error}", file=sys.stderr)
        return None


COLUMNS = {
    "tenant": "role",
    "phase": "phase",
    "sent": "sent",
    "completed": "completed",
    "refused": "refused",
    "errors": "errors",
    "output tokens/s": "output_tokens_per_s",
    "p50, s": "p50_s",
    "p99, s": "p99_s",
    "1st token p99, s": "ttft_p99_s",
}


def _print(data: dict[str, Any]) -> None:
    print(f"\n{data['profile']}: {data['says']}; {data['seconds']:.0f} s against {data['host']}")
    print("  ".join(f"{name:>15}" for name in COLUMNS))
    for row in data["rows"]:
        print("  ".join(f"{_text(row[key]):>15}" for key in COLUMNS.values()))
    for check in data["checks"]:
        print(Check(**check))
    for error, count in data["errors"].items():
        print(f"  {count} x {error}")
    print(f"{data['profile']}: {'PASSED' if data['met'] else 'FAILED'}", flush=True)


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
