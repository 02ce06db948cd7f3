"""Records: every call that a scheduler saw and what it answered, as lines of JSON; and their exact replay.

docs/record.md has the format. A record holds no text: names of tenants, sizes, instants and verdicts.
"""

from aps.record.chain import RecordError
from aps.record.recorder import Recorder
from aps.record.replaying import Difference, ReplayResult, replay

__all__ = ["Difference", "RecordError", "Recorder", "ReplayResult", "replay"]
