"""Options that are keys of the configuration: they allow the same values, and say what is wrong in the same words."""

from dataclasses import replace

import pytest

from aps.cli import parser
from aps.cli.key_options import flag
from aps.cli.serve import FLAGS, _reader
from aps.service.config import Config
from aps.service.config_keys import BY_NAME
from aps.service.config_reader import ConfigError, read_config

TEXTS = ("", "-1", "0", "1", "7.5", "1e3", "1025", "70000", "1e9", "nan", "inf", "none", "true", "x", "json", "fair")
OF_THE_LAB = {
    "gpus": "devices.gpus",
    "slots": "devices.slots",
    "kv_tokens": "devices.kv_tokens",
    "token_budget": "devices.token_budget",
    "price": "price.gpu_hour_dollars",
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in BY_NAME.values():
        monkeypatch.delenv(key.variable, raising=False)
    monkeypatch.delenv("APS_CONFIG", raising=False)


def by_variable(full: str, text: str) -> Config | tuple[str, ...]:
    """What a variable makes of a text: a configuration, or what is wrong, without where it was said."""
    try:
        return replace(read_config(environ={BY_NAME[full].variable: text}), origins={})
    except ConfigError as error:
        return tuple(problem.partition(": ")[2] for problem in error.problems)


@pytest.mark.parametrize("name", [name for name, full in FLAGS.items() if BY_NAME[full].kind is not bool])
def test_an_option_of_serve_is_its_variable(name: str) -> None:
    for text in TEXTS:
        options = parser(["serve"]).parse_args(["serve", f"{flag(name)}={text}"])
        found: Config | tuple[str, ...]
        try:
            found = replace(_reader(options)(), origins={})
        except ConfigError as error:
            assert all(problem.startswith(f"{flag(name)}: ") for problem in error.problems)
            found = tuple(problem.partition(": ")[2] for problem in error.problems)
        assert found == by_variable(FLAGS[name], text), text


@pytest.mark.parametrize("name", OF_THE_LAB)
def test_an_option_of_the_laboratory_is_its_key(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text in TEXTS:
        key = BY_NAME[OF_THE_LAB[name]]
        wanted = by_variable(key.full, text)
        try:
            options = parser(["simulate"]).parse_args(["simulate", "burst", f"{flag(name)}={text}"])
        except SystemExit:
            assert isinstance(wanted, tuple) and f"argument {flag(name)}: {wanted[0]}" in capsys.readouterr().err
        else:
            of_others = isinstance(wanted, tuple) and not wanted[0].startswith(f"{key.full} ")
            assert of_others or isinstance(wanted, Config), text
            if isinstance(wanted, Config):
                owner = wanted.devices if key.table == "devices" else wanted.settings
                assert getattr(options, name) == getattr(owner, key.field)
