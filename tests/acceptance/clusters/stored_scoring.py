"""Line 1: a repository in S3, and images in S3 that are scored to Parquet in S3."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.core.settings import shipped_repository
from tests.acceptance.clusters import storage
from tests.acceptance.clusters.bucket import NAME, S3
from tests.acceptance.clusters.scored import Classify, check_rows, done, make_images, read_images
from tests.acceptance.clusters.storage import MODEL

IMAGES = 20_000
FILES_PER_SHARD = 2000
_UPLOADS = 8
"""Uploads at the same time."""


def check() -> tuple[bool, str]:
    """Both halves of the line."""
    served, served_figure = storage.check()
    print(served_figure, flush=True)
    scored, figure = check_scoring(IMAGES)
    return served and scored, f"{served_figure}; {figure}"


def check_scoring(count: int) -> tuple[bool, str]:
    """Score images from S3 to S3 with a model from S3, and end the process with SIGKILL once on the way."""
    with TemporaryDirectory(prefix="clusters-") as name, S3() as storage:
        folder, client = Path(name) / "images", storage.client()
        storage.upload(shipped_repository() / MODEL / "1", f"{MODEL}/1")
        make_images(folder, count)
        images = read_images(folder)
        print(f"uploading {count:,} images", flush=True)
        with ThreadPoolExecutor(_UPLOADS) as threads:
            list(threads.map(lambda path: upload(client, folder, path), images))
        arguments = [f"s3://{NAME}/images", "--repository", f"s3://{NAME}/repository"]
        arguments += ["--output-folder", f"s3://{NAME}/results", "--files-per-shard", str(FILES_PER_SHARD)]
        environment = {**storage.environment, "XDG_CACHE_HOME": str(Path(name) / "cache")}
        read = reader(client)
        first = Classify(*arguments, **environment)
        killed = first.watch(lambda: done(read("manifest.json")) >= count // 3)
        first.kill()
        before = done(read("manifest.json"))
        status, log = Classify(*arguments, **environment).end()
        if status != 1:  # there are bad files
            raise RuntimeError(f"exit status {status}: {log[-1000:]}")
        expected = {f"s3://{NAME}/images/{path}": content for path, content in images.items()}
        problem = check_rows(lambda file: read(file) or b"", expected)
        secret = storage.environment["AWS_SECRET_ACCESS_KEY"] in log
    figure = (
        f"{count:,} images from S3 to Parquet in S3, killed once with {before:,} done: {problem or 'every row once'}"
    )
    return killed and not problem and not secret, figure


def upload(client: Any, folder: Path, path: str) -> None:
    """Put a file at its path below the folder."""
    client.put_object(Bucket=NAME, Key=f"images/{path}", Body=(folder / path).read_bytes())


def reader(client: Any) -> Callable[[str], bytes | None]:
    """Reads results with boto3, which knows nothing of fsspec; None for a file that does not exist."""

    def read(name: str) -> bytes | None:
        try:
            content: bytes = client.get_object(Bucket=NAME, Key=f"results/{name}")["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
        return content

    return read
