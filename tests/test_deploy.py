"""The systemd unit and the Containerfile: well formed, with commands that `aps serve` takes; a service starts so."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from aps.cli import parser
from aps.service.config import Settings
from aps.service.config_keys import BY_NAME, VARIABLES
from aps.service.keys import hash_line, new_key

INSTRUCTIONS = {
    "FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT",
    "CMD",
}  # fmt: skip
CLOSING_S = 5.0 + 10.0 + 10.0 + 5.0  # uvicorn's own, the backend's, the store's, the collector's


@pytest.fixture(scope="module")
def unit(root: Path) -> dict[str, list[str]]:
    """Values by `Section.Key`."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (root / "docs/deploy/aps.service").read_text().splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = head[1]
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert section and equals and re.fullmatch(r"[A-Za-z]+", name), line
            found.setdefault(f"{section}.{name}", []).append(value)
    return found


@pytest.fixture(scope="module")
def container(root: Path) -> list[tuple[str, str]]:
    """(instruction, its text), in order."""
    text = (root / "docs/deploy/Containerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = [tuple(line.split(maxsplit=1)) for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line]
    assert all(len(pair) == 2 and pair[0] in INSTRUCTIONS for pair in found)
    return found  # type: ignore[return-value]


def command_of(unit: dict[str, list[str]]) -> list[str]:
    (line,) = unit["Service.ExecStart"]
    return shlex.split(line)


def test_systemd_understands_the_unit(root: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (root / "docs/deploy/aps.service").read_text().replace("/opt/aps/bin/aps", sys.executable)
    (tmp_path / "aps.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "aps.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "aps.service" in line]) == (0, [])


def test_the_unit_is_safe_and_gives_it_time_to_drain(unit: dict[str, list[str]]) -> None:
    value = {name: values[-1] for name, values in unit.items()}
    assert value["Service.User"] != "root"
    assert value["Service.NoNewPrivileges"] == value["Service.PrivateTmp"] == value["Service.ProtectHome"] == "yes"
    assert (value["Service.ProtectSystem"], value["Service.CapabilityBoundingSet"]) == ("strict", "")
    assert value["Service.EnvironmentFile"] == "-/etc/aps/aps.env"
    assert value["Service.ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (value["Service.Type"], value["Service.TimeoutStartSec"]) == ("notify", "infinity")
    assert value["Service.KillSignal"] == "SIGTERM"
    assert int(value["Service.TimeoutStopSec"]) >= Settings().drain_s + CLOSING_S
    assert int(value["Service.LimitNOFILE"]) > Settings().max_connections
    assert value["Service.Restart"] == "on-failure"
    assert value["Service.RestartPreventExitStatus"] == "2"
    assert value["Unit.StartLimitIntervalSec"] == "0"  # it never gives up
    name, _, store = value["Service.Environment"].partition("=")  # whoever may read a unit reads it: no secrets
    assert name == BY_NAME["store.url"].variable and len(unit["Service.Environment"]) == 1
    assert Path(store).parent == Path("/var/lib", value["Service.StateDirectory"])


def test_the_environment_file_has_variables_that_there_are(root: Path) -> None:
    named = re.findall(r"^#?(\w+)=", (root / "docs/deploy/aps.env").read_text(), re.MULTILINE)
    known = {*VARIABLES, *(key.variable for key in BY_NAME.values())}
    ours = {name for name in named if name.startswith("APS_")}
    assert ours == {"APS_ADMIN_KEY", "APS_METRICS_KEY", "APS_STORE_URL"} <= known


def test_the_container_runs_as_nobody_that_matters(container: list[tuple[str, str]], root: Path) -> None:
    stages = [at for at, (name, _) in enumerate(container) if name == "FROM"]
    assert len(stages) == 2
    last = dict(container[stages[1] :])
    assert Path(environment(container)["APS_STORE_URL"]).parent == Path(last["WORKDIR"])
    assert last["USER"].split(":")[0].isdecimal() and int(last["USER"].split(":")[0]) > 0
    assert json.loads(last["VOLUME"]) == [last["WORKDIR"]]
    assert last["STOPSIGNAL"] == "SIGTERM"
    text = (root / "docs/deploy/Containerfile").read_text()
    assert not re.search(r"KEY|PASSWORD|TOKEN|SECRET|sha256:", text)
    for _, copied in (pair for pair in container[: stages[1]] if pair[0] == "COPY"):
        for source in copied.split()[:-1]:
            assert (root / source).exists(), source
    extras = re.search(r"'\.\[([\w,]+)\]'", text)
    assert extras is not None
    assert set(extras[1].split(",")) == {"service", "postgres", "otel"}


def test_their_commands_are_right(unit: dict[str, list[str]], container: list[tuple[str, str]]) -> None:
    words = dict(container)
    for command in (command_of(unit), json.loads(words["ENTRYPOINT"]) + json.loads(words["CMD"])):
        assert Path(command[0]).name == "aps"
        options = parser().parse_args(command[1:])
        assert options.verb == "serve"
        assert options.config == Path("/etc/aps/aps.toml")
        assert options.store is None  # a flag would come before the environment
    assert words["EXPOSE"] == "8000" == re.findall(r'"--port", "(\d+)"', words["CMD"])[0]


def environment(container: list[tuple[str, str]]) -> dict[str, str]:
    """What its ENV lines set."""
    words = [word for name, text in container if name == "ENV" for word in text.split()]
    return dict(word.split("=", 1) for word in words)


@contextmanager
def started(command: list[str], folder: Path, changes: dict[str, str]) -> Iterator[tuple[str, int]]:
    """What the command starts, with another configuration and store, on this machine and a free port."""
    store = folder / "aps.db"
    config = folder / "aps.toml"
    config.write_text(f'[tenants.gold]\nkeys = ["{hash_line(new_key())}"]\n')
    changes = {"/etc/aps/aps.toml": str(config), **changes}
    words = [sys.executable, "-m", "aps", *(changes.get(word, word) for word in command[1:])]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("APS_", "OTEL_"))}
    environ["APS_STORE_URL"] = str(store)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=environ, cwd=folder)
        assert process.stdout is not None
        try:
            url = httpx.URL(process.stdout.readline().split()[2])
            assert url.port is not None
            yield url.host, url.port
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0 and store.exists()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.parametrize("form", ["path", "abstract"])
def test_a_service_starts_as_the_unit_says(
    unit: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        tempfile.TemporaryDirectory(prefix="aps-") as short,  # a socket's path must be
    ):
        systemd.settimeout(30)
        name = f"{short}/notify"
        systemd.bind(name if form == "path" else f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", name if form == "path" else f"@{name}")
        with started([*command_of(unit), "--port", "0"], tmp_path, {}) as (host, port):
            assert systemd.recv(64) == b"READY=1"
            connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            connection.close()


def test_nobody_at_the_socket_to_be_told_is_no_obstacle(
    unit: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
    with started([*command_of(unit), "--port", "0"], tmp_path, {}) as (host, port):
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
    assert "nowhere cannot be told that the service serves" in (tmp_path / "log").read_text()


def test_a_service_starts_as_the_container_says_and_is_found_healthy(
    container: list[tuple[str, str]], tmp_path: Path
) -> None:
    words = dict(container)
    command = json.loads(words["ENTRYPOINT"]) + json.loads(words["CMD"])
    check = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    with started(command, tmp_path, {"0.0.0.0": "127.0.0.1", "8000": "0"}) as (_, port):
        healthy = [sys.executable, *check[1:-1], check[-1].replace("8000", str(port))]
        assert subprocess.run(healthy, timeout=60).returncode == 0
    assert subprocess.run(healthy, timeout=60, stderr=subprocess.DEVNULL).returncode != 0
