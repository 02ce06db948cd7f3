"""The usage ledger over HTTP: `GET /admin/usage`. Exists only in a service that has a store and an admin key."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from aps.service.access import REFUSALS, administers, refused_with
from aps.service.administering import asks_what_there_is, refusing
from aps.service.aside import aside
from aps.service.errors import Refusal
from aps.service.wire import encode
from aps.store.database import Database
from aps.store.usage import TooMany, check_order, check_tenant, instant_of, read, total

if TYPE_CHECKING:
    from aps.service.keeper import Keeper

MOST_ROWS = 100_000
HOUR = "A full hour (UTC unless it says otherwise), as 2026-11-28 or 2026-11-28T14:00."

router = APIRouter(
    prefix="/admin",
    tags=["administration"],
    dependencies=[Depends(administers), Depends(asks_what_there_is)],
    responses=REFUSALS,
)


class UsageRow(BaseModel):
    """What one tenant used, or all. Tokens and charges are of requests that have ended; GPU time is as it passes."""

    tenant: Annotated[str | None, Field(description="null: all.")]
    period: Annotated[str | None, Field(description="The hour or day (UTC); null: the whole time.")]
    admitted: int
    finished: int
    cancelled: int
    expired: Annotated[int, Field(description="Their deadline passed before they started.")]
    dropped: Annotated[int, Field(description="A change of limits made them impossible.")]
    failed: Annotated[int, Field(description="In the backend.")]
    prompt_tokens: Annotated[int, Field(description="As far as they were computed.")]
    output_tokens: int
    charged_micro: Annotated[int, Field(description="Millionths of bucket tokens, exactly.")]
    gpu_ns: Annotated[int, Field(description="Nanoseconds of devices, each shared equally by what is on it.")]
    charged_tokens: float
    gpu_s: float
    refused: Annotated[dict[str, int], Field(description="Requests that were not admitted, by reason.")]


class UsageAnswer(BaseModel):
    """The ledger, as far as it is in the store."""

    saved_at: Annotated[datetime, Field(description="Everything of this service up to then is in it.")]
    rows: list[UsageRow]
    total: UsageRow


@router.get(
    "/usage",
    response_model=UsageAnswer,
    responses=refused_with(
        {
            404: "There is no such tenant, and the ledger has nothing of one that was.",
            422: "A parameter is wrong, or there are too many rows.",
            503: "The store fails.",
        }
    ),
)
async def usage(
    request: Request,
    tenant: Annotated[str | None, Query(description="This one alone.")] = None,
    since: Annotated[str | None, Query(alias="from", description=f"Hours from this one on. {HOUR}")] = None,
    until: Annotated[str | None, Query(alias="to", description=f"Hours before this one. {HOUR}")] = None,
    by: Annotated[Literal["tenant", "day", "hour"], Query(description="A row for each, of each tenant.")] = "tenant",
) -> Response:
    """What tenants used: requests, refusals, tokens, charges, GPU time, from the ledger by hour."""
    keeper: Keeper = request.app.state.keeper
    ledger: Database = request.app.state.ledger
    begin, end = _instant("from", since), _instant("to", until)
    try:
        check_order("to", begin, end)
    except ValueError as error:
        raise Refusal("invalid", str(error), field="to") from error

    def answer() -> bytes:
        saved_at = datetime.fromtimestamp(keeper.writer.status.saved_at, UTC)
        with ledger.reading() as connection:
            if tenant is not None:
                check_tenant(connection, tenant)
            rows = read(connection, tenant=tenant, since=begin, until=end, by=by, most=MOST_ROWS)
        found: dict[str, Any] = {
            "saved_at": saved_at,
            "rows": [row.plain() for row in rows],
            "total": total(rows).plain(),
        }
        return encode(found)

    with refusing(""):
        try:
            return Response(await aside(answer), media_type="application/json")
        except KeyError as error:
            raise Refusal("unknown_tenant", str(error.args[0]), field="tenant") from error
        except TooMany as error:
            raise Refusal("invalid", str(error), field="by") from error


def install(app: FastAPI, database: Database) -> None:
    """Give `app`, which has a keeper, this route. database: the keeper's, by connections of its own."""
    app.state.ledger = database
    app.include_router(router)


def _instant(name: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else instant_of(name, text)
    except ValueError as error:
        raise Refusal("invalid", str(error), field=name) from error
