"""The configuration for Triton, read with the protobuf of Triton's own client and compared with the ONNX file."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from export.__main__ import app
from models.artifact.manifest import find_versions
from models.runtime.onnxruntime import ort
from service.registry.repository import find_versions as find_served
from tests.support.triton import TYPES, protobuf, read_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(checkpoint_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that was built with --triton."""
    folder = tmp_path_factory.mktemp("triton")
    options = ["--repository", str(folder / "repository"), "--name", "tiny.v2", "--triton"]
    done = CliRunner().invoke(app, ["build", str(checkpoint_file), *options])
    assert done.exit_code == 0, done.output
    return folder / "repository" / "tiny.v2"


def test_names_types_and_shapes_are_those_of_the_file(model: Path) -> None:
    config = read_config(model / "config.pbtxt")
    graph = onnx.load(model / "1" / "model.onnx").graph
    for told, there in ((config.input, graph.input), (config.output, graph.output)):
        found = [(tensor.name, protobuf().DataType.Name(tensor.data_type), list(tensor.dims)) for tensor in told]
        assert found == [
            (
                value.name,
                TYPES[value.type.tensor_type.elem_type],
                [size.dim_value for size in value.type.tensor_type.shape.dim[1:]],
            )
            for value in there
        ]
        assert all(size > 0 for _, _, dims in found for size in dims)


def test_batches_are_those_of_the_file(model: Path) -> None:
    config = read_config(model / "config.pbtxt")
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    # With a largest batch Triton puts the batch before the dims: the file must take any.
    graph = onnx.load(model / "1" / "model.onnx").graph
    assert all(value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output))


def test_triton_loads_the_folder_unchanged(model: Path) -> None:
    config = read_config(model / "config.pbtxt")
    assert (config.name, config.backend) == (model.name, "onnxruntime")
    session = ort.InferenceSession(model / "1" / config.default_model_filename)
    assert [each.name for each in session.get_inputs()] == [each.name for each in config.input]


@pytest.mark.slow
def test_other_readers_ignore_the_configuration(model: Path) -> None:
    assert find_versions(model.parent) == [(model / "1").resolve()]
    assert {name: list(versions) for name, versions in find_served(model.parent).items()} == {model.name: [1]}


def test_without_the_option_no_configuration_is_written(tiny_repository: Path) -> None:
    assert not (tiny_repository / "tiny" / "config.pbtxt").exists()


def test_failed_write_of_the_configuration_is_one_line(model: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(model.parent, tmp_path / "repository"))
    (repository / "tiny.v2" / "config.pbtxt").unlink()
    (repository / "tiny.v2" / "config.pbtxt").mkdir()
    options = ["--repository", str(repository), "--name", "tiny.v2", "--triton"]
    done = CliRunner().invoke(app, ["build", str(checkpoint_file), *options])
    assert done.exit_code == 2
    assert "error: " in done.output and "Is a directory" in " ".join(done.output.split())
