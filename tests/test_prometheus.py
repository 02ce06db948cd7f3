"""The Prometheus text, read back by the stress test's own reader and held against the format's rules."""

import pytest

from aps.service.prometheus import Page
from aps.stress.counters import Counters
from tests.scrapes import Scrape


def test_families_have_help_type_and_escaped_labels() -> None:
    page = Page()
    name = 'quote " slash \\ line \n end'
    page.counter("x_total", "first\nsecond \\", [({"tenant": name}, 3), ({}, 2.5)])
    page.gauge("empty", "left out", [])
    page.gauge("nothing", "left out", None)
    text = page.render()
    assert text == (
        "# HELP x_total first\\nsecond \\\\\n# TYPE x_total counter\n"
        'x_total{tenant="quote \\" slash \\\\ line \\n end"} 3\nx_total 2.5\n'
    )
    assert Counters(text).total("x_total", tenant=name) == 3


def test_only_a_line_feed_ends_a_line() -> None:
    page = Page()
    names = ["next \x85 line", "separator \u2028", "return \r", "form \f feed"]
    page.gauge("x", "values", [({"tenant": name}, at) for at, name in enumerate(names, 1)])
    counters = Counters(page.render())
    assert [counters.total("x", tenant=name) for name in names] == [1, 2, 3, 4]


def test_numbers_are_exact_and_infinities_spelled() -> None:
    page = Page()
    values = {"big": 2.0**60, "third": 1 / 3, "up": float("inf"), "down": float("-inf"), "one": 1.0}
    page.gauge("x", "values", [({"v": name}, value) for name, value in values.items()])
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


def test_one_page_as_plain_data() -> None:
    page = Page()
    page.gauge("level", "what is left", 2.5)
    page.counter("asked_total", "asked", [({"tenant": "a"}, 3)])
    page.histogram("wait_seconds", "waits", [0.1], [({"tenant": "a"}, [2, 3], 12.5)])
    assert page.data() == {
        "level": {"type": "gauge", "help": "what is left", "samples": [{"labels": {}, "value": 2.5}]},
        "asked_total": {"type": "counter", "help": "asked", "samples": [{"labels": {"tenant": "a"}, "value": 3}]},
        "wait_seconds": {
            "type": "histogram",
            "help": "waits",
            "samples": [{"labels": {"tenant": "a"}, "count": 5, "sum": 12.5, "buckets": {"0.1": 2, "+Inf": 5}}],
        },
    }


@pytest.mark.parametrize(
    "text",
    [
        "x 1\n",
        "# HELP x t\n# TYPE x gauge\n",
        "# HELP x t\n# TYPE x gauge\nx 1",
        "# HELP x t\n# TYPE x gauge\nx 1\nx 1\n",
        "# HELP x t\n# TYPE x gauge\ny 1\n",
        "# HELP x t\n# TYPE x counter\nx 1\n",
        "# HELP x_total t\n# TYPE x_total counter\nx_total -1\n",
        "# HELP x t\n# TYPE x gauge\nx 1\n# HELP x t\n# TYPE x gauge\nx 1\n",
        '# HELP x t\n# TYPE x gauge\nx{a="\\q"} 1\n',
        '# HELP x t\n# TYPE x histogram\nx_bucket{le="1"} 2\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 1\n',
        '# HELP x t\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="+Inf"} 2\nx_sum 1\nx_count 1\n',
        '# HELP x t\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_sum 1\nx_count 1\n',
    ],
)
def test_the_reader_is_strict(text: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        Scrape(text)
