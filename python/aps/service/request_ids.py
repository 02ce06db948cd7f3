"""The id by which a caller, the log and the audit speak of one HTTP request: the caller's `x-request-id`, or ours."""

import re
import secrets

HEADER = "x-request-id"
ALLOWED = re.compile(r"[\w.:-]{1,64}", re.ASCII)


def given(value: str | None) -> str | None:
    """The caller's, where it sent one that can stand in a head and in a line of the log."""
    return value if value is not None and ALLOWED.fullmatch(value) else None


def made() -> str:
    """A new one."""
    return secrets.token_hex(8)
