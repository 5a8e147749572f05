"""What is served of a repository, and what is wrong with what is not."""

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
from service.registry import repository
from service.registry.repository import LoadError, find_versions
from service.telemetry.metrics import Metrics
from tests.support.geometry import preprocess_for


@pytest.fixture
def copy(tiny_repository: Path, tmp_path: Path) -> Path:
    """Version 1 of `tiny` in a repository of its own, to be spoilt."""
    shutil.copytree(tiny_repository, tmp_path / "repository")
    return tmp_path / "repository" / "tiny" / "1"


def load(version: Path, **options: Any) -> repository.LoadedModel:
    settings = Settings(repository=version.parent.parent, **options)
    return repository.load(version, repository.choose(version, settings), settings, Metrics())


def edit(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest."""
    content = json.loads((version / "manifest.json").read_text())
    change(content)
    (version / "manifest.json").write_text(json.dumps(content))


def rehash(version: Path) -> None:
    """Have the manifest vouch for what the files are now."""

    def change(content: dict[str, Any]) -> None:
        content["golden_sha256"] = manifest.sha256(version / "golden.npz")
        content["artifacts"][0]["sha256"] = manifest.sha256(version / "model.onnx")

    edit(version, change)


def test_exported_version_is_ready_to_serve(copy: Path) -> None:
    model = load(copy)
    assert (model.name, model.version, model.executor) == ("tiny", "1", "onnxruntime-cpu")
    assert model.manifest.labels == tuple(f"class {index}" for index in range(5))
    assert model.manifest.preprocess == preprocess_for(32, 3)
    assert model.engine.max_batch in (1, 2, 4, 8, 16, 32)
    assert not model.engine.alive


def test_what_a_repository_holds(tmp_path: Path) -> None:
    def add(path: str) -> Path:
        folder = tmp_path / path
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
        return folder

    odd = ("b/.partial-x", "b/draft", "b/-11", "b/11.5", "b/0", "b/012", "b/1\u0663", ".hidden/1", "__pycache__/1")
    for path in ("b/1", "b/9", "a/3", *odd):
        add(path)
    newest = add("b/10")
    (tmp_path / "b" / "12").mkdir()  # without a manifest it does not exist yet
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").touch()
    found = find_versions(tmp_path)
    assert {name: sorted(versions) for name, versions in found.items()} == {"a": [3], "b": [1, 9, 10]}
    assert found["b"][10].folder == newest
    assert list(found) == ["a", "b"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for missing in (tmp_path / "missing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(LoadError, match=rf"{missing}: there is no such folder"):
            find_versions(missing)


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
        (another_name, "manifest.json", "is of another version 1, but lies in tiny/1"),
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
        (golden_not_a_number, "model.onnx", "wrong answers"),
    ],
)
def test_what_is_wrong_is_said_and_not_served(
    spoil: Callable[[Path], None], file: str, reason: str, copy: Path
) -> None:
    spoil(copy)
    with pytest.raises(LoadError, match=rf"{file}: .*{reason}"):
        load(copy)


def test_an_unknown_executor(copy: Path) -> None:
    with pytest.raises(LoadError, match="onnxruntime-cpu, onnxruntime-cuda, openvino, simulated"):
        load(copy, executor="abacus")


def test_what_computes_nothing_is_not_checked(copy: Path) -> None:
    alter_golden_logits(copy)
    assert load(copy, executor="simulated:0", max_batch=3).engine.max_batch == 3
