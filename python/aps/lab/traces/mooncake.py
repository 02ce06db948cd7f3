"""Mooncake: JSON lines, `timestamp` (ms), `input_length`, `output_length`, `hash_ids`; and Bailian, in seconds."""

from aps.lab.traces.jsonl import objects
from aps.lab.traces.recorded import Recorded, Rows
from aps.lab.traces.source import Lines

NAME = "Mooncake JSON lines"
BAILIAN = "Bailian JSON lines"  # known by its chat_id


def read(lines: Lines, rows: Rows) -> Recorded:
    """Prefixes are not modelled: `hash_ids` are not used."""
    name, unit_s, hashed = NAME, 1e-3, False
    for at, chunk in enumerate(objects(lines)):
        if at == 0 and "chat_id" in chunk.objects[0]:
            name, unit_s = BAILIAN, 1.0
        hashed |= any("hash_ids" in found for found in chunk.objects)
        rows.add(
            chunk,
            at_s=chunk.instants("timestamp") * unit_s,
            prompt_tokens=chunk.tokens("input_length"),
            output_tokens=chunk.tokens("output_length"),
        )
    notes = ("hash_ids are not used: every prompt is computed whole, no prefix is shared",) if hashed else ()
    return rows.recorded(name, notes=notes)
