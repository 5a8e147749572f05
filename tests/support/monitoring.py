"""The queries of the dashboard and of the alert rules, for the tests that run them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "resnet-serve.json"

_VARIABLES = {"$__rate_interval": "1m", "$model": ".+", "$instance": ".+"}
"""The values that Grafana inserts for `All`, and for a scrape interval of 15 seconds."""


def rules() -> list[dict[str, Any]]:
    """Recorded series and alerts, in the order of the file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return parsed


def panel_queries() -> Iterator[tuple[str, str]]:
    """(title of the panel, query with values for Grafana's variables)."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], _fill(target["expr"])


def rule_queries() -> Iterator[tuple[str, str]]:
    """(name, query); of an alert the sides that it compares, which have values also while there is nothing to tell."""
    for rule in rules():
        if "record" in rule:
            yield rule["record"], rule["record"]
            continue
        left, _, threshold = re.split(r" ([<>]) (?=[\d.]+$)", rule["expr"])
        assert float(threshold) >= 0
        yield rule["alert"], left


def metric_names(query: str) -> set[str]:
    """Metrics of the service, and recorded series, that a query reads."""
    return set(re.findall(r"\b(?:resnet|process)[_:][a-z0-9_:]+", query))


def _fill(query: str) -> str:
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query
