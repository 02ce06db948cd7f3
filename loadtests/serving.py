"""A service in a process of its own, for load tests: started, measured, stopped."""

import json
import re
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import environ
from pathlib import Path
from typing import Any

ADDRESS = re.compile(r"http://[^ ]+")
STOP_WITHIN_S = 40.0


class Service:
    """A running `aps serve`: its address and its process."""

    def __init__(self, url: str, process: "subprocess.Popen[str]") -> None:
        self.url, self.process = url, process

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def resident_bytes(self) -> int:
        """Its resident set (Linux)."""
        return resident_bytes(self.process.pid)

    def get(self, path: str, headers: Mapping[str, str] = {}) -> str:
        """The text of a GET."""
        request = urllib.request.Request(self.url + path, headers=dict(headers))
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def health(self) -> dict[str, Any]:
        """`GET /health`."""
        answer: dict[str, Any] = json.loads(self.get("/health"))
        return answer


def resident_bytes(pid: int | str = "self") -> int:
    """The resident set of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def serving(*options: str, env: Mapping[str, str] = {}, killed: bool = False) -> Iterator[Service]:
    """`aps serve` with these options on a free port of this machine, until the block ends; killed: the block kills it.

    RuntimeError: it did not start, or did not end with 0.
    """
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**environ, **env}) as process:
        assert process.stdout is not None
        try:
            match = ADDRESS.search(process.stdout.readline())
            if match is None:
                raise RuntimeError(f"the service did not start (exit code {process.wait()})")
            yield Service(match[0], process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    if process.returncode and not (killed and process.returncode == -signal.SIGKILL):
        raise RuntimeError(f"the service ended with exit code {process.returncode}")


def largest_files() -> int:
    """Raise this process's limit of open files as far as it may; the limit then. Children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
