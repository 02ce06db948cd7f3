"""API keys: made, kept as digests, and what they make of their bearer."""

from hashlib import sha256

import pytest

from aps.service.access import ADMIN, METRICS, OPEN, Access, Role
from aps.service.errors import Refusal
from aps.service.keys import digest_of, hash_line, new_key, parse_hash, parse_secret

GOLD, SILVER, ADMINS, METRICS_KEY = (f"aps_{letter * 43}" for letter in "gsam")


def digest(key: str) -> bytes:
    return digest_of(key.encode())


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


@pytest.fixture
def access() -> Access:
    return Access(
        {"gold": [digest(GOLD), digest(GOLD + "2")], "silver": [digest(SILVER)]},
        admin=digest(ADMINS),
        metrics=digest(METRICS_KEY),
    )


def refused(access: Access, header: bytes | None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        access.identify(header)
    return caught.value


# Keys


def test_a_new_key_is_long_random_and_url_safe() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith("aps_") and len(key) == 47
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        assert parse_secret(key) == parse_hash(hash_line(key)) == sha256(key.encode()).digest()


@pytest.mark.parametrize("text", ["", "secret", "x" * 42, "x" * 257, "x" * 42 + " ", "x" * 42 + "\n", "\xe9" * 43])
def test_a_short_or_odd_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="43 to 256 visible ASCII characters") as caught:
        parse_secret(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "g" * 64, "md5:" + "0" * 64, GOLD, 7]
)
def test_what_is_no_hash_is_refused_and_not_shown(value: object) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits") as caught:
        parse_hash(value)
    assert GOLD not in str(caught.value)


# Roles


def test_the_key_decides_the_role(access: Access) -> None:
    for _ in range(2):  # the second time it is remembered
        assert access.identify(bearer(GOLD)) == access.identify(bearer(GOLD + "2")) == Role("tenant", "gold")
        assert access.identify(bearer(SILVER)) == Role("tenant", "silver")
        assert access.identify(bearer(ADMINS)) == ADMIN
        assert access.identify(bearer(METRICS_KEY)) == METRICS
    assert not access.open and access.admin


@pytest.mark.parametrize("header", [b"bearer %s", b"BEARER %s", b"Bearer  %s", b"Bearer %s "])
def test_the_scheme_is_read_as_http_says(access: Access, header: bytes) -> None:
    assert access.identify(header % GOLD.encode()) == Role("tenant", "gold")


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        GOLD.encode(),
        b"Basic " + GOLD.encode(),
        bearer("aps_" + "x" * 43),
        bearer(GOLD[:-1]),
        bearer(GOLD + " x"),
        bearer(hash_line(GOLD)),
        b"Bearer " + b"\xff" * 100,
    ],
)
def test_without_a_known_key_401(access: Access, header: bytes | None) -> None:
    for _ in range(2):
        refusal = refused(access, header)
        assert (refusal.status, refusal.error.reason) == (401, "unauthorized")
        assert GOLD not in refusal.error.message


def test_without_keys_it_is_open() -> None:
    access = Access()
    assert access.open and not access.admin
    assert access.identify(None) == access.identify(bearer(GOLD)) == OPEN


def test_a_metrics_key_alone_closes_it() -> None:
    access = Access(metrics=digest(METRICS_KEY))
    assert not access.open
    assert refused(access, None).status == 401


def test_replaced_keys_count_at_once(access: Access) -> None:
    assert access.identify(bearer(GOLD)).tenant == "gold"
    access.replace({"silver": [digest(GOLD)]}, admin=digest(ADMINS))
    assert access.identify(bearer(GOLD)).tenant == "silver"
    assert refused(access, bearer(SILVER)).status == 401
    assert refused(access, bearer(METRICS_KEY)).status == 401


def test_one_key_has_one_role(access: Access) -> None:
    with pytest.raises(ValueError, match="tenant gold and tenant silver share one"):
        access.replace({"gold": [digest(GOLD)], "silver": [digest(GOLD)]})
    with pytest.raises(ValueError, match="tenant gold and the admin key share one"):
        Access({"gold": [digest(GOLD)]}, admin=digest(GOLD))
    assert access.identify(bearer(SILVER)).tenant == "silver"  # nothing has changed


def test_it_keeps_neither_keys_nor_many_spellings(access: Access) -> None:
    for spaces in range(100):
        access.identify(b"Bearer " + b" " * spaces + GOLD.encode())
    kept = [*access._seen, *access._roles]
    assert len(access._seen) <= 2 * len(access._roles)
    assert all(len(digest) == 32 and GOLD.encode() not in digest for digest in kept)


# What they may do


def test_a_tenants_key_is_charged_to_its_tenant() -> None:
    gold = Role("tenant", "gold")
    assert gold.tenant_for(None) == gold.tenant_for("gold") == "gold"
    with pytest.raises(Refusal) as caught:
        gold.tenant_for("silver")
    assert (caught.value.status, caught.value.error.reason, caught.value.error.field) == (403, "forbidden", "tenant_id")
    gold.may_see("gold")
    with pytest.raises(Refusal) as caught:
        gold.may_see("silver")
    assert caught.value.status == 403


@pytest.mark.parametrize("role", [ADMIN, OPEN])
def test_admin_and_open_name_the_tenant(role: Role) -> None:
    assert role.tenant_for("silver") == "silver"
    role.may_see("silver")
    with pytest.raises(Refusal) as caught:
        role.tenant_for(None)
    assert (caught.value.status, caught.value.error.field) == (422, "tenant_id")


def test_a_metrics_key_asks_for_nothing_else() -> None:
    for asked in ("gold", None):
        with pytest.raises(Refusal) as caught:
            METRICS.tenant_for(asked)
        assert caught.value.status == 403
    with pytest.raises(Refusal) as caught:
        METRICS.may_see("gold")
    assert caught.value.status == 403
