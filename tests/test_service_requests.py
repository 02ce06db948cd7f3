"""`wait: false`, `GET` and `DELETE /requests/{id}`: who sees what, how it ended, how long that is remembered."""

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from aps.service.access import OPEN, Access
from aps.service.keys import digest_of
from aps.service.wire import Accepted, InferAnswer, RequestState
from aps.tenants import Tenant
from tests.serving import Service, serving, until


def accepted(service: Service, **fields: Any) -> Accepted:
    reply = service.infer(wait=False, **fields)
    assert reply.status_code == 202, reply.text
    body = msgspec.convert(reply.json(), Accepted)
    assert reply.headers["location"] == f"/requests/{body.id}"
    return body


def state(service: Service, id: str) -> RequestState:
    reply = service.client.get(f"/requests/{id}")
    assert reply.status_code == 200, reply.text
    return msgspec.convert(reply.json(), RequestState)


def refusal(reply: httpx.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    reason: str = reply.json()["error"]["reason"]
    return reason


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x"), Tenant("y", max_in_flight=1))) as running:
        yield running


def test_nobody_waits_and_the_answer_is_there_later(service: Service) -> None:
    said = accepted(service, tenant_id="x", prompt="Why is the sky blue?", max_tokens=8, bid=7)
    assert (said.tenant_id, said.prompt_tokens, said.counted_by, said.verdict.bid) == ("x", 5, "bytes/4", 7)
    until(lambda: state(service, said.id).state == "finished")
    ended = state(service, said.id)
    assert ended.answer is not None and ended.explain is None and ended.error is None
    assert (ended.id, ended.answer.id, ended.answer.output_tokens, ended.answer.charge) == (said.id, said.id, 8, 13)
    assert isinstance(ended.answer.text, str) and ended.answer.text


def test_what_was_waited_for_is_remembered_too(service: Service) -> None:
    answer = service.infer(tenant_id="x", prompt_tokens=5, max_tokens=4).json()
    assert msgspec.to_builtins(state(service, answer["id"]).answer) == answer
    assert msgspec.convert(answer, InferAnswer)


def test_one_that_waits_says_for_what_and_is_cancelled() -> None:
    with serving((Tenant("y", max_in_flight=1),), time_scale=1.0) as slow:
        first = accepted(slow, tenant_id="y", prompt_tokens=30_000, max_tokens=4)
        second = accepted(slow, tenant_id="y", prompt_tokens=10, max_tokens=4, bid=9)
        running, waiting = state(slow, first.id), state(slow, second.id)
        assert (running.state, waiting.state) == ("running", "waiting")
        assert running.explain is not None and waiting.explain is not None
        assert (running.explain.waits_for, running.explain.device, running.explain.bid) == ("", 0, 5)
        assert (waiting.explain.waits_for, waiting.explain.device, waiting.explain.bid) == ("in_flight", None, 9)
        assert waiting.explain.effective_bid >= 9
        for said in (first, second):
            reply = slow.client.delete(f"/requests/{said.id}")
            assert (reply.status_code, reply.json()["state"]) == (200, "cancelled")
            assert reply.json()["error"]["reason"] == "cancelled"
        gone = state(slow, second.id)
        assert gone.state == "cancelled" and gone.error is not None and gone.error.reason == "cancelled"
        assert (slow.status("y")["in_flight"], slow.status("y")["waiting"]) == (0, 0)
        again = slow.client.delete(f"/requests/{second.id}")  # stays as it is
        assert (again.status_code, again.json()["state"]) == (200, "cancelled")


def test_who_waits_for_a_request_that_another_cancels_is_told(service: Service) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool, serving((Tenant("x"),), time_scale=1.0) as slow:
        reply = pool.submit(slow.infer, tenant_id="x", prompt_tokens=30_000, max_tokens=4)
        until(lambda: slow.driver.outstanding == 1)
        (handle,) = (ticket.handle for ticket in slow.driver._pump.desk.tickets())
        id = f"{accepted(slow, tenant_id='x', prompt_tokens=1).id[:8]}{handle:x}"
        assert slow.client.delete(f"/requests/{id}").json()["state"] == "cancelled"
        assert refusal(reply.result(), 409) == "cancelled"


def test_none_is_unknown_between_its_end_and_its_answer() -> None:
    with serving((Tenant("x"),), time_scale=1.0) as slow:
        app: Any = slow.server.config.app
        requests = app.state.requests

        async def ends_and_is_looked_at() -> list[str]:
            driver = slow.driver
            (ticket,) = driver._pump.desk.tickets()
            id = requests._answers.id_of(ticket.handle)
            driver.cancel(ticket.id)  # its caller is told when the loop turns
            return [requests.state(id, OPEN).state for _ in range(2)]

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reply = pool.submit(slow.infer, tenant_id="x", prompt_tokens=30_000, max_tokens=4)
            until(lambda: slow.driver.outstanding == 1)
            seen = asyncio.run_coroutine_threadsafe(ends_and_is_looked_at(), slow.loop).result(10)
            assert seen == ["cancelled", "cancelled"]
            assert refusal(reply.result(), 409) == "cancelled"


def test_one_that_ends_while_it_is_looked_at_is_told_as_ended() -> None:
    with serving((Tenant("x"),), time_scale=1.0) as slow:
        app: Any = slow.server.config.app
        requests = app.state.requests

        async def looked_at_as_it_ends() -> str:
            driver = slow.driver
            (ticket,) = driver._pump.desk.tickets()
            id = requests._answers.id_of(ticket.handle)
            explain = driver.explain

            def plays_its_end(handle: int) -> Any:
                driver.cancel(handle)
                return explain(handle)

            driver.explain = plays_its_end  # type: ignore[method-assign, assignment]
            kind: str = requests.state(id, OPEN).state
            return kind

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reply = pool.submit(slow.infer, tenant_id="x", prompt_tokens=30_000, max_tokens=4)
            until(lambda: slow.driver.outstanding == 1)
            assert asyncio.run_coroutine_threadsafe(looked_at_as_it_ends(), slow.loop).result(10) == "cancelled"
            assert refusal(reply.result(), 409) == "cancelled"


def test_a_passed_deadline_is_remembered_as_such() -> None:
    with serving((Tenant("y", max_in_flight=1),), time_scale=10.0) as slow:
        accepted(slow, tenant_id="y", prompt_tokens=8000, max_tokens=1)
        late = accepted(slow, tenant_id="y", prompt_tokens=1, deadline_s=0.5)
        until(lambda: state(slow, late.id).state == "expired")
        error = state(slow, late.id).error
        assert error is not None and (error.reason, error.field) == ("deadline_expired", "deadline_s")
        assert "0.5 s" in error.message


@pytest.mark.parametrize(
    "change",
    [
        lambda id: "x" + id[1:],
        lambda id: id[:-1] + "0",
        str.upper,
        lambda id: id[:8] + "0x" + id[8:],
        lambda id: id[:8] + "8" + "0" * 15,  # beyond every handle
        lambda id: id[:8] + "f" * 16,
        lambda id: id[:8] + "1" + "0" * 400,
    ],
)
def test_another_id_is_404(service: Service, change: Any) -> None:
    id = accepted(service, tenant_id="x", prompt_tokens=11, max_tokens=1).id
    other = change(id[:-1] + "a" if id[-1] == "0" else id)
    if other != id:
        assert refusal(service.client.get(f"/requests/{other}"), 404) == "unknown_request"
        assert refusal(service.client.delete(f"/requests/{other}"), 404) == "unknown_request"


@pytest.mark.parametrize("id", ["0", "_" * 24, "\N{SUN}", "-1", "a" * 5000, "%01", "00000000" + "f" * 400])
def test_what_is_no_id_is_404(service: Service, id: str) -> None:
    assert refusal(service.client.get(f"/requests/{id}"), 404) == "unknown_request"


def test_so_many_are_remembered() -> None:
    with serving((Tenant("x"),), max_finished=2) as small:
        ids = [small.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).json()["id"] for _ in range(3)]
        assert refusal(small.client.get(f"/requests/{ids[0]}"), 404) == "unknown_request"
        assert [state(small, id).state for id in ids[1:]] == ["finished", "finished"]


def test_so_much_text_is_remembered() -> None:
    with serving((Tenant("x"),), max_finished_bytes=2000) as small:
        ids = [small.infer(tenant_id="x", prompt_tokens=1, max_tokens=150).json()["id"] for _ in range(2)]
        assert refusal(small.client.get(f"/requests/{ids[0]}"), 404) == "unknown_request"
        assert state(small, ids[1]).state == "finished"


def test_a_busy_tenant_costs_a_quiet_one_no_answer() -> None:
    with serving((Tenant("quiet"), Tenant("noisy")), max_finished=20) as small:
        id = accepted(small, tenant_id="quiet", prompt_tokens=1, max_tokens=1).id
        until(lambda: small.driver.outstanding == 0)
        ids = [small.infer(tenant_id="noisy", prompt_tokens=1, max_tokens=1).json()["id"] for _ in range(21)]
        assert state(small, id).state == "finished"
        assert refusal(small.client.get(f"/requests/{ids[0]}"), 404) == "unknown_request"


def test_what_has_been_read_goes_before_what_has_not() -> None:
    with serving((Tenant("x"),), max_finished=2) as small:
        unread, read = (accepted(small, tenant_id="x", prompt_tokens=1, max_tokens=1).id for _ in range(2))
        until(lambda: small.driver.outstanding == 0)
        assert small.client.head(f"/requests/{unread}").status_code == 200
        assert state(small, read).state == "finished"
        accepted(small, tenant_id="x", prompt_tokens=1, max_tokens=1)
        until(lambda: small.client.get(f"/requests/{read}").status_code == 404)
        assert state(small, unread).state == "finished"


def test_for_so_long_they_are_remembered() -> None:
    with serving((Tenant("x"),), keep_finished_s=0.2) as small:
        id = small.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).json()["id"]
        until(lambda: small.client.get(f"/requests/{id}").status_code == 404)


# Keys

KEYS = {name: f"aps_{name * 43}"[:47] for name in "gsmo"}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Service]:
    digests = {name: digest_of(key.encode()) for name, key in KEYS.items()}
    access = Access({"g": [digests["g"]], "s": [digests["s"]]}, admin=digests["o"], metrics=digests["m"])
    with serving((Tenant("g"), Tenant("s")), access=access) as running:
        yield running


def ask(service: Service, key: str, **fields: Any) -> httpx.Response:
    return service.client.post("/infer", json={"prompt_tokens": 1, "max_tokens": 1} | fields, headers=bearer(key))


def test_the_key_decides_the_tenant(locked: Service) -> None:
    assert ask(locked, "g").json()["tenant_id"] == "g"
    assert ask(locked, "g", tenant_id="g").json()["tenant_id"] == "g"
    assert refusal(ask(locked, "g", tenant_id="s"), 403) == "forbidden"
    assert refusal(ask(locked, "m"), 403) == "forbidden"
    assert ask(locked, "o", tenant_id="s").json()["tenant_id"] == "s"
    assert refusal(ask(locked, "o"), 422) == "invalid"


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer aps_wrong", "Basic eDp5", "\xe9"])
def test_without_a_key_nothing_is_read(locked: Service, header: str | None) -> None:
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    for content in (b"{", b'{"prompt_tokens": 1}'):
        reply = locked.client.post("/infer", content=content, headers=headers)
        assert refusal(reply, 401) == "unauthorized"
        assert reply.headers["www-authenticate"].startswith("Bearer")
    assert refusal(locked.client.get("/requests/0", headers=headers), 401) == "unauthorized"


def test_nobody_sees_anothers_request(locked: Service) -> None:
    id = ask(locked, "g").json()["id"]
    assert locked.client.get(f"/requests/{id}", headers=bearer("g")).json()["state"] == "finished"
    assert locked.client.get(f"/requests/{id}", headers=bearer("o")).json()["tenant_id"] == "g"
    assert refusal(locked.client.get(f"/requests/{id}", headers=bearer("m")), 403) == "forbidden"
    for verb in ("GET", "DELETE"):
        others = locked.client.request(verb, f"/requests/{id}", headers=bearer("s"))
        nobodys = locked.client.request(verb, "/requests/0", headers=bearer("s"))
        assert others.status_code == nobodys.status_code == 404
        assert others.json() == nobodys.json()


def test_the_document_says_that_keys_are_needed(locked: Service) -> None:
    document = locked.client.get("/openapi.json").json()
    assert document["components"]["schemas"]["InferRequest"]["required"] == []
    assert document["security"] == [{"key": []}]


# What is left of a tenant's rate


def test_answers_say_what_is_left_of_the_rate() -> None:
    with serving((Tenant("x", rate=10.0, burst=1000.0), Tenant("free")), time_scale=10.0) as service:
        reply = service.infer(tenant_id="x", prompt_tokens=500, max_tokens=100)
        assert reply.headers["x-ratelimit-limit-tokens"] == "1000"
        assert 400 <= int(reply.headers["x-ratelimit-remaining-tokens"]) < 500
        assert 5 < float(reply.headers["x-ratelimit-reset-tokens"]) <= 6  # 600 tokens at 10 a simulated second
        for status, more in ((429, {"prompt_tokens": 900}), (400, {"prompt_tokens": 2000})):
            reply = service.infer(tenant_id="x", max_tokens=10, **more)
            assert reply.status_code == status
            assert reply.headers["x-ratelimit-limit-tokens"] == "1000"
        reply = service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1, wait=False)
        assert reply.headers["x-ratelimit-limit-tokens"] == "1000"
        assert not [name for name in service.infer(tenant_id="free", prompt_tokens=1).headers if "ratelimit" in name]


def test_answers_say_what_is_left_of_the_request_rate() -> None:
    with serving((Tenant("x", request_rate=1e-3, request_burst=2.5),), time_scale=10.0) as service:
        reply = service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1)
        assert (reply.status_code, reply.headers["x-ratelimit-limit-requests"]) == (200, "2")
        assert reply.headers["x-ratelimit-remaining-requests"] == "1"
        assert 0 < float(reply.headers["x-ratelimit-reset-requests"]) <= 100  # one request at a hundredth a second
        assert "x-ratelimit-limit-tokens" not in reply.headers
        assert service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1, wait=False).status_code == 202
        reply = service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1)
        refusal = reply.json()["error"]
        assert (reply.status_code, refusal["reason"]) == (429, "over_request_rate")
        assert "x is over its rate of 0.001 requests a simulated second: try again in" in refusal["message"]
        assert 0 < refusal["retry_after_s"] <= 50
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
