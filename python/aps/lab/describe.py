"""What was simulated, as plain data for JSON and reports."""

from dataclasses import asdict
from typing import Any

from aps.lab.figures import finite
from aps.lab.policies import NamedPolicy
from aps.lab.run import Setup
from aps.lab.workload import Workload


def workload(found: Workload) -> dict[str, Any]:
    """Name, description, notes, requests, tenants, horizon (None: until everything has ended), and `Workload.stats`."""
    return {
        "name": found.name,
        "description": found.description,
        "notes": list(found.notes),
        "requests": len(found),
        "tenants": [{"name": tenant.name, "weight": tenant.weight} for tenant in found.tenants],
        "until_s": finite(found.until_s),
        "stats": found.stats(),
    }


def setup(found: Setup) -> dict[str, Any]:
    """The devices: profile, their number, what they hold, what they cost. token_budget None: whole prompts.

    limits: over all tenants; None: no bound.
    """
    device = found.devices[0]
    return {
        "profile": found.profile.name,
        "gpus": found.gpus,
        "slots": device.slots,
        "kv_tokens": device.kv_blocks * found.block_tokens,
        "block_tokens": found.block_tokens,
        "token_budget": device.token_budget,
        "gpu_hour_dollars": found.profile.dollars_per_hour,
        "price_source": found.profile.price_source,
        "limits": asdict(found.limits),
    }


def policy(found: NamedPolicy) -> dict[str, str]:
    """Its name, its two knobs, and what they make."""
    return {"name": found.name, "knobs": found.policy.knobs, "says": found.says}
