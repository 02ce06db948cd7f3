"""Server-sent events over real HTTP: what they say, how they end, and who may hold them up."""

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from aps.service.connection import Connection
from aps.service.wire import Chunk, ErrorAnswer, InferAnswer
from aps.tenants import Tenant
from tests.serving import Service, serving, until


def parts(text: str) -> list[str]:
    """The events and comments of a stream."""
    assert text.endswith("\n\n")
    return text.strip("\n").split("\n\n")


def answered(event: str) -> dict[str, Any]:
    """The answer in a stream's last event but one."""
    said: dict[str, Any] = json.loads(event.removeprefix("data: "))
    assert "text" not in said
    msgspec.convert(said | {"text": ""}, InferAnswer)
    return said


def failed(event: str) -> str:
    """The reason in an error event."""
    assert event.startswith("event: error\ndata: ")
    return msgspec.json.decode(event.removeprefix("event: error\ndata: "), type=ErrorAnswer).error.reason


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x", rate=1e-3, burst=1e6),)) as running:
        yield running


def test_a_stream_is_the_answer_in_parts(service: Service) -> None:
    fields = {"tenant_id": "x", "prompt": "Why is the sky blue?", "max_tokens": 40, "bid": 3}
    whole = service.infer(**fields).json()
    reply = service.infer(**fields, stream=True)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-ratelimit-limit-tokens"] == "1000000"
    *chunks, last, done = parts(reply.text)
    assert done == "data: [DONE]"
    said = [msgspec.json.decode(chunk.removeprefix("data: "), type=Chunk) for chunk in chunks]
    assert "".join(chunk.text for chunk in said) == whole["text"]
    assert [chunk.output_tokens for chunk in said] == sorted({chunk.output_tokens for chunk in said})
    assert said[-1].output_tokens == 40
    answer = answered(last)
    assert {chunk.id for chunk in said} == {answer["id"]}
    same = ("prompt_tokens", "output_tokens", "counted_by", "charge", "verdict", "batch_size")
    assert {name: answer[name] for name in same} == {name: whole[name] for name in same}
    kept = service.client.get(f"/requests/{answer['id']}").json()
    assert kept["answer"] == answer | {"text": whole["text"]}


def test_tokens_that_are_ready_together_come_together() -> None:
    with serving((Tenant("x"),), time_scale=10_000.0) as fast:
        *chunks, _, _ = parts(fast.infer(tenant_id="x", prompt_tokens=10, max_tokens=20_000, stream=True).text)
        assert 1 <= len(chunks) < 10_000


def test_what_is_refused_before_the_first_token_has_its_status() -> None:
    with serving((Tenant("x", rate=1e-3, burst=100.0, max_in_flight=1),), time_scale=10.0) as slow:
        for status, fields in ((400, {"prompt_tokens": 101}), (422, {"prompt_tokens": 0}), (404, {"tenant_id": "y"})):
            assert slow.infer(**{"tenant_id": "x", "prompt_tokens": 1, "stream": True} | fields).status_code == status
    with serving((Tenant("x", max_in_flight=1),), time_scale=10.0) as slow:
        slow.infer(tenant_id="x", prompt_tokens=8000, max_tokens=1, wait=False)
        reply = slow.infer(tenant_id="x", prompt_tokens=1, deadline_s=0.5, stream=True)
        assert (reply.status_code, reply.json()["error"]["reason"]) == (504, "deadline_expired")


def test_comments_keep_a_stream_open_that_waits() -> None:
    with serving((Tenant("x", max_in_flight=1),), time_scale=10.0, comment_s=0.05) as slow:
        slow.infer(tenant_id="x", prompt_tokens=3000, max_tokens=1, wait=False)
        *comments, _, last, _ = parts(slow.infer(tenant_id="x", prompt_tokens=1, max_tokens=1, stream=True).text)
        assert len(comments) >= 2
        assert set(comments) == {": waiting"}
        assert answered(last)["output_tokens"] == 1


def test_what_fails_after_a_comment_is_an_event() -> None:
    with serving((Tenant("x", max_in_flight=1),), time_scale=10.0, comment_s=0.02) as slow:
        slow.infer(tenant_id="x", prompt_tokens=8000, max_tokens=1, wait=False)
        reply = slow.infer(tenant_id="x", prompt_tokens=1, deadline_s=2.0, stream=True)
        assert reply.status_code == 200
        *_, comment, error = parts(reply.text)
        assert (comment, failed(error)) == (": waiting", "deadline_expired")


def test_what_is_cancelled_after_a_token_ends_with_an_error_event() -> None:
    with serving((Tenant("x"),), time_scale=1.0) as slow:
        with slow.client.stream("POST", "/infer", json=asked(max_tokens=10_000)) as reply:
            lines = reply.iter_lines()
            first = msgspec.json.decode(next(lines).removeprefix("data: "), type=Chunk)
            assert slow.client.delete(f"/requests/{first.id}").status_code == 200
            rest = "\n".join(lines) + "\n"
        assert failed(parts(rest)[-1]) == "cancelled"
        assert "[DONE]" not in rest


def asked(**fields: Any) -> dict[str, Any]:
    return {"tenant_id": "x", "prompt_tokens": 10, "stream": True} | fields


def test_a_driver_that_fails_in_a_stream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving((Tenant("x"),), time_scale=1.0) as slow:
        with slow.client.stream("POST", "/infer", json=asked(max_tokens=10_000)) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")

            def broken() -> None:
                raise RuntimeError("the GPU is on fire")

            monkeypatch.setattr(slow.driver.backend, "take", broken)
            rest = "\n".join(lines) + "\n"
        assert failed(parts(rest)[-1]) == "driver_failed"
        assert "fire" not in rest


@pytest.mark.parametrize("prompt_tokens", [10, 30_000], ids=["after a token", "before one"])
def test_a_client_that_leaves_a_stream_cancels_and_pays_for_what_it_used(prompt_tokens: int) -> None:
    with serving((Tenant("x", rate=1e-3, burst=50_000.0),), time_scale=1.0) as slow:
        client = open_stream(slow, asked(prompt_tokens=prompt_tokens, max_tokens=10_000))
        if prompt_tokens == 10:
            said = b""
            while b"data: " not in said:
                said += client.recv(4096)
        until(lambda: slow.status("x")["in_flight"] == 1)
        client.close()
        until(lambda: slow.status("x")["requests"]["cancelled"] == 1)
        status = slow.status("x")
        assert status["in_flight"] == 0
        assert status["bucket"]["level"] > 49_000


def test_a_client_that_does_not_read_is_cut_off() -> None:
    with serving((Tenant("x"),), time_scale=10_000.0, send_s=0.5) as fast:
        client = open_stream(fast, asked(max_tokens=60_000), receive_bytes=2048)
        until(lambda: fast.status("x")["requests"]["finished"] + fast.status("x")["requests"]["cancelled"] == 1, 20)
        began = time.monotonic()
        until(lambda: not connections_of(fast), 10)
        assert time.monotonic() - began < 5
        client.close()
        assert fast.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).status_code == 200


def connections_of(service: Service) -> list[Connection]:
    """The connections that the server holds, but for the test's own client's."""
    ours = {sock.getsockname()[1] for sock in client_sockets(service.client)}
    held = (one for one in tuple(service.server.server_state.connections) if isinstance(one, Connection))
    return [one for one in held if one.client and one.client[1] not in ours]


def test_one_that_has_ended_is_readable_while_its_stream_is_not_read() -> None:
    with serving((Tenant("x"),), time_scale=10_000.0) as service:
        body = {"tenant_id": "x", "prompt_tokens": 1, "max_tokens": 60_000, "stream": True}
        client = open_stream(service, body, receive_bytes=4096)
        try:
            id = first_id(client)
            until(lambda: standing(service, id) == "finished", 20)  # and 200 each time
            drained(client)
            assert standing(service, id) == "finished"
        finally:
            client.close()


def first_id(client: socket.socket) -> str:
    read = b""
    while (found := re.search(rb'"id":"(\w+)"', read)) is None:
        read += client.recv(1024)
    return found[1].decode()


def standing(service: Service, id: str) -> str:
    reply = service.client.get(f"/requests/{id}")
    assert reply.status_code == 200, reply.text
    state: str = reply.json()["state"]
    return state


def drained(client: socket.socket) -> None:
    read = b""
    while not read.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        part = client.recv(1 << 20)
        assert part
        read = read[-100:] + part


def client_sockets(client: httpx.Client) -> list[socket.socket]:
    pool = client._transport._pool  # type: ignore[attr-defined]
    streams = (connection._connection._network_stream for connection in pool.connections)
    return [stream.get_extra_info("socket") for stream in streams]


def open_stream(service: Service, body: dict[str, Any], receive_bytes: int = 0) -> socket.socket:
    """A connection that has sent this body, and reads nothing yet."""
    content = json.dumps(body).encode()
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(10)
    client.connect(service.address)
    client.sendall(b"POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
    return client
