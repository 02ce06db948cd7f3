"""Ended requests that stay readable: whose answer goes when there is room for no more."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aps.service.config import Settings
from aps.service.shelf import Shelf
from tests.twins import shelf as twin

DEFAULTS = Settings()


def by_default() -> Shelf:
    return Shelf(DEFAULTS.keep_finished_s, DEFAULTS.max_finished, DEFAULTS.max_finished_bytes)


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcd"), st.integers(1, 40), st.booleans()),
        st.tuples(st.just("give"), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.sampled_from((0.5, 1.0, 4.0))),
        st.just(("forget",)),
    ),
    min_size=1,
    max_size=60,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(most=st.integers(0, 8), most_bytes=st.sampled_from((0, 30, 100, 10_000)), calls=CALLS)
def test_it_keeps_what_its_slow_twin_keeps(
    most: int, most_bytes: int, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("aps.service.shelf.time.monotonic", lambda: now)
    fast, slow = Shelf(5.0, most, most_bytes), twin.Shelf(5.0, most, most_bytes)
    handles = 0
    for call, *arguments in calls:
        if call == "put":
            tenant, size, told = arguments
            handles += 1
            fast.put(handles, tenant, "finished", b"x" * size, given=told)
            left = {handle for handle in range(1, handles + 1) if fast.get(handle) is not None}
            slow.put(twin.Kept(handles, tenant, size, now), told, left)
        elif call == "give":
            fast.give(handles - arguments[0])
            slow.give(handles - arguments[0])
        elif call == "wait":
            now += arguments[0]
        else:
            fast.forget_old()
            slow.forget_old(now)
        kept = {one.handle: (one.at, one.tenant, "finished", b"x" * one.size) for one in slow.kept}
        assert {handle: fast.get(handle) for handle in range(1, handles + 1) if fast.get(handle)} == kept
        unread = sorted((one.handle, one.tenant, "finished") for one in slow.unread)
        assert sorted(fast.unread()) == unread
        for listed in (fast._unread._heap, fast._order, fast._passed, fast._fetched):
            assert len(listed) <= 2 * (most + 1) + 9


def test_a_quiet_tenants_unread_answer_outlives_what_a_busy_one_has_been_given() -> None:
    shelf = by_default()
    shelf.put(1, "quiet", "finished", b"precious", given=False)
    for handle in range(2, 2 + 2 * DEFAULTS.max_finished):
        shelf.put(handle, "noisy", "finished", b"x", given=True)
    found = shelf.get(1)
    assert found is not None and found[3] == b"precious"
    assert sum(shelf.get(handle) is not None for handle in range(2 + 2 * DEFAULTS.max_finished)) == 10_000
    assert shelf.get(1 + 2 * DEFAULTS.max_finished) is not None  # the newest


@pytest.mark.parametrize("size", [1, 1 << 20])  # more than there may be; more bytes than there may be
def test_what_a_busy_tenant_does_not_read_is_at_its_own_cost(size: int) -> None:
    shelf, said = by_default(), bytes(size)
    for handle in range(1, 4):
        shelf.put(handle, "quiet", "finished", b"precious", given=False)
    for handle in range(4, 4 + (20_000 if size == 1 else 100)):
        shelf.put(handle, "noisy", "finished", said, given=False)
    assert all(shelf.get(handle) is not None for handle in range(1, 4))
    assert shelf.get(4) is None


def test_what_is_too_old_goes_before_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("aps.service.shelf.time.monotonic", lambda: now)
    shelf = Shelf(5.0, 2, 1000)
    shelf.put(1, "a", "finished", b"x", given=False)
    now = 6.0
    shelf.put(2, "b", "finished", b"x", given=True)
    shelf.put(3, "b", "finished", b"x", given=True)
    assert [shelf.get(handle) is not None for handle in (1, 2, 3)] == [False, True, True]
