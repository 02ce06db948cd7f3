"""What the driver needs of whatever runs the requests: a simulated GPU, or a real engine behind a network."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from aps.devices import Device

# Flags of one request's progress.
FIRST_STEP = 1  # the first step that it took part in since it was started
FIRST_TOKEN = 2  # its first output token of all
FINISHED = 4
FAILED = 8  # the device lost it, and its output; it is started again, or ends


class Job(Protocol):
    """A request as a backend sees it. What may change does so only between an `abort` and the next `start`.

    handle: what `Progress.handles` calls it. id: the caller's name for it. account: its tenant's number, 0, 1, ...
    prompt: its text, None when only the length is known. generated: output tokens before this start, more than 0
    after a preemption. prefill: tokens to compute first; None: its prompt. After a swap, what was left when
    it was displaced (0: all is swapped in). simulated_output_tokens: what a simulation is to generate; None:
    max_tokens. trace: headers of its trace context, `traceparent` for one, for an engine that is called over HTTP;
    None: it is not traced. own: for the backend to keep with it what it likes; None at first.
    """

    own: Any

    @property
    def handle(self) -> int: ...
    @property
    def id(self) -> Hashable: ...
    @property
    def account(self) -> int: ...
    @property
    def prompt(self) -> str | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def bid(self) -> int: ...
    @property
    def generated(self) -> int: ...
    @property
    def prefill(self) -> int | None: ...
    @property
    def simulated_output_tokens(self) -> int | None: ...
    @property
    def trace(self) -> Mapping[str, str] | None: ...


class Progress(NamedTuple):
    """What happened on one device at one instant. The arrays (n,) may be views that the next `take` overwrites.

    at, began_at: when the step ended and began, in seconds; the same where there are no steps.
    handles: whose progress; those that go on come first, then the `ended` ones, which are FINISHED or FAILED.
    computed, generated: prefill tokens since the start, output tokens in all. flags: see above, added up.
    """

    device: int
    at: float
    began_at: float
    handles: NDArray[np.int64]
    computed: NDArray[np.int64]
    generated: NDArray[np.int64]
    flags: NDArray[np.int64]
    ended: int


class Health(NamedTuple):
    """Whether a device takes requests; if not, `detail` says why."""

    ok: bool
    detail: str = ""


HEALTHY = Health(True)


class Usage(NamedTuple):
    """What a device has done since it was opened, up to its last finished step.

    busy_s: time in which anything ran. slot_s: time weighted by slots in use; over slots * elapsed it is the
    occupancy. block_s: the same for KV blocks. prefill_tokens, output_tokens: computed, handed over.
    held_blocks, running: now. swapped_tokens: moved out of the KV cache and in again.
    """

    steps: int
    busy_s: float
    slot_s: float
    block_s: float
    prefill_tokens: int
    output_tokens: int
    held_blocks: int
    running: int
    swapped_tokens: int = 0


class Backend(Protocol):
    """Devices, their clock and their news. Every method is called on the driver's loop thread and returns at once.

    The driver asks `next_event_at`, sleeps until then, calls `take` until nothing is due, and after each `take` gives
    every device that is `ready` and healthy its new jobs: `start`. A backend whose news come by themselves (from a
    network) keeps them for `take`, says so in `next_event_at` and calls `wake`; it also calls it when a device has
    become ready or healthy. `GeneratorBackend` does all that around an async generator.

    A backend that is not simulated may fail. Its news are checked, and what cannot be so (an unknown request, counts
    that fall or pass their bounds) is not passed on. An exception from a method that concerns one device takes that
    device out of service for a while; one from `now`, `next_event_at` or `take` stops the driver. A simulated backend
    is trusted, and any exception of its stops the driver. docs/backend.md says what becomes of the requests.
    """

    @property
    def devices(self) -> Sequence[Device]:
        """Their capacities, in the scheduler's order."""

    @property
    def profile(self) -> str:
        """What they are, for people."""

    @property
    def simulated(self) -> bool:
        """Whether the tokens and the clock are simulated."""

    @property
    def time_scale(self) -> float:
        """Seconds of the backend's clock in a wall second; 1 unless it is simulated."""

    async def open(self, now: float, wake: Callable[[], None]) -> None:
        """Start the clock at `now`."""

    async def close(self) -> None:
        """Stop whatever still runs."""

    def now(self) -> float:
        """The clock, in seconds. Of a simulated backend never backwards; another's may jump."""

    def slip(self, at: float) -> None:
        """The driver cannot keep up and stands at `at`: a simulated clock is set back to it, a real one goes on."""
        return

    def ready(self, device: int) -> bool:
        """Whether jobs may join the device now; an iteration-level engine says no in the middle of a step."""

    def start(self, device: int, jobs: Sequence[Job], now: float) -> None:
        """Put the jobs on a device that is ready, and go on. The scheduler has seen to it that they fit.

        Called without jobs too: an iteration-level engine then begins its next step with those that it has.
        """

    def abort(self, device: int, job: Job, *, keep: bool = False) -> None:
        """Drop a started job; no more progress of it may be reported. Never fails for a job that is not there.

        keep: it was displaced by swap and will be started again: what it has in the cache is moved out.
        """

    def next_event_at(self) -> float:
        """The instant of the earliest news; inf when none is known. Only a simulation knows of news to come."""

    def take(self) -> Progress:
        """The earliest news (ties by device). Called only when `next_event_at` is finite."""

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        """The text of the job's output tokens start..stop-1, to be joined without separators.

        Asked for at the latest while the job's end is handled.
        """

    def texts(self, jobs: Sequence[Job], counts: Sequence[int]) -> Sequence[str]:
        """The text of each job's first output tokens, so many of each."""
        return ["".join(self.tokens(job, 0, count)) for job, count in zip(jobs, counts, strict=True)]

    def count_tokens(self, text: str) -> int | None:
        """Tokens in a prompt; None when the backend has no tokenizer."""
        return None

    def served(self, accounts: int) -> NDArray[np.int64]:
        """Prefill tokens computed and output tokens handed over so far, by account: shape (2, accounts)."""

    def usage(self, device: int) -> Usage | None:
        """None when the backend cannot know."""
        return None

    def health(self, device: int) -> Health:
        """Whether the device may get work. What it runs goes on; what it has lost it reports as FAILED."""
        return HEALTHY
