"""The simulated GPUs that a service's record was made with: it is played on them unless others are asked for."""

import os
from dataclasses import replace
from pathlib import Path

from aps.lab.run import Setup
from aps.lab.traces.detect import HEAD
from aps.lab.traces.record import SERVICE
from aps.lab.traces.source import TraceError, beginning, opened
from aps.profile import Profile
from aps.profiles import profile_named
from aps.record import RecordError, chain, schema


def recorded_setup(path: str | Path, profile: Profile | None = None) -> Setup | None:
    """As the header of the record says, limits over all tenants included; with a profile given, of the GPUs only
    their number.

    None: no record of a service, or one whose GPUs were not simulated or not all alike. TraceError: the record's own
    profile cannot be had, or the header is wrong.
    """
    if not os.path.isfile(path):
        return None
    with opened(Path(path)):
        if not SERVICE.match(beginning(Path(path), HEAD)):
            return None
    try:
        header = chain.chain(path).parts[0].header
    except RecordError as error:
        where, _, says = str(error).partition(": ")  # it names its file
        raise TraceError(where, says) from None
    name = header.get("profile")
    if not isinstance(name, str):  # who records without a service says what he likes there
        return None
    found = profile or _profile(str(path), name)
    try:
        devices, block_tokens = header["devices"], header["block_tokens"]
        setup = Setup(found, gpus=len(devices), limits=schema.limits_of(header))
        if profile is not None:
            return setup
        kinds = {(device["slots"], device["kv_blocks"], device["token_budget"]) for device in devices}
        if len(kinds) != 1:
            return None
        slots, kv_blocks, token_budget = kinds.pop()
        return replace(
            setup,
            slots=slots,
            kv_tokens=kv_blocks * block_tokens,
            token_budget=token_budget or 0,  # 0: whole prompts
            block_tokens=block_tokens,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(str(path), f"header: {error}", 1) from None


def _profile(path: str, name: str) -> Profile:
    try:
        return profile_named(name)
    except (OSError, ValueError) as error:
        says = f"recorded with --profile {name}, which cannot be had ({error}); --profile must name one that can"
        raise TraceError(path, says) from None
