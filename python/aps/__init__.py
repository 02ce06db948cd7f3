"""APS: a multi-tenant scheduler for LLM inference. Token buckets, bids that age, weighted fairness in tokens."""

from importlib.metadata import PackageNotFoundError, version

from aps.devices import Device
from aps.policy import Limits, Policy
from aps.scheduler import Scheduler
from aps.tenants import Tenant
from aps.verdicts import Batch, DeviceSnapshot, Ended, Explanation, Snapshot, TenantSnapshot, Verdict

try:
    __version__ = version("aps-scheduler")
except PackageNotFoundError:  # run from its sources, never installed
    __version__ = "0+source"

__all__ = [
    "Batch",
    "Device",
    "DeviceSnapshot",
    "Ended",
    "Explanation",
    "Limits",
    "Policy",
    "Scheduler",
    "Snapshot",
    "Tenant",
    "TenantSnapshot",
    "Verdict",
]
