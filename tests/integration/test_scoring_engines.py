"""The examples of docs/clusters.md for Ray Data, Spark and Daft: each runs if its package is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.documentation import blocks
from tests.support.tiny import Eager, Photographs

DOCUMENT = Path(__file__).parents[2] / "docs" / "clusters.md"
ENGINES = {"ray": "import ray", "pyspark": "import pandas", "daft": "import daft"}
ALONE = {
    "PYSPARK_PYTHON": sys.executable,
    "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false --conf spark.driver.host=127.0.0.1 "
    "--conf spark.driver.bindAddress=127.0.0.1 pyspark-shell",
    "DAFT_ANALYTICS_ENABLED": "0",
    "RAY_ADDRESS": "local",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that keep an engine on this machine."""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_example(engine: str, tmp_path: Path, photographs: Photographs, tiny_repository: Path, eager: Eager) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    (tmp_path / "images").mkdir()
    for name, data in photographs:
        (tmp_path / "images" / name).write_bytes(data)
    (example,) = (block.text for block in blocks(DOCUMENT.read_text()) if block.text.startswith(ENGINES[engine]))
    example = example.replace("/shared/repository", str(tiny_repository)).replace("/shared", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **ALONE}
    done = subprocess.run([sys.executable, "-c", example], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read(tmp_path / "results")
    found = {Path(row.get("file") or row["path"]).name: row["label"] for row in rows}
    assert len(rows) == len(photographs)
    assert found == {name: f"class {eager(data).argmax()}" for name, data in photographs}


def read(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(path) for path in folder.rglob("*.parquet")]
    return [row for table in tables for row in table.to_pylist()]
