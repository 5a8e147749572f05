"""Quantisation against arithmetic written out here, and against the eager network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.build import build
from export.errors import BuildError
from export.formats import onnx as onnx_format
from export.graph import ServingGraph
from export.lint import check_portable
from export.quantization import qdq
from export.quantization.calibrate import METHODS, Method, Range, ValueHistogram, calibrate
from export.quantization.qdq import ONNXRUNTIME, PORTABLE, Scheme
from export.quantization.search import Selection, search
from export.samples import photographs
from export.verify import OnnxRunner
from models.artifact import manifest, parity
from models.artifact.parity import Float32Array
from models.imaging.preprocess import UInt8Array
from models.runtime.onnxruntime import ort
from models.training.evaluate import predict
from tests.support.marks import slow_except
from tests.support.networks import make_checkpoint

Exported = tuple[Path, UInt8Array, Float32Array]
SCHEMES = {"onnxruntime": ONNXRUNTIME, "portable": PORTABLE}


def export(arch: str, folder: Path, **options: object) -> Exported:
    """A float32 graph, photographs, and the eager logits for them."""
    checkpoint = make_checkpoint(arch, **options)  # type: ignore[arg-type]
    path = folder / "model.onnx"
    onnx_format.write(ServingGraph(checkpoint.model(), checkpoint.preprocess), checkpoint.preprocess, path)
    images = photographs(checkpoint.preprocess)
    return path, images, predict(checkpoint.model(), images, checkpoint.preprocess).numpy()


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export("resnet20", tmp_path_factory.mktemp("resnet20"))


def ranges_of(exported: Exported) -> dict[Method, dict[str, Range]]:
    path, images, _ = exported
    return calibrate(path, qdq.activations(onnx.load(path)), images)


def calibrated(exported: Exported, method: Method = "minmax") -> dict[str, Range]:
    return ranges_of(exported)[method]


@pytest.mark.slow
def test_minmax_is_the_range_of_the_values(resnet20: Exported) -> None:
    path, images, _ = resnet20
    model = onnx.load(path)
    names = qdq.activations(model)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values = ort.InferenceSession(model.SerializeToString()).run(names, {"images": images})
    ranges = calibrated(resnet20)
    for name, value in zip(names, values, strict=True):
        assert ranges[name] == pytest.approx((min(0, value.min()), max(0, value.max())), rel=1e-5)


def test_outliers_are_cut_off_but_not_by_minmax() -> None:
    """A million normal values and one of a thousand: the 99.99th percentile of a half-normal one is 3.89."""
    values = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    histogram = ValueHistogram()
    for part in np.array_split(np.append(values, np.float32(1000)), 7):
        histogram.add(part)
    assert histogram.range("minmax").high == 1000
    assert histogram.range("percentile").high == pytest.approx(3.89, abs=1.1)  # within the width of a bin
    assert histogram.range("entropy").high < 100
    assert histogram.range("percentile").low == -histogram.range("percentile").high


def test_histogram_is_independent_of_the_order_of_values() -> None:
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    rising, whole = ValueHistogram(), ValueHistogram()
    whole.add(values)
    for part in np.array_split(values[np.argsort(np.abs(values))], 10):
        rising.add(part)
    for method in METHODS:
        assert rising.range(method).high == pytest.approx(whole.range(method).high, rel=0.1)


def test_range_of_zeros_only() -> None:
    histogram = ValueHistogram()
    histogram.add(np.zeros((2, 3), np.float32))
    assert {histogram.range(method) for method in METHODS} == {Range(0, 0)}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@pytest.mark.parametrize(
    ("arch", "options"),
    slow_except(
        ("tiny", {"shortcut": "none"}),
        [
            ("resnet20", {"channels": 1}),
            ("tiny", {"shortcut": "none"}),
            ("preact-resnet20", {}),
            ("linear-join-resnet20", {}),
            ("resnet18", {"size": 64}),
            ("resnet20", {"shortcut": "C", "norm": "none"}),
        ],
    ),
)
def test_int8_stays_near_the_eager_network(
    arch: str, options: dict[str, object], scheme: Scheme, tmp_path: Path
) -> None:
    exported = export(arch, tmp_path, **options)
    path, images, logits = exported
    quantized = tmp_path / "int8.onnx"
    onnx_format.save(qdq.quantize(onnx.load(path), calibrated(exported, "percentile"), scheme), quantized)
    found = parity.check(OnnxRunner(quantized).logits(images), logits, "int8")
    assert found.logit_rms_error > 1e-3  # else nothing was rounded


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_mistakes_are_caught_in_int8_too(scheme: Scheme, tmp_path: Path) -> None:
    exported = export("resnet18", tmp_path, size=64)
    path, images, logits = exported
    quantized = tmp_path / "int8.onnx"
    onnx_format.save(qdq.quantize(onnx.load(path), calibrated(exported), scheme), quantized)
    brighter = np.clip(images.astype(np.int64) + 13, 0, 255).astype(np.uint8)  # a mean that is wrong by 0.05
    for wrong in (images[..., ::-1].copy(), brighter):
        with pytest.raises(parity.ParityError, match="differ from the eager model"):
            parity.check(OnnxRunner(quantized).logits(wrong), logits, "int8")


@pytest.mark.slow
def test_weights_are_rounded_to_the_nearest_step_of_their_channel(resnet20: Exported) -> None:
    model = onnx.load(resnet20[0])
    quantized = qdq.quantize(model, calibrated(resnet20), PORTABLE)
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 21
    for node in convolutions:
        weight = before[node.input[1]]
        integers, scale = after[f"{node.input[1]}_quantized"], after[f"{node.input[1]}_scale"]
        assert integers.dtype == np.int8
        assert node.input[1] not in after
        error = np.abs(integers * scale[:, None, None, None] - weight)
        assert (error <= scale[:, None, None, None] / 2 * 1.001).all()
        assert (
            np.abs(integers).reshape(len(scale), -1).max(1)[np.abs(weight).reshape(len(scale), -1).any(1)] == 127
        ).all()


@pytest.mark.slow
def test_places_of_rounding_in_the_portable_file(resnet20: Exported) -> None:
    """Inputs of convolutions and shortcuts, in int8; nothing between a convolution and the addition behind it."""
    quantized = qdq.quantize(onnx.load(resnet20[0]), calibrated(resnet20), PORTABLE)
    producers = {name: node for node in quantized.graph.node for name in node.output}
    initializers = {tensor.name: tensor for tensor in quantized.graph.initializer}
    adds = [node for node in quantized.graph.node if node.op_type == "Add"]
    assert len(adds) == 9
    for add in adds:
        kinds = sorted(producers[name].op_type for name in add.input)
        assert kinds == ["Conv", "DequantizeLinear"]
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            assert [producers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert len(node.input) < 3 or node.input[2] in initializers  # a float bias
        if node.op_type == "QuantizeLinear":
            zero_point = numpy_helper.to_array(initializers[node.input[2]])
            assert zero_point.dtype == np.int8
            assert int(zero_point) == 0


@pytest.mark.slow
def test_onnx_runtime_computes_its_file_with_integers(resnet20: Exported, tmp_path: Path) -> None:
    quantized = qdq.quantize(onnx.load(resnet20[0]), calibrated(resnet20), ONNXRUNTIME)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert (kinds.count("QLinearConv"), kinds.count("QLinearAdd"), kinds.count("Conv")) == (21, 8, 0)
    assert kinds.count("Softmax") == kinds.count("ReduceMean") == 1  # the head stays in float


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_layers_kept_in_float_are_unchanged(scheme: Scheme, resnet20: Exported) -> None:
    model = onnx.load(resnet20[0])
    names = qdq.layers(model)
    kept = {names[0], names[5], names[-1]}
    quantized = qdq.quantize(model, calibrated(resnet20), scheme, kept)
    producers = {name: node.op_type for node in quantized.graph.node for name in node.output}
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            dequantized = [producers.get(name) == "DequantizeLinear" for name in node.input[:2]]
            assert dequantized == [node.name not in kept] * 2
    whole = qdq.quantize(model, calibrated(resnet20), scheme, frozenset(names))
    assert all(
        tensor.data_type != onnx.TensorProto.INT8 or "zero_point" in tensor.name for tensor in whole.graph.initializer
    )


@pytest.mark.slow
def test_search_keeps_the_layer_in_float_that_costs_accuracy(resnet20: Exported) -> None:
    """One layer is spoiled on purpose: its input's range is a hundredth of what it should be."""
    path, images, logits = resnet20
    ranges = calibrated(resnet20)
    spoiled = next(node for node in onnx.load(path).graph.node if node.op_type == "Conv" and node.name.endswith("_7"))
    low, high = ranges[spoiled.input[0]]
    bad = {**ranges, spoiled.input[0]: Range(low / 100, high / 100)}
    labels = logits.argmax(1)
    _, report = search(path, PORTABLE, {"minmax": bad}, Selection(images, logits, labels))
    readers = [n.name for n in onnx.load(path).graph.node if spoiled.input[0] in n.input and n.op_type == "Conv"]
    assert set(readers) & set(report.float_layers)
    assert report.selection_loss is not None
    assert report.trials <= 3 + 32 + 4


@pytest.mark.slow
def test_search_takes_the_method_that_costs_least(resnet20: Exported) -> None:
    path, images, logits = resnet20
    ranges = ranges_of(resnet20)
    narrow = {name: Range(low / 20, high / 20) for name, (low, high) in ranges["minmax"].items()}
    selection = Selection(images, logits, logits.argmax(1))
    _, report = search(path, ONNXRUNTIME, {"entropy": narrow, "minmax": ranges["minmax"]}, selection)
    assert report.calibration == "minmax"
    assert report.selection_images == len(images)


@pytest.mark.slow
def test_build_in_every_precision(tmp_path: Path) -> None:
    make_checkpoint("tiny").save(tmp_path / "checkpoint.safetensors")
    versions = [
        build(tmp_path / "checkpoint.safetensors", tmp_path / "repository", name, float16=True, int8=True)
        for name in ("first", "second")
    ]
    described = manifest.read(versions[0])
    assert [(a.file, a.format, a.precision) for a in described.artifacts] == [
        ("model.onnx", "onnx", "float32"),
        ("model.fp16.onnx", "onnx", "float16"),
        ("model.int8-ort.onnx", "onnx-onnxruntime", "int8"),
        ("model.int8.onnx", "onnx", "int8"),
    ]
    for artifact in described.artifacts:
        assert artifact.parity is not None
        assert parity.bounded_error(artifact.parity, artifact.precision) <= parity.MAX_LOGIT_ERROR[artifact.precision]
        assert (artifact.quantization is not None) == (artifact.precision == "int8")
        first, second = ((version / artifact.file).read_bytes() for version in versions)
        assert first == second, artifact.file


@pytest.mark.slow
def test_portable_files_have_no_operators_of_a_single_runtime(resnet20: Exported, tmp_path: Path) -> None:
    path, _, _ = resnet20
    check_portable(path)
    model = onnx.load(path)
    onnx_format.save(qdq.quantize(model, calibrated(resnet20), PORTABLE), tmp_path / "portable.onnx")
    check_portable(tmp_path / "portable.onnx")
    onnx_format.save(qdq.quantize(model, calibrated(resnet20), ONNXRUNTIME), tmp_path / "unsigned.onnx")
    with pytest.raises(BuildError, match="unsigned zero-point, which TensorRT reads as signed"):
        check_portable(tmp_path / "unsigned.onnx")
    next(node for node in model.graph.node if node.op_type == "Conv").domain = "com.microsoft.nchwc"
    onnx_format.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(BuildError, match=r"com\.microsoft\.nchwc\.Conv"):
        check_portable(tmp_path / "foreign.onnx")
