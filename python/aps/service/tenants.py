"""The tenants that `aps serve` starts with when its configuration names none."""

from aps.tenants import Tenant

DEFAULT_TENANTS = (
    Tenant("tenant_a", rate=500.0, burst=5_000.0),
    Tenant("tenant_b", rate=300.0, burst=3_000.0),
    Tenant("tenant_c", rate=1_000.0, burst=10_000.0),
)

# The tenants of `aps stress`: shares 85:15, buckets that hold its burst (50 requests of 590 + 128 tokens) twice over.
STRESS_TENANTS = (
    Tenant("stress_vip", weight=0.85, rate=10_000.0, burst=100_000.0),
    Tenant("stress_free", weight=0.15, rate=10_000.0, burst=100_000.0),
)
