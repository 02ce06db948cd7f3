"""Whether the service lives, and whether it takes requests: `GET /health`, `/health/live`, `/health/ready`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from aps.driver import Driver
from aps.service.version import VERSION


class DeviceHealth(BaseModel):
    """One device."""

    name: str
    ok: Annotated[bool, Field(description="Whether it takes requests.")]
    detail: Annotated[str, Field(description="If not, why.")]


class Health(BaseModel):
    """Whether the service runs (`live`) and takes requests (`ready`)."""

    live: Annotated[bool, Field(description="False once it has failed: start it again.")]
    ready: Annotated[bool, Field(description="Live, not draining, and at least one device takes requests.")]
    draining: bool
    version: str
    profile: str
    policy: Annotated[str, Field(description="The two knobs.")]
    devices: int
    device_health: list[DeviceHealth]
    slots: int
    tenants: int
    waiting: Annotated[int, Field(description="Requests admitted and not started.")]
    outstanding: Annotated[int, Field(description="Requests admitted and not ended.")]
    seconds: Literal["simulated", "wall"]
    time_scale: float
    now_s: Annotated[float, Field(description="The service's clock, since it started.")]
    since_progress_s: Annotated[
        float | None,
        Field(
            description="Seconds of the service's clock since a device last finished a step or sent news, while there "
            "are requests; null while there are none. It grows when a device hangs."
        ),
    ]


def health_of(driver: Driver) -> Health:
    """As it is now. Does not raise when the driver has failed."""
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
    )
