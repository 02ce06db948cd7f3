"""Options that are keys of the configuration: whatever a key allows its option allows, and says in the same words."""

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aps.service.config_reader import Given


def given(options: argparse.Namespace, keys: Mapping[str, str]) -> "dict[str, Given]":
    """What was given of these options, for `read_config`, which checks it. keys: full keys by name."""
    from aps.service.config_keys import BY_NAME
    from aps.service.config_reader import Given, parsed

    found = {}
    for name, full in keys.items():
        value = getattr(options, name)
        if value is not None:
            found[full] = Given(parsed(value, BY_NAME[full]) if isinstance(value, str) else value, flag(name))
    return found


def of_key(full: str) -> Callable[[str], Any]:
    """The type of an option that is checked at once: a value that this key may have; None for "none"."""

    def value(text: str) -> Any:
        from aps.service.config_reader import value_of_text

        try:
            return value_of_text(full, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return value


def flag(name: str) -> str:
    """An option as it is typed, of its name in the namespace."""
    return "--" + name.replace("_", "-")
