"""A service of our own with a key for each role, and one load profile played on it by Locust."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

from aps.service.keys import hash_line, new_key
from loadtests.figures import Check
from loadtests.plan import ROLES
from loadtests.serving import Service, serving

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "aps.toml"
METRICS_VARIABLE, ADMIN_VARIABLE = "APS_METRICS_KEY", "APS_ADMIN_KEY"


class Loaded(NamedTuple):
    """A running service, and the environment of whoever loads it. admin: the header with the admin key."""

    service: Service
    environment: dict[str, str]
    admin: dict[str, str]


@contextmanager
def loaded_service(*options: str) -> Iterator[Loaded]:
    """`aps serve` with the configuration of the load tests, keys for everybody, and these options."""
    keys = {role: new_key() for role in ROLES}
    metrics_key, admin_key = new_key(), new_key()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, roles = folder / "aps.toml", folder / "tenants.toml"
        config.write_text(_with_keys(CONFIG.read_text(), keys))
        roles.write_text("".join(f'{role} = "{role}"\n' for role in ROLES))
        environment = {
            "APS_KEYS": ",".join(f"{role}={key}" for role, key in keys.items()),
            METRICS_VARIABLE: metrics_key,
            "APS_LOAD_TENANTS": str(roles),
        }
        env = {METRICS_VARIABLE: metrics_key, ADMIN_VARIABLE: admin_key}
        with serving("--config", str(config), *options, env=env) as service:
            yield Loaded(service, environment, {"Authorization": f"Bearer {admin_key}"})


def play(loaded: Loaded, name: str, seconds: float | None, out: Path) -> dict[str, Any]:
    """One profile; its figures. Those of a Locust that failed say so. seconds: in place of the profile's own."""
    print(f"== {name}", flush=True)
    figures, report = out / f"{name}.json", out / f"{name}.html"
    figures.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless"]
    command += ["--host", loaded.service.url, "--only-summary", "--loglevel", "ERROR", "--load-profile", name]
    command += ["--figures", str(figures), "--html", str(report)]
    if seconds is not None:
        command += ["--seconds", str(seconds)]
    env = {**environ, **loaded.environment}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    (out / f"{name}.log").write_text(done.stdout)
    own = re.search(rf"^{re.escape(name)}: .*^{re.escape(name)}: \w+$", done.stdout, re.MULTILINE | re.DOTALL)
    print(own[0] if own else done.stdout, flush=True)
    if not figures.exists():
        message = f"Locust ended with exit code {done.returncode} and no figures"
        checks = [Check(message, None, 0.0, False, False)._asdict()]
        return {"profile": name, "says": message, "rows": [], "checks": checks, "met": False}
    data: dict[str, Any] = json.loads(figures.read_text())
    data["resident_mb"] = loaded.service.resident_bytes() / 2**20
    return data


def _with_keys(text: str, keys: dict[str, str]) -> str:
    """The configuration with a key for each tenant."""
    for role, key in keys.items():
        head = f"[tenants.{role}]\n"
        assert head in text, head
        text = text.replace(head, f'{head}keys = ["{hash_line(key)}"]\n')
    return text
