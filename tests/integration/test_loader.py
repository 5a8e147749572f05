"""Loading a version: which content is accepted, and the error of each fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import manifest
from service.core.settings import Settings
from service.registry.loader import Loader
from service.registry.repository import LoadError
from service.registry.version import LoadedVersion
from service.telemetry.metrics import Metrics
from tests.support.geometry import preprocess_for


@pytest.fixture
def copy(tiny_repository: Path, tmp_path: Path) -> Path:
    """Version 1 of `tiny` in its own repository, which a test may damage."""
    shutil.copytree(tiny_repository, tmp_path / "repository")
    return tmp_path / "repository" / "tiny" / "1"


def load(version: Path, **options: Any) -> LoadedVersion:
    return Loader(Settings(repository=version.parent.parent, **options), Metrics()).load(version)


def edit(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest."""
    content = json.loads((version / "manifest.json").read_text())
    change(content)
    (version / "manifest.json").write_text(json.dumps(content))


def rehash(version: Path) -> None:
    """Update the hashes in the manifest."""

    def change(content: dict[str, Any]) -> None:
        content["golden_sha256"] = manifest.sha256(version / "golden.npz")
        content["artifacts"][0]["sha256"] = manifest.sha256(version / "model.onnx")

    edit(version, change)


def test_exported_version_can_be_served(copy: Path) -> None:
    loaded = load(copy)
    served = loaded.served
    assert (served.name, served.version, served.executor) == ("tiny", "1", "onnxruntime-cpu")
    assert served.labels == tuple(f"class {index}" for index in range(5))
    assert served.preprocess == preprocess_for(32, 3)
    assert (loaded.engine.max_batch, served.max_batch) == (8, 8)
    assert not loaded.engine.alive


def test_version_without_multiply_adds_is_planned_by_its_size(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.registry.loader.available_cpus", lambda: 4)
    edit(copy, lambda content: content["architecture"].pop("multiply_adds", None))
    assert load(copy).served.threads == 1
    monkeypatch.setattr("service.engine.instance_group.SMALL_NETWORK", 100)
    assert load(copy).served.threads == 2


def remove(name: str) -> Callable[[Path], None]:
    return lambda version: (version / name).unlink()


def truncate(version: Path) -> None:
    content = (version / "model.onnx").read_bytes()
    (version / "model.onnx").write_bytes(content[: len(content) // 2])


def truncate_and_vouch(version: Path) -> None:
    truncate(version)
    rehash(version)


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.onnx").write_bytes(content)


def no_json(version: Path) -> None:
    (version / "manifest.json").write_text("not json")


def half_a_manifest(version: Path) -> None:
    content = (version / "manifest.json").read_bytes()
    (version / "manifest.json").write_bytes(content[: len(content) // 2])


def drop_a_label(version: Path) -> None:
    edit(version, lambda content: content["labels"].pop())


def schema_of_the_future(version: Path) -> None:
    edit(version, lambda content: content.update(schema=2))


def another_name(version: Path) -> None:
    edit(version, lambda content: content.update(name="another"))


def no_artifact(version: Path) -> None:
    edit(version, lambda content: content.update(artifacts=[]))


def path_out_of_the_version(version: Path) -> None:
    edit(version, lambda content: content["artifacts"][0].update(file="../../../model.onnx"))


def golden(version: Path) -> dict[str, Any]:
    with np.load(version / "golden.npz") as file:
        return dict(file)


def rewrite_golden(version: Path) -> None:
    np.savez(version / "golden.npz", **golden(version))


def alter_golden_logits(version: Path) -> None:
    content = golden(version)
    content["logits"][3, 2] += 0.1 * content["logits"].std(0).mean()
    np.savez(version / "golden.npz", **content)
    rehash(version)


def swap_golden_channels(version: Path) -> None:
    content = golden(version)
    np.savez(version / "golden.npz", images=content["images"][..., ::-1], logits=content["logits"])
    rehash(version)


def golden_of_another_model(version: Path) -> None:
    content = golden(version)
    np.savez(version / "golden.npz", images=content["images"], logits=content["logits"][:, :4])
    rehash(version)


def golden_not_a_number(version: Path) -> None:
    content = golden(version)
    content["logits"][0, 0] = np.nan
    np.savez(version / "golden.npz", **content)
    rehash(version)


@pytest.mark.parametrize(
    ("spoil", "file", "reason"),
    [
        (remove("manifest.json"), "manifest.json", "cannot be read: No such file"),
        (remove("classifier.npz"), "classifier.npz", "cannot be read: No such file"),
        (no_json, "manifest.json", "Invalid JSON"),
        (half_a_manifest, "manifest.json", "Invalid JSON"),
        (drop_a_label, "manifest.json", "4 labels for 5 classes"),
        (schema_of_the_future, "manifest.json", "schema"),
        (another_name, "manifest.json", "describes another version 1, but lies in tiny/1"),
        (no_artifact, "manifest.json", "no artifact"),
        (path_out_of_the_version, "manifest.json", "artifacts.0.file"),
        (remove("model.onnx"), "model.onnx", "cannot be read: No such file"),
        (flip_a_bit, "model.onnx", "not what the manifest describes"),
        (truncate, "model.onnx", "not what the manifest describes"),
        (truncate_and_vouch, "model.onnx", "cannot load it"),
        (remove("golden.npz"), "golden.npz", "cannot be read: No such file"),
        (rewrite_golden, "golden.npz", "not what the manifest describes"),
        (alter_golden_logits, "model.onnx", "differ .* more than the 1e-04 allowed for float32"),
        (swap_golden_channels, "model.onnx", "differ .* more than the 1e-04 allowed for float32"),
        (golden_of_another_model, "model.onnx", r"shape \[16, 5\], expected \[16, 4\]"),
        (golden_not_a_number, "model.onnx", "wrong outputs"),
    ],
)
def test_fault_is_reported(spoil: Callable[[Path], None], file: str, reason: str, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(LoadError, match=rf"{file}: .*{reason}"):
        load(copy)


def test_unknown_executor_lists_the_others(copy: Path) -> None:
    with pytest.raises(LoadError, match="onnxruntime-cpu, onnxruntime-cuda, openvino, simulated"):
        load(copy, executor="abacus")


def test_simulated_executor_is_not_verified(copy: Path) -> None:
    alter_golden_logits(copy)
    assert load(copy, executor="simulated:0", max_batch=3).engine.max_batch == 3
