"""The OpenAPI document: what the framework finds, and what it does not serve itself."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from aps.service.errors import MEANING
from aps.service.wire import components

Document = dict[str, Any]

# More than the types say. The framework's pages show the first rule as "one of".
RULES = {
    "oneOf": [
        {"required": ["prompt"], "properties": {"prompt": {"type": "string"}, "prompt_tokens": {"type": "null"}}},
        {
            "required": ["prompt_tokens"],
            "properties": {"prompt_tokens": {"type": "integer"}, "prompt": {"type": "null"}},
        },
    ],
    "not": {"required": ["stream", "wait"], "properties": {"stream": {"const": True}, "wait": {"const": False}}},
}
EVERYWHERE = {  # whatever is asked
    400: "What came is no HTTP, or its path or query is no UTF-8.",
    408: MEANING[408],
    413: MEANING[413],
    431: MEANING[431],
    500: MEANING[500],
    503: "There are too many connections.",
}
RETRY_AFTER = {
    "Retry-After": {"description": "Whole seconds, at least 1.", "schema": {"type": "integer", "minimum": 1}}
}
RATE = {
    f"x-ratelimit-{name}": {"description": f"{text} Only of a tenant with {whose}.", "schema": {"type": kind}}
    for name, text, whose, kind in (
        ("limit-tokens", "The tenant's burst.", "a bucket", "integer"),
        ("remaining-tokens", "What its bucket can pay now.", "a bucket", "integer"),
        ("reset-tokens", "Seconds of your clock until it is full.", "a bucket", "number"),
        ("limit-requests", "The tenant's request burst.", "a request rate", "integer"),
        ("remaining-requests", "How many it may send at once now.", "a request rate", "integer"),
        ("reset-requests", "Seconds of your clock until its request bucket is full.", "a request rate", "number"),
    )
}
RATED = (400, 409, 429, 502, 503, 504)  # the scheduler has seen the request
EVENT = {
    "type": "object",
    "description": "An event, when `stream` is true. `data` is a `Chunk` for all tokens that were ready; at the end an "
    "`InferAnswer` without `text`, then `[DONE]`. Comments come while it queues. Once the status is sent, what goes "
    "wrong is an event named `error` whose data is an `ErrorAnswer`.",
    "properties": {"event": {"enum": ["message", "error"]}, "data": {"type": "string"}},
    "required": ["data"],
}


def install(app: FastAPI, needs_key: Callable[[], bool]) -> None:
    """Have `app` publish the whole document. needs_key: whether callers must show a key now."""
    documents: dict[bool, Document] = {}

    def document() -> Document:
        keys = needs_key()
        if keys not in documents:
            documents[keys] = _document(app, keys)
        return documents[keys]

    app.openapi = document  # type: ignore[method-assign]


def error(description: str, headers: Document | None = None) -> Document:
    """The response of an error."""
    return {"description": description, "content": _json("ErrorAnswer")} | ({"headers": headers} if headers else {})


def _document(app: FastAPI, keys: bool) -> Document:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = components()
    asked = schemas["InferRequest"]
    asked |= RULES | {"required": [] if keys else ["tenant_id"]}
    if not keys:
        asked["properties"]["tenant_id"] = asked["properties"]["tenant_id"]["anyOf"][0]  # without null
    parts = found.setdefault("components", {})
    parts["schemas"] = parts.get("schemas", {}) | schemas
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's shape, which is not ours
        parts["schemas"].pop(name, None)
    found["paths"] = {"/infer": {"post": _infer()}, "/requests/{id}": _requests()} | found["paths"]
    for path in found["paths"].values():
        for operation in path.keys() & {"get", "post", "put", "patch", "delete"}:
            answers = path[operation]["responses"]
            if "422" in answers:
                answers["422"] = error("`field` names what is wrong.")
            for status, text in EVERYWHERE.items():
                answers.setdefault(str(status), error(text))
    if keys:
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _infer() -> Document:
    errors = {}
    for status, text in MEANING.items():
        retries = RETRY_AFTER if status in (429, 503) else {}
        errors[str(status)] = error(text, retries | RATE if status in RATED else retries)
    answers = {
        "200": {
            "description": "It has finished.",
            "headers": RATE,
            "content": _json("InferAnswer") | {"text/event-stream": {"schema": EVENT}},
        },
        "202": {
            "description": "It is admitted, and nobody waits (`wait: false`).",
            "headers": RATE | {"Location": {"description": "Where its answer will be.", "schema": {"type": "string"}}},
            "content": _json("Accepted"),
            "links": {
                "state": {"operationId": "request_state", "parameters": {"id": "$response.body#/id"}},
                "cancel": {"operationId": "cancel_request", "parameters": {"id": "$response.body#/id"}},
            },
        },
    }
    return {
        "operationId": "infer",
        "summary": "Generate",
        "description": "Waits its turn, then for its last token. A client that disconnects cancels its request.",
        "requestBody": {"required": True, "content": _json("InferRequest")},
        "responses": answers | errors,
    }


def _requests() -> Document:
    id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    refused = {
        "401": error(MEANING[401]),
        "403": error("A metrics key reads `GET /metrics` and nothing else."),
        "404": error("There is no such request, it is forgotten, or it is another tenant's."),
        "500": error(MEANING[500]),
    }
    state = {"200": {"description": "The request.", "content": _json("RequestState")}}
    return {
        "parameters": [id],
        "get": {
            "operationId": "request_state",
            "summary": "Where a request stands, or how it ended",
            "responses": state | refused,
        },
        "delete": {
            "operationId": "cancel_request",
            "summary": "End a request",
            "description": "What it has not used is given back. One that has ended stays as it is.",
            "responses": state | refused,
        },
    }


def _json(name: str) -> Document:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
