"""Manifests for Kubernetes: rendered, and taken by the API server's schemas. `tests.acceptance.clusters` runs a pod."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import CliApp

from deploy import kubernetes_rules
from service.core.settings import Settings
from tests.support import kubernetes
from tests.support.kubernetes import OVERLAYS, ROOT, Manifest

needs_kubectl = pytest.mark.skipif(
    kubernetes.kubectl_problem() is not None, reason=kubernetes.kubectl_problem() or "kubectl is installed"
)
KSERVE = ROOT / "deploy" / "kserve"
NAMES = sorted(path.name for path in OVERLAYS.iterdir())
SCALERS = {"HorizontalPodAutoscaler", "ScaledObject"}


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Manifest]]:
    return {name: kubernetes.render(OVERLAYS / name) for name in NAMES}


def find(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def containers(manifests: list[Manifest]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The specification of each pod, with each of its containers."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job"):
            pod = manifest["spec"]["template"]["spec"]
            for container in pod["containers"]:
                yield pod, container


@needs_kubectl
@pytest.mark.parametrize("version", kubernetes.versions())
def test_every_overlay_is_taken_by_each_version(version: str, rendered: dict[str, list[Manifest]]) -> None:
    found = [kubernetes.problems(manifest, version) for name in NAMES for manifest in rendered[name]]
    assert len(found) > 30
    assert [problem for problem in found if problem] == []


@needs_kubectl
@pytest.mark.parametrize("kind", ["Deployment", "ServiceMonitor", "ScaledObject", "PrometheusRule"])
def test_unknown_fields_are_refused(kind: str, rendered: dict[str, list[Manifest]]) -> None:
    manifest = copy.deepcopy(find(rendered["keda"], kind))
    assert kubernetes.problems(manifest, kubernetes.versions()[-1]) is None
    manifest["spec"]["typing_error"] = 1
    assert "typing_error" in (kubernetes.problems(manifest, kubernetes.versions()[-1]) or "")


@needs_kubectl
def test_one_scaler_at_most_and_none_fights_with_replicas(rendered: dict[str, list[Manifest]]) -> None:
    scalers = {name: SCALERS & {manifest["kind"] for manifest in rendered[name]} for name in NAMES}
    assert {name for name, found in scalers.items() if found} == {"hpa", "keda"}
    for name, found in scalers.items():
        assert len(found) <= 1
        assert ("replicas" in find(rendered[name], "Deployment")["spec"]) == (not found)


@needs_kubectl
def test_pods_have_no_rights(rendered: dict[str, list[Manifest]]) -> None:
    for name in NAMES:
        for pod, container in containers(rendered[name]):
            assert pod["automountServiceAccountToken"] is False
            assert pod["enableServiceLinks"] is False
            assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"memory", "cpu"} <= set(container["resources"]["limits"])


@needs_kubectl
def test_selectors_select_the_pods_and_nothing_else(rendered: dict[str, list[Manifest]]) -> None:
    for name in NAMES:
        labels = find(rendered[name], "Deployment")["spec"]["template"]["metadata"]["labels"]
        policies = [each["spec"]["podSelector"] for each in rendered[name] if each["kind"] == "NetworkPolicy"]
        budget = find(rendered[name], "PodDisruptionBudget")["spec"]["selector"]
        for selector in [*policies, budget]:
            assert selector == {"matchLabels": labels}
        assert find(rendered[name], "Service")["spec"]["selector"] == labels


@needs_kubectl
def test_settings_are_settings_and_their_ports_are_open(rendered: dict[str, list[Manifest]]) -> None:
    data = find(rendered["cpu"], "ConfigMap")["data"]
    assert {name.removeprefix("RESNET_SERVE_").lower() for name in data} <= set(Settings.model_fields)
    (_, container), *_ = containers(rendered["cpu"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "grpc": int(data["RESNET_SERVE_GRPC_PORT"])}
    published = {port["name"]: port["targetPort"] for port in find(rendered["cpu"], "Service")["spec"]["ports"]}
    assert published == {"http": "http", "grpc": "grpc"}


@needs_kubectl
def test_grace_period_is_enough_for_the_requests_in_flight(rendered: dict[str, list[Manifest]]) -> None:
    (pod, container), *_ = containers(rendered["cpu"])
    seconds = float(find(rendered["cpu"], "ConfigMap")["data"]["RESNET_SERVE_SHUTDOWN_SECONDS"])
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= wait + seconds + 2
    # A balancer that has missed one readiness probe must still find the pod.
    assert wait >= container["readinessProbe"]["periodSeconds"]


@needs_kubectl
def test_alerts_are_those_of_prometheus(rendered: dict[str, list[Manifest]]) -> None:
    expected = yaml.safe_load(kubernetes_rules.RULES.read_text())["groups"]
    assert find(rendered["monitoring"], "PrometheusRule")["spec"]["groups"] == expected
    text = (ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml").read_text()
    assert kubernetes_rules.render() == text, "run `python -m deploy.kubernetes_rules`"


@needs_kubectl
def test_scalers_ask_for_a_metric_of_the_service(rendered: dict[str, list[Manifest]]) -> None:
    metrics = (ROOT / "service" / "telemetry" / "metrics.py").read_text()
    (metric,) = find(rendered["hpa"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    (trigger,) = find(rendered["keda"], "ScaledObject")["spec"]["triggers"]
    queried = re.findall(r"resnet_\w+", trigger["metadata"]["query"])
    assert {metric["pods"]["metric"]["name"], *queried} == {"resnet_queue_images"}
    assert '"resnet_queue_images"' in metrics


@needs_kubectl
def test_keys_and_repository_are_components(tmp_path: Path) -> None:
    """As docs/clusters.md combines them."""
    parts = ROOT / "deploy" / "kubernetes" / "components"
    with_both = tmp_path.resolve() / "mine"
    with_both.mkdir()
    relative = Path(*[".."] * len(with_both.parts[1:]), *ROOT.parts[1:])
    folder = relative / "deploy" / "kubernetes"
    (with_both / "kustomization.yaml").write_text(
        f"resources: [{folder / 'overlays' / 'cpu'}]\n"
        f"components: [{folder / 'components' / 'api-keys'}, {folder / 'components' / 'repository'}]\n"
    )
    assert parts.is_dir()
    manifests = kubernetes.render(with_both)
    for version in kubernetes.versions():
        assert [kubernetes.problems(manifest, version) for manifest in manifests] == [None] * len(manifests)
    (pod, container), *_ = containers(manifests)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"keys": "/keys", "repository": "/repository"}.items() <= mounts.items()
    assert container["env"] == [{"name": "RESNET_SERVE_API_KEYS", "value": "/keys/keys.toml"}]
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


@pytest.mark.parametrize("path", sorted(KSERVE.glob("*.yaml")), ids=lambda path: path.stem)
def test_kserve_takes_the_manifests(path: Path) -> None:
    for manifest in kubernetes.read(path.read_text()):
        assert kubernetes.problems(manifest, kubernetes.versions()[-1]) is None


def test_kserve_runtime_starts_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (runtime,) = kubernetes.read((KSERVE / "runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    arguments = [argument.replace("{{.Name}}", "fashion-mnist") for argument in container["args"]]
    settings = CliApp.run(Settings, cli_args=arguments)
    assert (str(settings.repository), settings.only_model) == ("/mnt/models", "fashion-mnist")
    assert settings.port == container["ports"][0]["containerPort"] == container["readinessProbe"]["httpGet"]["port"]
