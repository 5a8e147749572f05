"""The studies run, resume after a stop, and measure the quantities that they name."""

from __future__ import annotations

import fcntl
import gzip
import json
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from models import architectures
from models.cli.app import app
from models.studies import (
    STUDIES,
    degradation,
    finite_step,
    loss_surface,
    normalisation,
    shattered_gradients,
    signal_growth,
    training,
)
from models.studies.order_of_operations import ReluBeforeAddBlock
from models.studies.pieces import Piece, compute
from models.training import checkpoint
from models.training import train as train_module
from models.training.evaluate import predict

SMALL_TRAINING = {"seeds": 1, "epochs": 1, "train_images": 24, "test_images": 12, "size": 8, "batch_size": 12}
SMALL: dict[str, Mapping[str, Any]] = {
    "degradation": SMALL_TRAINING,
    "shattered-gradients": {"seeds": 2, "width": 20},
    "why-11-1-failed": {"seeds": 2, "width": 20},
    "finite-step": {"seeds": 1, "images": 8, "size": 8, "lengths": 3},
    "order-of-operations": SMALL_TRAINING,
    "signal-growth": {"seeds": 2, "width": 32, "blocks": 4, "images": 32},
    "normalisation": {**SMALL_TRAINING, "rates": 1, "trained_depths": 1},
    "shortcuts": SMALL_TRAINING,
    "lesion": {**SMALL_TRAINING, "layers": 20, "measured_images": 12, "draws": 1, "gradient_images": 2},
    "loss-surface": {**SMALL_TRAINING, "points": 3, "loss_images": 12},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training and 24 test images of 16 x 16 pixels as IDX files, in three classes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 36), ("t10k", 24)):
        labels = (np.arange(count) % 3).astype(np.uint8)
        images = rng.integers(0, 60, (count, 16, 16), dtype=np.uint8)
        images[labels == 0, ::4] += 190
        images[labels == 1, :, ::4] += 190
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 16, 16)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">4BI", 0, 0, 8, 1, count)
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests, as it is by the studies: what two of them train alike is trained once."""
    return tmp_path_factory.mktemp("work")


def run(name: str, data: Path, work: Path, out: Path) -> dict[str, Any]:
    changes = [f"--set={key}={value}" for key, value in SMALL[name].items()]
    command = [name, "--quick", "--data", str(data), "--work", str(work), "--out", str(out), *changes]
    result = CliRunner().invoke(app, ["study", *command])
    assert result.exit_code == 0, result.output
    return json.loads((out / f"{name}.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_study_writes_numbers_and_a_figure(name: str, data: Path, work: Path, tmp_path: Path) -> None:
    result = run(name, data, work, tmp_path)
    assert {key: result["settings"][key] for key in SMALL[name]} == SMALL[name]
    assert result["environment"]["torch"] == torch.__version__
    png, svg = ((tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".png", ".svg"))
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
    redrawn = CliRunner().invoke(app, ["study", name, "--redraw", "--out", str(tmp_path)])
    assert redrawn.exit_code == 0, redrawn.output
    assert (tmp_path / f"{name}.png").read_bytes() == png
    assert (tmp_path / f"{name}.svg").read_bytes() == svg


@pytest.mark.slow
def test_finished_pieces_are_not_computed_again(
    data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("degradation", data, work, tmp_path / "a")
    trained: list[str] = []
    original = train_module.train

    def counting(recipe: Any, *arguments: Any, **named: Any) -> Any:
        trained.append(recipe.options.get("shortcut", recipe.arch))
        return original(recipe, *arguments, **named)

    monkeypatch.setattr(training, "train", counting)
    assert run("degradation", data, work, tmp_path / "b") == first
    assert trained == []
    # Options A and none are the ResNet-20 and the plain-20 of the study above.
    run("shortcuts", data, tmp_path / "work", tmp_path)
    assert trained == ["plain20", "resnet20", "B", "C"]
    run("degradation", data, tmp_path / "work", tmp_path)
    assert trained[4:] == ["plain56", "resnet56"]


TRAIN = """
import os, signal, sys
from pathlib import Path
from models.studies import degradation, pieces
from models.training.run_directory import RunDirectory

save, saved = RunDirectory.save_state, []

def save_and_end(self, state, history):
    save(self, state, history)
    if state.step == 0:  # an epoch is finished
        saved.append(self)
        if len(saved) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

RunDirectory.save_state = save_and_end
settings = degradation.DegradationSettings(seeds=1, epochs=4, batch_size=12)
pieces.compute(degradation.split(settings, Path(sys.argv[1]))[:1], Path(sys.argv[2]))
"""


def run_training(data: Path, folder: Path, killed_after: int = 0) -> None:
    """Train in a process of its own, with the same threads each time; kill it after some epochs."""
    command = [sys.executable, "-c", TRAIN, str(data), str(folder), str(killed_after)]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == (-signal.SIGKILL if killed_after else 0), done.stderr.decode()


@pytest.mark.slow
def test_killed_training_continues_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    settings = degradation.DegradationSettings(seeds=1, epochs=4, batch_size=12)
    (first, *_) = degradation.split(settings, data)
    run_training(data, tmp_path / "killed", killed_after=2)
    assert not first.numbers(tmp_path / "killed").exists()
    lines = (first.folder(tmp_path / "killed") / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    numbers, weights = [], []
    for name in ("killed", "undisturbed"):
        run_training(data, tmp_path / name)
        numbers.append(json.loads(first.numbers(tmp_path / name).read_text()))
        weights.append(checkpoint.load(tmp_path / name / "plain20-seed0.safetensors").weights)
    assert numbers[0] == numbers[1]
    assert len(numbers[0]["curve"]) == 4
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    continued = (first.folder(tmp_path / "killed") / "metrics.jsonl").read_text().splitlines()
    assert continued[:2] == lines, "the epochs before the kill were trained again"


def test_order_of_degradation(data: Path) -> None:
    """One seed of every network first, and 56 layers with seeds of their own."""

    def order(**changes: Any) -> list[str]:
        settings = degradation.DegradationSettings(**{**SMALL_TRAINING, **changes})
        return [piece.name for piece in degradation.split(settings, data)]

    first = ["plain20 seed 0", "resnet20 seed 0", "plain56 seed 0", "resnet56 seed 0"]
    assert order(seeds=2, deep_seeds=1) == [*first, "plain20 seed 1", "resnet20 seed 1"]
    assert order(seeds=2)[4:] == [name.replace("seed 0", "seed 1") for name in first]


def test_failed_piece_is_computed_again_and_others_are_kept(tmp_path: Path) -> None:
    calls: list[str] = []

    def work(name: str, fails: bool) -> Piece:
        def compute_it(_: Path) -> dict[str, Any]:
            calls.append(name)
            if fails:
                raise KeyboardInterrupt
            return {"name": name}

        return Piece(name, {}, compute_it)

    with pytest.raises(KeyboardInterrupt):
        compute([work("first", False), work("second", True)], tmp_path)
    assert compute([work("first", False), work("second", False)], tmp_path)["second"] == {"name": "second"}
    assert calls == ["first", "second", "second"]


def test_piece_of_another_process_comes_last(tmp_path: Path) -> None:
    order: list[str] = []
    other_done = threading.Event()

    def piece(name: str) -> Piece:
        def work(_: Path) -> dict[str, Any]:
            order.append(name)
            if name == "free":
                other_done.set()
            return {}

        return Piece(name, {}, work)

    taken, free = piece("taken"), piece("free")
    taken.folder(tmp_path).mkdir(parents=True)
    with (taken.folder(tmp_path) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=compute, args=([taken, free], tmp_path))
        thread.start()
        assert other_done.wait(60)
    thread.join(60)
    assert order == ["free", "taken"]


def test_identity_of_a_piece_has_all_settings(data: Path) -> None:
    study = STUDIES["degradation"]

    def folders(**changes: Any) -> set[Path]:
        settings = study.SETTINGS(**{**SMALL_TRAINING, **changes})
        return {piece.folder(Path()) for piece in study.split(settings, data)}

    assert folders() == folders()
    assert folders() < folders(seeds=2)
    for changes in ({"epochs": 2}, {"train_images": 12}, {"size": 4}, {"peak_lr": 0.2}, {"augment": False}):
        assert not folders() & folders(**changes)


def test_autocorrelation_equals_the_definition() -> None:
    values = np.random.default_rng(0).normal(size=50).cumsum()
    centred = values - values.mean()
    full = np.correlate(centred, centred, "full")[49:]
    np.testing.assert_allclose(shattered_gradients.autocorrelation(values, 20), (full / full[0])[:21], atol=1e-12)


@pytest.mark.parametrize("layers", [2, 12])
def test_gradient_along_the_input_is_the_slope(layers: int) -> None:
    """By finite differences; without normalisation, whose statistics the gradient takes as constants."""

    def output(x: torch.Tensor) -> torch.Tensor:
        return shattered_gradients.plain(x, 30, layers, torch.Generator().manual_seed(1), normalised=False)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(output(x).sum(), x)
    with torch.no_grad():
        slope = (output(x + 1e-7) - output(x - 1e-7)) / 2e-7
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_diverged_training_is_a_result(data: Path, tmp_path: Path) -> None:
    settings = normalisation.NormalisationSettings.model_validate({**SMALL_TRAINING, "peak_lr": 1e30, "rates": 1})
    piece = next(piece for piece in normalisation.split(settings, data) if "rate" in piece.name)
    assert compute([piece], tmp_path) == {"plain20 seed 0 rate 1e+30": {"diverged": True}}


@pytest.mark.slow
def test_deep_plain_gradients_are_shattered_and_residual_ones_are_not(data: Path, tmp_path: Path) -> None:
    settings = shattered_gradients.ShatteredGradientsSettings(seeds=3, width=100)
    names = {"plain, 2 layers", "plain, 50 layers", "residual, 50 layers"}
    pieces = [piece for piece in shattered_gradients.split(settings, None) if piece.name in names]
    shallow, plain, residual = (numbers["mean"][2] for numbers in compute(pieces, tmp_path).values())
    assert plain < 0.1 < 0.2 < residual < shallow
    assert shallow > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("case", list(signal_growth.CASES))
def test_signal_growth_agrees_with_theory(case: str) -> None:
    settings = signal_growth.SignalGrowthSettings(width=256, blocks=6, images=128)
    measured = np.mean([signal_growth.measure(*signal_growth.CASES[case], settings, seed) for seed in range(6)], 0)
    expected = signal_growth.theory(*signal_growth.CASES[case], 6)
    for values, kind in zip(measured, ("signal", "gradient"), strict=True):
        first, last = (0, -1) if kind == "signal" else (-1, 0)
        factor = (values[last] / values[first]) ** (1 / 6)
        assert factor == pytest.approx((expected[kind][last] / expected[kind][first]) ** (1 / 6), rel=0.05)


def test_theory_of_signal_growth_by_hand() -> None:
    """He: doubling without normalisation, k + 1 with it; naive: a quarter, and 5 / 4."""
    theory = signal_growth.theory
    np.testing.assert_allclose(theory(True, "He", False, 3)["signal"], [1, 2, 4, 8])
    np.testing.assert_allclose(theory(True, "He", False, 3)["gradient"], [8, 4, 2, 1])
    np.testing.assert_allclose(theory(True, "He", True, 3)["signal"], [1, 2, 3, 4])
    np.testing.assert_allclose(theory(False, "naive", False, 2)["signal"], [1, 1 / 4, 1 / 16])
    np.testing.assert_allclose(theory(True, "naive", False, 2)["signal"], [1, 5 / 4, 25 / 16])


def test_short_step_does_what_the_derivative_predicts() -> None:
    torch.manual_seed(0)
    model = architectures.build("tiny", 3, 1).double()
    inputs, labels = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2] * 2)
    numbers = finite_step.measure(model, inputs, labels, [1e-7, 1e-1])
    assert numbers["ratio"][0] == pytest.approx(1, abs=1e-3)
    assert numbers["cosine"][0] == pytest.approx(1, abs=1e-3)
    assert abs(numbers["ratio"][1] - 1) > 0.01
    assert {tuple(p.shape) for p in finite_step.early_parameters(model)} == {(8, 1, 3, 3), (8, 8, 3, 3)}


def test_relu_before_addition_only_adds() -> None:
    torch.manual_seed(0)
    model = architectures.build("relu-before-add-resnet20", 3, 1)
    block = list(model.stages[0].children())[1]
    assert isinstance(block, ReluBeforeAddBlock)
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        expected = x + F.relu(block.convs[1](F.relu(block.convs[0](x))))
        torch.testing.assert_close(block(x), expected)
        assert (block(x) >= x).all()


def test_direction_is_as_long_as_the_network_filter_by_filter() -> None:
    torch.manual_seed(0)
    model = architectures.build("tiny", 3, 1)
    direction = loss_surface.filter_normalised(model, torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert not direction[name].any()
            continue
        for drawn, own in zip(direction[name], parameter, strict=True):
            torch.testing.assert_close(drawn.norm(), own.detach().norm())
            assert not torch.allclose(drawn, own)


@pytest.mark.slow
def test_loss_in_the_middle_is_the_trained_networks(data: Path, work: Path, tmp_path: Path) -> None:
    settings = loss_surface.LossSurfaceSettings(**SMALL["loss-surface"])
    result = run("loss-surface", data, work, tmp_path)
    trained = training.training("resnet56", 0, settings, data)
    loaded = checkpoint.load(trained.folder(work) / training.CHECKPOINT)
    batch = training.images(data, "train", settings.train_images, settings.size)
    logits = predict(loaded.model(), batch.array[: settings.loss_images], loaded.preprocess)
    expected = F.cross_entropy(logits, torch.from_numpy(batch.labels[: settings.loss_images])).item()
    # bfloat16 where the machine has it.
    assert result["numbers"]["resnet56"]["losses"][0][1][1] == pytest.approx(expected, rel=0.02)


def test_images_are_reduced_and_the_same_each_time(data: Path) -> None:
    some = training.images(data, "train", 10, 8)
    assert some.array.shape == (10, 8, 8, 1)
    again = training.images(data / ".." / data.name, "train", 10, 8)
    np.testing.assert_array_equal(some.array, again.array)
    assert training.images(data, "test", None, None).array.shape == (24, 16, 16, 1)


def test_command_line_errors_are_one_line(tmp_path: Path) -> None:
    def fail(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["study", *arguments])
        assert result.exit_code == 2
        return result.stderr

    assert "no study is named 'degradatoin'; there are: degradation, " in fail("degradatoin")
    assert "degradation needs images: give --data" in fail("degradation")
    assert "there is no such folder" in fail("degradation", "--data", str(tmp_path / "none"))
    assert "--set takes NAME=VALUE" in fail("signal-growth", "--set", "seeds")
    assert "signal-growth has: seeds, width" in fail("signal-growth", "--set", "epochs=3")
    assert "run the study first" in fail("signal-growth", "--redraw", "--out", str(tmp_path))


def test_list_of_studies() -> None:
    result = CliRunner().invoke(app, ["study", "--list"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in STUDIES)
