"""Alert rules and dashboards: alerts fire in the right cases, and all queried metrics exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnicore.telemetry.metrics import METRICS, SERVE_METRICS
from tests.cases import cases
from tests.kubectl import kustomize
from tests.manifests.alert_cases import CASES
from tests.monitoring import needs

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "k8s" / "base"
RULES = yaml.safe_load((OBJECTS / "monitoring" / "rules.yaml").read_text())["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARDS = {
    path.stem: json.loads(path.read_text())
    for path in (OBJECTS / "monitoring" / "dashboards").glob("*.json")
}
# Metrics of Prometheus, Kueue v0.19 and vLLM v1 from their documentation, with the labels that are queried.
FOREIGN = {
    "up": {"job"},
    "kueue_pending_workloads": {"cluster_queue", "status"},
    "kueue_admitted_active_workloads": {"cluster_queue"},
    "vllm:num_requests_running": set(),
    "vllm:num_requests_waiting": set(),
    "vllm:kv_cache_usage_perc": set(),
    "vllm:request_success_total": {"finished_reason"},
    "vllm:prompt_tokens_total": set(),
    "vllm:generation_tokens_total": set(),
    "vllm:e2e_request_latency_seconds_bucket": {"le"},
    "vllm:time_to_first_token_seconds_bucket": {"le"},
}
TARGET = {"run", "pod"}  # added by the PodMonitors and the operator
FUNCTIONS = set(
    "abs and by count histogram_quantile ignoring label_values max max_over_time min min_over_time"
    " on or quantile_over_time rate sum time unless Inf".split()
)


def known() -> dict[str, set[str]]:
    """Labels of every metric by the name of its series."""
    found = {name: labels | TARGET for name, labels in FOREIGN.items()}
    for name, metric in {**METRICS, **SERVE_METRICS}.items():
        parts = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        found |= {
            f"{name}{part}": {*metric.labels, *TARGET, *(["le"] if part == "_bucket" else [])}
            for part in parts
        }
    return found


KNOWN = known()


def asked(expr: str) -> dict[str, set[str]]:
    """{series: labels that it is chosen by} of an expression in PromQL, and "" with those that it
    is grouped by."""
    found: dict[str, set[str]] = {"": set()}

    def take(match: re.Match[str]) -> str:
        found.setdefault(match[1], set()).update(
            re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', match[2] or ""))
        )
        return " "

    def group(match: re.Match[str]) -> str:
        found[""].update(re.findall(r"\w+", match[1]))
        return " "

    rest = re.sub(r"\b(?:by|ignoring|on)\s*\(([^)]*)\)", group, expr)
    rest = re.sub(
        r"(?<![\w:])([a-z_]+:?[a-z0-9_]*_[a-z0-9_]+)(?!\()\s*(\{[^}]*\})?(?!\w*\()", take, rest
    )
    left = (
        set(re.findall(r"[A-Za-z_]\w*", re.sub(r"\[[\w:]+\]|\{[^}]*\}|\b\d+\w*", " ", rest)))
        - FUNCTIONS
    )
    found |= {name: set() for name in left if name not in found}
    return found


def panels() -> list[tuple[str, str]]:
    return [
        (f"{name}: {panel['title']}", target["expr"])
        for name, board in DASHBOARDS.items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]


EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in ALERTS] + panels()


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_queried_metrics_and_labels_exist(where: str, expr: str) -> None:
    found = asked(expr)
    grouped = found.pop("")
    assert found
    assert found.keys() <= KNOWN.keys()
    for name, labels in found.items():
        assert labels <= KNOWN[name], name
        assert grouped <= KNOWN[name], name


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ('rate(omni_tokens_totals{run="a"}[5m])', "omni_tokens_totals"),
        (
            "histogram_quantile(0.9, rate(omni_serve_request_seconds[5m]))",
            "omni_serve_request_seconds",
        ),
        ("sum by (stage) (other) > 0", "other"),
        ("time() - down", "down"),
        ("max_over_time(other[1d:5m])", "other"),
    ],
)
def test_unknown_metrics_and_labels_are_reported(expr: str, wrong: str) -> None:
    assert asked(expr).keys() - KNOWN.keys() - {""} == {wrong}


def test_labels_of_expressions_are_parsed() -> None:
    assert asked('omni_reward{run=~"$run", modality!="all"} > on (run) omni_kl_nats') == {
        "": {"run"},
        "omni_reward": {"run", "modality"},
        "omni_kl_nats": set(),
    }


def test_dashboards_query_the_chosen_prometheus() -> None:
    (found,) = [o for o in kustomize(OBJECTS) if o["metadata"]["name"] == "omnicore-dashboards"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {Path(name).stem: json.loads(text) for name, text in found["data"].items()} == DASHBOARDS
    assert DASHBOARDS.keys() == {"training", "audit", "serving"}
    assert len({board["uid"] for board in DASHBOARDS.values()}) == 3
    for board in DASHBOARDS.values():
        assert board["templating"]["list"][0]["type"] == "datasource"
        assert [panel["id"] for panel in board["panels"]] == list(
            range(1, len(board["panels"]) + 1)
        )
        assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${datasource}"}
        places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
        assert len(set(places)) == len(places)
        for variable in board["templating"]["list"][1:]:
            inner = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert inner
            names = re.findall(r"(?:omni_|vllm:)\w+", inner[1])
            assert names
            assert all(inner[2] in KNOWN[name] for name in names)


def test_alerts_have_severity_summary_and_runbook() -> None:
    assert {rule["alert"] for rule in ALERTS} == set(
        "RewardCollapse KLBlowUp EntropyCollapse ThroughputDrop TrainingStalled NaNLoss"
        " CheckpointStale CanaryFailed NoAnswerShare EngineErrors EvalRegression QueueBacklog"
        " MetricsDown".split()
    )
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert anchor in {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
        labels = set().union(*(KNOWN[name] for name in asked(rule["expr"]) if name))
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= labels


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yml"
    path.write_text(yaml.safe_dump(RULES))
    return path


def promtool(*words: str) -> str:
    done = subprocess.run([needs("promtool"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid(rules: Path) -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", str(rules))


def test_every_alert_has_a_firing_and_a_quiet_case() -> None:
    assert {(alert, fires) for alert, _, _, fires in CASES} == {
        (rule["alert"], f) for rule in ALERTS for f in (True, False)
    }


@pytest.mark.parametrize(
    ("alert", "fires"),
    cases(
        {
            f"{alert} {'fires' if fires else 'stays quiet'}": (alert, fires)
            for alert, _, _, fires in CASES
        },
        slow=["ThroughputDrop stays quiet"],  # weeks of samples
    ),
)
def test_alert_fires_in_its_cases_only(
    alert: str, fires: bool, rules: Path, tmp_path: Path
) -> None:
    """Run promtool: in each case only this alert fires, or none."""
    firing: dict[str, Any] = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})'}
    firing["exp_samples"] = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if fires else []
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{**firing, "eval_time": at}],
        }
        for name, series, at, right in CASES
        if (name, right) == (alert, fires)
    ]
    path = tmp_path / "tests.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", str(path))
