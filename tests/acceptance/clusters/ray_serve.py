"""Line 4: Ray Serve answers as the service does, while replicas are killed, versions come, and configs change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from models.artifact import manifest
from service.core.cpus import available_cpus
from service.core.settings import shipped_repository
from tests.acceptance.clusters.ray_cluster import DeployFailed, RayCluster
from tests.acceptance.clusters.ray_load import EXAMPLES, PNG, TIMEOUT, Load
from tests.acceptance.faults.case import Failed, expect
from tests.acceptance.server import serve

MODEL = "fashion-mnist-resnet20"
CLIENTS = 8
ANSWERS = 300
"""Requests that are answered between two events."""
CPUS = available_cpus()
"""CPUs of a replica: those of resnet-serve on this machine, so that both plan the same instances."""
REPLICAS = {"autoscaling_config": None, "num_replicas": 2, "ray_actor_options": {"num_cpus": CPUS}}
Part = Callable[[RayCluster, Path], str]
"""Raises Failed if it does not hold; returns its figure."""
_CHANGING = ("timing", "request_id", "id")
"""Parts of an answer that differ between two answers of one server."""


def check() -> tuple[bool, str]:
    """Deploy the config of `deploy/ray` on a local cluster, and try it."""
    parts = (_same_answers, _kill_replica, _new_version, _new_config, _wrong_config, _end_node, _lose_models)
    figures = _try_parts(RayCluster(4 * CPUS), (*parts, _overload_and_scale))
    print("with HAProxy:", flush=True)
    behind = _try_parts(RayCluster(4 * CPUS, haproxy=True), (_same_answers, _new_version, _new_config))
    return True, f"{'; '.join(figures)}; with HAProxy: {'; '.join(behind)}"


def _try_parts(cluster: RayCluster, parts: Sequence[Part]) -> list[str]:
    """Start a cluster that serves a copy of the shipped repository, and run parts of the check. Returns the figures."""
    figures = []
    with TemporaryDirectory(prefix="clusters-") as name, cluster:
        repository = Path(name) / "repository"
        shutil.copytree(shipped_repository(), repository)
        cluster.deploy(REPLICAS, {"repository": str(repository)})
        for part in parts:
            figures.append(part(cluster, repository))
            print(figures[-1], flush=True)
    return figures


def _same_answers(cluster: RayCluster, repository: Path) -> str:
    """Each request has the same status, type and body from Ray Serve and from resnet-serve."""
    requests = _requests()
    with serve("--repository", str(repository)) as own:
        for request in requests:
            expected, found = (_ask(url, **request) for url in (own.url, cluster.url))
            expect(found == expected, f"{request['method']} {request['url']}: {found} instead of {expected}")
    answer = httpx.get(f"{cluster.url}/none")
    expect(answer.headers.get_list("X-Request-Id") == [answer.json()["request_id"]], f"ids: {answer.headers}")
    for content, label in EXAMPLES.items():
        answer = httpx.post(f"{cluster.url}/v1/classify", content=content, headers=PNG, timeout=TIMEOUT)
        expect(answer.json()["results"][0]["predictions"][0]["label"] == label, f"{label}: {answer.text}")
    golden = np.load(repository / MODEL / "1" / manifest.GOLDEN_FILE)
    outputs = _ask(cluster.url, **_tensor(golden["images"]))[2]["outputs"]
    classes = np.array(outputs[0]["data"]).reshape(outputs[0]["shape"]).argmax(1)
    expect((classes == golden["logits"].argmax(1)).all(), "golden images have other classes than in PyTorch")
    return f"{len(requests)} requests answered as by resnet-serve, {len(classes)} golden images as by PyTorch"


def _requests() -> list[dict[str, Any]]:
    golden = np.load(shipped_repository() / MODEL / "1" / manifest.GOLDEN_FILE)
    classify = {"method": "POST", "url": "/v1/classify"}
    files = [("file", (f"{label}.png", content, "image/png")) for content, label in EXAMPLES.items()]
    gets = ("/healthz", "/readyz", "/v1/models", f"/v2/models/{MODEL}", "/v2/health/ready", "/docs", "/none", "/")
    return [
        *({"method": "GET", "url": url} for url in gets),
        *({**classify, "content": content, "headers": PNG} for content in EXAMPLES),
        {**classify, "files": files},
        {**classify, "url": "/v1/classify?top_k=3&embedding=true", "content": next(iter(EXAMPLES)), "headers": PNG},
        {**classify, "content": b"no image", "headers": PNG},
        {**classify, "content": b"{", "headers": {"Content-Type": "application/json"}},
        {**classify, "url": "/v1/models/none/classify", "content": b"", "headers": PNG},
        {**classify, "content": bytes(33 * 1024 * 1024), "headers": PNG},
        _tensor(golden["images"]),
    ]


def _tensor(images: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An inference request of the V2 protocol."""
    inputs = [{"name": "images", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}]
    return {"method": "POST", "url": f"/v2/models/{MODEL}/infer", "json": {"inputs": inputs}}


def _ask(base: str, **request: Any) -> tuple[int, str, Any]:
    """Status, type and body of an answer, without what differs between two answers of one server."""
    answer = httpx.request(**{**request, "url": base + request["url"]}, timeout=TIMEOUT)
    kind = answer.headers.get("Content-Type", "")
    if not kind.endswith("json"):
        return answer.status_code, kind, answer.text
    return answer.status_code, kind, {key: value for key, value in answer.json().items() if key not in _CHANGING}


def _kill_replica(cluster: RayCluster, repository: Path) -> str:
    """Only requests in flight at the kill fail, at once, and Ray starts another replica."""
    before = cluster.replicas()
    victim, pid = next(iter(before.items()))
    with Load(cluster.url, CLIENTS) as load:
        load.wait_for_answers(ANSWERS)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        load.wait_for_answers(ANSWERS)
        cluster.wait_for_replicas(lambda now: victim not in now and len(now) == len(before), "a new replica", 90.0)
        load.wait_for_answers(ANSWERS)
    in_flight = [each for each in load.outcomes if each.in_flight(killed)]
    later = [each for each in load.problems if not each.in_flight(killed)]
    print(*sorted({each.problem for each in load.problems}), sep="\n")
    expect(not later, f"{len(later)} requests failed that were not in flight at the kill: {later[:3]}")
    expect(load.slowest < TIMEOUT, f"a request took {load.slowest:.1f} s")
    return (
        f"a replica of two killed: of {len(load.outcomes)} requests {len(load.problems)} failed, all of them among the "
        f"{len(in_flight)} in flight at the kill; the longest took {load.slowest:.1f} s"
    )


def _new_version(cluster: RayCluster, repository: Path) -> str:
    """Version 2 is loaded by each replica, without a lost request, and then answers every request."""
    with Load(cluster.url, CLIENTS) as load:
        load.wait_for_answers(ANSWERS, version="1")
        _add_version(repository, 2)
        load.wait_for_answers(ANSWERS, version="2")
    expect(not load.problems, f"{len(load.problems)} requests failed: {load.problems[:3]}")
    return f"version 2 under load: {len(load.outcomes)} requests, none lost, at the end all by version 2"


def _add_version(repository: Path, version: int) -> None:
    """Copy version 1, the manifest last."""
    source, target = repository / MODEL / "1", repository / MODEL / str(version)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(manifest.FILE_NAME))
    described = {**json.loads((source / manifest.FILE_NAME).read_text()), "version": version}
    incoming = target / ".manifest"
    incoming.write_text(json.dumps(described))
    incoming.rename(target / manifest.FILE_NAME)


def _new_config(cluster: RayCluster, repository: Path) -> str:
    """A config with another setting replaces all replicas without a lost request."""
    with Load(cluster.url, CLIENTS) as load:
        load.wait_for_answers(ANSWERS)
        cluster.deploy(REPLICAS, {"repository": str(repository), "max_batch": 4})
        load.wait_for_answers(ANSWERS)
    expect(not load.problems, f"{len(load.problems)} requests failed: {load.problems[:3]}")
    return f"a changed config under load: all replicas replaced, {len(load.outcomes)} requests, none lost"


def _wrong_config(cluster: RayCluster, repository: Path) -> str:
    """A config that the service refuses is reported with the reason, and the replicas stay."""
    before = cluster.replicas()
    with Load(cluster.url, CLIENTS) as load:
        try:
            cluster.deploy(REPLICAS, {"repository": str(repository), "max_batch": 0})
        except DeployFailed as error:
            expect("max_batch: Input should be greater than 0" in str(error), f"another reason: {error}")
        else:
            raise Failed("a config with a wrong setting was deployed")
        load.wait_for_answers(ANSWERS)
    expect(cluster.replicas() == before, "replicas were lost")
    expect(not load.problems, f"{len(load.problems)} requests failed: {load.problems[:3]}")
    return (
        f"a wrong setting is refused with the reason, and the replicas stay: {len(load.outcomes)} requests, none lost"
    )


def _end_node(cluster: RayCluster, repository: Path) -> str:
    """A node of two ends as its pod does: its replica moves to the other one without a lost request."""
    cluster.add_node()
    cluster.deploy(REPLICAS, {"repository": str(repository)})
    expect(cluster.used_nodes() == 2, "both replicas are on one node")
    with Load(cluster.url, CLIENTS) as load:
        load.wait_for_answers(ANSWERS)
        seconds = cluster.end_node()
        load.wait_for_answers(ANSWERS)
    expect(not load.problems, f"{len(load.problems)} requests failed: {load.problems[:3]}")
    return f"a node of two ended within {seconds:.0f} s under load: {len(load.outcomes)} requests, none lost"


def _lose_models(cluster: RayCluster, repository: Path) -> str:
    """Replicas that are not ready are replaced, and a request ends meanwhile. When the models are back, all is well."""
    before, away = cluster.replicas(), repository.with_name("away")
    repository.rename(away)
    repository.mkdir()
    cluster.wait_for_replicas(lambda now: not before.keys() & now.keys(), "the end of replicas without a model", 90.0)
    begun, content = time.monotonic(), next(iter(EXAMPLES))
    status = httpx.post(f"{cluster.url}/v1/classify", content=content, headers=PNG, timeout=TIMEOUT).status_code
    seconds = time.monotonic() - begun
    expect(status in (408, 503), f"status {status} without a model")
    repository.rmdir()
    away.rename(repository)
    cluster.wait_for_replicas(lambda now: len(now) == len(before), "replicas with models", 90.0)
    with Load(cluster.url, CLIENTS) as load:
        load.wait_for_answers(ANSWERS)
    expect(not load.problems, f"{len(load.problems)} requests failed: {load.problems[:3]}")
    return f"without models: {status} after {seconds:.0f} s, and replicas end; with them again all answers are right"


def _overload_and_scale(cluster: RayCluster, repository: Path) -> str:
    """Refusals of the service reach the client with Retry-After, and images that wait bring a second replica."""
    policy = {
        "policy_function": "service.ray_serve.autoscaling:QueuePolicy",
        "policy_kwargs": {"images_per_replica": 2},
    }
    scaling = {"min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 0, "downscale_delay_s": 1}
    options = {**REPLICAS, "num_replicas": None, "autoscaling_config": {**scaling, "policy": policy}}
    # One image per batch, half a second each: of sixteen images twelve wait, or are refused.
    cluster.deploy(options, {"executor": "simulated:500", "max_batch": 1, "max_in_flight_images": 8, "max_images": 8})
    cluster.wait_for_replicas(lambda now: len(now) == 1, "one replica without load", 90.0)
    content, answers = next(iter(EXAMPLES)), []
    with ThreadPoolExecutor(16) as threads, httpx.Client(base_url=cluster.url, timeout=TIMEOUT) as client:
        end = time.monotonic() + 120.0
        while len(cluster.replicas()) < 2 and time.monotonic() < end:
            posts = [threads.submit(client.post, "/v1/classify", content=content, headers=PNG) for _ in range(16)]
            answers += [post.result() for post in posts]
    expect(len(cluster.replicas()) == 2, "the images that wait brought no second replica")
    refused = [answer for answer in answers if answer.status_code != 200]
    expect(refused and len(refused) < len(answers), f"{len(refused)} of {len(answers)} requests were refused")
    expect(all(answer.status_code == 503 for answer in refused), f"{ ({answer.status_code for answer in refused}) }")
    expect(all(answer.headers.get("Retry-After", "").isdigit() for answer in refused), "no Retry-After")
    expect(all(answer.json().get("request_id") for answer in refused), "not refused by the service")
    return (
        f"overload: {len(refused)} of {len(answers)} requests refused with Retry-After; a second replica by the queue"
    )
