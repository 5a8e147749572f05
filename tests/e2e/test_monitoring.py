"""Configuration, alerts and dashboard of Prometheus and Grafana, compared with the metrics of the service."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.telemetry.metrics import Metrics
from tests.support.monitoring import DEPLOY, RULES, dashboard, metric_names, panel_queries, rule_queries, rules

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)"
)

HEALTHY = {
    'up{job="resnet-serve",instance="a"}': "1x180",
    'resnet_model_info{model="m",version="1"}': "1x180",
    'resnet_model_loads_total{outcome="failed",instance="a"}': "0x180",
    'resnet_devices_stalled{model="m",instance="a"}': "0x180",
    'resnet_repository_reads_total{outcome="failed",instance="a"}': "0x180",
    'resnet_requests_total{model="m",status="200"}': "0+6000x180",
    'resnet_requests_refused_total{model="m",reason="queue_full"}': "0+60x180",
    'resnet_stage_seconds_bucket{model="m",stage="total",le="0.1"}': "0+6000x180",
    'resnet_stage_seconds_bucket{model="m",stage="total",le="+Inf"}': "0+6000x180",
    'resnet_stage_seconds_bucket{model="m",stage="queue",le="0.1"}': "0+6000x180",
    'resnet_stage_seconds_bucket{model="m",stage="queue",le="+Inf"}': "0+6000x180",
    'resnet_confidence_sum{model="m"}': "0+5400x180",
    'resnet_confidence_count{model="m"}': "0+6000x180",
    'process_start_time_seconds{job="resnet-serve",instance="a"}': "1000x180",
    'process_open_fds{job="resnet-serve",instance="a"}': "100x180",
    'process_max_fds{job="resnet-serve",instance="a"}': "8192x180",
}
"""Three hours of a service under load, one value per minute; one request of a hundred is refused."""

ILL = {
    "ResnetServeDown": {'up{job="resnet-serve",instance="a"}': "0x180"},
    "ResnetServeInstanceDown": {'up{job="resnet-serve",instance="b"}': "0x180"},
    "ResnetServeNoModel": {'resnet_model_info{model="m",version="1"}': "_x180"},
    "ResnetServeLoadFailed": {'resnet_model_loads_total{outcome="failed",instance="a"}': "0x170 1x10"},
    "ResnetServeStalled": {'resnet_devices_stalled{model="m",instance="a"}': "0x170 1x10"},
    "ResnetServeRepositoryUnreadable": {
        'resnet_repository_reads_total{outcome="failed",instance="a"}': "0x160 0+30x20"
    },
    "ResnetServeRestarts": {'process_start_time_seconds{job="resnet-serve",instance="a"}': "1000x160 2000+60x20"},
    "ResnetServeRefuses": {'resnet_requests_refused_total{model="m",reason="queue_full"}': "0+600x180"},
    "ResnetServeFails": {'resnet_requests_total{model="m",status="500"}': "0+60x180"},
    "ResnetServeSlow": {'resnet_stage_seconds_bucket{model="m",stage="total",le="0.1"}': "0+3000x180"}
    | {'resnet_stage_seconds_bucket{model="m",stage="total",le="2.5"}': "0+6000x180"},
    "ResnetServeQueues": {'resnet_stage_seconds_bucket{model="m",stage="queue",le="0.1"}': "0+3000x180"}
    | {'resnet_stage_seconds_bucket{model="m",stage="queue",le="1.0"}': "0+6000x180"},
    "ResnetServeFilesOpen": {'process_open_fds{job="resnet-serve",instance="a"}': "8000x180"},
    "ResnetServeConfidenceFell": {'resnet_confidence_sum{model="m"}': "0+5400x90 486000+3000x90"},
}
"""Series in which each alert must fire, in place of the healthy ones."""


@needs_promtool
def test_promtool_accepts_the_configuration() -> None:
    file = DEPLOY / "prometheus" / "prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", "--lint-fatal", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


@pytest.mark.slow
@needs_promtool
@pytest.mark.parametrize("alert", ["", *(rule["alert"] for rule in rules() if "alert" in rule)])
def test_alert_fires_alone(alert: str, tmp_path: Path) -> None:
    """No alert fires for a healthy service, and each one for its series; without an instance, no model is served."""
    series = HEALTHY | (ILL[alert] if alert else {})
    expected = [alert] if alert else []
    if alert == "ResnetServeDown":
        expected = ["ResnetServeDown", "ResnetServeInstanceDown"]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "3h",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected],
            }
        ],
    }
    file = tmp_path / "alerts.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_reads_existing_metrics() -> None:
    told = Metrics()
    told.watch_versions(list)
    told.watch_admitted(dict)
    names = {line.split()[2] for line in asyncio.run(told.render()).decode().splitlines() if line.startswith("# TYPE ")}
    there = {name + suffix for name in names for suffix in ("", "_bucket", "_sum", "_count")}
    there |= {rule["record"] for rule in rules() if "record" in rule}
    queries = [*panel_queries(), *((rule.get("record") or rule["alert"], rule["expr"]) for rule in rules())]
    assert len(queries) > 40
    for title, query in queries:
        assert metric_names(query) <= there, title
        assert metric_names(query) or "up{" in query, title


def test_each_alert_has_a_summary_and_an_action() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"].keys() == {"summary", "action"}
    assert len(dict(rule_queries())) == len(rules())


def test_dashboard_is_consistent() -> None:
    board = dashboard()
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text())
    (uid,) = (each["uid"] for each in source["datasources"])
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + line)
        for panel in panels
        for column in range(panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": uid}
            assert panel["description"]
            assert panel["targets"]
            assert all(target["datasource"]["uid"] == uid for target in panel["targets"])


def test_dashboard_shows_the_main_metrics() -> None:
    shown = set().union(*(metric_names(query) for _, query in panel_queries()))
    assert shown >= {
        "resnet_images_total",
        "resnet_stage_seconds_bucket",
        "resnet_batch_size_sum",
        "resnet_queue_images",
        "resnet_requests_refused_total",
        "resnet_model_info",
        "resnet_confidence_sum",
    }
