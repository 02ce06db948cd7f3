"""What the process takes of the machine, by the names that every Prometheus client gives it."""

import os
import resource
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from aps.service.prometheus import Page

OWN = Path("/proc/self")


def process(out: Page) -> None:
    """Read now. What only /proc tells is left out where there is none."""
    out.counter("process_cpu_seconds_total", "CPU time of the process, user and system.", time.process_time())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    out.gauge(
        "process_max_fds",
        "File descriptors that the process may have open.",
        float("inf") if most == resource.RLIM_INFINITY else most,
    )
    if not OWN.exists():
        return
    resident = int((OWN / "statm").read_text().split()[1]) * resource.getpagesize()
    out.gauge("process_resident_memory_bytes", "Memory of the process that is resident.", resident)
    with suppress(OSError):  # to list them takes one more
        out.gauge(
            "process_open_fds",
            "File descriptors that the process has open.",
            len(os.listdir(OWN / "fd")) - 1,  # without that one
        )
    out.gauge("process_start_time_seconds", "When the process started, in Unix time.", _started_at())


@cache
def _started_at() -> float:
    """By the clock that its entry counts by: a hardened process sees nothing in /proc but processes."""
    fields = (OWN / "stat").read_text().rpartition(")")[2].split()  # from the third on
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s
