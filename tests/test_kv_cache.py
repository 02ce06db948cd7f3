"""KV cache: the compiled envelope against its slow twin, against a simulated engine, and against the sum of maxima."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aps_core.kv_cache import KVCache, Need
from loadtests.micro.kv_envelope import Engine, measure
from tests.twins import kv_cache as twin

Seed = random.Random


def random_need(rng: Seed, prompts: int = 15, outputs: int = 12) -> Need:
    """New, back by recompute, or back by swap with or without prefill left."""
    generated = rng.choice([0, 0, 0, rng.randint(0, outputs - 1)])
    prompt = rng.randint(1, prompts)
    prefill = rng.choice([None, None, None, 0, rng.randint(0, prompt + generated)])
    return Need(prompt, rng.randint(generated + 1, outputs), generated, prefill, rng.randint(1, 3))


def random_output(rng: Seed, need: Need) -> int:
    """How many output tokens it will have in all."""
    return rng.choice([need.max_tokens, rng.randint(need.generated + 1, need.max_tokens)])


def blocks_of(need: Need, block_tokens: int) -> int:
    return -(-(need.prompt_tokens + need.max_tokens) // block_tokens)


# The twin

needs = st.builds(
    lambda prompt, most, generated, kind, part, bid: Need(
        prompt, most, generated, {"all": None, "none": 0, "part": part % (prompt + generated + 1)}[kind], bid
    ),
    st.integers(1, 15),
    st.integers(1, 12),
    st.sampled_from([0, 0, 1, 5, 13]),
    st.sampled_from(["all", "all", "none", "part"]),
    st.integers(0, 30),
    st.integers(1, 3),
)


class Twins(RuleBasedStateMachine):
    """Both, through the same calls: the same answers, and the same state after each."""

    @initialize(
        devices=st.lists(
            st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 40), st.integers(0, 4 * n + 2))),
            min_size=1,
            max_size=2,
        ),
        block_tokens=st.sampled_from([1, 2, 4, 7]),
        watermark=st.sampled_from([1.0, 0.9, 0.55]),
    )
    def build(self, devices: list[tuple[int, int, int]], block_tokens: int, watermark: float) -> None:
        slots, blocks, budgets = zip(*devices, strict=True)
        self.fast = KVCache(slots, blocks, budgets, block_tokens, watermark)
        self.slow = twin.KVCache(slots, blocks, budgets, block_tokens, watermark)
        self.block_tokens = block_tokens
        self.rows: list[dict[int, tuple[int, int]]] = [{} for _ in devices]  # computed and generated

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.rows) - 1))

    @rule(data=st.data(), need=needs)
    def may_it_start(self, data: st.DataObject, need: Need) -> None:
        device = self.pick(data)
        rows = list(self.rows[device])
        without = data.draw(st.lists(st.sampled_from(rows), unique=True)) if rows else []
        assert self.fast.can_start(device, need) == self.slow.can_start(device, need)
        assert self.fast.can_start(device, need, without) == self.slow.can_start(device, need, without)

    @rule(data=st.data(), need=needs, reserved=needs, shift=st.sampled_from([0, 0, 0, -1, 1, 3]))
    def when_and_around(self, data: st.DataObject, need: Need, reserved: Need, shift: int) -> None:
        device = self.pick(data)
        if blocks_of(reserved, self.block_tokens) > self.fast.device_state(device).limit:
            with pytest.raises(ValueError, match="need must be at most"):
                self.fast.earliest_step(device, reserved)
            return
        step = self.fast.earliest_step(device, reserved)
        assert step == self.slow.earliest_step(device, reserved)
        step = max(0, step + shift)
        expected = self.slow.backfill_kind(device, need, reserved, step)
        assert self.fast.backfill_kind(device, need, reserved, step) == expected

    @rule(data=st.data(), need=needs, request=st.integers(-1, 9))
    def start(self, data: st.DataObject, need: Need, request: int) -> None:
        device = self.pick(data)
        if not self.slow.can_start(device, need):
            with pytest.raises(ValueError, match="need must fit"):
                self.fast.start(device, need, request)
            return
        row = self.fast.start(device, need, request)
        assert row not in self.rows[device]
        self.slow.start(device, need, row, request)
        self.rows[device][row] = (0, need.generated)

    @precondition(lambda self: any(self.rows))
    @rule(data=st.data(), tokens=st.integers(0, 8), generated=st.sampled_from([0, 0, 1, 1, 2]))
    def advance(self, data: st.DataObject, tokens: int, generated: int) -> None:
        device = data.draw(st.sampled_from([i for i, rows in enumerate(self.rows) if rows]))
        rows = list(self.rows[device])
        for row in data.draw(st.sampled_from([rows, rows[:1], rows[-1:]])):
            before = self.rows[device][row]
            target = self.fast.row_state(device, row).prefill_target
            now = (min(target, before[0] + tokens), before[1] + generated)
            self.rows[device][row] = now
            self.fast.advance(device, row, *now)
            self.slow.advance(device, row, *now)

    @precondition(lambda self: any(self.rows))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        device = data.draw(st.sampled_from([i for i, rows in enumerate(self.rows) if rows]))
        row = data.draw(st.sampled_from(list(self.rows[device])))
        del self.rows[device][row]
        self.fast.finish(device, row)
        self.slow.finish(device, row)

    @invariant()
    def same_state(self) -> None:
        for device, rows in enumerate(getattr(self, "rows", [])):
            assert self.fast.device_state(device) == self.slow.device_state(device)
            for row in rows:
                assert self.fast.row_state(device, row) == self.slow.row_state(device, row)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=150, stateful_step_count=40)


# Safety: the simulated engine never holds more than there is

SHAPES = ["chunked", "just enough", "too small", "starved", "whole prompts"]


def token_budget(rng: Seed, shape: str, slots: int) -> int:
    return {
        "chunked": rng.randint(2 * slots, 6 * slots),
        "just enough": 2 * slots,
        "too small": rng.randint(slots, 2 * slots - 1),
        "starved": rng.randint(1, slots),
        "whole prompts": 0,
    }[shape]


def device_and_engine(rng: Seed, shape: str) -> tuple[KVCache, Engine]:
    slots, block_tokens = rng.randint(1, 8), rng.choice([1, 3, 4, 16])
    budget = token_budget(rng, shape, slots)
    cache = KVCache([slots], [rng.randint(10, 40 * slots) // block_tokens + 2], [budget], block_tokens)
    return cache, Engine(cache, 0, budget)


def churn(rng: Seed, cache: KVCache, engine: Engine, steps: int, overlapped: bool = False) -> None:
    """Arrivals, preemptions, returns and early ends at random; whatever fits is started.

    overlapped: what starts joins the engine one step later, as when a step runs while the next batch is chosen.
    """
    limit = cache.device_state(0).limit
    returning: list[tuple[Need, int]] = []
    for _ in range(steps):
        joining = []
        for _ in range(rng.randint(0, 4)):
            need = random_need(rng, 40, 30)
            output = random_output(rng, need)
            if returning and rng.random() < 0.5:
                need, output = returning.pop()
            if (overlapped and need.prefill == 0) or not cache.can_start(0, need):
                continue
            if overlapped:
                joining.append((cache.start(0, need), need, output))
            else:
                engine.start(need, output)
        if engine.running and rng.random() < 0.1:
            row = rng.choice(list(engine.running))
            was = engine.running[row]
            engine.cancel(row)
            if rng.random() < 0.7:  # preempted: by recompute, or by swap
                prefill = rng.choice([None, was.left])
                returning.append((was.need._replace(generated=was.generated, prefill=prefill), was.output))
        if not overlapped:
            assert cache.device_state(0).held_blocks == engine.held()
        engine.step()
        for row, need, output in joining:
            engine.join(row, need, output)
        assert engine.peak <= limit


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlapped", [False, True])
def test_held_blocks_never_exceed_the_device(shape: str, overlapped: bool) -> None:
    reached = 0
    for seed in range(60):
        rng = random.Random(seed)
        cache, engine = device_and_engine(rng, shape)
        churn(rng, cache, engine, 80, overlapped)
        reached += engine.peak == cache.device_state(0).limit
    assert reached > 0, "the workloads are too light to say anything"


@given(rng=st.randoms(use_true_random=False), shape=st.sampled_from(SHAPES), overlapped=st.booleans())
@settings(max_examples=100)
def test_held_blocks_never_exceed_the_device_anywhere(rng: Seed, shape: str, overlapped: bool) -> None:
    cache, engine = device_and_engine(rng, shape)
    churn(rng, cache, engine, 25, overlapped)


def test_the_test_for_engines_without_chunks_overruns() -> None:
    """The peak test of VTC and LightLLM supposes that prompts are over at once: so the tests above can fail."""
    overran = 0
    for seed in range(40):
        rng = random.Random(seed)
        slots, limit = rng.randint(3, 8), rng.randint(60, 200)
        budget = 2 * slots
        roomy = KVCache([slots], [10**6], [budget], 1)
        engine = Engine(roomy, 0, budget)
        for _ in range(200):
            need = Need(rng.randint(1, 40), rng.randint(1, 40), bid=rng.randint(1, 3))
            decoding = twin.KVCache([slots], [limit], [budget], 1)
            for row, r in engine.running.items():
                decoding.start(0, r.need._replace(generated=r.generated, prefill=0), row)
            if decoding.can_start(0, need._replace(prefill=0)):
                engine.start(need, need.max_tokens)
            engine.step()
        overran += engine.peak > limit
    assert overran > 20


# Reservations


@pytest.mark.parametrize("shape", ["chunked", "just enough", "too small", "whole prompts"])
@pytest.mark.parametrize("afresh", [False, True])
def test_a_reserved_start_is_kept_whatever_is_backfilled(shape: str, afresh: bool) -> None:
    """The step is counted down, or worked out afresh at each step: in both ways it never slides back."""
    kept = passed = 0
    for seed in range(150):
        rng = random.Random(seed)
        cache, engine = device_and_engine(rng, shape)
        churn(rng, cache, engine, 15)
        reserved = random_need(rng, 60, 40)
        if blocks_of(reserved, cache.block_tokens) > cache.device_state(0).limit or cache.can_start(0, reserved):
            continue
        kept += 1
        step = cache.earliest_step(0, reserved)
        while not cache.can_start(0, reserved):
            assert step > 0, "its step has come and it does not fit"
            for _ in range(rng.randint(0, 4)):
                need = random_need(rng, 20, 20)
                kind = cache.backfill_kind(0, need, reserved, step)
                if kind != "blocked":
                    passed += 1
                    engine.start(need, random_output(rng, need))
                    assert cache.earliest_step(0, reserved) <= step
            if engine.running and rng.random() < 0.1:
                engine.cancel(rng.choice(list(engine.running)))
            engine.step()
            left = cache.earliest_step(0, reserved)
            assert left <= max(0, step - 1)
            step = left if afresh else step - 1
    assert kept > 20 and passed > 20


def test_a_reserved_start_between_two_ends_is_found() -> None:
    """It fits when b ends, in 2 steps. When b ends a step early it fits a step later, where nothing ends."""
    cache = KVCache([4], [14], [0], block_tokens=1)
    a = cache.start(0, Need(3, 6, prefill=0))
    b = cache.start(0, Need(2, 2, prefill=0))
    reserved = Need(1, 6, prefill=0)
    assert cache.earliest_step(0, reserved) == 2
    cache.advance(0, a, 0, 1)
    cache.finish(0, b)
    assert not cache.can_start(0, reserved)
    assert cache.earliest_step(0, reserved) == 1
    long = Need(1, 4, prefill=0)  # would be harmless to a start after a's end, 5 steps from now
    assert cache.backfill_kind(0, long, reserved, 5) == "ends_before"
    assert cache.backfill_kind(0, long, reserved, 1) == "blocked"


# What it gains


def test_more_run_at_once_than_by_the_sum_of_maxima() -> None:
    gain = measure(seed=1, requests=200)
    print(f"envelope: {gain['more_running']:.1%} more at once, {gain['fewer_steps']:.1%} fewer steps")
    assert gain["more_running"] > 0
    assert gain["fewer_steps"] > 0


# By hand, on a device whose steps get through two prefill tokens at least


def pair(limit: int) -> KVCache:
    return KVCache([2], [limit], [4], block_tokens=1)


def test_what_starts_late_releases_late() -> None:
    """With 4 tokens to prefill it holds its 12 up to step 4, when the other holds 12; decoding, up to step 2, 10."""
    for prefill, fits in ((4, False), (0, True)):
        cache = pair(23)
        cache.start(0, Need(10, 2, prefill=prefill))
        assert cache.can_start(0, Need(8, 8, prefill=0)) is fits


def test_a_higher_bid_delays_what_prefills_behind_it() -> None:
    """Behind, 12 and 10 in step 4. Ahead, the first releases a step later: 12 and 11 in step 5."""
    cache = pair(22)
    cache.start(0, Need(10, 2, prefill=4, bid=5))
    assert cache.can_start(0, Need(6, 8, prefill=2, bid=5))
    assert not cache.can_start(0, Need(6, 8, prefill=2, bid=6))


def test_states() -> None:
    cache = pair(20)
    row = cache.start(0, Need(4, 8), request=7)
    assert cache.device_state(0) == (2, 1, 4, 12, 20)
    assert cache.row_state(0, row) == (7, 1, 4, 4, 0, 0)
    # It ends by step 10; another like it may hold 8 then, so it starts in 6 steps.
    assert not cache.can_start(0, Need(4, 8))
    assert cache.earliest_step(0, Need(4, 8)) == 6
    assert cache.can_start(0, Need(4, 8), without=[row])
    cache.advance(0, row, 4, 1)
    assert cache.row_state(0, row) == (7, 1, 4, 0, 4, 5)
    assert cache.device_state(0).held_blocks == 5
    cache.advance(0, row, 4, 11)  # the engine overran max_tokens
    assert cache.device_state(0).held_blocks == 12
    cache.finish(0, row)
    assert cache.device_state(0) == (2, 0, 0, 0, 20)


def test_largest_numbers() -> None:
    most = 2**31 - 1
    huge = Need(most, most)
    cache = KVCache([2, 65536], [2**28, most], [512, 2 * 65536])
    assert (cache.devices, cache.block_tokens, cache.total_blocks, cache.largest_limit) == (2, 16, 2**28 + most, most)
    cache.start(0, huge)
    assert cache.device_state(0) == (2, 1, 2**27, 2**28, 2**28)
    # In its last step, after ceil(most / 510) steps of prefill at the most, it holds every block.
    assert cache.earliest_step(0, huge) == -(-most // 510) + most
    for _ in range(7):
        cache.start(1, huge)
    assert not cache.can_start(1, huge._replace(prefill=0))
    cache = KVCache([65536], [most], [0], 1)
    back = Need(most, most, most, None)  # 2**32 tokens to compute again
    with pytest.raises(ValueError, match="need must be at most 2147483647 blocks"):
        cache.earliest_step(0, back)
    row = cache.start(0, Need(1, most - 1, most))
    assert cache.device_state(0).held_blocks == most
    cache.advance(0, row, 2**31, most)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], [], []), ValueError, "one entry for each device"),
        (([1, 2], [3], [0]), ValueError, "got 2, 1 and 1"),
        (([0], [3], [0]), ValueError, "slots must be an integer from 1 to 65536, got 0"),
        (([65537], [3], [0]), ValueError, "got 65537"),
        (([1], [0], [0]), ValueError, "kv_blocks .* got 0"),
        (([1], [2**31], [0]), ValueError, "kv_blocks"),
        (([1], [3], [-1]), ValueError, "token_budgets .* got -1"),
        (([1.0], [3], [0]), TypeError, "slots must be an integer"),
        (([1], [3], [0], 0), ValueError, "block_tokens .* got 0"),
        (([1], [3], [0], 16, 0.0), ValueError, "kv_high_watermark must be above 0"),
        (([1], [3], [0], 16, 1.01), ValueError, "kv_high_watermark .* got 1.01"),
        (([1], [3], [0], 16, float("nan")), ValueError, "kv_high_watermark .* got nan"),
        (([1], [3], [0], 16, "1"), TypeError, "kv_high_watermark"),
    ],
)
def test_bad_devices(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KVCache(*arguments)


BAD_NEEDS: list[tuple[Need, type[Exception], str]] = [
    (Need(0, 5), ValueError, "need.prompt_tokens must be an integer from 1"),
    (Need(2**31, 5), ValueError, "got 2147483648"),
    (Need(5, 0), ValueError, "need.max_tokens"),
    (Need(5, 5, -1), ValueError, "need.generated"),
    (Need(5, 5, 2, 8), ValueError, "need.prefill must be an integer from 0 to 7, got 8"),
    (Need(5, 5, bid=0), ValueError, "need.bid must be an integer from 1 to 10, got 0"),
    (Need(5, 5, bid=11), ValueError, "got 11"),
]


@pytest.mark.parametrize(("need", "error", "message"), BAD_NEEDS)
def test_bad_needs_change_nothing(need: Need, error: type[Exception], message: str) -> None:
    cache = pair(20)
    with pytest.raises(error, match=message):
        cache.start(0, need)
    with pytest.raises(error, match=message):
        cache.can_start(0, need)
    with pytest.raises(error, match=message):
        cache.earliest_step(0, need)
    with pytest.raises(error, match=message.replace("need", "reserved")):
        cache.backfill_kind(0, Need(1, 1), need, 1)
    assert cache.device_state(0) == (2, 0, 0, 0, 20)


def test_bad_calls_change_nothing() -> None:
    cache = pair(20)
    row = cache.start(0, Need(4, 4, 1))
    cache.advance(0, row, 2, 1)
    before = cache.device_state(0), cache.row_state(0, row)
    for device in (-1, 1):
        with pytest.raises(IndexError, match=f"device must be from 0 to 0, got {device}"):
            cache.can_start(device, Need(1, 1))
        with pytest.raises(IndexError, match="device"):
            cache.start(device, Need(1, 1))
        with pytest.raises(IndexError, match="device"):
            cache.earliest_step(device, Need(1, 1))
        with pytest.raises(IndexError, match="device"):
            cache.backfill_kind(device, Need(1, 1), Need(1, 1), 0)
        with pytest.raises(IndexError, match="device"):
            cache.device_state(device)
    for wrong in (-1, row + 1, 2, 3):
        with pytest.raises(IndexError, match=f"row must be one that runs on device 0, got {wrong}"):
            cache.advance(0, wrong, 3, 1)
        with pytest.raises(IndexError, match="row"):
            cache.finish(0, wrong)
        with pytest.raises(IndexError, match="row"):
            cache.row_state(0, wrong)
        with pytest.raises(IndexError, match="row"):
            cache.can_start(0, Need(1, 1), [wrong])
    with pytest.raises(ValueError, match="without must name each row once"):
        cache.can_start(0, Need(1, 1), [row, row])
    with pytest.raises(ValueError, match="computed must be an integer from 2 to 5, got 1"):
        cache.advance(0, row, 1, 2)
    with pytest.raises(ValueError, match="computed must be an integer from 2 to 5, got 6"):
        cache.advance(0, row, 6, 2)
    with pytest.raises(ValueError, match="generated must be an integer from 1 to 2147483647, got 0"):
        cache.advance(0, row, 2, 0)
    with pytest.raises(ValueError, match="step must be an integer from 0"):
        cache.backfill_kind(0, Need(1, 1), Need(1, 1), -1)
    with pytest.raises(ValueError, match="request must be an integer from -1"):
        cache.start(0, Need(1, 1), -2)
    with pytest.raises(ValueError, match="need must fit on device 0, got 21 blocks; 1 of 2 slots are taken"):
        cache.start(0, Need(9, 12))
    for number in (0.0, "0", None):
        with pytest.raises(TypeError):
            cache.device_state(number)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            cache.finish(0, number)  # type: ignore[arg-type]
    assert (cache.device_state(0), cache.row_state(0, row)) == before
