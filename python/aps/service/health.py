"""Whether the service lives, and whether it takes requests: `GET /health`, `/health/live`, `/health/ready`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from aps.driver import Driver
from aps.service.version import VERSION

if TYPE_CHECKING:
    from aps.service.keeper import Keeper  # SQLAlchemy: not for those who keep nothing


class DeviceHealth(BaseModel):
    """One device each."""

    name: Annotated[str, Field(description="As the configuration and the metrics have it.")]
    ok: Annotated[bool, Field(description="Whether it takes requests.")]
    detail: Annotated[str, Field(description="If not, why; else empty.")]


class StoreHealth(BaseModel):
    """Whether usage and the scheduler's state are written down. Scheduling goes on while they are not."""

    status: Annotated[
        Literal["ok", "failing"], Field(description="Of the last try, or of one that has been under way for too long.")
    ]
    since: Annotated[datetime, Field(description="When it became so.")]
    saved_at: Annotated[datetime, Field(description="Everything up to then is in the store.")]
    unsaved_s: Annotated[
        float, Field(description="Wall seconds since then: what is lost if the process is killed now.")
    ]
    error: Annotated[str | None, Field(description="Why it fails: with the admin or the metrics key; else null.")]
    reading: Annotated[
        Literal["ok", "failing"] | None,
        Field(description="Whether changes of tenants that others make are seen; null: nobody looks for them."),
    ]
    reading_error: Annotated[str | None, Field(description="As `error`.")]


class Health(BaseModel):
    """Whether the service runs (`live`) and takes requests (`ready`)."""

    live: Annotated[bool, Field(description="False once it has failed: start it again.")]
    ready: Annotated[bool, Field(description="Live, not draining, and at least one device takes requests.")]
    draining: Annotated[bool, Field(description="It stops: what was accepted is finished, new requests get 503.")]
    version: Annotated[str, Field(description="Of APS.")]
    profile: Annotated[str, Field(description="Of the simulated GPUs, or what the backend calls itself.")]
    policy: Annotated[str, Field(description="The two knobs.")]
    devices: Annotated[int, Field(description="How many there are.")]
    device_health: list[DeviceHealth]
    slots: Annotated[int, Field(description="How many requests run at once on all devices.")]
    tenants: Annotated[int, Field(description="How many may send requests.")]
    waiting: Annotated[int, Field(description="Requests admitted and not started.")]
    outstanding: Annotated[int, Field(description="Requests admitted and not ended.")]
    seconds: Annotated[Literal["simulated", "wall"], Field(description="Whose seconds `now_s` and others are.")]
    time_scale: Annotated[float, Field(description="Seconds of the service's clock in one of yours.")]
    now_s: Annotated[float, Field(description="The service's clock, since it started.")]
    since_progress_s: Annotated[
        float | None,
        Field(
            description="Seconds of the service's clock since a device last finished a step or sent news, while there "
            "are requests; null while there are none. It grows when a device hangs."
        ),
    ]
    store: Annotated[StoreHealth | None, Field(description="Null: nothing is kept.")]


def health_of(driver: Driver, keeper: "Keeper | None" = None, *, whole: bool = True) -> Health:
    """As it is now. Does not raise when the driver has failed. A store that fails does not make it unready.

    whole: what a failing store says too, which may name machines, users and files.
    """
    scheduler, backend = driver.scheduler, driver.backend
    devices = []
    for at, device in enumerate(scheduler.devices):
        ok, detail = driver.health(at)
        devices.append(DeviceHealth.model_construct(name=device.name, ok=ok, detail=detail))
    live = driver.failed is None
    now = driver.now
    return Health.model_construct(
        live=live,
        ready=live and not driver.draining and any(device.ok for device in devices),
        draining=driver.draining,
        version=VERSION,
        profile=backend.profile,
        policy=scheduler.policy.knobs,
        devices=len(devices),
        device_health=devices,
        slots=sum(device.slots for device in scheduler.devices),
        tenants=len(scheduler.tenants),
        waiting=scheduler.waiting,
        outstanding=driver.outstanding,
        seconds="simulated" if backend.simulated else "wall",
        time_scale=backend.time_scale,
        now_s=now - driver.opened_at,
        since_progress_s=now - driver.progressed_at if driver.outstanding else None,
        store=None if keeper is None else _store(keeper, whole),
    )


def _store(keeper: "Keeper", whole: bool) -> StoreHealth:
    status = keeper.writer.status
    reading = None if keeper.reading is None else keeper.reading.now
    return StoreHealth.model_construct(
        status=status.status,
        since=datetime.fromtimestamp(status.since, UTC),
        saved_at=datetime.fromtimestamp(status.saved_at, UTC),
        unsaved_s=keeper.unsaved_s,
        error=status.error if whole else None,
        reading=None if reading is None else reading.status,
        reading_error=reading.error if whole and reading is not None else None,
    )
