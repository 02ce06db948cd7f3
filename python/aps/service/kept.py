"""A service whose tenants and keys are kept in a store: opened, and seeded from the configuration when it is new."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aps.service.access import Access
from aps.service.config import Config
from aps.service.config_reader import ConfigError, exposed
from aps.store.book import Book
from aps.store.changing import Conflict
from aps.store.database import Database, Denied, NewerError, StoreError, Unreachable, VersionError
from aps.store.keys import Key
from aps.store.plan import Difference, compared
from aps.store.store import Store

SEEDED_BY = "seed"  # the actor of the first change


@dataclass(frozen=True)
class Kept:
    """A store that is open. config: the one that was given, with the store's tenants and keys. book: those.

    differing: what the configuration that was given says otherwise.
    """

    store: Store
    config: Config
    book: Book
    differing: tuple[Difference, ...] = ()


def opened(config: Config) -> Kept:
    """The store that a configuration names: its tables made or brought up to date, its tenants read.

    One that has never been changed gets the configuration's tenants and keys. ConfigError: the service cannot be what
    is in it. Unreachable: not now.
    """
    url = config.settings.store
    assert url is not None
    try:
        database = Database(url)
        database.upgrade()
        store = Store(database)
        book = store.read()
        if book.number == 0:
            seed(store, config)
            book = store.read()
    except Unreachable:
        raise
    except Denied as error:
        raise _wrong_address(config, error) from error
    except (StoreError, Conflict) as error:
        raise ConfigError([f"store: {error}"]) from error
    whole = with_book(config, book)
    try:
        Access.of(whole)
    except ValueError as error:
        raise ConfigError([f"store: {error}"]) from error
    _check_closed(config, whole, database.shown)
    return Kept(store, whole, book, differing(config, book))


@dataclass(frozen=True)
class Look:
    """What is found of a store without making or changing it. config: with the store's tenants, if it has any.

    said: how it stands, when there is nothing to read. differences: what the file says otherwise.
    """

    config: Config
    said: str = ""
    differences: tuple[Difference, ...] = ()


def looked(config: Config) -> Look:
    """At the store that a configuration names. ConfigError: the service could not start on it."""
    url = config.settings.store
    if url is None:
        return Look(config)
    seeds = "aps serve makes it, with the tenants of this configuration"
    try:
        database = Database(url, read_only=True)
        try:
            if database.version() is None:
                return Look(config, f"{database.shown}: nothing is there yet; {seeds}")
            database.check()
            book = Store(database).read()
        finally:
            database.close()
    except NewerError as error:
        raise ConfigError([f"store: {error}"]) from error
    except VersionError as error:
        return Look(config, str(error))
    except Denied as error:
        raise _wrong_address(config, error) from error
    except StoreError as error:
        return Look(config, f"it cannot be looked at now: {error}")
    if book.number == 0:
        return Look(config, f"{database.shown}: nothing is in it yet; {seeds}")
    whole = with_book(config, book)
    _check_closed(config, whole, database.shown)
    return Look(whole, differences=differing(config, book))


def _wrong_address(config: Config, error: Denied) -> ConfigError:
    return ConfigError([f"{config.origins.get('store.url', 'configuration')}: store.url {error}"])


def _check_closed(config: Config, whole: Config, where: str) -> None:
    """ConfigError: with the store's keys the service would be open, and was not meant to be."""
    if whole.open and not config.open:
        raise ConfigError(
            [
                f"store: the configuration has keys of tenants and {where} has none: the service would be open to "
                "everybody. aps tenants apply FILE puts them there"
            ]
        )
    if whole.exposed:
        raise ConfigError([exposed(whole)])


def differing(config: Config, book: Book) -> tuple[Difference, ...]:
    """How a configuration's tenants differ from the store's; one that names none says nothing about them."""
    return compared(book, config.tenants, config.keys) if config.names_tenants else ()


def compare_with(store: Store, config: Config) -> tuple[str, ...]:
    """The same in words, a line each; or why it cannot be said."""
    try:
        return told(differing(config, store.read()))
    except StoreError as error:
        return (f"how the file's tenants differ from the store's cannot be said: {error}",)


def told(differences: tuple[Difference, ...], most: int = 20) -> tuple[str, ...]:
    """Differences in words, the first of them a line each, and what to do about them."""
    if not differences:
        return ()
    more = (f"... {len(differences)} differences in all",) if len(differences) > most else ()
    advice = "the store wins; aps tenants apply FILE makes it what the file says"
    return (*(difference.line for difference in differences[:most]), *more, advice)


def seed(store: Store, config: Config) -> None:
    """The configuration's tenants and keys in a store that has never been changed; in another nothing happens."""
    origin = "the defaults" if config.file is None else str(config.file)
    with store.changing(f"{SEEDED_BY}: {origin}") as change:
        if change.number == 0:
            change.add(*config.tenants)
            change.add_keys(config.keys)


def with_book(config: Config, book: Book) -> Config:
    """The configuration with the store's tenants and keys in place of its own."""
    return replace(
        config,
        tenants=tuple(book.tenants.values()),
        keys={name: digests(keys) for name, keys in book.keys.items()},
        expiries=expiries(book.keys),
        keyed=book.keyed,
    )


def digests(keys: tuple[Key, ...]) -> tuple[bytes, ...]:
    """Of those that may work: expiring ones are looked at when they are used."""
    return tuple(key.digest for key in keys if key.revoked_at is None)


def expiries(keys: Mapping[str, tuple[Key, ...]]) -> dict[bytes, float]:
    """By digest, of the keys that expire: seconds since the epoch of Unix."""
    return {
        key.digest: key.expires_at.timestamp()
        for some in keys.values()
        for key in some
        if key.expires_at is not None and key.revoked_at is None
    }
