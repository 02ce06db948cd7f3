"""The engine against its slow twin, and what the reference profile promises."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aps.profiles import PROFILES
from aps_core.gpu import Engine
from aps_core.step_time import ReferenceModel, StepTimeModel
from tests.twins import gpu as twin
from tests.twins import physics

FIRST_STEP, FIRST_TOKEN, FINISHED = 1, 2, 4
COUNTERS = (
    "running held_blocks stepping began_ns end_ns steps busy_ns slot_ns block_ns prefill_tokens output_tokens "
    "swapped_tokens"
).split()
PHYSICS = PROFILES["a100-llama2-13b"].step_time


def physics_seconds(decodes: list[int], chunks: list[tuple[int, int]], emits: int, swapped: int) -> float:
    return physics.seconds(PHYSICS.constants(), decodes, chunks, emits, swapped)


MODELS = [(ReferenceModel(), twin.reference_seconds), (PHYSICS, physics_seconds)]


def events_of(engine: Engine) -> list[twin.Event]:
    n = engine.end_step()
    flags = engine.flags[:n].tolist()
    columns = zip(
        engine.request_ids[:n].tolist(), engine.computed[:n].tolist(), engine.generated[:n].tolist(), flags, strict=True
    )
    assert [bool(f & FINISHED) for f in flags] == [False] * (n - engine.ended) + [True] * engine.ended
    return [(i, c, g, bool(f & FIRST_STEP), bool(f & FIRST_TOKEN), bool(f & FINISHED)) for i, c, g, f in columns]


class EngineAndTwin(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 20),
        kv_blocks=st.integers(4, 60),
        block_tokens=st.sampled_from([1, 4, 16]),
        budget=st.sampled_from([0, 0, 1, 7, 32, 64]),
        model=st.sampled_from(MODELS),
    )
    def make(
        self, slots: int, kv_blocks: int, block_tokens: int, budget: int, model: tuple[StepTimeModel, twin.Seconds]
    ) -> None:
        self.engine = Engine(model[0], slots, kv_blocks, block_tokens=block_tokens, token_budget=budget)
        self.twin = twin.Engine(model[1], slots, kv_blocks, block_tokens, budget)
        self.next_id = 1

    @rule(
        data=st.data(),
        prompt=st.integers(1, 80),
        output=st.integers(1, 12),
        bid=st.integers(1, 10),
        account=st.integers(0, 5),
    )
    def start(self, data: st.DataObject, prompt: int, output: int, bid: int, account: int) -> None:
        generated = data.draw(st.integers(0, output - 1) | st.just(0))
        prefill = data.draw(st.none() | st.just(0) | st.integers(0, prompt + generated))
        request_id = self.next_id
        self.next_id += 1
        if self.twin.start(request_id, prompt, output, bid, generated, prefill, account):
            self.engine.start(request_id, prompt, output, bid, generated=generated, prefill=prefill, account=account)
        else:
            with pytest.raises(ValueError, match="no room"):
                self.engine.start(
                    request_id, prompt, output, bid, generated=generated, prefill=prefill, account=account
                )

    @precondition(lambda self: self.twin.sequences)
    @rule(data=st.data(), keep=st.booleans())
    def abort(self, data: st.DataObject, keep: bool) -> None:
        request_id = data.draw(st.sampled_from([s.request_id for s in self.twin.sequences]))
        self.engine.abort(request_id, keep=keep)
        self.twin.abort(request_id, keep)
        with pytest.raises(KeyError):
            self.engine.abort(request_id)

    @precondition(lambda self: not self.twin.stepping)
    @rule(gap=st.sampled_from([0, 0, 1, 10**9]))
    def begin_step(self, gap: int) -> None:
        now_ns = self.twin.end_ns + gap
        expected = self.twin.begin_step(now_ns)
        if expected == -2:
            with pytest.raises(RuntimeError, match="KV blocks"):
                self.engine.begin_step(now_ns)
        else:
            assert self.engine.begin_step(now_ns) == expected

    @precondition(lambda self: self.twin.stepping)
    @rule()
    def end_step(self) -> None:
        assert events_of(self.engine) == self.twin.end_step()

    @invariant()
    def same(self) -> None:
        if hasattr(self, "twin"):
            expected = {name: getattr(self.twin, name) for name in COUNTERS[1:]} | {"running": len(self.twin.sequences)}
            assert {name: getattr(self.engine, name) for name in COUNTERS} == expected
            served = {i: row for i, row in enumerate(self.engine.served.T.tolist()) if any(row)}
            assert served == {i: row for i, row in self.twin.served.items() if any(row)}


TestEngineAndTwin = EngineAndTwin.TestCase
TestEngineAndTwin.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def run(engine: Engine, now_ns: int = 0) -> int:
    """Until nothing is left; returns the instant."""
    while (end_ns := engine.begin_step(now_ns)) >= 0:
        now_ns = end_ns
        engine.end_step()
    return now_ns


def test_reference_is_two_and_a_half_times_faster_at_batch_16() -> None:
    def tokens_per_second(requests: int) -> float:
        engine = Engine(ReferenceModel(), 16, 4096)
        for i in range(requests):
            engine.start(i + 1, 1, 4000, 5)
        seconds = run(engine) / 1e9
        assert engine.output_tokens == requests * 4000
        return engine.output_tokens / seconds

    assert tokens_per_second(1) == pytest.approx(128, rel=1e-3)
    assert tokens_per_second(16) / tokens_per_second(1) == pytest.approx(2.5, rel=2e-3)


@pytest.mark.parametrize(("b", "speedup"), [(1, 1.0), (2, 1.1), (4, 1.3), (8, 1.7), (16, 2.5), (64, 2.5)])
def test_reference_curve(b: int, speedup: float) -> None:
    model = ReferenceModel()
    assert model.step_seconds(decodes=b) == pytest.approx(b / (128 * speedup))
    assert model.step_seconds(decodes=b - 1, prefill_tokens=512) == pytest.approx(0.5 + b / (128 * speedup))


def test_one_request_alone() -> None:
    engine = Engine(ReferenceModel(), 16, 100)
    engine.start(7, 512, 3, 5)
    assert engine.begin_step(0) == 507_812_500  # 512/1024 s of prefill and one token
    assert events_of(engine) == [(7, 512, 1, True, True, False)]
    assert engine.begin_step(507_812_500) == 515_625_000
    assert events_of(engine) == [(7, 512, 2, False, False, False)]
    engine.begin_step(515_625_000)
    assert events_of(engine) == [(7, 512, 3, False, False, True)]
    assert (engine.running, engine.held_blocks) == (0, 0)
    assert engine.begin_step(600_000_000) == -1
    assert (engine.steps, engine.busy_ns, engine.slot_ns) == (3, 523_437_500, 523_437_500)


def test_chunks_go_by_bid_then_start() -> None:
    engine = Engine(ReferenceModel(), 4, 100, token_budget=10)
    engine.start(1, 8, 2, 1)
    engine.start(2, 8, 2, 9)
    engine.start(3, 8, 2, 9)
    engine.begin_step(0)
    assert events_of(engine) == [(2, 8, 1, True, True, False), (3, 2, 0, True, False, False)]
    engine.begin_step(engine.end_ns)
    assert events_of(engine) == [
        (1, 3, 0, True, False, False),
        (3, 8, 1, False, True, False),
        (2, 8, 2, False, False, True),
    ]


def test_what_starts_in_a_step_joins_the_next() -> None:
    engine = Engine(ReferenceModel(), 2, 100)
    engine.start(1, 10, 5, 5)
    end_ns = engine.begin_step(0)
    engine.start(2, 10, 5, 5)
    assert [e[0] for e in events_of(engine)] == [1]
    assert engine.slot_ns == end_ns
    engine.begin_step(end_ns)
    assert [e[0] for e in events_of(engine)] == [1, 2]


def test_aborted_in_a_step_gets_no_token_and_frees_at_once() -> None:
    engine = Engine(ReferenceModel(), 1, 1)
    engine.start(1, 10, 5, 5)
    engine.begin_step(0)
    engine.abort(1)
    assert (engine.running, engine.held_blocks) == (0, 0)
    engine.start(2, 16, 5, 5)
    assert events_of(engine) == []
    assert engine.output_tokens == 0
    with pytest.raises(RuntimeError, match="1 KV blocks"):
        engine.begin_step(engine.end_ns)  # its first token needs a second block


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens must be an integer from 1 to"),
        ({"prompt_tokens": 2**31}, "prompt_tokens must be an integer from 1 to"),
        ({"output_tokens": 0}, "output_tokens must be"),
        ({"bid": 0}, "bid must be an integer from 1 to 10, got 0"),
        ({"bid": 11}, "bid must be an integer from 1 to 10, got 11"),
        ({"generated": 5}, "generated must be an integer from 0 to 4, got 5"),
        ({"generated": -1}, "generated must be"),
        ({"prefill": 11}, "prefill must be an integer from 0 to 10, got 11"),
        ({"prefill": -1}, "prefill must be"),
        ({"request_id": 1}, "request_id 1 is on the device already"),
    ],
)
def test_start_refuses(changed: dict[str, Any], message: str) -> None:
    engine = Engine(ReferenceModel(), 2, 100)
    engine.start(1, 10, 5, 5)
    with pytest.raises(ValueError, match=message):
        engine.start(**{"request_id": 2, "prompt_tokens": 10, "output_tokens": 5, "bid": 5} | changed)
    assert (engine.running, engine.held_blocks) == (1, 1)


@pytest.mark.parametrize(
    "field", ["request_id", "prompt_tokens", "output_tokens", "bid", "generated", "prefill", "account"]
)
@pytest.mark.parametrize("value", [1.0, 1.9, True, "1"])
def test_start_takes_integers_only(field: str, value: Any) -> None:
    engine = Engine(ReferenceModel(), 2, 100)
    good: dict[str, Any] = {"request_id": 2, "prompt_tokens": 10, "output_tokens": 5, "bid": 5}
    with pytest.raises(TypeError, match=f"{field} must be an integer"):
        engine.start(**good | {field: value})
    assert engine.running == 0
    engine.start(**good | {field: np.int8(1)})


@pytest.mark.parametrize("prefill_rate", [1e-300, 5e-324, 1e-9])
def test_a_step_without_an_end_is_refused(prefill_rate: float) -> None:
    """Such an instant would be negative, or infinite; and nothing has changed."""
    engine = Engine(ReferenceModel(prefill_rate=prefill_rate), 2, 100)
    engine.start(1, 16, 5, 5)
    with pytest.raises(RuntimeError, match=r"a step must take 0 to 4e\+08 s"):
        engine.begin_step(0)
    assert (engine.stepping, engine.held_blocks, engine.end_ns, engine.busy_ns) == (False, 1, 0, 0)
    with pytest.raises(ValueError, match="no step runs"):
        engine.end_step()


@pytest.mark.parametrize(
    ("now_ns", "error"), [(2**62 + 1, ValueError), (2**63, ValueError), (-1, ValueError), (0.5, TypeError)]
)
def test_a_step_begins_within_time(now_ns: Any, error: type[Exception]) -> None:
    engine = Engine(ReferenceModel(), 1, 100)
    engine.start(1, 10, 5, 5)
    with pytest.raises(error, match="now_ns must be an integer"):
        engine.begin_step(now_ns)
    assert engine.begin_step(2**62) > 2**62


def test_a_swap_costs_both_ways_in_the_next_step() -> None:
    """A request of 100 + 1 tokens makes room for another of 10 and comes back with 101 tokens in the cache."""
    engine = Engine(ReferenceModel(swap_rate=1000.0), 1, 100)
    engine.start(1, 100, 5, 1)
    at_ns = engine.begin_step(0)
    engine.end_step()
    engine.abort(1, keep=True)
    engine.start(2, 10, 1, 9)
    assert engine.swapped_tokens == 0
    assert engine.begin_step(at_ns) - at_ns == round((10 / 1024 + 1 / 128 + 101 / 1000) * 1e9)
    assert engine.swapped_tokens == 0  # as for all tokens, the counter is of steps that have ended
    engine.end_step()
    assert engine.swapped_tokens == 101
    engine.start(1, 100, 5, 1, generated=1, prefill=0)
    at_ns = engine.end_ns
    assert engine.begin_step(at_ns) - at_ns == round((1 / 128 + 101 / 1000) * 1e9)
    assert events_of(engine) == [(1, 0, 2, True, False, False)]
    assert engine.swapped_tokens == 202
    at_ns = engine.end_ns
    assert engine.begin_step(at_ns) - at_ns == round(1e9 / 128)  # and never again


def test_of_a_prompt_half_prefilled_only_that_half_is_moved() -> None:
    engine = Engine(ReferenceModel(swap_rate=1000.0), 1, 100, token_budget=64)
    engine.start(1, 100, 5, 1)
    engine.begin_step(0)
    engine.end_step()
    engine.begin_step(engine.end_ns)
    engine.abort(1, keep=True)  # in the middle of a step, whose chunk is lost
    assert engine.end_step() == 0
    engine.start(1, 100, 5, 1, prefill=36)
    at_ns = engine.end_ns
    assert engine.begin_step(at_ns) - at_ns == round((36 / 1024 + 1 / 128 + 128 / 1000) * 1e9)
    engine.end_step()
    assert (engine.swapped_tokens, engine.prefill_tokens) == (128, 64 + 36 + 36)


def test_a_recompute_moves_nothing_and_prefills_all_anew() -> None:
    engine = Engine(ReferenceModel(), 1, 100)
    engine.start(1, 100, 5, 1)
    engine.begin_step(0)
    engine.end_step()
    engine.abort(1)
    engine.start(1, 100, 5, 1, generated=1)
    at_ns = engine.end_ns
    assert engine.begin_step(at_ns) - at_ns == round((101 / 1024 + 1 / 128) * 1e9)
    engine.end_step()
    assert (engine.swapped_tokens, engine.prefill_tokens) == (0, 201)


def test_what_was_moved_waits_for_a_step_that_begins() -> None:
    engine = Engine(ReferenceModel(swap_rate=1e-7), 1, 100)
    engine.start(1, 100, 5, 1)
    engine.begin_step(0)
    engine.end_step()
    engine.abort(1, keep=True)
    at_ns = engine.end_ns
    assert engine.begin_step(at_ns) == -1
    engine.start(2, 900, 5, 1)
    for _ in range(2):  # 101 tokens at 1e-7 a second: more than 4e8 s
        with pytest.raises(RuntimeError, match="a step must take"):
            engine.begin_step(at_ns)
    assert engine.swapped_tokens == 0


def test_steps_in_the_wrong_order() -> None:
    engine = Engine(ReferenceModel(), 1, 100)
    with pytest.raises(ValueError, match="no step runs"):
        engine.end_step()
    engine.start(1, 10, 5, 5)
    end_ns = engine.begin_step(5)
    with pytest.raises(ValueError, match="a step runs until"):
        engine.begin_step(end_ns)
    engine.end_step()
    with pytest.raises(ValueError, match=f"now_ns must be an integer from {end_ns} to {2**62}, got {end_ns - 1}"):
        engine.begin_step(end_ns - 1)


@pytest.mark.parametrize("field", ["slots", "kv_blocks", "block_tokens"])
def test_engine_refuses(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be an integer from 1 to"):
        Engine(ReferenceModel(), **{"slots": 1, "kv_blocks": 1, field: 0})
    with pytest.raises(TypeError):
        Engine(None, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"{field} must be an integer, got 2.9"):
        Engine(ReferenceModel(), **{"slots": 1, "kv_blocks": 1, field: 2.9})  # type: ignore[arg-type]


def test_models_refuse() -> None:
    with pytest.raises(ValueError, match=r"prefill_rate must be from 0 to inf, got nan"):
        ReferenceModel(prefill_rate=float("nan"))
    with pytest.raises(ValueError, match="speedup_batch must be an integer from 2 to 2147483647, got 1"):
        ReferenceModel(speedup_batch=1)
    with pytest.raises(ValueError, match="swap_rate must be finite and above 0, got 0"):
        ReferenceModel(swap_rate=0)
    assert StepTimeModel().step_seconds(decodes=1) == 0.0


def test_block_time_of_months_does_not_overflow() -> None:
    """One step of 3.9e8 s over 62,501 blocks: more than an int64 of nanoseconds."""
    engine = Engine(ReferenceModel(prefill_rate=1e6 / 3.9e8), 1, 2**16)
    engine.start(1, 10**6, 1, 5)
    end_ns = engine.begin_step(0)
    held = engine.held_blocks
    engine.end_step()
    assert held == 62_501
    assert engine.block_ns == end_ns * held > 2**63
    assert engine.slot_ns == end_ns
