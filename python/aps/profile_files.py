"""Profiles in TOML: reading a user's, and writing one out as a file to start from."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from aps import _checks as check
from aps.models import ModelShape
from aps.profile import Profile, kv_tokens_in, physics
from aps.toml_file import read_toml
from aps_core.physics import PhysicsModel
from aps_core.step_time import ReferenceModel

NOT_STATED = "not stated"
TOKEN_BUDGET = 512
NOT_IN_FILES = ("layers", "width", "kv_bytes_per_token_layer", "decoder_bytes", "head_bytes")  # the model's


class Key(NamedTuple):
    """What stands behind a key: a str, an int or a float (which may be written as an integer), and its meaning."""

    kind: type
    meaning: str


# Every table with every key, in the order in which they are written.
TABLES = {
    "": {
        "base": Key(str, "the built-in profile that this one starts from"),
        "name": Key(str, "what it is called"),
        "description": Key(str, "for people"),
        "slots": Key(int, "requests at once"),
        "token_budget": Key(int, "tokens a step computes at most, chunks of prompts included; 0: whole prompts"),
        "kv_tokens": Key(int, "tokens that the KV cache holds; else what memory_bytes leaves beside the weights"),
        "memory_bytes": Key(int, "bytes of GPU memory for weights and KV cache together; with [model]"),
        "kv_bytes_per_token": Key(int, "bytes of a cached token in all layers; with [reference]"),
        "dollars_per_hour": Key(float, "price of one GPU, dollars an hour"),
        "price_source": Key(str, "where and when that price was seen"),
        "measured_on": Key(str, "what the constants come from"),
        "peak_flops": Key(float, "FLOP/s by the data sheet; without it there is no MFU"),
    },
    "model": {
        "layers": Key(int, "decoder layers"),
        "width": Key(int, "of the hidden state"),
        "feed_forward": Key(int, "width of the gated MLP"),
        "heads": Key(int, "query heads; they divide the width"),
        "kv_heads": Key(int, "key/value heads; they divide the heads"),
        "vocabulary": Key(int, "tokens it knows"),
    },
    "gpu": {
        "weight_bandwidth": Key(float, "BW: bytes/s at which weights are read"),
        "compute": Key(float, "F: FLOP/s of matrix products"),
        "roofline_power": Key(float, "p: how sharp the corner between the two is"),
        "linear_token_s": Key(float, "e1: seconds per token and layer of width 4,096"),
        "linear_layer_s": Key(float, "e0: seconds per step and layer of width 4,096"),
        "kv_bandwidth": Key(float, "BW_kv: bytes/s at which decodes read the KV cache"),
        "attention_layer_s": Key(float, "a0: seconds per layer of a step that decodes"),
        "attention_sequence_s": Key(float, "a1: seconds per layer and sequence that decodes"),
        "self_attention_compute": Key(float, "F_self: FLOP/s of a chunk's attention to itself"),
        "past_attention_compute": Key(float, "F_past: FLOP/s of a chunk's attention to what was cached before it"),
        "host_s": Key(float, "t_host: seconds of the engine's own work in each step"),
        "swap_bandwidth": Key(float, "BW_swap: bytes/s between GPU and host memory"),
    },
    "reference": {
        "prefill_rate": Key(float, "tokens/s of prefill, not sped up by batching"),
        "decode_rate": Key(float, "tokens/s of one sequence that decodes alone"),
        "speedup": Key(float, "of decoding at speedup_batch sequences, and beyond"),
        "speedup_batch": Key(int, "where the straight line from 1 at batch 1 ends"),
        "swap_rate": Key(float, "cached tokens/s between GPU and host memory"),
    },
}
KINDS = {str: "a string", int: "an integer", float: "a number"}


# ---- reading


def read_profile(path: str | Path, bases: Mapping[str, Profile]) -> Profile:
    """The profile of a TOML file; `bases`: what its `base` may name. The keys are those of `TABLES`.

    OSError: it cannot be read. ValueError names the file, the key, the value and what is allowed.
    """
    given = read_toml(path)
    _check_keys(path, given)
    base = given.pop("base", None)
    if base is not None:
        if base not in bases:
            raise ValueError(f"{path}: base must be one of {', '.join(bases)}, got {base!r}")
        given = _on_base(bases[base], given)
    if not ("model" in given) ^ ("reference" in given):
        has = ", ".join(f"[{table}]" for table in TABLES if table in given) or "none of them"
        on = f" (with those of base {base!r})" if base is not None else ""
        raise ValueError(f"{path}: must have either [model] (and [gpu]) or [reference], got {has}{on}")
    if "reference" in given and "gpu" in given:
        raise ValueError(f"{path}: must have either [model] (and [gpu]) or [reference], got [gpu], [reference]")
    return _built(path, given | {"name": given.get("name", Path(path).stem)})


def _check_keys(path: str | Path, given: Mapping[str, Any]) -> None:
    """Only keys that there are, each of its type."""
    for name, value in given.items():
        if name and name in TABLES:
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {name} must be a table [{name}], got {value!r}")
            for key, inner in value.items():
                _check_key(path, name, key, inner)
        else:
            _check_key(path, "", name, value)


def _check_key(path: str | Path, table: str, name: str, value: object) -> None:
    keys = TABLES[table]
    if name not in keys:
        where = f"table [{table}]" if table else "top level"
        tables = "" if table else "; tables: " + ", ".join(f"[{other}]" for other in TABLES if other)
        raise ValueError(f"{path}: unknown key {name!r} in the {where}, there are {', '.join(keys)}{tables}")
    kind = keys[name].kind
    fits = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{path}: {_full(table, name)} must be {KINDS[kind]}, got {value!r}")


def _on_base(base: Profile, given: Mapping[str, Any]) -> dict[str, Any]:
    """The base's keys with the given ones over them; where its numbers come from is not said of other numbers."""
    whole = document(base)
    del whole["name"]
    changed = []
    for name, value in given.items():
        if name in TABLES:
            changed += [_full(name, key) for key in value]
            whole[name] = {**whole.get(name, {}), **value}
        else:
            changed += [] if TABLES[""][name].kind is str else [name]
            whole[name] = value
    if any("." in name for name in changed):
        whole["measured_on"] = given.get("measured_on", NOT_STATED)
    if "dollars_per_hour" in given:
        whole["price_source"] = given.get("price_source", NOT_STATED)
    if "description" not in given:
        whole["description"] = f"{base.name} with its own {', '.join(changed)}" if changed else base.description
    return whole


def _built(path: str | Path, given: dict[str, Any]) -> Profile:
    """The profile of a document without a base."""
    model = None
    if "model" in given:
        _need(path, "model", given["model"], TABLES["model"])
        with _named(path, "model", "ModelShape"):
            model = ModelShape(**given["model"])
        if "kv_bytes_per_token" in given:
            raise ValueError(f"{path}: kv_bytes_per_token must not be given with [model], from which it follows")
        with _named(path, "gpu"):
            step_time: PhysicsModel | ReferenceModel = physics(model, **given.get("gpu", {}))
    else:
        with _named(path, "reference"):
            step_time = ReferenceModel(**given["reference"])
        if "memory_bytes" in given:
            raise ValueError(f"{path}: memory_bytes must not be given without [model]: say kv_tokens")
    budget = given.get("token_budget", TOKEN_BUDGET)
    if not 0 <= budget <= check.INT32_MAX:
        raise ValueError(f"{path}: token_budget must be from 0 (whole prompts) to {check.INT32_MAX}, got {budget}")
    needed = ["slots", "dollars_per_hour"]
    needed += ["kv_bytes_per_token"] if model is None else []
    needed += ["kv_tokens"] if "memory_bytes" not in given else []
    _need(path, "", given, needed)
    with _named(path, "", "Profile"):
        return Profile(
            name=given["name"],
            description=given.get("description", ""),
            step_time=step_time,
            slots=given["slots"],
            kv_tokens=_kv_tokens(given, model),
            token_budget=budget or None,
            dollars_per_hour=given["dollars_per_hour"],
            price_source=given.get("price_source", NOT_STATED),
            kv_bytes_per_token=given["kv_bytes_per_token"] if model is None else model.kv_bytes_per_token,
            measured_on=given.get("measured_on", NOT_STATED),
            model=model,
            memory_bytes=given.get("memory_bytes"),
            peak_flops=given.get("peak_flops"),
        )


def _kv_tokens(given: Mapping[str, Any], model: ModelShape | None) -> int:
    if "kv_tokens" in given or model is None:
        return int(given["kv_tokens"])
    return kv_tokens_in(given["memory_bytes"], model)


def _need(path: str | Path, table: str, given: Mapping[str, Any], names: Any) -> None:
    for name in names:
        if name not in given:
            meaning = TABLES[table][name].meaning
            raise ValueError(f"{path}: {_full(table, name)} must be given ({meaning})")


@contextmanager
def _named(path: str | Path, table: str, owner: str = "") -> Iterator[None]:
    """Errors of a constructor, `owner.field must be ...`, as errors of the file's key."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {_full(table, str(error).removeprefix(f'{owner}.'))}") from error


def _full(table: str, name: str) -> str:
    return f"{table}.{name}" if table else name


# ---- writing


def document(profile: Profile) -> dict[str, Any]:
    """The keys of a file that gives this profile, tables as dictionaries; without `base`.

    ValueError: its step time is neither physics of its model nor a ReferenceModel.
    """
    constants = profile.step_time.constants()
    tables: dict[str, Any]
    if isinstance(profile.step_time, ReferenceModel):
        tables = {"reference": constants}
    else:
        gpu = {name: value for name, value in constants.items() if name not in NOT_IN_FILES}
        if profile.model is None or gpu.keys() != TABLES["gpu"].keys():
            raise ValueError(f"profile {profile.name!r} has no model to write down, only {profile.step_time!r}")
        if physics(profile.model, **gpu) != profile.step_time:
            raise ValueError(f"profile {profile.name!r} has a step time that is not its model's: {profile.step_time!r}")
        tables = {"model": asdict(profile.model), "gpu": gpu}
    keys = {
        "name": profile.name,
        "description": profile.description,
        "slots": profile.slots,
        "token_budget": profile.token_budget or 0,
        "kv_tokens": profile.kv_tokens,
        "memory_bytes": profile.memory_bytes,
        "kv_bytes_per_token": profile.kv_bytes_per_token if profile.model is None else None,
        "dollars_per_hour": profile.dollars_per_hour,
        "price_source": profile.price_source,
        "measured_on": profile.measured_on,
        "peak_flops": profile.peak_flops,
    }
    if profile.model is not None and profile.memory_bytes is not None:
        if profile.kv_tokens == kv_tokens_in(profile.memory_bytes, profile.model):
            keys["kv_tokens"] = None  # follows
    return {name: value for name, value in keys.items() if value is not None} | tables


def to_toml(profile: Profile) -> str:
    """The profile as a TOML file with a comment on every key; `read_profile` of it gives an equal profile.

    ValueError as of `document`.
    """
    whole = document(profile)
    lines = ["# A simulated GPU for APS. Every key: docs/profiles.md", ""]
    for table, keys in TABLES.items():
        given = whole.get(table) if table else whole
        if given is None:
            continue
        if table:
            lines += ["", f"[{table}]"]
        for name, key in keys.items():
            if name in given:
                lines += [f"# {key.meaning}", f"{name} = {_toml(given[name], key.kind)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any, kind: type) -> str:
    if kind is str:
        # JSON's escapes are TOML's, but for the one control character that JSON leaves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if kind is int:
        return str(int(value))
    short = f"{value:.12g}"
    text = short if float(short) == value else repr(float(value))
    return text if "." in text or "e" in text else f"{text}.0"
