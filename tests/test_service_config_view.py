"""A configuration to look at: `aps check-config`, its notes, `aps keygen`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aps.cli import main
from aps.service.config import Config
from aps.service.config_keys import BY_NAME, KEYS, TENANT_KEYS
from aps.service.config_reader import read_config
from aps.service.config_view import limit, notes, plain, words
from aps.service.keys import hash_line, parse_hash

KEY = "aps_" + "k" * 43
HASH = hash_line(KEY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aps.toml"


def read(file: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file.write_text(text)
    return read_config(file, environ)


def test_notes_say_what_is_most_likely_not_meant(file: Path) -> None:
    config = read(
        file,
        "[policy]\nbid_premium = 0.1\n[limits]\nmax_context = 100\n"
        f'[tenants.x]\nkeys = ["{HASH}"]\ndefault_max_tokens = 50\nmax_request_tokens = 101\n'
        "[tenants.y]\nmax_bid = 3\nrate = 1\nburst = 24\ndefault_max_tokens = 20\n"
        "[tenants.z]\nkv_share = 0.0001\ndefault_max_tokens = 1\n[tenants.w]\n[tenants.v]\nmax_request_tokens = 90\n",
    )
    assert list(notes(config)) == [
        "without a store (--store FILE) changes of tenants and their usage are lost when the service ends",
        "without keys, nobody can use y, z, w, v",
        "without a metrics key and an admin key nobody can read GET /metrics",
        "tenants.x.max_request_tokens 101 never binds: limits.max_context is 100 tokens",
        "tenants.y.default_max_tokens 20 never fits: its burst at bid 3 is 20 tokens",
        "tenants.z.default_max_tokens 1 never fits: its share of the KV cache is 0 tokens",
        "tenants.w.default_max_tokens 256 never fits: limits.max_context is 100 tokens",
        "tenants.v.default_max_tokens 256 never fits: its max_request_tokens is 90 tokens",
    ]


def test_notes_say_what_counts_for_nothing(file: Path) -> None:
    text = '[record]\nfile = "none"\nmax_mb = 3\n[store]\nkeep_days = 7\n'
    idle = list(notes(read(file, text, {"APS_RECORD_FILES": "2"})))
    assert [note for note in idle if "counts for nothing" in note] == [
        "record.max_mb counts for nothing without record.file",
        "record.files counts for nothing without record.file",
        "store.keep_days counts for nothing without store.url",
    ]
    assert not any("nothing" in note for note in notes(read(file, '[record]\nfile = "x"\nmax_mb = 3\n')))


def test_notes_say_what_no_queue_takes(file: Path) -> None:
    bounded = read(
        file,
        "[limits]\nmax_queued_tokens = 200\n[tenants.w]\n[tenants.x]\nmax_queued_tokens = 90\nmax_request_tokens = 95\n"
        "[tenants.y]\nmax_queued = 0\n[tenants.z]\nmax_queued_tokens = 1\n",
    )
    assert list(notes(bounded))[1:] == [
        "tenants.w.default_max_tokens 256 never fits: limits.max_queued_tokens is 200 tokens",
        "tenants.x.max_request_tokens 95 never binds: its max_queued_tokens is 90 tokens",
        "tenants.x.default_max_tokens 256 never fits: its max_queued_tokens is 90 tokens",
        "no request of y is ever admitted: tenants.y.max_queued is 0",
        "no request of z is ever admitted: tenants.z.max_queued_tokens is 1",
    ]
    for line in ("max_queued = 0", "max_queued_tokens = 1"):
        shut = list(notes(read(file, f"[limits]\n{line}\n[tenants.x]\n")))
        assert shut[1:] == [f"no request is ever admitted: limits.{line.replace('=', 'is')}"]


def test_the_view_has_every_key_and_no_secret(file: Path) -> None:
    config = read(file, f'[tenants.x]\nkeys = ["{HASH}"]\n', {"APS_ADMIN_KEY": KEY + "2"})
    view = plain(config)
    text = json.dumps(view) + str(list(words(config)))
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    for secret in (KEY, HASH, HASH[7:], parse_hash(HASH).hex(), KEY + "2"):
        assert secret not in text
    assert {key.full for key in KEYS if key.name in view[key.table]} == set(BY_NAME)
    assert view["tenants"]["x"].keys() == {key.name for key in TENANT_KEYS}
    assert (view["tenants"]["x"]["keys"], view["tenants"]["x"]["rate"], view["admin_key"]) == (1, None, True)


def test_check_config_says_what_the_service_would_be(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(f'[server]\nport = 80\n[tenants.gold]\nrate = 1000\nburst = 20000\nkeys = ["{HASH}"]\n')
    assert main(["check-config", str(file)]) == 0
    text = capsys.readouterr().out
    for part in (
        "127.0.0.1 port 80, this machine only",
        "profile reference: 16 slots, 61,024 KV tokens, whole prompts; time scale 1",
        "aps: H = 30 s, D = 2048",
        "$1.39 a GPU-hour",
        "1 tenant key of 1 tenant, no metrics key, no admin key",
        "gold  weight 1 (100.0%), 1,000 tokens/s, burst 20,000, keys: 1",
        f"server.port by {file}",
        "nobody can read GET /metrics",
    ):
        assert part in text
    assert main(["check-config", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["right"] is True and found["server"]["port"] == 80
    assert found["set"] == {"server.port": str(file)}


def test_limits_that_are_not_the_default_are_shown(file: Path) -> None:
    config = read(
        file,
        "[limits]\nmax_queued = 'none'\nmax_context = 4096\nbody_s = 2.5\nheader_s = 10\n"
        '[tenants."batch jobs"]\nover_rate = "queue"\nrate = 500\nburst = 50_000\ndefault_bid = 2\nmax_bid = 3\n'
        "max_in_flight = 8\nmax_queued = 1000\nmax_queued_tokens = 90_000\nkv_share = 0.5\ndefault_max_tokens = 64\n"
        "[tenants.free]\nmax_bid = 4\n[tenants.plain]\n",
    )
    assert dict(words(config))["limits"] == "no max_queued, max_context 4,096, body_s 2.5"
    assert "limits" not in dict(words(read_config()))
    assert [limit(tenant) for tenant in config.tenants] == [
        "500 tokens/s, burst 50,000 (waits when over it), at most 8 requests in flight, at most 1,000 requests "
        "waiting, at most 90,000 tokens waiting, 0.5 of the KV cache, bid 2 by default, at most 3, 64 output tokens by "
        "default",
        "no rate limit, bid 4 by default, at most 4",
        "no rate limit",
    ]


def test_check_config_exits_with_2_and_every_problem(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[server]\nport = 70000\nhots = 3\n")
    assert main(["check-config", str(file)]) == 2
    out, said = capsys.readouterr()
    assert not out
    assert said.splitlines()[0] == "aps check-config: 2 problems"
    assert len(said.splitlines()) == 3
    assert main(["check-config", str(file), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["right"], len(found["problems"])) == (False, 2)


def test_check_config_reads_the_environment(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[server]\nport = 5\n")
    monkeypatch.setenv("APS_CONFIG", str(file))
    monkeypatch.setenv("APS_DEVICES_GPUS", "3")
    assert main(["check-config", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["server"]["port"], found["devices"]["gpus"]) == (5, 3)


def test_keygen_prints_a_key_and_the_lines_for_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--tenant", "a b"]) == 0
    key, _, rest = capsys.readouterr().out.partition("\n")
    lines = rest[rest.index("[tenants") :]
    assert read(file, lines).keys == {"a b": (parse_hash(hash_line(key)),)}
    assert main(["keygen", "--quiet"]) == 0
    assert re.fullmatch(r"aps_[\w-]{43}\n", capsys.readouterr().out)
    assert main(["keygen", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hash"] == hash_line(found["key"])


def test_checking_and_making_keys_need_no_extra() -> None:
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn', 'httpx', 'rich', 'pydantic', 'msgspec']))"
    )
    script = f"{blocked}\nfrom aps.cli import main\nprint(main(['check-config']), main(['keygen']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("0 0\n"), done.stderr
