"""What whatever supervises the process is told, as systemd's Type=notify has it."""

import logging
import os
import socket

log = logging.getLogger(__name__)


def ready() -> None:
    """The service serves. Without a socket in NOTIFY_SOCKET there is nobody to tell."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(b"READY=1", f"\0{name[1:]}" if name[0] == "@" else name)
    except OSError as error:
        log.warning("NOTIFY_SOCKET %s cannot be told that the service serves: %s", name, error)
