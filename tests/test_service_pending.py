"""What callers make the service hold is bounded, no tenant has all of it, and all of it is let go."""

import gc
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from aps.service.errors import Refusal
from aps.service.pending import FREE, Pending
from aps.tenants import Tenant
from tests.raw_client import HEAD, all_of, answer_of, connected, refused
from tests.scrapes import Scrape
from tests.serving import Service, serving, until

MIB = 1 << 20
BODY = 128 << 10  # max_body_bytes here
PROMPT = "x" * 100_000
HALF = len(PROMPT) - FREE  # what is counted of so much of a body


def pending(service: Service) -> int:
    return service.server.config.app.state.exporter._pending.bytes  # type: ignore[union-attr, no-any-return]


def gauge(service: Service) -> float:
    return Scrape(service.client.get("/metrics").text).one("aps_pending_bytes")


@pytest.fixture
def service() -> Iterator[Service]:
    tenants = (Tenant("x", rate=1e6, burst=1e8), Tenant("y"), Tenant("z"))
    with serving(tenants, time_scale=0.0001, max_pending_bytes=MIB, max_body_bytes=BODY) as slow:
        yield slow


def ask(service: Service, tenant: str = "x", prompt: str = PROMPT, **more: object) -> tuple[int, dict[str, object]]:
    answer = service.infer(**{"tenant_id": tenant, "prompt": prompt, "max_tokens": 9, "wait": False, **more})
    said = answer.json()
    if answer.status_code != 202:
        assert answer.headers["retry-after"] == "1"
        assert (answer.headers.get("connection") == "close") == (said["error"]["reason"] == "bodies_full")
        if (tenant, said["error"]["reason"]) == ("x", "pending_full"):
            assert answer.headers["x-ratelimit-limit-tokens"] == "100000000"
    return answer.status_code, said.get("error", said)


def test_prompts_are_bounded_and_no_tenant_has_all_of_it(service: Service) -> None:
    answers = [ask(service) for _ in range(30)]
    taken = [said for status, said in answers if status == 202]
    assert len(taken) == 5  # of half of a MiB; more than its third
    assert pending(service) == gauge(service) == 5 * len(PROMPT)
    assert [said["reason"] for _, said in answers[5:]] == ["pending_full"] * 25
    assert "x has its part" in str(answers[5][1]["message"])
    others = [ask(service, tenant) for _ in range(4) for tenant in "yz"]
    assert [status for status, _ in others] == [202] * 5 + [503] * 3
    assert "as many bytes of prompts and bodies as it may" in str(others[-1][1]["message"])
    assert gauge(service) == 10 * len(PROMPT) <= MIB
    assert (
        service.infer(tenant_id="x", prompt_tokens=9, max_tokens=9, wait=False).status_code == 202
    )  # it holds nothing
    assert Scrape(service.client.get("/metrics").text).one("aps_pending_refused_total") == 28
    assert service.driver.outstanding == 11
    for said in taken:
        service.client.delete(f"/requests/{said['id']}")
    until(lambda: pending(service) == 5 * len(PROMPT))
    assert ask(service)[0] == 202


def test_a_refused_prompt_does_not_wait_for_the_garbage_collector(service: Service) -> None:
    """The collector comes seldom: prompts that are held by a refusal would add up until then."""
    gc.collect()
    gc.disable()
    try:
        assert [ask(service)[0] for _ in range(9)][-3:] == [503] * 3
        until(lambda: not any(isinstance(thing, Refusal) for thing in gc.get_objects()))
    finally:
        gc.enable()


def test_a_prompt_that_is_not_ascii_counts_what_it_may_take(service: Service) -> None:
    assert ask(service, prompt="x" * 1000 + "\N{GRINNING FACE}")[0] == 202
    assert pending(service) == 4004


def test_without_a_bound_everything_is_counted_and_taken() -> None:
    with serving((Tenant("x"),), time_scale=0.0001, max_pending_bytes=None, max_body_bytes=BODY) as open_ended:
        assert [ask(open_ended)[0] for _ in range(20)] == [202] * 20
        assert gauge(open_ended) == 20 * len(PROMPT)


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_let_go_when_the_request_ends(stream: bool) -> None:
    with serving((Tenant("x"),), time_scale=10_000.0, max_pending_bytes=MIB, max_body_bytes=BODY) as fast:
        for _ in range(20):
            answer = fast.infer(tenant_id="x", prompt=PROMPT, max_tokens=2, stream=stream)
            assert answer.status_code == 200
        until(lambda: pending(fast) == 0)
        refusal = fast.infer(tenant_id="x", prompt="x", max_tokens=2**31 - 1)  # the scheduler's
        assert (refusal.status_code, pending(fast)) == (400, 0)


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_it_is_let_go_when_the_client_hangs_up(service: Service, more: dict[str, object]) -> None:
    body = json.dumps({"tenant_id": "x", "prompt": PROMPT, "max_tokens": 9, **more}).encode()
    with connected(service, HEAD + b"content-length: %d\r\n\r\n" % len(body) + body):
        until(lambda: service.driver.outstanding == 1)
        assert pending(service) == len(PROMPT)
    until(lambda: pending(service) == 0)


def halves(service: Service, clients: ExitStack, head: bytes, most: int) -> list[socket.socket]:
    """Clients that each have sent 100,000 bytes of a body and no more, until one is refused; it is the last."""
    found = []
    part = b"%x\r\n" % len(PROMPT) + PROMPT.encode() + b"\r\n" if b"chunked" in head else PROMPT.encode()
    for _ in range(most):
        before, client = pending(service), clients.enter_context(connected(service, HEAD + head + part))
        found.append(client)
        until(lambda: pending(service) == before + HALF or _has_answer(client))  # noqa: B023
        if pending(service) == before:
            return found
    raise AssertionError("none is refused")


def _has_answer(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        client.settimeout(10)


@pytest.mark.parametrize("head", [b"content-length: 110000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
def test_bodies_that_are_not_whole_are_bounded(service: Service, head: bytes) -> None:
    with ExitStack() as clients:
        *taken, last = halves(service, clients, head, 12)
        assert len(taken) == 6  # of half of a MiB
        said = all_of(last)
        refused(said, 503, "bodies_full")
        assert answer_of(said)[1]["retry-after"] == "1"
        assert gauge(service) == 6 * HALF <= MIB / 2
        small = b'{"tenant_id": "x", "prompt_tokens": 9, "max_tokens": 9, "wait": false}'
        with connected(service, HEAD + b"content-length: %d\r\n\r\n" % len(small), small) as other:
            assert other.recv(65536).startswith(b"HTTP/1.1 202")
        assert ask(service, prompt="x" * 10_000)[0] == 202
    until(lambda: pending(service) == 10_000)  # they hung up


def test_a_body_for_which_there_is_no_room_is_refused_before_it_comes(service: Service) -> None:
    with ExitStack() as clients:
        halves(service, clients, b"content-length: 110000\r\n\r\n", 12)
        with connected(service, HEAD + b"content-length: 90000\r\n\r\n{") as early:
            refused(all_of(early), 503, "bodies_full")


def test_a_body_that_has_come_is_let_go(service: Service) -> None:
    body = json.dumps({"tenant_id": "x", "prompt": PROMPT, "max_tokens": 9, "wait": False}).encode()
    with connected(service, HEAD + b"content-length: %d\r\n\r\n" % len(body), body[:50_000]) as client:
        until(lambda: pending(service) == 50_000 - FREE)
        client.sendall(body[50_000:])
        assert client.recv(65536).startswith(b"HTTP/1.1 202")
        assert pending(service) == len(PROMPT)


def test_a_body_that_is_wrong_or_too_late_is_let_go() -> None:
    with serving((Tenant("x"),), body_s=0.2, max_body_bytes=BODY) as short:
        with connected(short, HEAD + b"content-length: 90000\r\n\r\n" + b"{" * 50_000) as client:
            refused(all_of(client), 408, "body_too_slow")
            assert pending(short) == 0
        with connected(short, HEAD + b"transfer-encoding: chunked\r\n\r\n10000\r\n" + b"{" * 50_000) as client:
            until(lambda: pending(short) == 50_000 - FREE)
            client.sendall(b"{" * 90_000)
            all_of(client)
            until(lambda: pending(short) == 0)


def test_who_holds_nothing_gets_its_first_among_many_tenants() -> None:
    held = Pending(1000, [str(n) for n in range(100)])
    for n in range(10):
        held.check_prompt(str(n), 90)
        held.hold(str(n), 90)
    with pytest.raises(Refusal, match="3 has its part"):
        held.check_prompt("3", 1)
    held.check_prompt("12", 90)
    with pytest.raises(Refusal, match="max_pending_bytes"):
        held.read(FREE + 101, 0)
    for n in range(10):
        held.let_go(str(n), 90)
    assert (held.bytes, held._held) == (0, {})
