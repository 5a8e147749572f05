"""An S3 server on this machine, in a process of its own, and a bucket in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.artifact import manifest
from tests.acceptance.server import free_port

NAME = "models"
SECONDS_TO_START = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_DEFAULT_REGION": "eu-west-1"}


class S3:
    """moto's server. It keeps its objects in memory, so they are gone after `kill`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> S3:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, and make the bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                break
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise RuntimeError("the S3 server did not start") from None
                time.sleep(0.1)
        self.client().create_bucket(
            Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": CREDENTIALS["AWS_DEFAULT_REGION"]}
        )

    def kill(self) -> None:
        """End the server at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def client(self) -> Any:
        """A client of boto3, which knows nothing of fsspec."""
        import boto3

        os.environ.update(CREDENTIALS)
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")

    def upload(self, source: Path, place: str, without: Sequence[str] = (), **changes: object) -> None:
        """Put the files of a version at MODEL/VERSION, the manifest last."""
        client = self.client()
        for path in sorted(source.iterdir(), key=lambda path: path.name == manifest.FILE_NAME):
            content = path.read_bytes()
            if path.name == manifest.FILE_NAME:
                content = json.dumps({**json.loads(content), **changes}).encode()
            if path.name not in without:
                client.put_object(Bucket=NAME, Key=f"repository/{place}/{path.name}", Body=content)
