"""How many clients the system's limit of open files leaves room for: each connection is one."""

import resource
import sys
from contextlib import suppress

# Beside the clients: the store, the record, logs, libraries; and clients too many, until they have their 503.
BESIDE = 256


def allowed() -> int:
    """What this process may raise its limit to."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def raised(max_connections: int) -> int:
    """The limit, raised for so many connections as far as the system lets it. It is never lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(max_connections + BESIDE, _number(hard))
    if _number(soft) < wanted:
        with suppress(OSError, ValueError):  # a system may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _number(soft)


def fitting(max_connections: int, files: int) -> int:
    """How many of so many connections that limit has room for; at least 1."""
    return max(1, min(max_connections, files - min(BESIDE, files // 2)))


def shortage(max_connections: int, files: int) -> str | None:
    """What is to be said when not all of them fit."""
    most = fitting(max_connections, files)
    if most == max_connections:
        return None
    return (
        f"at most {most:,} connections, in place of limits.max_connections {max_connections:,}: this process may have "
        f"{files:,} open files (RLIMIT_NOFILE; ulimit -Hn, LimitNOFILE)"
    )


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
