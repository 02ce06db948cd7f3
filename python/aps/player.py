"""A pump on an event loop: it is played as far as the backend's clock stands, with one timer and no task."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf

from aps.backends.guard import QUIET_LOOKS
from aps.pump import Pump
from aps.tickets import DriverError

LASTS_S = 4e8  # of the scheduler's clock, from its epoch on
LONGEST_TURN_S = 0.1  # wall seconds of playing simulated time before the loop gets a turn


class Player:
    """Plays a pump. One owner thread, the loop's.

    epoch: where the scheduler's clock begins. stall_s: wall seconds without progress after which a running request
    is lost; None: never. loop: None while it is not open, or has failed. failed: what stopped it; None: nothing.
    or_stop: around whatever touches the pump or the backend. read: the backend's clock.
    """

    def __init__(self, pump: Pump, epoch: float, time_scale: float, stall_s: float | None) -> None:
        self.pump = pump
        self.loop: asyncio.AbstractEventLoop | None = None
        self.failed: Exception | None = None
        self.or_stop = _OrStop(self.stop)
        self._ends_at = pump.never = epoch + LASTS_S
        pump.next_at = -inf  # whoever sees that something is due comes here, and hears that it is not open
        self._scale = time_scale
        self.read = pump.backend.now
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._look_s = None if stall_s is None or pump.guard is None else stall_s / QUIET_LOOKS
        self._look_timer: asyncio.TimerHandle | None = None
        self._filling = False  # a fill is to come in this turn of the loop
        self._held = False  # within `together`

    async def open(self) -> None:
        """Start the backend's clock, and play from now on."""
        self.pump.next_at = self._ends_at
        await self.pump.backend.open(self.pump.now, self._wake)
        self.loop = asyncio.get_running_loop()
        with self.or_stop:
            self._arm()  # news may have come already

    def close(self) -> None:
        """Play no more."""
        self.loop = None
        self.pump.next_at = -inf
        for timer in (self._timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._look_timer = None

    # Callers

    def advance(self) -> float:
        """Play what is due; returns the instant at which the caller acts. DriverError: it is closed or has failed."""
        if self.loop is None:
            raise self.closed()
        pump = self.pump
        try:
            now = self.read()
            if pump.now < now < pump.next_at:
                if not self._held:
                    pump.now = now
            elif not (now < pump.next_at or self._held):
                self._play(self._clock())
        except Exception as error:
            raise self.stop(error) from error
        return pump.now

    def look_again(self) -> None:
        """The caller has changed something."""
        if not self._held:
            self.pump.fill()
            self._arm()

    def entered(self) -> None:
        """A request has come. A simulation is exact: it starts at its instant. Real devices are asked once for all
        requests of a turn of the loop."""
        if self.pump.guard is None:
            self.look_again()
        elif not self._filling:
            assert self.loop is not None
            self._filling = True
            self.loop.call_soon(self._fill)

    @contextmanager
    def change(self) -> Iterator[float]:
        """The caller changes the scheduler at the instant this gives."""
        now = self.advance()
        try:
            yield now
        finally:  # a change that raised may have been one of several
            with self.or_stop:
                self.look_again()

    @contextmanager
    def together(self) -> Iterator[float]:
        """The changes within happen at one instant, and nothing starts before it is left."""
        with self.change() as now:
            self._held = True
            self.pump.next_at = -inf  # nobody passes by `advance`
            try:
                yield now
            finally:
                self._held = False

    def now(self) -> float:
        """The scheduler's clock."""
        if self.loop is not None:
            with suppress(DriverError), self.or_stop:
                return max(self.pump.now, self._clock())
        return self.pump.now

    # Time

    def _clock(self) -> float:
        now = self.read()
        if not now < self._ends_at:
            raise OverflowError(
                f"the scheduler's clock ends {LASTS_S:g} s after its epoch, the backend's is at {now!r}"
            )
        return now

    def _play(self, now: float) -> None:
        assert self.loop is not None
        clock = self.loop.time
        self.pump.play(now, clock, clock() + LONGEST_TURN_S)
        self._arm()

    def _arm(self) -> None:
        """Have the one timer fire when something is due, or before."""
        loop, pump = self.loop, self.pump
        if loop is None:
            return
        if self._look_s is not None and self._look_timer is None and pump.desk.outstanding:
            self._look_timer = loop.call_later(self._look_s, self._look)
        at = pump.next_at
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it looks again then
            self._timer.cancel()
            self._timer = None
        if at < self._ends_at:
            wall_s = max(0.0, at - self.read()) / self._scale
            # The two clocks may differ in their last bits: a nanosecond late is better than a moment too early.
            self._timer = loop.call_at(loop.time() + wall_s + 1e-9, self._ring)
            self._timer_at = at

    def _ring(self) -> None:
        self._timer = None
        with suppress(DriverError), self.or_stop:  # everybody concerned has been told
            self._play(self._clock())

    def _fill(self) -> None:
        self._filling = False
        if self.loop is not None:
            with suppress(DriverError), self.or_stop:
                self.advance()
                self.look_again()

    def _look(self) -> None:
        """For requests of which nothing is heard. A loop that was blocked looks once, not for each interval missed."""
        self._look_timer = None
        with suppress(DriverError), self.or_stop:
            if self.pump.guard is not None and self.pump.guard.look():
                self.pump.next_at = -inf
            self._arm()

    def _wake(self) -> None:
        """For the backend: there are news."""
        self.pump.next_at = -inf
        with suppress(DriverError), self.or_stop:
            self._arm()

    # Failing

    def stop(self, error: Exception) -> DriverError:
        """It stops the driver, and everybody who waits hears of it."""
        self.failed = error
        self.close()
        self.pump.abandon(error)
        return DriverError(f"the driver has failed: {error!r}")

    def closed(self) -> DriverError:
        """For whoever calls too late, or too early."""
        error = DriverError("the driver has failed" if self.failed else "the driver is not open")
        error.__cause__ = self.failed
        return error


class _OrStop:
    """An error in there leaves nothing to rely on."""

    __slots__ = ("_stop",)

    def __init__(self, stop: Callable[[Exception], DriverError]) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DriverError):
            raise self._stop(error) from error
