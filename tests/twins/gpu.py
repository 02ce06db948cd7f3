"""The engine in plain Python, written from its definition: no counters kept, everything summed anew."""

from collections.abc import Callable
from dataclasses import dataclass, field

Event = tuple[int, int, int, bool, bool, bool]  # request, computed, generated, first step, first token, finished
# Seconds of a step: cached tokens of each decode, (length, cached before) of each chunk, tokens emitted and swapped.
Seconds = Callable[[list[int], list[tuple[int, int]], int, int], float]


def reference_seconds(decodes: list[int], chunks: list[tuple[int, int]], emits: int, swapped: int) -> float:
    running = len(decodes) + len(chunks)
    speedup = 1.0 + 1.5 * (running - 1) / 15 if running < 16 else 2.5
    return sum(length for length, _ in chunks) / 1024.0 + running / (128.0 * speedup) + swapped / 47684.0


@dataclass
class Sequence:
    request_id: int
    prompt_tokens: int
    output_tokens: int
    bid: int
    generated: int
    prefill: int
    account: int
    computed: int = 0
    steps: int = 0
    plan: tuple[int, int] = (0, 0)  # prefill tokens and output tokens of the step that runs

    @property
    def cached(self) -> int:
        return self.prompt_tokens + self.generated - (self.prefill - self.computed)


@dataclass
class Engine:
    seconds: Seconds
    slots: int
    kv_blocks: int
    block_tokens: int = 16
    token_budget: int = 0
    sequences: list[Sequence] = field(default_factory=list)
    began_ns: int = 0
    end_ns: int = 0
    stepping: bool = False
    steps: int = 0
    busy_ns: int = 0
    slot_ns: int = 0
    block_ns: int = 0
    prefill_tokens: int = 0
    output_tokens: int = 0
    swapped_tokens: int = 0
    served: dict[int, list[int]] = field(default_factory=dict)
    moves: list[int] = field(default_factory=list)  # cached tokens, since a step began
    step: tuple[int, int, int, int] = (0, 0, 0, 0)  # sequences, blocks, prefill and swapped tokens as it began

    def blocks(self, sequence: Sequence) -> int:
        return -(-(sequence.prompt_tokens + sequence.generated + sequence.plan[1]) // self.block_tokens)

    @property
    def held_blocks(self) -> int:
        return sum(map(self.blocks, self.sequences))

    def start(
        self,
        request_id: int,
        prompt_tokens: int,
        output_tokens: int,
        bid: int,
        generated: int,
        prefill: int | None,
        account: int,
    ) -> bool:
        target = prompt_tokens + generated if prefill is None else prefill
        sequence = Sequence(request_id, prompt_tokens, output_tokens, bid, generated, target, account)
        if any(s.request_id == request_id for s in self.sequences):
            return False
        if len(self.sequences) == self.slots or self.held_blocks + self.blocks(sequence) > self.kv_blocks:
            return False
        self.sequences.append(sequence)
        self.moves.append(prompt_tokens + generated - target)
        return True

    def abort(self, request_id: int, keep: bool) -> int:
        """The tokens that it has in the cache."""
        [sequence] = [s for s in self.sequences if s.request_id == request_id]
        self.sequences.remove(sequence)
        if keep:
            self.moves.append(sequence.cached)
        return sequence.cached

    def begin_step(self, now_ns: int) -> int:
        """The end; -1 when idle, -2 when the cache would overrun."""
        if not self.sequences:
            return -1
        plans = {s.request_id: (0, 1) for s in self.sequences if s.computed == s.prefill}
        left = self.token_budget - len(plans) if self.token_budget else 10**18
        for s in sorted((s for s in self.sequences if s.computed < s.prefill), key=lambda s: -s.bid):
            chunk = max(0, min(left, s.prefill - s.computed))
            left -= chunk
            plans[s.request_id] = (chunk, int(chunk == s.prefill - s.computed))
        before = [s.plan for s in self.sequences]
        for s in self.sequences:
            s.plan = plans[s.request_id]
        if self.held_blocks > self.kv_blocks:
            for s, plan in zip(self.sequences, before, strict=True):
                s.plan = plan
            return -2
        decodes = [s.cached for s in self.sequences if s.plan == (0, 1)]
        chunks = [(s.plan[0], s.cached) for s in self.sequences if s.plan[0]]
        emits = sum(s.plan[1] for s in self.sequences)
        swapped = sum(self.moves)
        self.moves = []
        self.began_ns = now_ns
        self.end_ns = now_ns + round(self.seconds(decodes, chunks, emits, swapped) * 1e9)
        self.stepping = True
        self.step = (len(self.sequences), self.held_blocks, sum(length for length, _ in chunks), swapped)
        return self.end_ns

    def end_step(self) -> list[Event]:
        """Those that go on, then those that finished."""
        duration = self.end_ns - self.began_ns
        self.stepping = False
        self.steps += 1
        self.busy_ns += duration
        self.slot_ns += duration * self.step[0]
        self.block_ns += duration * self.step[1]
        self.prefill_tokens += self.step[2]
        self.swapped_tokens += self.step[3]
        events: list[Event] = []
        for s in self.sequences:
            (chunk, token), s.plan = s.plan, (0, 0)
            if chunk or token:
                s.computed += chunk
                s.generated += token
                s.steps += 1
                self.output_tokens += token
                prefill, output = self.served.get(s.account, [0, 0])
                self.served[s.account] = [prefill + chunk, output + token]
                first = bool(token) and s.generated == 1
                events.append(
                    (s.request_id, s.computed, s.generated, s.steps == 1, first, s.generated == s.output_tokens)
                )
        done = {e[0] for e in events if e[5]}
        self.sequences = [s for s in self.sequences if s.request_id not in done]
        return sorted(events, key=lambda e: e[5])
