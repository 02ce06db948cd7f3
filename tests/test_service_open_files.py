"""The limit of open files: it is raised for the connections that there may be, or these are fewer, and it is said."""

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from aps.service.open_files import BESIDE, fitting, shortage
from tests.raw_client import all_of, refused

# Sets its limits of open files, and is aps from then on.
LIMITED = """
import resource, sys
from aps.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
sys.exit(main(sys.argv[3:]))
"""
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def command(soft: int, hard: int, *arguments: str) -> list[str]:
    return [sys.executable, "-c", LIMITED, str(soft), str(hard), *arguments]


@contextmanager
def served(soft: int, hard: int, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", tuple[str, int], str]]:
    """A service with these limits: its process, its address, what it says until it serves."""
    whole = command(soft, hard, "serve", "--port", "0", *arguments)
    with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = ""
            while "OPEN" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            port = int(said.split("http://127.0.0.1:")[1].split()[0])
            yield process, ("127.0.0.1", port), said
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.mark.skipif(HARD != resource.RLIM_INFINITY and HARD < 2048, reason="the hard limit is low")
def test_the_soft_limit_is_raised_for_the_connections_that_there_may_be(tmp_path: Path) -> None:
    config = tmp_path / "aps.toml"
    config.write_text("[limits]\nmax_connections = 1000\n")
    with served(256, 2048, "--config", str(config)) as (process, _, said):
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert (soft, hard) == (1000 + BESIDE, 2048)
        assert "RLIMIT_NOFILE" not in said


def test_a_limit_that_is_high_enough_stays() -> None:
    with served(300, 300) as (process, _, _):
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (300, 300)


def test_under_a_low_hard_limit_there_are_fewer_connections_and_the_rest_get_503() -> None:
    most = fitting(4096, 256)
    assert 64 <= most < 256
    with served(256, 256) as (process, address, said):
        assert f"at most {most:,} connections, in place of limits.max_connections 4,096" in said
        with ExitStack() as clients:
            for _ in range(most):
                clients.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(40):
                with socket.create_connection(address, timeout=10) as beyond:
                    refused(all_of(beyond), 503, "too_many_connections")
        process.terminate()
        logged = process.communicate(timeout=30)[1]
    assert "WARNING" in logged and f"at most {most:,} connections, in place of" in logged
    assert logged.count(f"{most} connections are open, the most there may be") == 1  # not a line for each


def test_check_config_says_it() -> None:
    done = subprocess.run(command(256, 256, "check-config", "--json"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert shortage(4096, 256) in json.loads(done.stdout)["notes"]


@pytest.mark.parametrize(("files", "most"), [(8192, 4096), (4096, 4096 - BESIDE), (256, 128), (2, 1), (1, 1)])
def test_how_many_fit(files: int, most: int) -> None:
    assert fitting(4096, files) == most
    assert (shortage(4096, files) is None) == (most == 4096)
