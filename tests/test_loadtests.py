"""The load tests over HTTP: their plan, their verdict, and a short run against a real service."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadtests.books import astray, memory_verdict
from loadtests.callers import DEFAULT, callers, metrics_headers
from loadtests.figures import Tally, jain, judge, percentile, rows, weighted_jain
from loadtests.plan import ROLES, PlanError, Thresholds, chosen, read_profiles
from loadtests.run import PROFILES
from loadtests.soak import level
from tests.serving import serving

STEPS = '[profiles.x]\nsteps = [{ at = 0.0, role = "vip", users = 2 }]\n'


def test_the_profiles_of_the_file_are_complete() -> None:
    profiles = read_profiles()
    assert {"mixed", *PROFILES} <= set(profiles)
    for name in PROFILES:
        thresholds = profiles[name].thresholds
        assert profiles[name].seconds == 60.0 and thresholds.errors == 0.0 and thresholds.requests_per_s
        assert thresholds.p99_s
    assert profiles["steady"].thresholds.jain
    assert profiles["steady"].roles["vip"].think_s == 0.0 != profiles["burst"].roles["vip"].think_s


def test_a_phase_lasts_until_the_next_begins() -> None:
    noisy = read_profiles()["noisy"]
    assert [noisy.phase(at * noisy.seconds) for at in (0.0, 0.33, 0.35, 0.66, 0.9)] == [
        "quiet",
        "quiet",
        "noisy",
        "noisy",
        "after",
    ]
    assert read_profiles()["steady"].phase(10.0) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[profiles.x]\n", "profiles.x.steps: at least one"),
        ("speed = 1\n", "the file has no 'speed'"),
        (STEPS + "hurry = 1\n", "profiles.x has no 'hurry'"),
        (STEPS + "seconds = 0\n", "profiles.x.seconds must be 1 to"),
        (STEPS + "roles.vip.bid = 11\n", r"profiles.x.roles.vip.bid must be 1 to 10, got 11"),
        (STEPS + "roles.vip.prompt_tokens = [9, 3]\n", "profiles.x.roles.vip.prompt_tokens: the least and the most"),
        (STEPS + "roles.boss.bid = 1\n", "profiles.x.roles has no 'boss'"),
        (STEPS + "thresholds = { p99 = 1.0 }\n", "profiles.x.thresholds has no 'p99'"),
        (STEPS + "thresholds = { p99_s = { boss = 1.0 } }\n", "profiles.x.p99_s has no 'boss'"),
        (STEPS.replace("users = 2", "leave = 2"), r"steps\[0\]: either"),
        (STEPS.replace("2 }]", "2 }, { at = 0.5, leave = 2 }]"), "nobody would be left at 0.5"),
        (STEPS.replace("2 }]", "2 }, { at = -0.5, leave = 1 }]"), r"steps\[1\].at must be 0 to 1"),
        ("x = ", "Invalid value"),
    ],
)
def test_a_wrong_plan_says_where(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(text)
    with pytest.raises(PlanError, match=says) as caught:
        read_profiles(file)
    assert str(file) in str(caught.value)


def test_the_environment_chooses() -> None:
    assert chosen({}).name == "mixed"
    assert chosen({"APS_LOAD_PROFILE": "ramp", "APS_LOAD_SECONDS": "7"}).seconds == 7.0
    with pytest.raises(PlanError, match="no profile 'rush'; there are mixed"):
        chosen({"APS_LOAD_PROFILE": "rush"})
    for wrong in ("soon", "0", "nan"):
        with pytest.raises(PlanError, match=f"APS_LOAD_SECONDS must be .* got '{wrong}'"):
            chosen({"APS_LOAD_SECONDS": wrong})


def test_tenants_and_keys_come_from_the_environment(tmp_path: Path) -> None:
    found = callers({})
    assert {role: caller.tenant for role, caller in found.items()} == DEFAULT and set(found) == set(ROLES)
    assert all(not caller.headers for caller in found.values()) and not metrics_headers({})
    file = tmp_path / "tenants.toml"
    file.write_text('vip = "gold"\nfree = { tenant = "trial", key = "one" }\n')
    found = callers({"APS_LOAD_TENANTS": str(file), "APS_KEYS": "gold=two, tenant_b=three"})
    assert found["vip"] == ("gold", {"Authorization": "Bearer two"})
    assert found["free"] == ("trial", {"Authorization": "Bearer one"})
    assert found["abusive"] == ("tenant_b", {"Authorization": "Bearer three"})
    assert metrics_headers({"APS_ADMIN_KEY": "four"}) == {"Authorization": "Bearer four"}
    file.write_text("boss = 1\n")
    with pytest.raises(PlanError, match="boss: roles are vip"):
        callers({"APS_LOAD_TENANTS": str(file)})
    with pytest.raises(PlanError, match="APS_KEYS must be"):
        callers({"APS_KEYS": "gold"})


def test_percentiles_are_ranks() -> None:
    assert percentile(range(1, 101), 99) == 99
    assert percentile([5.0], 99) == 5.0
    assert percentile([], 50) is None


def tally() -> Tally:
    counted = Tally()
    for phase, seconds in (("quiet", 1.0), ("noisy", 3.0)):
        cell = counted.cell("vip", phase)
        cell.sent = cell.completed = 10
        cell.output_tokens, cell.e2e_s, cell.ttft_s = 100, [seconds] * 10, [0.1]
    noise = counted.cell("abusive", "noisy")
    noise.sent, noise.refused[429], noise.errors["500 internal"] = 20, 15, 5
    return counted


def test_thresholds_are_judged_one_by_one() -> None:
    thresholds = Thresholds(
        errors=0.1,
        requests_per_s=2.0,
        output_tokens_per_s=21.0,
        jain=0.9,
        p99_s={"vip": 3.0, "free": 1.0},
        ttft_p99_s={"vip": 0.05},
        p99_ratio={"of": "noisy", "to": "quiet", "vip": 2.5},
    )
    checks = {check.what: (check.measured, check.met) for check in judge(tally(), thresholds, 10.0, 0.95)}
    assert checks == {
        "errors, part of answers": (5 / 40, False),
        "completed requests/s": (2.0, True),
        "output tokens/s": (20.0, False),
        "Jain by weight, while all wait": (0.95, True),
        "p99 of vip, s": (3.0, True),
        "p99 of free, s": (None, False),  # what cannot be measured is missed
        "p99 of vip's first token, s": (0.1, False),
        "p99 of vip, noisy over quiet": (3.0, False),
    }
    assert judge(tally(), Thresholds(), 10.0, None) == []
    assert [check.met for check in judge(Tally(), Thresholds(errors=0.0, jain=0.5), 10.0, None)] == [False, False]


def test_rows_are_by_tenant_and_phase_and_then_by_tenant() -> None:
    found = rows(tally(), 10.0)
    assert [(row["role"], row["phase"], row["completed"]) for row in found] == [
        ("vip", "quiet", 10),
        ("vip", "noisy", 10),
        ("abusive", "noisy", 0),
        ("vip", "all", 20),
    ]
    assert (found[2]["refused"], found[2]["errors"], found[2]["p99_s"]) == (15, 5, None)


def test_fairness_is_of_tokens_over_weight_between_two_scrapes() -> None:
    def scrape(a: int, b: int, seconds: int) -> str:
        return (
            f'aps_shared_seconds_total {seconds}\naps_shared_tokens_total{{tenant="a"}} {a}\n'
            f'aps_shared_tokens_total{{tenant="b"}} {b}\n'
            'aps_tenant_weight{tenant="a"} 3\naps_tenant_weight{tenant="b"} 1\n'
        )

    fairness, shared_s = weighted_jain(scrape(0, 100, 5), scrape(300, 200, 9), ["a", "b"])
    assert fairness == pytest.approx(1.0) and shared_s == 4.0
    assert weighted_jain(scrape(0, 0, 0), scrape(300, 0, 9), ["a", "b"])[0] == 0.5
    assert weighted_jain("", "", ["a"]) == (None, 0.0)
    assert jain([1.0, 1.0, 2.0]) == pytest.approx(16 / 18)


SHORT = """
[profiles.short]
seconds = 2
steps = [{ at = 0.0, role = "vip", users = 4 }, { at = 0.2, role = "abusive", users = 2, phase = "noisy" }]
roles.vip = { think_s = 0.05, stream = 0.5, prompt_tokens = [10, 20], max_tokens = [4, 8] }
roles.abusive = { think_s = 0.05, prompt_tokens = [1000, 1000], max_tokens = [1000, 1000] }
thresholds = { errors = 0.0, requests_per_s = REQUESTS, p99_s = { vip = 60.0 } }
"""


@pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed (pip install 'aps-scheduler[load]')")
def test_a_short_run_of_locust_ends_with_its_verdict(root: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    plan = tmp_path / "profiles.toml"
    with serving(time_scale=200.0) as service:
        command = [sys.executable, "-m", "locust", "-f", str(root / "loadtests/locustfile.py"), "--headless"]
        command += ["--host", service.url, "--load-profile", "short", "--figures", str(figures), "--loglevel", "ERROR"]
        for requests_per_s, code in ((0.5, 0), (1e6, 1)):
            plan.write_text(SHORT.replace("REQUESTS", str(requests_per_s)))
            env = {**os.environ, "APS_LOAD_PROFILES": str(plan)}
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
            assert done.returncode == code, done.stdout + done.stderr
            data = json.loads(figures.read_text())
            assert data["met"] == (code == 0)
            found = {row["role"]: row for row in data["rows"] if row["phase"] != "all"}
            assert found["vip"]["completed"] > 0 and found["vip"]["ttft_p99_s"] is not None
            assert not data["errors"]
        assert "stress_vip (noisy)" in done.stderr  # Locust's own tables are by tenant and phase
        assert found["abusive"]["refused"] > 0 and found["abusive"]["retry_after_s"] > 0
        assert service.driver.outstanding == 0


@pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed (pip install 'aps-scheduler[load]')")
def test_a_wrong_choice_ends_with_2(root: Path) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(root / "loadtests/locustfile.py"), "--headless"]
    done = subprocess.run([*command, "--load-profile", "rush"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "there is no profile 'rush'" in done.stderr


IDLE = """aps_waiting_requests{tenant="a"} 0
aps_running_requests{tenant="a"} 0
aps_held_kv_blocks{tenant="a"} 0
aps_device_running{device="gpu0"} 0
aps_admitted_total{tenant="a"} 7
aps_requests_total{tenant="a",outcome="finished"} 5
aps_requests_total{tenant="a",outcome="cancelled"} 2
"""


def test_what_an_idle_service_cannot_explain_is_astray() -> None:
    assert not any(astray(IDLE).values())
    assert astray(IDLE.replace('finished"} 5', 'finished"} 4'))["admitted and not ended"] == 1
    assert astray(IDLE.replace('blocks{tenant="a"} 0', 'blocks{tenant="a"} 3'))["aps_held_kv_blocks"] == 3
    figure = IDLE + 'aps_invariant_violations{check="slots"} 2\n'
    assert astray(figure)["aps_invariant_violations"] == 2


def test_memory_is_back_when_rounds_do_not_add_up() -> None:
    mb = 2**20
    assert memory_verdict([50 * mb, 100 * mb, 123 * mb, 124 * mb], 200 * mb)[1]
    line, back = memory_verdict([50 * mb, 100 * mb, 115 * mb, 130 * mb], 200 * mb)
    assert not back and "50 before, 200 at the peak, 100, 115, 130 after each round" in line


def test_memory_is_level_when_a_late_part_of_the_run_takes_no_more_than_an_earlier_one() -> None:
    mb = 2**20
    warming_up = [(float(at), 60 * mb) for at in range(100)]
    line, met = level([*warming_up, *((float(at), 90 * mb) for at in range(100, 400))])
    assert met and "90.0 from 50% to 65% of the run, 90.0 from 85% on; grew by 0.0 <= 8" in line
    assert not level([(float(at), 60 * mb + at * mb // 10) for at in range(400)])[1]
    assert not level([])[1]


FEW = ("--rounds", "2", "--wait-s", "60")


@pytest.mark.skipif(sys.platform != "linux", reason="resident sizes are read from /proc, which is Linux's")
@pytest.mark.parametrize(
    ("program", "says"),
    [
        (("vanish.py", "--clients", "20", "--rounds", "2"), "met     40 requests cancelled of 40"),
        (
            ("flood.py", "--over", "driver", "--requests", "2000", "--queue", "1500", *FEW),
            "met     of the flood's 4,000",
        ),
        (("flood.py", "--over", "http", "--requests", "400", "--queue", "300", *FEW), "met     of the flood's 800"),
        (("soak.py", "--profile", "mixed", "--seconds", "5"), "met     errors: none"),
    ],
    ids=["vanish", "flood-driver", "flood-http", "soak"],
)
def test_the_long_proofs_in_small(root: Path, tmp_path: Path, program: tuple[str, ...], says: str) -> None:
    if program[0] == "soak.py":
        program = (*program, "--out", str(tmp_path))
    command = [sys.executable, str(root / "loadtests" / program[0]), *program[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout and "met     astray:" in done.stdout and "met     resident, MiB" in done.stdout


def test_the_load_file_imports_nothing_of_the_library(root: Path) -> None:
    for name in ("locustfile", "plan", "figures", "callers"):
        text = (root / f"loadtests/{name}.py").read_text()
        assert "import aps" not in text and "from aps" not in text, name
