"""Line 1: a repository in S3."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import httpx

from models.artifact import manifest
from service.core.settings import shipped_repository
from tests.acceptance.clusters.bucket import NAME, S3
from tests.acceptance.faults.case import expect
from tests.acceptance.faults.served import ServedProcess, serve
from tests.support.worker_processes import wait_until

MODEL = "fashion-mnist-resnet20"
IMAGE = Path(shipped_repository()).parent / "examples" / "ankle-boot.png"
POLL_SECONDS = 1.0
WAIT_SECONDS = 30.0


def check() -> tuple[bool, str]:
    """Serve from S3 while versions come, are half-uploaded, and the storage is killed and comes back."""
    version = shipped_repository() / MODEL / "1"
    figures: list[str] = []
    with TemporaryDirectory(prefix="clusters-") as cache, S3() as storage:
        storage.upload(version, f"{MODEL}/1")
        options = ("--repository", f"s3://{NAME}/repository", "--storage-poll-seconds", str(POLL_SECONDS))
        with _serve(*options, "--cache", cache, **storage.environment) as service, Load(service) as load:
            expect(answered_by(service) == "1", "version 1 does not answer")
            storage.upload(version, f"{MODEL}/3", without=("model.onnx",), version=3)
            storage.upload(version, f"{MODEL}/4", without=(manifest.FILE_NAME,), version=4)
            storage.upload(version, f"{MODEL}/2", version=2)
            seconds = wait_until(lambda: answered_by(service) == "2", "version 2", WAIT_SECONDS)
            figures.append(f"version 2 served {seconds:.1f} s after its upload")
            storage.kill()
            wait_until(lambda: reported(service, "cannot be read"), "the storage is away", WAIT_SECONDS)
            expect(answered_by(service) == "2", "no answer while the storage is away")
            storage.start()  # its bucket is empty now
            wait_until(lambda: reported(service, "holds no version any more"), "the bucket is empty", WAIT_SECONDS)
            expect(answered_by(service) == "2", "an empty bucket took the version away")
            storage.upload(version, f"{MODEL}/5", version=5)
            wait_until(lambda: answered_by(service) == "5", "version 5", WAIT_SECONDS)
            wait_until(lambda: not degraded(service), "no limitation", WAIT_SECONDS)
            secret = storage.environment["AWS_SECRET_ACCESS_KEY"]
            expect(secret not in service.log, "the secret is in the log")
        away = {**storage.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
        with _serve(*options, "--cache", cache, **away) as again:
            expect(answered_by(again) == "5", "a restart without the storage does not serve the copy")
    seen = load.versions
    figures.append(f"{load.answers} answers under load, {load.failed} failed, by versions {', '.join(sorted(seen))}")
    figures.append("a restart without storage serves the copies; the secret is not in the log")
    return not load.failed and seen == {"1", "2", "5"}, "; ".join(figures)


def _serve(*options: str, **environment: str) -> AbstractContextManager[ServedProcess]:
    return serve(*options, ready=True, module="service", **environment)


class Load:
    """One connection that asks all the time, and counts the answers."""

    def __init__(self, service: ServedProcess) -> None:
        self.answers = self.failed = 0
        self.versions: set[str] = set()
        self._service = service
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        content = IMAGE.read_bytes()
        with httpx.Client(base_url=self._service.url, timeout=30.0) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/classify", content=content, headers={"Content-Type": "image/png"})
                self.answers += 1
                self.failed += answer.status_code != 200
                self.versions.add(answer.json().get("version", "none"))


def answered_by(service: ServedProcess) -> str:
    """The version that answers."""
    headers = {"Content-Type": "image/png"}
    answer = httpx.post(f"{service.url}/v1/classify", content=IMAGE.read_bytes(), headers=headers, timeout=30.0)
    return str(answer.json().get("version"))


def reported(service: ServedProcess, text: str) -> bool:
    """Whether a limitation of a service has a text in it."""
    return any(text in reason for reason in degraded(service))


def degraded(service: ServedProcess) -> list[str]:
    """The limitations that /readyz lists for a service that is ready."""
    found: list[str] = httpx.get(f"{service.url}/readyz", timeout=30.0).json().get("degraded", [])
    return found
