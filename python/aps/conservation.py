"""Whether nothing is lost and nothing counted twice: the scheduler's books, the driver's and the backend's."""

from collections.abc import Mapping

from aps.pump import Pump
from aps.verdicts import DeviceSnapshot, Snapshot

Used = Mapping[str, tuple[int, int]]  # by tenant: prompt and output tokens that the driver had counted when it came


def discrepancies(pump: Pump, snapshot: Snapshot, before: Used) -> dict[str, int]:
    """How far apart they are, by what is counted; all 0 when everything is conserved.

    requests: waiting, running and returning ones, in all and by tenant. slots: in use, by device. blocks: of the KV
    cache, the most that what runs may come to hold, and what it holds now. tokens: of requests that wait, and used by
    those that have ended, by tenant. The snapshot is of the pump's instant.
    """
    census = pump.desk.census(pump.scheduler.block_tokens)
    devices = tuple(snapshot.devices.values())
    requests = abs(snapshot.waiting - census["waiting"]) + abs(snapshot.returning - census["returning"])
    tokens = abs(snapshot.waiting_tokens - census["waiting_tokens"])
    rows = snapshot.tenants
    columns = (rows.columns[field].tolist() for field in ("waiting", "in_flight", "prompt_tokens", "output_tokens"))
    for name, waiting, in_flight, prompts, outputs in zip(rows.names, *columns, strict=True):
        counted = pump.metrics.tenants.get(name)
        if counted is None:
            requests += waiting + in_flight
            continue
        requests += abs(waiting - counted.waiting)
        requests += abs(waiting + in_flight - counted.outstanding)
        prompt, output = before.get(name, (0, 0))
        tokens += abs(prompts + prompt - counted.prompt_tokens)
        tokens += abs(outputs + output - counted.output_tokens)
    slots = blocks = 0
    for at, device in enumerate(devices):
        requests += abs(device.running - pump.desk.running(at))
        slots += abs(device.running - census["running"][at])
        blocks += abs(device.max_blocks - census["blocks"][at])
        usage = pump.backend.usage(at)
        if usage is not None:
            slots += abs(device.running - usage.running)
            blocks += _astray(device, usage.held_blocks)
    return {"requests": requests, "slots": slots, "blocks": blocks, "tokens": tokens}


def _astray(device: DeviceSnapshot, held: int) -> int:
    """Blocks that a device holds and nobody knows of, or the other way round. A request may be in the middle of a step
    that gives it one more block than it has been heard of."""
    return max(0, device.held_blocks - held, held - device.held_blocks - device.running)
