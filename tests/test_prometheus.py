"""The Prometheus text, read back by the stress test's own reader and held against the format's rules."""

from aps.service.prometheus import Page
from aps.stress.counters import Counters


def test_families_have_help_type_and_escaped_labels() -> None:
    page = Page()
    name = 'quote " slash \\ line \n end'
    page.family("x_total", "counter", "first\nsecond \\", [({"tenant": name}, 3), ({}, 2.5)])
    page.family("empty", "gauge", "left out", [])
    text = page.render()
    assert text == (
        "# HELP x_total first\\nsecond \\\\\n# TYPE x_total counter\n"
        'x_total{tenant="quote \\" slash \\\\ line \\n end"} 3\nx_total 2.5\n'
    )
    assert Counters(text).total("x_total", tenant=name) == 3


def test_only_a_line_feed_ends_a_line() -> None:
    page = Page()
    names = ["next \x85 line", "separator \u2028", "return \r", "form \f feed"]
    page.family("x", "gauge", "values", [({"tenant": name}, at) for at, name in enumerate(names, 1)])
    counters = Counters(page.render())
    assert [counters.total("x", tenant=name) for name in names] == [1, 2, 3, 4]


def test_numbers_are_exact_and_infinities_spelled() -> None:
    page = Page()
    values = {"big": 2.0**60, "third": 1 / 3, "up": float("inf"), "down": float("-inf"), "one": 1.0}
    page.family("x", "gauge", "values", [({"v": name}, value) for name, value in values.items()])
    text = page.render()
    assert 'x{v="up"} +Inf' in text
    assert 'x{v="one"} 1\n' in text
    assert {name: Counters(text).total("x", v=name) for name in values} == values


def test_histogram_buckets_are_cumulative() -> None:
    page = Page()
    page.histogram("wait_seconds", "waits", [0.1, 1.0], [({"tenant": "a"}, [2, 3, 4], 12.5)])
    assert page.render().splitlines()[2:] == [
        'wait_seconds_bucket{tenant="a",le="0.1"} 2',
        'wait_seconds_bucket{tenant="a",le="1"} 5',
        'wait_seconds_bucket{tenant="a",le="+Inf"} 9',
        'wait_seconds_sum{tenant="a"} 12.5',
        'wait_seconds_count{tenant="a"} 9',
    ]
