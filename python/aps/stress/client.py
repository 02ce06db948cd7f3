"""An asyncio HTTP client that sends calls to a running service and obeys its Retry-After."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from aps.stress.workloads import Call

RETRIED = (429, 503)


class ServiceError(Exception):
    """Nothing answers there, or not as a service of aps."""


class Wait(NamedTuple):
    """A refusal that says when to come back, in the client's seconds: the header, and the exact time of the body."""

    status: int
    header: int
    exact_s: float


@dataclass(slots=True)
class Outcome:
    """What became of one call: `answer` is the service's if it completed, else `failure` says why not.

    `refused` counts refusals by reason, one for each attempt that was refused; `told`: those that say when to come
    back. `total_s`: simulated seconds from the first attempt to the end, by the client's clock; None in a burst, whose
    bodies are held back.
    """

    call: Call
    attempts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    told: list[Wait] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    failure: str | None = None
    total_s: float | None = None


class Client:
    """Sends calls to the service at `url` (such as `http://127.0.0.1:8000`). An async context manager.

    Every call has a connection of its own. Times of calls are simulated seconds: the service's `time_scale`, read
    from it at the start, converts them. admin_key: for a service with keys; it may ask for every tenant.
    ServiceError when it is not there.
    """

    def __init__(self, url: str, *, admin_key: str | None = None, timeout_s: float = 600.0) -> None:
        self.url = url
        self.has_key = bool(admin_key)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {admin_key}"} if admin_key else {},
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            trust_env=False,  # a proxy of the environment has no part in a measurement
        )
        self.time_scale = 1.0
        self.health: dict[str, Any] = {}

    async def __aenter__(self) -> "Client":
        try:
            self.health = _json(await self._get("/health"))
            self.time_scale = float(self.health["time_scale"])
        except (KeyError, TypeError, ValueError) as error:
            await self._http.aclose()
            raise ServiceError(f"{self.url} does not answer as a service of aps") from error
        except ServiceError:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def metrics(self) -> str:
        """The text of `GET /metrics`."""
        return (await self._get("/metrics")).text

    async def administer(self, method: str, tenant: str, settings: dict[str, Any] | None = None) -> None:
        """PUT or DELETE a tenant. ServiceError: the service does not let us."""
        path = f"/admin/tenants/{quote(tenant, safe='')}"
        try:
            reply = await self._http.request(method, path, json=settings)
        except httpx.HTTPError as error:
            raise ServiceError(f"{self.url} does not answer: {type(error).__name__}: {error}") from error
        if not reply.is_success:
            said = _json(reply).get("error", {}).get("message", "")
            raise ServiceError(f"{self.url} refuses {method} {path} with {reply.status_code} {said}".rstrip())

    async def _get(self, path: str) -> httpx.Response:
        try:
            reply = await self._http.get(path)
            if reply.status_code in (401, 403):
                wrong = "the key in APS_ADMIN_KEY is not its admin key"
                raise ServiceError(
                    f"{self.url} has keys: {wrong if self.has_key else 'give its admin key in APS_ADMIN_KEY'}"
                )
            reply.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError(f"{self.url} does not answer: {type(error).__name__}: {error}") from error
        return reply

    async def burst(self, calls: Sequence[Call], done: Callable[[], None]) -> list[Outcome]:
        """Send all at once, whatever their `at_s`: every body but its last byte goes ahead, then all the last bytes.

        So the service holds every request open before it can read the first. A refusal is final here.
        """
        gate = asyncio.Barrier(len(calls))
        return await asyncio.gather(*(self._send(call, done, patience_s=0.0, gate=gate) for call in calls))

    async def play(self, calls: Sequence[Call], done: Callable[[], None], *, patience_s: float) -> list[Outcome]:
        """Send each at its `at_s`; one told to retry does, while that is within `patience_s` of its first attempt."""

        async def timed(call: Call) -> Outcome:
            await asyncio.sleep(call.at_s / self.time_scale)
            return await self._send(call, done, patience_s=patience_s)

        return await asyncio.gather(*(timed(call) for call in calls))

    async def _send(
        self, call: Call, done: Callable[[], None], *, patience_s: float, gate: asyncio.Barrier | None = None
    ) -> Outcome:
        outcome = Outcome(call)
        body = _body(call)
        began = time.monotonic()
        try:
            while (wait_s := await self._attempt(outcome, body, gate)) is not None:
                if (time.monotonic() - began + wait_s) * self.time_scale > patience_s:
                    outcome.failure = "out of patience"
                    break
                await asyncio.sleep(wait_s)
        except (httpx.HTTPError, asyncio.BrokenBarrierError) as error:
            outcome.failure = f"{type(error).__name__}: {error}"
            if gate is not None:
                await gate.abort()  # the others must not wait for one that will never come
        if gate is None:
            outcome.total_s = (time.monotonic() - began) * self.time_scale
        done()
        return outcome

    async def _attempt(self, outcome: Outcome, body: bytes, gate: asyncio.Barrier | None) -> float | None:
        """One POST. None when the call has ended, else the wall seconds after which to try again."""
        outcome.attempts += 1
        reply = await self._http.post(
            "/infer",
            content=body if gate is None else _held_back(body, gate),
            headers={"content-type": "application/json", "content-length": str(len(body))},
        )
        content = _json(reply)
        if reply.is_success:
            outcome.answer = content
            return None
        error = content.get("error", {})
        reason = str(error.get("reason", f"http_{reply.status_code}"))
        outcome.refused[reason] += 1
        if reply.status_code in RETRIED:
            header = float(reply.headers.get("retry-after", 0.0))
            wait = Wait(reply.status_code, int(header), float(error.get("retry_after_s") or header))
            outcome.told.append(wait)
            return wait.exact_s or 1.0
        outcome.failure = reason
        return None


async def _held_back(body: bytes, gate: asyncio.Barrier) -> AsyncIterator[bytes]:
    yield body[:-1]
    await gate.wait()
    yield body[-1:]


def _body(call: Call) -> bytes:
    fields = {"tenant_id": call.tenant, "prompt_tokens": call.prompt_tokens, "max_tokens": call.max_tokens}
    return json.dumps(fields if call.bid is None else {**fields, "bid": call.bid}).encode()


def _json(reply: httpx.Response) -> dict[str, Any]:
    try:
        content = reply.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
