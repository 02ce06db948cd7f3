"""Warnings that clients may bring about as often as they like."""

import pytest

from aps.service.seldom import Seldom


def test_it_is_said_once_a_minute_with_how_often(caplog: pytest.LogCaptureFixture) -> None:
    full = Seldom("it is full")
    for now in (100.0, 101.0, 159.0, 161.0, 162.0, 230.0):
        full.say(now)
    assert [record.getMessage() for record in caplog.records] == [
        "it is full",
        "it is full (3 times since the last such line)",
        "it is full (2 times since the last such line)",
    ]
