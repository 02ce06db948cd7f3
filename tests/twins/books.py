"""A driver's books in slow, plain Python, written from docs/rules.md, section 11."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

COUNTS = ("admitted", "finished", "cancelled", "expired", "dropped", "failed", "prompt_tokens", "output_tokens")


def micro(charge: float) -> int:
    """A charge in micro-tokens; `round` is half to even."""
    return round(min(charge * 1e6, 2.0**53))


@dataclass(eq=False)
class Request:
    tenant: str
    bid: int
    prompt_tokens: int
    device: int | None = None
    exact_ns: Fraction = Fraction(0)  # its part, undivided nanoseconds divided too


@dataclass
class Label:
    """What is counted of one tenant, or one bid."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    charged_micro: int = 0
    gpu_ns: int = 0
    exact_ns: Fraction = Fraction(0)

    def numbers(self) -> list[int]:
        return [*(self.counts[name] for name in COUNTS), self.charged_micro, self.gpu_ns]


class Books:
    """At each instant at which a device's requests change, its time since the last one is handed out, request by
    request, whole nanoseconds to each and the same to all; what is left goes into the next handing out."""

    def __init__(self, devices: int) -> None:
        self.tenants: dict[str, Label] = {}
        self.bids = {bid: Label() for bid in range(1, 11)}
        self.requests: list[Request] = []
        self.now = [0] * devices
        self.left = [0] * devices
        self.busy = [0] * devices
        self.changes = [0] * devices  # handings out
        self.most = [0] * devices  # requests at once
        self._told: dict[str, tuple[list[int], Counter[str]]] = {}

    def labels(self, tenant: str, bid: int) -> tuple[Label, Label]:
        return self.tenants.setdefault(tenant, Label()), self.bids[bid]

    def refuse(self, tenant: str, bid: int, reason: str) -> None:
        for label in self.labels(tenant, bid):
            label.refused[reason] += 1

    def admit(self, tenant: str, bid: int, prompt_tokens: int) -> Request:
        request = Request(tenant, bid, prompt_tokens)
        for label in self.labels(tenant, bid):
            label.counts["admitted"] += 1
        self.requests.append(request)
        return request

    def running(self, device: int) -> list[Request]:
        return [request for request in self.requests if request.device == device]

    def hand_out(self, device: int, now: int) -> None:
        passed, there = now - self.now[device], self.running(device)
        self.now[device] = now
        if not there or not passed:
            return
        self.changes[device] += 1
        self.busy[device] += passed
        each, self.left[device] = divmod(self.left[device] + passed, len(there))
        for request in there:
            for label in self.labels(request.tenant, request.bid):
                label.gpu_ns += each
                label.exact_ns += Fraction(passed, len(there))

    def start(self, requests: Iterable[Request], device: int, now: int) -> None:
        self.hand_out(device, now)
        for request in requests:
            request.device = device
        self.most[device] = max(self.most[device], len(self.running(device)))

    def stop(self, request: Request, now: int) -> None:
        if request.device is not None:
            self.hand_out(request.device, now)
            request.device = None

    def end(self, request: Request, how: str, prompt_tokens: int, output_tokens: int, charge: float, now: int) -> None:
        self.stop(request, now)
        self.requests.remove(request)
        for label in self.labels(request.tenant, request.bid):
            label.counts[how] += 1
            label.counts["prompt_tokens"] += prompt_tokens
            label.counts["output_tokens"] += output_tokens
            label.charged_micro += micro(charge)

    def cut(self, now: int) -> dict[str, tuple[list[int], dict[str, int]]]:
        """By tenant, what has changed since the last one."""
        for device in range(len(self.now)):
            self.hand_out(device, now)
        found = {}
        for name, label in self.tenants.items():
            had, refused = self._told.get(name, ([0] * 10, Counter[str]()))
            numbers = label.numbers()
            delta = [after - before for after, before in zip(numbers, had, strict=True)]
            more = dict(label.refused - refused)
            if any(delta) or more:
                found[name] = delta, more
            self._told[name] = numbers, label.refused.copy()
        return found
