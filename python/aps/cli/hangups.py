"""SIGHUP while a service starts and has no handler yet: it would end the process. It is noted, and passed on then."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_came: list[int] = []


@contextmanager
def noted() -> Iterator[None]:
    """As long as this lasts, or until another handler is set, SIGHUP is noted. One that is ignored, by nohup, stays so.

    On the main thread; elsewhere, and where somebody handles it already, nothing happens.
    """
    try:
        free = signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        if free:
            signal.signal(signal.SIGHUP, lambda number, _: _came.append(number))
    except ValueError:  # not the main thread
        free = False
    try:
        yield
    finally:
        _came.clear()
        if free:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pass_on() -> None:
    """To the handler that there is now, what came before."""
    if _came:
        _came.clear()
        signal.raise_signal(signal.SIGHUP)
