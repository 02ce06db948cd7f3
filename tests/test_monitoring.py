"""The dashboard and the alert rules speak PromQL of what `GET /metrics` prints, and point at what can be read."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from aps.backends import SimulatedBackend
from aps.service.errors import OWN, STATUS
from aps.service.labels import OUTCOMES, REFUSALS
from aps.tenants import Tenant
from tests.scrapes import Scrape
from tests.serving import serving, until
from tests.test_metrics_page import full_page

TARGETS = {"instance", "job"}  # labels that Prometheus gives; `up` is its own too
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$tenant": ".*", "${datasource}": "x"}
NOT_EVERYWHERE = ("aps_record_", "aps_store_")  # series of what can be switched on
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


def read(root: Path, name: str) -> Any:
    text = (root / "docs/monitoring" / name).read_text()
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    board: dict[str, Any] = read(root, "aps-dashboard.json")
    return board


@pytest.fixture(scope="module")
def rules(root: Path) -> list[dict[str, Any]]:
    return [rule for group in read(root, "aps-alerts.yml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Of every series that a service can have: its labels."""
    found: dict[str, set[str]] = {}
    for name, family in full_page().data().items():
        names = {label for sample in family["samples"] for label in sample["labels"]}
        if family["type"] == "histogram":
            found |= {f"{name}_sum": names, f"{name}_count": names, f"{name}_bucket": names | {"le"}}
        else:
            found[name] = names
    return found


def parsed(expression: str) -> promql_parser.Expr:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return promql_parser.parse(expression)


def walked(node: promql_parser.Expr) -> list[promql_parser.Expr]:
    """It and all below it."""
    found: list[promql_parser.Expr] = []

    def visit(node: promql_parser.Expr) -> bool:
        found.append(node)
        return True

    promql_parser.walk(node, visit)
    return found


def series_in(node: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    return [each for each in walked(node) if isinstance(each, promql_parser.VectorSelector)]


def spoken_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(series, labels that are asked of it) of an expression. What is grouped or matched by must be on every one."""
    whole = parsed(expression)
    assert series_in(whole), expression
    for one in series_in(whole):
        assert one.name, expression
        yield one.name, {matcher.name for matcher in one.matchers.matchers}
    for node in walked(whole):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for one in series_in(node.expr):
                assert one.name
                yield one.name, set(node.modifier.labels)


def check(expression: str, labels: dict[str, set[str]]) -> None:
    for name, asked in spoken_of(expression):
        if name != "up":
            assert name in labels, f"{name} of {expression}"
            assert asked - TARGETS <= labels[name], f"{name}{asked} of {expression}"


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_expression_of_the_dashboard_is_of_series_that_there_are(
    dashboard: dict[str, Any], labels: dict[str, set[str]]
) -> None:
    expressions = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    assert len(expressions) > 40
    for expression in expressions:
        check(expression, labels)
    for panel in panels(dashboard):
        shown = {name for target in panel["targets"] for name in re.findall(r"{{(\w+)}}", target["legendFormat"])}
        named = {series for target in panel["targets"] for series, _ in spoken_of(target["expr"])}
        assert shown <= TARGETS.union(*(labels[series] for series in named)), panel["title"]


def test_a_running_service_has_the_series_of_the_dashboard_and_the_rules(
    dashboard: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    expressions = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    expressions += [rule["expr"] for rule in rules]
    spoken = {name for expression in expressions for name, _ in spoken_of(expression)}
    named = {name for name in spoken if name != "up" and not name.startswith(NOT_EVERYWHERE)}
    missing: set[str] = set()

    def all_there() -> bool:
        families = set(Scrape(service.client.get("/metrics").text).types)
        missing.clear()
        missing.update(name for name in named if not families & {name, SUFFIX.sub("", name)})
        return not missing

    tenants = (Tenant("a", rate=1000.0, burst=100_000.0), Tenant("b"))
    with serving(tenants, backend=SimulatedBackend("a100-llama2-7b", slots=2, time_scale=20.0)) as service:
        assert service.infer(tenant_id="a", prompt_tokens=500_000).status_code == 400
        for _ in range(30):  # both tenants wait for a while
            for name in ("a", "b"):
                service.infer(tenant_id=name, prompt_tokens=500, max_tokens=500, wait=False)
        try:
            until(all_there, within_s=30.0)
        except AssertionError:
            raise AssertionError(f"no such series: {sorted(missing)}") from None


def test_the_dashboard_can_be_imported(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "tenant"]
    assert variables["datasource"]["type"] == "datasource"
    text = json.dumps(dashboard)
    assert set(re.findall(r"\$\{?(\w+)", text)) <= {"datasource", "instance", "tenant", "__rate_interval", "__all"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        x, y, width, height = (panel["gridPos"][key] for key in ("x", "y", "w", "h"))
        cells = {(x + right, y + down) for right in range(width) for down in range(height)}
        assert not cells & taken and x + width <= 24, panel["title"]
        taken |= cells
    for panel in panels(dashboard):
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_every_rule_is_of_series_that_there_are(rules: list[dict[str, Any]], labels: dict[str, set[str]]) -> None:
    for rule in rules:
        check(rule["expr"], labels)
        outer = parsed(rule["expr"])
        assert isinstance(outer, promql_parser.BinaryExpr), rule["alert"]  # it compares
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        if "for" in rule:
            promql_parser.parse_duration(rule["for"])


def test_the_rules_ask_for_values_that_there_are_and_together_for_all_reasons(rules: list[dict[str, Any]]) -> None:
    """A tenant's own limits are 429, everybody's 503; what can never be admitted is neither's fault."""
    asked: dict[str, set[str]] = {}
    for rule in rules:
        for one in series_in(parsed(rule["expr"])):
            for matcher in one.matchers.matchers:
                if matcher.name in ("reason", "outcome"):
                    asked.setdefault(f"{one.name} {matcher.name}", set()).update(matcher.value.split("|"))
    assert asked["aps_requests_total outcome"] <= set(OUTCOMES)
    assert asked["aps_http_refused_total reason"] <= set(OWN)
    full = {reason for reason in REFUSALS if STATUS[reason] in (429, 503)}
    assert asked["aps_refused_total reason"] == full - {"draining"}


def test_every_rule_is_explained(rules: list[dict[str, Any]], root: Path) -> None:
    page = (root / "docs/operations.md").read_text()
    explained = re.findall(r"^### (Aps\w+)$", page, re.MULTILINE)
    assert explained == [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_the_scrape_configuration_names_the_job_of_the_rules(rules: list[dict[str, Any]], root: Path) -> None:
    configuration = read(root, "prometheus.yml")
    (scraped,) = configuration["scrape_configs"]
    jobs = set(re.findall(r'job="(\w+)"', " ".join(rule["expr"] for rule in rules)))
    assert jobs == {scraped["job_name"]}
    assert configuration["rule_files"] == ["aps-alerts.yml"]
    assert scraped["metrics_path"] == "/metrics"
