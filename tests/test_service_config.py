"""The configuration: file, environment and flags, everything that is wrong at once, and the page that documents it."""

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps.cli.serve import FLAGS
from aps.policy import Limits, Policy
from aps.service.config import Config, Devices, Settings
from aps.service.config_keys import BY_NAME, KEYS, TENANT_KEYS, VARIABLES
from aps.service.config_reader import ConfigError, Given, read_config
from aps.service.config_view import notes, plain, value_of, words
from aps.service.keys import hash_line, new_key, parse_hash
from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS
from aps.tenants import Tenant

KEY = "aps_" + "k" * 43
HASH = hash_line(KEY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aps.toml"


def read(file: Path, text: str, environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    file.write_text(text)
    given = {FLAGS[name]: Given(value, f"--{name}") for name, value in flags.items()}
    return read_config(file, environ, given)


def problems(file: Path, text: str, environ: Mapping[str, str] | None = None, **flags: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(file, text, environ, **flags)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


# What is read


def test_without_anything_it_is_the_documented_default() -> None:
    config = read_config()
    assert config == Config(Settings(), Devices(), Policy(), Limits(), DEFAULT_TENANTS + STRESS_TENANTS)
    assert config.open and not config.settings.beyond_this_machine
    assert not list(notes(config))


def test_every_key_of_a_file_takes_hold(file: Path) -> None:
    config = read(
        file,
        f"""
        [server]
        port = 0
        drain_s = 5
        [devices]
        gpus = 2
        profile = "a100-llama2-7b"
        slots = 8
        kv_tokens = 32000
        token_budget = 0
        time_scale = 10
        [policy]
        base = "bids"
        aging_horizon_s = 60
        [limits]
        max_queued = "none"
        max_context = 4096
        max_body_bytes = 4096
        [price]
        gpu_hour_dollars = 2
        [logging]
        level = "info"
        format = "json"
        [tenants.gold]
        weight = 3
        rate = 100
        burst = 1000
        over_rate = "queue"
        keys = ["{HASH}"]
        [tenants."a b"]
        max_in_flight = "none"
        rate = inf
        """,
    )
    assert config.settings == Settings(
        port=0,
        drain_s=5,
        max_body_bytes=4096,
        gpu_hour_dollars=2,
        price_source="not stated",
        log_level="info",
        log_format="json",
    )
    assert config.devices == Devices(2, "a100-llama2-7b", 8, 32000, 0, 16, 10)
    assert config.policy == Policy.bids(aging_horizon_s=60)
    assert config.limits == Limits(max_queued=None, max_context=4096)
    assert config.tenants == (Tenant("gold", 3, 100, 1000, "queue"), Tenant("a b"))
    assert config.keys == {"gold": (parse_hash(HASH),), "a b": ()}
    assert not config.open
    backend = config.devices.backend()
    assert replace(config.devices.device, name="gpu1") == backend.devices[1]
    assert [(d.slots, d.kv_blocks, d.token_budget) for d in backend.devices] == [(8, 2000, None)] * 2
    assert backend.time_scale == 10
    assert list(config.scheduler(backend).tenants) == ["gold", "a b"]


def test_flags_win_over_the_environment_and_that_over_the_file(file: Path) -> None:
    text = "[server]\nport = 1\ndrain_s = 1\n[devices]\ngpus = 1\n"
    environ = {"APS_SERVER_PORT": "2", "APS_DEVICES_GPUS": "2", "UNRELATED": "x"}
    config = read(file, text, environ, port=3)
    assert (config.settings.port, config.devices.gpus, config.settings.drain_s) == (3, 2, 1)
    assert config.origins == {"server.port": "--port", "devices.gpus": "APS_DEVICES_GPUS", "server.drain_s": str(file)}


def test_a_corner_named_above_sets_the_policy_below_aside(file: Path) -> None:
    text = '[policy]\nbase = "vtc"\naging_horizon_s = 60\nbackfill_depth = 3\n'
    assert read(file, text).policy == Policy.vtc(aging_horizon_s=60, backfill_depth=3)
    assert read(file, text, policy="strict").policy == Policy.strict()
    assert read(file, text, {"APS_POLICY_BASE": "fair"}, aging_horizon=5).policy == Policy.fair(aging_horizon_s=5)
    assert read(file, text, aging_horizon=5).policy == Policy.vtc(aging_horizon_s=5, backfill_depth=3)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("server.host", "::1", "::1"),
        ("server.insecure_open", "TRUE", True),
        ("server.insecure_open", "0", False),
        ("server.drain_s", "2", 2),
        ("server.drain_s", "2.5", 2.5),
        ("policy.aging_horizon_s", "inf", inf),
        ("policy.fairness_window", "1e3", 1000.0),
        ("limits.max_queued", "none", None),
        ("limits.max_queued", "7", 7),
        ("devices.slots", "none", None),
        ("logging.format", "json", "json"),
    ],
)
def test_a_variable_is_read_as_its_key(name: str, text: str, value: object) -> None:
    config = read_config(environ={BY_NAME[name].variable: text})
    assert value_of(config, name) == value
    assert type(value_of(config, name)) is type(value)


def test_every_key_has_a_variable_that_sets_it() -> None:
    """To something else than the default, so that it shows."""
    for key in KEYS:
        default = key.default
        for value in "7 0.75 4096 inf micro a.db swap json info true fair a100-llama2-7b ::1 none".split():
            try:
                config = read_config(environ={key.variable: value, "APS_SERVER_INSECURE_OPEN": "true"})
            except ConfigError:
                continue
            if value_of(config, key.full) != default:
                break
        else:
            pytest.fail(f"{key.variable} sets nothing")


def test_the_price_is_the_profiles_unless_it_is_given(file: Path) -> None:
    profile = file.parent / "mine.toml"
    profile.write_text('base = "reference"\ndollars_per_hour = 3.5\nprice_source = "a bill"\n')
    config = read(file, '[devices]\nprofile = "./mine.toml"\n')  # from where the file is, wherever we are
    assert (config.settings.gpu_hour_dollars, config.settings.price_source) == (3.5, "a bill")
    config = read(file, f'[devices]\nprofile = "{profile}"\n[price]\ngpu_hour_dollars = 4\nsource = "my own"\n')
    assert (config.settings.gpu_hour_dollars, config.settings.price_source) == (4, "my own")
    assert read_config(environ={"APS_PRICE_SOURCE": "x"}).settings.price_source == "x"


def test_a_path_in_a_flag_counts_from_where_we_are(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.toml").write_text('base = "reference"\nslots = 3\n')
    monkeypatch.chdir(tmp_path / "here")
    assert read(file, "", profile="mine.toml").devices.spec.slots == 3
    assert "mine.toml" in problems(file, '[devices]\nprofile = "mine.toml"\n')[0]


def test_the_keys_of_the_two_other_roles_come_from_the_environment() -> None:
    admin, metrics = new_key(), new_key()
    config = read_config(environ={"APS_ADMIN_KEY": admin, "APS_METRICS_KEY": hash_line(metrics)})
    assert (config.admin_key, config.metrics_key) == (parse_hash(hash_line(admin)), parse_hash(hash_line(metrics)))
    assert not config.open


def test_variables_of_kubernetes_are_let_be() -> None:
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP", "PORT_80_TCP_ADDR")
    environ = {f"APS_METRICS_{link}": "tcp://10.0.0.1:80" for link in links} | {"APS_PORT": "tcp://10.0.0.1:80"}
    assert read_config(environ=environ).settings == Settings()


# What is wrong

WRONG = [
    ("tenents = 3", "unknown table or key 'tenents', there are [server], "),
    ("server = 3", "server must be a table [server], got 3"),
    (
        "[server]\nprot = 80",
        "unknown key 'prot' in [server], there are host, port, insecure_open, drain_s; did you mean",
    ),
    ('[server]\nport = "80"', "server.port must be an int in 0..65535, got '80'"),
    ("[server]\nport = 70000", "server.port must be an int in 0..65535, got 70000"),
    ("[server]\nport = true", "server.port must be an int in 0..65535, got True"),
    ("[server]\nhost = 3", "server.host must be an IP address or a host's name, got 3"),
    ("[server]\ninsecure_open = 1", "server.insecure_open must be true or false, got 1"),
    ("[server]\ndrain_s = nan", "server.drain_s must be seconds above 0 and at most 86400, got nan"),
    ('[server]\nhost = "0.0.0.0"', "server.host 0.0.0.0 is reachable from other machines and no keys are configured"),
    ("[devices]\ngpus = 1025", "devices.gpus must be an int in 1..1024, got 1025"),
    ('[devices]\nprofile = "h100"', "devices.profile must be a profile that there is and that can be read, got 'h100'"),
    ('[devices]\nprofile = "/nowhere.toml"', "/nowhere.toml"),
    ("[devices]\nkv_tokens = 0", 'devices.kv_tokens must be an int in 1..2147483647 or "none", got 0'),
    ("[devices]\nkv_tokens = 15", "devices.block_tokens must be at most the 15 tokens of a KV cache, got 16"),
    (
        "[devices]\nblock_tokens = 65536",
        "devices.block_tokens must be at most the 61035 tokens of a KV cache, got 65536",
    ),
    (
        "[devices]\ngpus = 1024\nslots = 65536",
        "devices.gpus must be at most 16: 1048576 slots in all, 65536 each, got 1024",
    ),
    ("[devices]\ntime_scale = 1e9", "devices.time_scale must be a number in 0.0001..10000, got 1000000000.0"),
    ('[policy]\nbase = "best"', "policy.base must be one of aps, fifo, strict, vtc, fair, bids, got 'best'"),
    ("[policy]\nbase = [1]", "policy.base must be one of aps, fifo, strict, vtc, fair, bids, got [1]"),
    ("[policy]\naging_horizon_s = -1", "policy.aging_horizon_s must be seconds in 0..1e8, or inf (no aging), got -1"),
    (
        '[policy]\nbatching = "micro"\npreemption = "swap"',
        "policy.preemption with batching=\"micro\" must be 'off', got 'swap'",
    ),
    ("[limits]\nmax_queued = -1", 'limits.max_queued must be an int in 0..2147483647 or "none", got -1'),
    ("[limits]\nmax_body_bytes = 1", "limits.max_body_bytes must be an int in 1024..1073741824, got 1"),
    ("[price]\ngpu_hour_dollars = inf", "price.gpu_hour_dollars must be dollars, a finite number >= 0, got inf"),
    ('[logging]\nlevel = "loud"', "logging.level must be 'debug' or 'info' or 'warning' or 'error', got 'loud'"),
    ('[record]\nfile = ""', "record.file must be a file's path, got ''"),
    ('[store]\nurl = ""', "store.url must be a file's path or a database's address, got ''"),
    ("[record]\nmax_mb = 1000001", "record.max_mb must be an int in 1..1000000, got 1000001"),
    ("tenants = 3", "tenants must be a table [tenants.NAME] for each tenant, got 3"),
    ("[tenants]", "tenants must be a table [tenants.NAME] for each tenant, got {}"),
    ("tenants.x = 3", "tenants.x must be a table [tenants.x], got 3"),
    ('[tenants.x]\nname = "y"', "unknown key 'name' in [tenants.x]"),
    ("[tenants.x]\nwheight = 1", "did you mean 'weight'?"),
    ("[tenants.x]\nweight = 0", "tenants.x.weight must be a number in 1e-9..1e9, got 0"),
    (
        "[tenants.x]\nrate = 1",
        "tenants.x.burst must be a number of tokens > 0, finite exactly when tenants.x.rate is, got inf",
    ),
    ("[tenants.x]\nweight = 1" + "0" * 400, "tenants.x.weight must be"),
    ('[tenants."a/b"]', "the name in [tenants.NAME] must be a str of 1 to 256 printable characters"),
    ('[tenants.x]\nmax_bid = "none"', "tenants.x.max_bid must be an int in 1..10, got 'none'"),
    ("[tenants.x]\ndefault_bid = 9\nmax_bid = 3", "tenants.x.default_bid must be at most tenants.x.max_bid, 3, got 9"),
    ('[tenants.x]\nkeys = "abc"', "tenants.x.keys must be an array of hashes, got a str"),
    (f'[tenants.x]\nkeys = ["{HASH}", "{KEY}"]', 'tenants.x.keys[1] must be "sha256:" and 64 hexadecimal digits'),
    (
        f'[tenants.x]\nkeys = ["{HASH}"]\n[tenants.y]\nkeys = ["{HASH}"]',
        "tenants.x.keys and tenants.y.keys have the same key: a key has one role",
    ),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_a_problem_names_file_key_value_and_what_is_allowed(file: Path, text: str, said: str) -> None:
    (problem,) = problems(file, text)
    assert said in problem
    assert problem.startswith((f"{file}: ", "server.host: "))
    assert len(problem) <= 500
    assert KEY not in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[tenants", "is not TOML: "),
        (b"x = " + b"[" * 100_000, "is not TOML: "),
        (b"x.y" + b".y" * 5000 + b" = 1", "unknown table or key 'x'"),
        (b"x = 1" + b"0" * 5000, "is not TOML: "),
        (b"\xff\xfe[server]", "is not TOML: "),
    ],
    ids=["cut", "deep array", "deep table", "digits", "utf-16"],
)
def test_a_file_that_is_none_is_one_problem(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert len(caught.value.problems) == 1
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[server]\nport = 5\n")
    assert read_config(file).settings.port == 5


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read: {why}")):
            read_config(path)


def test_everything_that_is_wrong_is_said_at_once(file: Path) -> None:
    said = problems(
        file,
        '[server]\nport = "x"\ndrain_s = 0\nhots = 1\n[limits]\nmax_queued = -1\nbody_s = "soon"\n'
        '[tenants.a]\nrate = -1\nburst = 5\nweight = "heavy"\n[tenants.b]\nkeys = [3]\nmax_bid = 11\n',
        {"APS_DEVICES_GPUS": "two", "APS_SERVER_PROT": "1", "APS_ADMIN_KEY": "short"},
        time_scale=1e9,
    )
    assert sorted(line.split(": ", 1)[1].split(" ")[0] for line in said) == sorted(
        [
            "unknown",
            "no",
            "server.port",
            "server.drain_s",
            "limits.body_s",
            "devices.gpus",
            "devices.time_scale",
            "limits.max_queued",
            "tenants.a.weight",
            "tenants.a.rate",
            "tenants.a.burst",
            "tenants.b.keys[0]",
            "tenants.b.max_bid",
            "must",  # APS_ADMIN_KEY
        ]
    )
    assert "short" not in str(said)
    assert any(line.startswith("--time_scale: ") for line in said)
    assert any(line.startswith("APS_SERVER_PROT: ") and "did you mean 'APS_SERVER_PORT'" in line for line in said)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["none", "inf", HASH])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
TABLE = st.dictionaries(
    st.sampled_from([key.name for key in (*KEYS, *TENANT_KEYS)]) | st.text(max_size=4), VALUES, max_size=3
)
FILES = st.dictionaries(
    st.sampled_from(["tenants", *(key.table for key in KEYS)]) | st.text(max_size=4),
    TABLE | st.dictionaries(st.text(max_size=4), TABLE, max_size=2) | VALUES,
    max_size=3,
)


def said_well(error: ConfigError) -> bool:
    return bool(error.problems) and all(0 < len(line) <= 500 and "\n" not in line for line in error.problems)


@given(FILES)
def test_whatever_a_file_says_it_is_a_configuration_or_its_problems(content: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aps.service.config_reader.read_toml", lambda _: copy.deepcopy(content))
        try:
            config = read_config(Path("aps.toml"))
        except ConfigError as error:
            assert said_well(error)
        else:
            assert plain(config) and list(words(config)) and list(notes(config)) is not None


@given(
    st.dictionaries(st.sampled_from([key.variable for key in KEYS] + [*VARIABLES]), st.text(max_size=20), max_size=3)
)
def test_whatever_the_environment_says_it_is_a_configuration_or_its_problems(environ: dict[str, str]) -> None:
    try:
        assert plain(read_config(environ=environ))
    except ConfigError as error:
        assert said_well(error)


def test_beyond_this_machine_it_takes_keys_or_the_word(file: Path) -> None:
    keyed = f'[server]\nhost = "0.0.0.0"\n[tenants.x]\nkeys = ["{HASH}"]\n'
    assert read(file, keyed).settings.beyond_this_machine
    assert read(file, '[server]\nhost = "0.0.0.0"\n', insecure_open=True).open
    assert read(file, '[server]\nhost = "::"\n', {"APS_METRICS_KEY": KEY}).metrics_key
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert "no keys are configured" in problems(file, f'[server]\nhost = "{host}"\n')[0]
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        assert read(file, f'[server]\nhost = "{host}"\n').open
