"""APS: a multi-tenant scheduler for LLM inference. Token buckets, bids that age, weighted fairness in tokens."""

from importlib import metadata as _metadata

from aps.devices import Device
from aps.driver import Driver, DriverError, Result, Stream, Ticket, UnfinishedError
from aps.policy import Limits, Policy
from aps.scheduler import Scheduler
from aps.state import SchedulerState
from aps.tenants import Tenant
from aps.verdicts import Batch, DeviceSnapshot, Ended, Explanation, Snapshot, TenantSnapshot, Verdict

try:
    __version__ = _metadata.version("aps-scheduler")
except _metadata.PackageNotFoundError:  # run from its sources, never installed
    __version__ = "0+source"

__all__ = [
    "Batch",
    "Device",
    "DeviceSnapshot",
    "Driver",
    "DriverError",
    "Ended",
    "Explanation",
    "Limits",
    "Policy",
    "Result",
    "Scheduler",
    "SchedulerState",
    "Snapshot",
    "Stream",
    "Tenant",
    "TenantSnapshot",
    "Ticket",
    "UnfinishedError",
    "Verdict",
]
