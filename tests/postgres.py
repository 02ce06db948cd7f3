"""A PostgreSQL server of the tests' own, from Debian's packages, on a socket in a directory that goes with it."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
FAST = "-c fsync=off -c full_page_writes=off -c max_connections=40 -c shared_buffers=16MB"


class Missing(Exception):
    """Why there is none here."""


class Server:
    """A running server. `url(name)` makes an empty database; `stop` and `start` are what an outage is."""

    def __init__(self, bin: Path, home: Path, user: str | None) -> None:
        self._bin, self._home, self._user = bin, home, user
        self._data = home / "data"

    def url(self, name: str) -> str:
        """Of a new, empty database."""
        self._run("createdb", "-h", str(self._home), "-U", "aps", name)
        return f"postgresql://aps@/{name}?host={quote(str(self._home), safe='')}"

    def initialise(self) -> None:
        """Make its files. It lets everybody in who is a role; a role "guest" would need its password."""
        self._run("initdb", "-D", str(self._data), "-U", "aps", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        rules = self._data / "pg_hba.conf"
        rules.write_text("local all guest scram-sha-256\n" + rules.read_text())

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-c listen_addresses='' -k {self._home} {FAST}"
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", str(self._home / "log"), "-o", options)

    def stop(self) -> None:
        """At once, whoever is connected."""
        self._run("pg_ctl", "stop", "-w", "-D", str(self._data), "-m", "immediate")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes what is sent and answers nothing, until the block ends."""
        chief = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(chief, signal.SIGSTOP)  # the first: it makes no more children
        pids = [chief, *_children(chief)]
        try:
            for pid in pids[1:]:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments],
            user=self._user,
            cwd=self._home,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,  # its server would keep the pipe
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if done.returncode:
            log = self._home / "log"
            raise RuntimeError(f"{program}: {done.stdout or ''}{log.read_text() if log.exists() else ''}")


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
    return found


@contextmanager
def server() -> Iterator[Server]:
    """Missing: this machine cannot run one."""
    found = shutil.which("initdb")
    bins = [Path(found).resolve().parent, *DEBIAN] if found else DEBIAN
    if not bins:
        raise Missing("no PostgreSQL here; Debian's package is postgresql")
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            raise Missing("PostgreSQL does not run as root, and there is no user postgres") from None
    home = Path(tempfile.mkdtemp(prefix="aps-pg-", dir="/tmp"))  # a socket's path must be short
    try:
        home.chmod(0o700)
        if user is not None:
            shutil.chown(home, user)
        running = Server(bins[0], home, user)
        running.initialise()
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)
