"""How many requests a second a device completes when there is always work."""

import numpy as np

from aps.lab.run import Setup, simulate
from aps.lab.workload import Workload
from aps.policy import Policy

WARM_UP = 0.1  # of the run, before which completions do not count
FULL = 0.99  # occupancy below which the device was not saturated


def capacity(workload: Workload, setup: Setup) -> float:
    """Requests/s that the devices complete under FIFO, from a tenth of the workload's horizon to its end.

    The workload must have a horizon and more work than fits into it: ValueError when slots stood empty.
    """
    run = simulate(workload, Policy.fifo(), setup)
    slots = sum(device.slots for device in setup.devices)
    occupancy = float(run.slot_s.sum()) / (run.ended_at * slots)
    if occupancy < FULL:
        raise ValueError(f"{workload.name} must keep the slots full to measure capacity, occupancy is {occupancy:.1%}")
    begin_s = WARM_UP * run.ended_at
    done = np.count_nonzero(run.finished_at > begin_s)
    return float(done / (run.ended_at - begin_s))
