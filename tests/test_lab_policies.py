"""The policies that are compared: what each is on the plane, and how they are read from text."""

from math import inf

import pytest

from aps import Policy, Tenant
from aps.lab.policies import POLICIES, parse, parse_list


def test_each_is_the_corner_that_it_says() -> None:
    knobs = {name: (named.policy.aging_horizon_s, named.policy.fairness_window) for name, named in POLICIES.items()}
    assert knobs == {
        "fifo": (0, inf),
        "strict": (inf, inf),
        "bids": (30, inf),
        "vtc": (0, 0),
        "weighted-vtc": (0, 0),
        "aps": (30, 2048),
    }
    assert POLICIES["aps"].policy == Policy()
    assert POLICIES["fifo"].says == "H = 0 s, D = inf: arrival order"


def test_vtc_takes_every_weight_as_one() -> None:
    tenants = (Tenant("a", weight=85.0), Tenant("b", weight=15.0, rate=5.0, burst=9.0))
    assert POLICIES["vtc"].tenants(tenants) == (Tenant("a"), Tenant("b", rate=5.0, burst=9.0))
    assert POLICIES["weighted-vtc"].tenants(tenants) == tenants
    assert POLICIES["vtc"].policy == POLICIES["weighted-vtc"].policy


def test_changes_are_read_by_the_type_of_the_field() -> None:
    text = "vtc:aging_horizon_s=inf,expected_output=none,max_passes=3,preemption=swap,bid_premium=0.5"
    named = parse(text)
    expected = {"aging_horizon_s": inf, "expected_output": None, "max_passes": 3, "preemption": "swap"}
    assert named.policy == Policy.vtc(**expected, bid_premium=0.5)
    assert (named.name, named.equal_weights) == (text, True)
    assert named.says == (
        "H = inf, D = 0: the least served tenant first, all weights taken as 1, "
        "expected_output = none, max_passes = 3, preemption = swap, bid_premium = 0.5"
    )


def test_a_list_may_hold_changes() -> None:
    found = parse_list("fifo,aps:aging_horizon_s=60,fairness_window=4096,vtc,aps:batching=micro,aps")
    assert [named.name for named in found] == [
        "fifo",
        "aps:aging_horizon_s=60,fairness_window=4096",
        "vtc",
        "aps:batching=micro",
        "aps",
    ]
    assert found[1].policy == Policy(aging_horizon_s=60.0, fairness_window=4096.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one of fifo, strict, bids, vtc, weighted-vtc, aps, got ''"),
        ("best", "got 'best'"),
        ("aps:", "expected key=value"),
        ("aps:x", "expected key=value, got 'x'"),
        ("aps:horizon=3", "key must be one of aging_horizon_s, .*, got 'horizon'"),
        ("aps:max_passes=1,max_passes=2", "max_passes is given twice"),
        ("aps:max_passes=1.5", "Policy.max_passes must be an integer, got '1.5'"),
        ("aps:aging_horizon_s=soon", "Policy.aging_horizon_s must be a number, got 'soon'"),
        ("aps:expected_output=some", "Policy.expected_output must be an integer or none, got 'some'"),
        ("aps:aging_horizon_s=nan", "Policy.aging_horizon_s must be"),
        ("aps:fairness_window=-1", "Policy.fairness_window must be"),
        ("aps:preemption=always", "Policy.preemption must be"),
    ],
)
def test_wrong_text_names_the_key(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_a_policy_stands_once_in_a_list() -> None:
    with pytest.raises(ValueError, match="'fifo' 2 times"):
        parse_list("fifo,aps,fifo")
