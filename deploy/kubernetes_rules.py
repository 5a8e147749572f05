"""Makes the alerts of the Prometheus operator from those of Prometheus.

python -m deploy.kubernetes_rules > deploy/kubernetes/components/monitoring/rules.yaml
"""

from __future__ import annotations

from pathlib import Path

RULES = Path(__file__).parent / "prometheus" / "rules.yml"
_HEAD = """\
# Made by `python -m deploy.kubernetes_rules` from deploy/prometheus/rules.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: resnet-serve
spec:
"""


def render() -> str:
    """The manifest as YAML."""
    lines = RULES.read_text(encoding="utf-8").splitlines()
    groups = lines[lines.index("groups:") :]
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in groups)


if __name__ == "__main__":
    print(render(), end="")
