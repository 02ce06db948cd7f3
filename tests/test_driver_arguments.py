"""What a caller of the driver gets wrong is an error that names it, changes nothing and touches no other request."""

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aps import Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver
from aps.record import Recorder, replay
from tests.driving import A, opened
from tests.virtual_loop import VirtualLoop, run


class Name(str, enum.Enum):  # noqa: UP042  # a StrEnum's members format as their values; these do not
    A = "a"


class Index:
    """An integer, but no `int`."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"Index({self.value})"


WHOLE = st.one_of(
    st.integers(1, 40),
    st.integers(),
    st.integers(-70, 70).map(lambda bits: (1 if bits > 0 else -1) * 2 ** abs(bits)),
    st.integers(-(2**65), 2**65).map(Index),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.integers(1, 9).map(np.array),
)
JUNK = st.one_of(
    WHOLE,
    st.booleans(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.tuples(st.integers()),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=1),
    st.complex_numbers(),
    st.sampled_from([Decimal(3), Decimal("NaN"), Decimal("sNaN"), Fraction(1, 3), 10**400]),
    st.sampled_from([np.float32(0.1), np.bool_(1)]),
    st.sampled_from([np.array([5]), np.array([1.0, 2.0]), np.datetime64(1, "s"), Name.A, np.str_("a"), len]),
)
ASKED = st.fixed_dictionaries(
    {},
    optional={
        "tenant": st.sampled_from(["a", Name.A, np.str_("a")]) | JUNK,
        "prompt_tokens": WHOLE | JUNK,
        "max_tokens": WHOLE | JUNK | st.none(),
        "bid": st.integers(1, 10) | JUNK | st.none(),
        "deadline_s": st.floats(0, 10) | JUNK | st.none(),
        "prompt": st.text() | JUNK | st.none(),
        "id": JUNK | st.none() | st.just("other"),
        "simulated_output_tokens": WHOLE | JUNK | st.none(),
        "trace": JUNK | st.none(),
    },
)


@asynccontextmanager
async def opened_or_recorded(loop: VirtualLoop, path: Path | None) -> AsyncIterator[Driver]:
    async with AsyncExitStack() as stack:
        if path is None:
            yield await stack.enter_async_context(opened(loop))
            return
        recorder = stack.enter_context(Recorder(path))
        backend = SimulatedBackend(clock=loop.time)
        driver = Driver(Scheduler([A], devices=backend.devices), backend, recorder=recorder)
        yield await stack.enter_async_context(driver)


@pytest.mark.parametrize("recorded", [False, True])
@settings(max_examples=150)
@given(asked=ASKED, draining=st.booleans())
@example(asked={"simulated_output_tokens": 2**63}, draining=False)
@example(asked={"tenant": Name.A}, draining=False)
@example(asked={"tenant": np.str_("a")}, draining=True)
@example(asked={"prompt_tokens": Index(5), "max_tokens": Index(5), "bid": Index(5)}, draining=False)
def test_no_argument_stops_the_driver(
    recorded: bool, asked: dict[str, Any], draining: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("r") / "r.jsonl" if recorded else None

    async def main(loop: VirtualLoop) -> None:
        async with opened_or_recorded(loop, path) as driver:
            other = driver.submit("a", prompt_tokens=10, max_tokens=20, id="other")
            driver.draining = draining
            before = driver.snapshot(), driver.metrics.tenants["a"].sent
            full: dict[str, Any] = {"tenant": "a", "prompt_tokens": 10, "max_tokens": 5} | asked
            try:
                ticket = driver.submit(**full)
            except (ValueError, TypeError, KeyError):
                assert (driver.snapshot(), driver.metrics.tenants["a"].sent) == before
            else:
                assert ticket.tenant == "a" and type(ticket.tenant) is str
                with suppress(TimeoutError):
                    async with asyncio.timeout(10):
                        await ticket.result()
                driver.cancel(ticket.id)
            assert driver.failed is None
            assert (await other.result()).status == "finished"

    run(main)
    if path is not None:
        result = replay(path)
        assert result.same, result.difference


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"prompt_tokens": np.array([5])}, TypeError, r"prompt_tokens must be an integer, got array\(\[5\]\)"),
        ({"max_tokens": 2**31}, ValueError, "max_tokens must be an integer from 1 to 2147483647, got 2147483648"),
        ({"bid": 2**70}, ValueError, r"bid must be an int.* 1.*10, got 1180591620717411303424"),
        ({"deadline_s": nan}, ValueError, "deadline_s must be a number of seconds, or None, got nan"),
        ({"deadline_s": 10**400}, ValueError, "deadline_s must be a number of seconds, or None, got 1000"),
        ({"deadline_s": "soon"}, TypeError, "deadline_s must be a number of seconds, or None, got 'soon'"),
        ({"deadline_s": True}, TypeError, "deadline_s must be a number of seconds, or None, got True"),
        ({"deadline_s": Decimal(1)}, TypeError, "deadline_s must be a number of seconds, or None, got Decimal"),
        (
            {"simulated_output_tokens": 2**63},
            ValueError,
            "simulated_output_tokens must be an integer from 1 to 2147483647, got 9223372036854775808",
        ),
        ({"simulated_output_tokens": (1,)}, TypeError, r"simulated_output_tokens must be an integer, got \(1,\)"),
    ],
)
def test_errors_name_the_argument_as_it_was_given(
    asked: dict[str, Any], error: type[Exception], message: str, draining: bool
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            driver.draining = draining
            full: dict[str, Any] = {"prompt_tokens": 10} | asked
            for ask in (driver.submit, driver.stream):
                with pytest.raises(error, match=message):
                    ask("a", **full)
            with pytest.raises(error, match=message):
                await driver.infer("a", **full)
            assert not driver.metrics.tenants

    run(main)


def test_a_deadline_of_any_kind_of_number_is_exact() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", max_in_flight=1)) as driver:
            long = driver.submit("a", prompt_tokens=10, max_tokens=1000)
            await asyncio.sleep(3)
            for seconds in (np.float32(0.1), Fraction(1, 10), np.int8(1), 1):
                asked: Any = seconds
                began = loop.time()
                result = await driver.infer("a", prompt_tokens=10, deadline_s=asked)
                assert result.status == "expired"
                assert loop.time() - began == pytest.approx(float(seconds), abs=1e-8)
            assert (await driver.infer("a", prompt_tokens=10, deadline_s=-inf)).reason == "deadline_expired"
            driver.cancel(long.id)

    run(main)
