"""The files of deploy/ray. `tests.acceptance.clusters` runs them on a local cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.core.settings import Settings
from tests.support import kubernetes
from tests.support.kubernetes import ROOT, Manifest

RAY = ROOT / "deploy" / "ray"
CONFIG: dict[str, Any] = yaml.safe_load((RAY / "serve_config.yaml").read_text())
MANIFESTS = kubernetes.read((RAY / "rayservice.yaml").read_text())
SERVICE, POLICY = MANIFESTS
HEAD, WORKER = kubernetes.ray_pods(SERVICE)


@pytest.mark.parametrize("version", kubernetes.versions())
@pytest.mark.parametrize("manifest", [*MANIFESTS, HEAD, WORKER], ids=["service", "policy", "head", "worker"])
def test_manifests_are_taken(manifest: Manifest, version: str) -> None:
    assert kubernetes.problems(manifest, version) is None


def test_unknown_fields_of_a_ray_service_are_refused() -> None:
    spec = {**SERVICE["spec"], "typing_error": 1}
    problem = kubernetes.problems({**SERVICE, "spec": spec}, kubernetes.versions()[-1])
    assert "typing_error" in (problem or "")


def test_ray_service_has_the_config_of_the_file() -> None:
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == CONFIG


def test_config_names_what_the_service_has() -> None:
    (application,) = CONFIG["applications"]
    (deployment,) = application["deployments"]
    names = [application["import_path"], deployment["autoscaling_config"]["policy"]["policy_function"]]
    for module, name in (path.split(":") for path in names):
        text = (ROOT / Path(*module.split(".")).with_suffix(".py")).read_text()
        assert f"\ndef {name}(" in text or f"\nclass {name}" in text
    assert set(application["args"]) <= set(Settings.model_fields)


@pytest.mark.parametrize("pod", [HEAD, WORKER], ids=["head", "worker"])
def test_pods_have_no_rights(pod: Manifest) -> None:
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    autoscaler = SERVICE["spec"]["rayClusterConfig"]["autoscalerOptions"]["securityContext"]
    for own in (container["securityContext"], autoscaler):
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "cache": "/cache"}
    assert {volume["name"] for volume in spec["volumes"]} == set(mounts)
    assert POLICY["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_a_pod_has_room_for_one_replica_and_time_for_its_requests() -> None:
    (deployment,) = CONFIG["applications"][0]["deployments"]
    scaling, (group,) = deployment["autoscaling_config"], SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = WORKER["spec"]["containers"]
    assert float(container["resources"]["limits"]["cpu"]) == deployment["ray_actor_options"]["num_cpus"]
    assert (group["minReplicas"], group["maxReplicas"]) == (scaling["min_replicas"], scaling["max_replicas"])
    assert container["ports"] == [{"name": "serve", "containerPort": CONFIG["http_options"]["port"]}]
    ray_drains = 30  # RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
    wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert WORKER["spec"]["terminationGracePeriodSeconds"] >= wait + ray_drains + 2


def test_ray_waits_longer_than_the_service() -> None:
    defaults = Settings.model_fields
    own = defaults["client_timeout_seconds"].default + defaults["timeout_ms"].default / 1000
    assert CONFIG["http_options"]["request_timeout_s"] > own


def test_ray_takes_the_config_and_leaves_refusals_to_the_service() -> None:
    pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")
    from ray.serve.schema import ServeDeploySchema

    from service.ray_serve import application

    ServeDeploySchema.model_validate(CONFIG)
    (deployment,) = CONFIG["applications"][0]["deployments"]
    application.build(CONFIG["applications"][0]["args"])
    replica: Any = application.Replica
    assert deployment["name"] == replica.name
    assert replica.max_ongoing_requests > Settings.model_fields["max_in_flight_images"].default
    assert replica._deployment_config.graceful_shutdown_timeout_s > Settings.model_fields["shutdown_seconds"].default
