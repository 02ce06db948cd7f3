"""What runs the requests: the protocol, and the simulated GPUs."""

from aps.backends.generator import GeneratorBackend
from aps.backends.protocol import FAILED, FINISHED, FIRST_STEP, FIRST_TOKEN, Backend, Health, Job, Progress, Usage
from aps.backends.simulated import SimulatedBackend

__all__ = [
    "FAILED",
    "FINISHED",
    "FIRST_STEP",
    "FIRST_TOKEN",
    "Backend",
    "GeneratorBackend",
    "Health",
    "Job",
    "Progress",
    "SimulatedBackend",
    "Usage",
]
