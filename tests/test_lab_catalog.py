"""One door to every workload: scenarios, the shipped trace, trace files."""

from pathlib import Path

import pytest

from aps.lab.catalog import describe, open_workload
from aps.lab.scenarios import SCENARIOS
from aps.lab.traces import TraceOptions, described, read
from tests import traces
from tests.traces import written


def test_a_scenario_by_name() -> None:
    opened = open_workload("vip", 3, {"duration_s": "20", "vip_per_s": "1"})
    scenario = SCENARIOS["vip"]
    assert opened.digest() == scenario.build(3, **scenario.parse(["duration_s=20", "vip_per_s=1"])).digest()
    assert opened.digest() != open_workload("vip", 4, {"duration_s": "20", "vip_per_s": "1"}).digest()
    with pytest.raises(ValueError, match="vip has no parameter 'limit'"):
        open_workload("vip", parameters={"limit": "3"})
    with pytest.raises(ValueError, match="vip is a scenario and takes no options of traces, got limit"):
        open_workload("vip", options=TraceOptions(limit=3))


def test_the_shipped_trace_by_name() -> None:
    part = open_workload("azure-code", 2, {"duration_s": "600", "tenants": "zipf:4"}, TraceOptions(rate_scale=2.0))
    assert part.name == "azure-code"
    assert len(part) == 1482 and part.at_s[-1] < 300
    assert len(part.tenants) == 4
    again = open_workload("azure-code", 3, {"duration_s": "600", "tenants": "zipf:4"}, TraceOptions(rate_scale=2.0))
    assert part.tenant.tolist() != again.tenant.tolist()
    assert part.prompt_tokens.tolist() == again.prompt_tokens.tolist()
    with pytest.raises(ValueError, match="a trace has no option 'per_tenant'"):
        open_workload("azure-code", parameters={"per_tenant": "5"})


def test_a_file_by_its_path(tmp_path: Path) -> None:
    path = written(tmp_path, traces.AZURE, "mine.csv")
    assert open_workload(str(path)).digest() == read(path).digest()
    assert open_workload(str(path)).name == "mine.csv"
    with pytest.raises(ValueError, match="line 3: ContextTokens must be"):
        open_workload(str(written(tmp_path, traces.AZURE.replace("3180", "x"))))


def test_what_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(ValueError, match="no workload 'azur-code'; expected one of ") as caught:
        open_workload("azur-code")
    for expected in [*SCENARIOS, "azure-code", "the path of a trace", "Mooncake JSON lines", "Request tokens"]:
        assert expected in str(caught.value)


def test_everything_is_described(tmp_path: Path) -> None:
    listed = describe()
    assert [line.split()[0] for line in listed.splitlines()] == [*SCENARIOS, "azure-code", "PATH"]
    for scenario in SCENARIOS.values():
        assert scenario.says in listed
        assert all(parameter.says in describe(scenario.name) for parameter in scenario.parameters)
    for name in ("azure-code", "PATH", str(written(tmp_path, traces.AZURE))):
        assert all(f"{option} " in describe(name) for option in described())
    with pytest.raises(ValueError, match="no workload 'x'; expected one of burst, "):
        describe("x")
