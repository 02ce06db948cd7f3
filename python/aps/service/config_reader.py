"""A configuration from its file, the environment and flags: the later wins, and all that is wrong is said at once."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aps.policy import Limits, Policy
from aps.profile_files import NOT_STATED
from aps.service.config import Config, Devices, Settings
from aps.service.config_keys import BY_NAME, CORNERS, KEYS, NO_BOUND, TABLES, TENANT_KEYS, VARIABLES, Key
from aps.service.keys import parse_hash, parse_secret
from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS
from aps.tenants import Tenant
from aps.toml_file import read_toml

LONGEST = 500  # characters of a problem
OWNED = re.compile(r"\b(?:Settings|Devices|Policy|Limits|Tenant)\.(\w+)")  # `Tenant.weight must be ...`
# What Kubernetes puts into the environment for a service that is called aps-something.
SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT(_[0-9]+_\w+)?$")
INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
Made = TypeVar("Made")
WORDS = {"true": True, "1": True, "false": False, "0": False}


class ConfigError(ValueError):
    """A configuration that cannot be used. problems: everything that is wrong, a line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Given(NamedTuple):
    """A value, and where it was set: a file, a variable or a flag."""

    value: Any
    origin: str


def read_config(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, Given] | None = None
) -> Config:
    """The configuration of a file, over it that of the variables `APS_...` of `environ`, over it the flags.

    flags: values by full key, `server.port`. A layer that names `policy.base` takes no other key of the policy from
    the layers below. ConfigError: everything that is wrong in any layer.
    """
    reading = _Reading(file)
    layers = [reading.of_file(), reading.of_environment(environ or {}), flags or {}]
    config = reading.build(_merged(layers), environ or {})
    if reading.problems:
        raise ConfigError(dict.fromkeys(reading.problems))
    return config


def config_file(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the one named, else that of APS_CONFIG, else none."""
    return named if named is not None or not environ.get("APS_CONFIG") else Path(environ["APS_CONFIG"])


def _merged(layers: Iterable[Mapping[str, Given]]) -> dict[str, Given]:
    whole: dict[str, Given] = {}
    for layer in layers:
        if "policy.base" in layer:
            whole = {name: given for name, given in whole.items() if not name.startswith("policy.")}
        whole |= layer
    return whole


@dataclass
class _Reading:
    """The state of one reading: problems so far, and the tenants' tables of the file."""

    file: Path | None
    problems: list[str] = field(default_factory=list)
    tenants: Any = None
    keyed: bool = False  # whether any key was given, right or wrong

    def say(self, origin: object, problem: str) -> None:
        line = f"{origin}: {problem}".replace("\n", " ")
        self.problems.append(line if len(line) <= LONGEST else line[: LONGEST - 3] + "...")

    # ---- layers

    def of_file(self) -> dict[str, Given]:
        if self.file is None:
            return {}
        try:
            tables = read_toml(self.file)
        except OSError as error:
            self.say(self.file, f"cannot be read: {error.strerror or error}")
            return {}
        except ValueError as error:
            self.problems.append(str(error)[:LONGEST])
            return {}
        self.tenants = tables.pop("tenants", None)
        found: dict[str, Given] = {}
        for table, content in tables.items():
            if table not in TABLES:
                known = ", ".join(f"[{name}]" for name in (*TABLES, "tenants.NAME"))
                self.say(self.file, f"unknown table or key {table!r}, there are {known}{meant(table, TABLES)}")
            elif not isinstance(content, dict):
                self.say(self.file, f"{table} must be a table [{table}], got {content!r}")
            else:
                found |= self._table(table, content)
        return found

    def _table(self, table: str, content: Mapping[str, Any]) -> dict[str, Given]:
        names = [key.name for key in KEYS if key.table == table]
        for name in (name for name in content if name not in names):
            self.unknown(self.file, table, name, names)
        return {f"{table}.{name}": Given(content[name], str(self.file)) for name in names if name in content}

    def of_environment(self, environ: Mapping[str, str]) -> dict[str, Given]:
        variables = {key.variable: key for key in KEYS}
        prefixes = tuple(f"APS_{table.upper()}_" for table in TABLES)
        for name in environ:
            if name.startswith(prefixes) and not (name in variables or name in VARIABLES or SERVICE_LINK.search(name)):
                self.say(name, f"no such key; docs/configuration.md lists the variables{meant(name, variables)}")
        return {key.full: Given(parsed(environ[name], key), name) for name, key in variables.items() if name in environ}

    def unknown(self, origin: object, table: str, name: str, names: Iterable[str]) -> None:
        names = tuple(names)
        self.say(origin, f"unknown key {name!r} in [{table}], there are {', '.join(names)}{meant(name, names)}")

    # ---- values

    def build(self, given: Mapping[str, Given], environ: Mapping[str, str]) -> Config:
        given = self._with_paths(given)
        settings = self._made(Settings, Settings, given)
        devices = self._made(Devices, Devices, given)
        base = given.get("policy.base", Given(CORNERS[0], ""))
        if base.value not in CORNERS:
            self.say(base.origin, f"policy.base must be one of {', '.join(CORNERS)}, got {base.value!r}")
        policy_base = base.value if base.value in CORNERS else CORNERS[0]
        policy = self._made(Policy, getattr(Policy, policy_base), given)
        limits = self._made(Limits, Limits, given)
        tenants, keys = self._tenants()
        if devices is not None and settings is not None:
            settings = _priced(settings, devices, given)
        admin, metrics = (self._secret(name, environ) for name in ("APS_ADMIN_KEY", "APS_METRICS_KEY"))
        self._one_role_each(keys, {"APS_ADMIN_KEY": admin, "APS_METRICS_KEY": metrics})
        config = Config(
            settings=settings or Settings(),
            devices=devices or Devices(),
            policy=policy or Policy(),
            limits=limits or Limits(),
            tenants=tenants,
            policy_base=policy_base,
            keys=keys,
            admin_key=admin,
            metrics_key=metrics,
            file=self.file,
            names_tenants=self.tenants is not None,
            origins={name: value.origin for name, value in given.items()},
        )
        self._check_whole(config)
        return config

    def _with_paths(self, given: Mapping[str, Given]) -> Mapping[str, Given]:
        """A path in a file counts from that file."""
        if self.file is None:
            return given
        folder, counted = self.file.parent, dict(given)
        for full, path in given.items():
            if path.origin != str(self.file) or not isinstance(path.value, str) or path.value in ("", NO_BOUND):
                continue  # no path: it stays what it is
            if full == "record.file" or (
                full == "devices.profile" and (path.value.endswith(".toml") or "/" in path.value)
            ):
                counted[full] = path._replace(value=str(folder / path.value))
            elif full == "store.url":
                counted[full] = path._replace(value=_store_from(folder, path.value))
        return counted

    def _made(self, owner: type, make: Callable[..., Made], given: Mapping[str, Given]) -> Made | None:
        keys = [key for key in KEYS if key.owner is owner and key.field != "base"]
        return self.made(
            make,
            {key.field: given[key.full] for key in keys if key.full in given},
            {key.field: key.full for key in keys},
            {key.field for key in keys if key.optional},
        )

    def made(
        self, make: Callable[..., Made], given: Mapping[str, Given], full: Mapping[str, str], optional: Iterable[str]
    ) -> Made | None:
        """What `make` makes of the fields. On an error that field is said and left out, until nothing is wrong."""
        may_be_none = set(optional)
        values = {
            name: None if value == NO_BOUND and name in may_be_none else value for name, (value, _) in given.items()
        }
        while True:
            try:
                return make(**values)
            except (TypeError, ValueError, OverflowError) as error:
                match = OWNED.match(str(error))
                name = match[1] if match else ""
                said = OWNED.sub(lambda found: full.get(found[1], found[1]), str(error))
                said = said.replace("or None", f'or "{NO_BOUND}"')
                self.say(given[name].origin if name in given else self.file or "configuration", said)
                if name not in values:
                    return None
                del values[name]

    # ---- tenants and keys

    def _tenants(self) -> tuple[tuple[Tenant, ...], dict[str, tuple[bytes, ...]]]:
        if self.tenants is None:
            return DEFAULT_TENANTS + STRESS_TENANTS, {}
        if not isinstance(self.tenants, dict) or not self.tenants:
            self.say(self.file, f"tenants must be a table [tenants.NAME] for each tenant, got {self.tenants!r}")
            return (), {}
        made, keys = [], {}
        for name, fields in self.tenants.items():
            if not isinstance(fields, dict):
                self.say(self.file, f"tenants.{name} must be a table [tenants.{name}], got {fields!r}")
                continue
            tenant = self._tenant(name, fields)
            keys[name] = self._hashes(f"tenants.{name}.keys", fields.get("keys", []))
            self.keyed = self.keyed or bool(fields.get("keys"))
            if tenant is not None:
                made.append(tenant)
        return tuple(made), keys

    def _tenant(self, name: str, fields: Mapping[str, Any]) -> Tenant | None:
        names = [key.name for key in TENANT_KEYS]
        for other in (other for other in fields if other not in names):
            self.unknown(self.file, f"tenants.{name}", other, names)
        given = {other: Given(fields[other], str(self.file)) for other in names if other in fields and other != "keys"}
        full = {other: f"tenants.{name}.{other}" for other in names} | {"name": "the name in [tenants.NAME]"}
        optional = [key.name for key in TENANT_KEYS if key.optional]

        def make(**values: Any) -> Tenant:
            return Tenant(name, **values)

        return self.made(make, given, full, optional)

    def _hashes(self, full: str, lines: Any) -> tuple[bytes, ...]:
        if not isinstance(lines, list):
            self.say(self.file, f"{full} must be an array of hashes, got a {type(lines).__name__}")
            return ()
        found = []
        for at, line in enumerate(lines):
            try:
                found.append(parse_hash(line))
            except ValueError as error:
                self.say(self.file, f"{full}[{at}] {error}")
        return tuple(found)

    def _secret(self, name: str, environ: Mapping[str, str]) -> bytes | None:
        if name not in environ:
            return None
        self.keyed = True
        try:
            return parse_secret(environ[name])
        except ValueError as error:
            self.say(name, str(error))
            return None

    def _one_role_each(self, keys: Mapping[str, tuple[bytes, ...]], others: Mapping[str, bytes | None]) -> None:
        owners: dict[bytes, str] = {}
        pairs = [(digest, f"tenants.{name}.keys") for name, digests in keys.items() for digest in digests]
        pairs += [(digest, name) for name, digest in others.items() if digest is not None]
        for digest, owner in pairs:
            first = owners.setdefault(digest, owner)
            if first != owner:
                self.say(self.file or owner, f"{first} and {owner} have the same key: a key has one role")

    # ---- the whole

    def _check_whole(self, config: Config) -> None:
        """What no key alone shows. Only of a configuration whose keys are right, each for itself."""
        settings = config.settings
        if not self.keyed and config.exposed and settings.store is None:  # a store may have keys
            self.say(config.origins.get("server.host", "server.host"), exposed(config))
        if self.problems:
            return
        try:
            config.scheduler(config.devices.backend())
        except (ValueError, OverflowError, MemoryError) as error:
            self.say(self.file or "configuration", str(error) or type(error).__name__)


def exposed(config: Config) -> str:
    """What is wrong with a configuration that is `Config.exposed`."""
    return (
        f"server.host {config.settings.host} is reachable from other machines and no keys are configured: give the "
        "tenants keys (aps keygen), or say --insecure-open (server.insecure_open)"
    )


def _store_from(folder: Path, url: str) -> str:
    """A store's address, that of a relative SQLite file from this directory."""
    scheme = "sqlite:///"
    name = url.removeprefix(scheme)
    if "://" in name or name in ("", ":memory:"):
        return url
    return url[: len(url) - len(name)] + str(folder / name)


def _priced(settings: Settings, devices: Devices, given: Mapping[str, Given]) -> Settings:
    """The profile's price, where none is given; the source of a given one is what is given."""
    if "price.gpu_hour_dollars" in given:
        return settings if "price.source" in given else replace(settings, price_source=NOT_STATED)
    source = settings.price_source if "price.source" in given else devices.spec.price_source
    return replace(settings, gpu_hour_dollars=devices.spec.dollars_per_hour, price_source=source or NOT_STATED)


def value_of_text(full: str, text: str) -> Any:
    """The value of one key as text; None for "none". ValueError: the key does not allow it, whatever the others are."""
    key = BY_NAME[full]
    value, reading = parsed(text, key), _Reading(None)
    optional = [key.field] if key.optional else []
    reading.made(key.owner, {key.field: Given(value, full)}, {key.field: full}, optional)
    for origin, _, said in (problem.partition(": ") for problem in reading.problems):
        if origin == full:
            raise ValueError(said)
    return None if optional and value == NO_BOUND else value


def parsed(text: str, key: Key) -> Any:
    """A key's text as the value it means; the text itself when it means none, for the check to refuse."""
    if key.optional and text == NO_BOUND:
        return text
    if key.kind is bool:
        return WORDS.get(text.lower(), text)
    if key.kind is int or (key.kind is float and INTEGER.fullmatch(text)):
        return int(text) if INTEGER.fullmatch(text) else text
    if key.kind is float:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def meant(name: str, names: Iterable[str]) -> str:
    """The name that was most likely meant, to be added to a message; or nothing."""
    close = get_close_matches(name, tuple(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
