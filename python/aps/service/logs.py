"""The service's log: one line an event, text or JSON, on stderr; written by a thread of its own.

What a line of a request may hold is fixed here: names, sizes, instants and reasons. No prompt, no output, no key.
"""

import json
import logging
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal, TextIO

from aps.service.entry import Entry

MOST_WAITING = 20_000  # lines that nobody reads; further ones are dropped and counted
CLOSING_S = 5.0  # what a stopping log gives whoever reads it


class Logs:
    """The process's log from when it is made until `stop`. Python's own loggers go through it too.

    level: of the loggers; "info" and below give a line a request. requests: for these lines; None: they are not wanted.
    """

    def __init__(
        self,
        level: str = "warning",
        format: Literal["text", "json"] = "text",
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._encode = _as_json if format == "json" else _as_text
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._dropped = 0
        self._handler = _Handler(self)
        root = logging.getLogger()
        self._before = root.level, list(root.handlers)
        root.handlers[:] = [self._handler]
        root.setLevel(level.upper())
        wanted = root.isEnabledFor(logging.INFO)
        self.requests = RequestLog(self) if wanted else None
        self._thread = threading.Thread(target=self._write, name="aps-log", daemon=True)
        self._thread.start()

    def put(self, at: float, line: Any) -> None:
        """An event at that wall instant, for the thread: fields, or what makes them."""
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put((at, line))
        else:
            self._dropped += 1

    def stop(self) -> None:
        """Write what waits, and put Python's loggers back as they were."""
        root = logging.getLogger()
        level, handlers = self._before
        root.setLevel(level)
        root.handlers[:] = handlers
        self._queue.put(None)
        self._thread.join(CLOSING_S)

    def _write(self) -> None:
        stream = self._stream
        while (item := self._queue.get()) is not None:
            at, line = item
            if not isinstance(line, dict):
                line = line()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                line["dropped"] = dropped
            with suppress(OSError, ValueError):  # nobody reads it
                stream.write(self._encode(at, line))
                if self._queue.empty():
                    stream.flush()
        with suppress(OSError, ValueError):
            stream.flush()


class RequestLog:
    """A line for each `POST /infer` at its end."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def end(self, entry: Entry, status: int, reason: str | None = None) -> None:
        """The request was answered with that HTTP status (499: its client had gone); reason: of a refusal."""
        wall_s = time.perf_counter() - entry.began
        self._logs.put(time.time(), lambda: _request(entry, status, reason, wall_s))


class _Handler(logging.Handler):
    """Python's log records as events; formatted here, because what they refer to may change."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {"level": record.levelname.lower(), "event": "log", "logger": record.name}
            fields["message"] = record.getMessage()
            if record.exc_info:
                fields["error"] = logging.Formatter().formatException(record.exc_info)
            self._logs.put(record.created, fields)
        except Exception:
            self.handleError(record)


def _request(entry: Entry, status: int, reason: str | None, wall_s: float) -> dict[str, Any]:
    """Seconds are those of the service's clock, but for `wall_s`."""
    fields: dict[str, Any] = {"level": "info", "event": "request", "id": entry.id, "status": status}
    if entry.request_id is not None:
        fields["request_id"] = entry.request_id
    verdict, result = entry.verdict, entry.result
    if reason is None and result is not None and result.status != "finished":
        reason = result.reason
    if verdict is not None:
        fields |= {
            "tenant": entry.tenant,
            "verdict": verdict.status,
            "bid": verdict.bid if result is None else result.bid,
            "prompt_tokens": entry.prompt_tokens,
            "max_tokens": entry.max_tokens,
        }
    if reason is not None:
        fields["reason"] = reason
    if entry.stream:
        fields["stream"] = True
    if entry.id is not None and result is not None:
        fields |= {
            "ended": result.status,
            "output_tokens": result.output_tokens,
            "charge": result.charge,
            "queue_wait_s": _seconds(result.queue_wait_s),
            "ttft_s": _seconds(result.ttft_s),
            "e2e_s": _seconds(result.e2e_s),
        }
    fields["wall_s"] = _seconds(wall_s)
    if entry.trace_id:
        fields["trace_id"] = f"{entry.trace_id:032x}"
    return fields


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_json(at: float, fields: dict[str, Any]) -> str:
    return json.dumps({"time": _instant(at), **fields}, separators=(",", ":"), default=str) + "\n"


def _as_text(at: float, fields: dict[str, Any]) -> str:
    """What is no plain word is quoted, so that a line is a line."""
    level, event = fields.pop("level").upper(), fields.pop("event")
    error = fields.pop("error", None)
    if event == "log":
        text = f"{fields.pop('logger')}: {fields.pop('message')}".replace("\r", "\\r").replace("\n", "\\n")
        event = text
    said = "".join(f" {name}={_plain(value)}" for name, value in fields.items() if value is not None)
    return f"{_instant(at)} {level} {event}{said}\n" + (f"{error}\n" if error else "")


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and '"' not in text else json.dumps(text)
