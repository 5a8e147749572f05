"""Line 5: the path of a new user, from a fresh clone, with the commands of README.md."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import torch
from PIL import Image
from torch import nn

from tests.acceptance.house import readme
from tests.acceptance.house.checkout import ROOT
from tests.acceptance.house.readme import Step
from tests.acceptance.server import free_port

SECTIONS = ("Quick start", "You have a trained ResNet, or want one", "You have labelled images", "Scoring folders")
REDUCTIONS = {
    "--data photos --out runs/photos --epochs 90": "--data photos --out runs/photos --epochs 3 --size 64",
}
"""Changes of commands: fewer epochs, and smaller images."""
LEFT_OUT = {
    "hf-hub:": "needs the hub; line 1 of tests/acceptance/weights asks a stand-in",
    "import classifier.onnx": "another way for the same model",
    "--out runs/fashion": "trains for half an hour",
    "build runs/fashion": "needs the training before it",
}
"""Commands that are not part of the path, by a piece of them, and the reason."""
OTHER_OUTPUT = {
    " of resnet18, whose file this is:": ", assumed: the file is none that torchvision publishes:",
}
"""Changes of the output shown: the weights are random."""
BESIDE = {"You have a trained ResNet, or want one": ".venv/bin/pip install requests"}
"""Commands that the text of a section has, run before the last block of Python."""
SUBJECTS = ("astronaut", "cat", "coffee", "galaxies", "photographer", "rocket")


def check() -> tuple[bool, str]:
    """Clone, serve, import, train, build, serve and ask; all outputs as shown."""
    with TemporaryDirectory(prefix="house-") as folder:
        started = time.monotonic()
        user = User(Path(folder))
        user.run(f"git clone --quiet {ROOT} {user.clone}", Path(folder))
        _write_inputs(user.clone)
        for step in readme.steps((user.clone / "README.md").read_text(encoding="utf-8"), SECTIONS):
            user.do(step)
        user.ask_for_training()
        user.stop_service()
        seconds = time.monotonic() - started
    return not user.wrong, (
        f"{user.done} commands in {seconds / 60:.1f} minutes, {user.compared} outputs compared; first response after "
        f"{user.first_response:.0f} s; wrong: {user.wrong or 'nothing'}"
    )


class User:
    """Types commands into two terminals: the service runs in one of them.

    Args:
        folder: for the clone and for the files of pip.
    """

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "resnet-serve"
        self.wrong: list[str] = []
        self.done = self.compared = 0
        self.first_response = 0.0
        self._started = time.monotonic()
        self._port = free_port()
        self._service: subprocess.Popen[bytes] | None = None
        self._log = folder / "service.log"
        ours = ("RESNET_SERVE_", "PYTHONPATH", "VIRTUAL_ENV")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self._environment |= {"PIP_CACHE_DIR": str(folder / "cache"), "COLUMNS": "120"}

    def do(self, step: Step) -> None:
        """Do what a block of README.md says, and compare the output."""
        printed = ""
        if step.language == "python":
            self.run(BESIDE[step.section])
            (self.clone / "request.py").write_text(self._local(step.text))
            printed = self.run(".venv/bin/python request.py")
        else:
            for command in step.commands():
                if not any(piece in command for piece in LEFT_OUT):
                    printed = self._type(command)
        if step.output is not None:
            shown = step.output
            for before, after in OTHER_OUTPUT.items():
                shown = shown.replace(before, after)
            self.compared += 1
            found = readme.differences(shown, printed)
            print(*(f"  differs: {line}" for line in found), sep="\n", end="\n" if found else "")
            self.wrong += [f"output of {step.text.splitlines()[0]}"] if found else []

    def _type(self, command: str) -> str:
        for before, after in REDUCTIONS.items():
            command = command.replace(before, after)
        if command == "make serve":
            return self._serve(f"make serve PORT={self._port}")
        if "resnet-serve " in command:
            return self._serve(f"{command} --port {self._port}")
        printed = self.run(self._local(command))
        if command.startswith("curl"):
            self.first_response = self.first_response or time.monotonic() - self._started
            results = json.loads(printed)["results"]
            if not any("predictions" in result for result in results):
                self.wrong.append(f"response to {command}")
        return printed

    def run(self, command: str, folder: Path | None = None) -> str:
        """Run a command to its end; gives what it printed on standard output."""
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder or self.clone, env=self._environment, capture_output=True, text=True
        )
        print(f"  {time.monotonic() - begun:6.1f} s  {command}", flush=True)
        self.done += 1
        if done.returncode:
            print(done.stdout[-2000:] + done.stderr[-2000:], flush=True)
            self.wrong.append(command)
        return done.stdout

    def _serve(self, command: str) -> str:
        """Start the service in place of the one before, and wait until it is ready."""
        self.stop_service()
        begun = time.monotonic()
        with self._log.open("wb") as log:
            self._service = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.clone, env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        while not self._ready():
            if self._service.poll() is not None or time.monotonic() > begun + 600:
                print(self._log.read_text(errors="replace")[-2000:], flush=True)
                self.wrong.append(command)
                break
            time.sleep(0.1)
        print(f"  {time.monotonic() - begun:6.1f} s  {command}", flush=True)
        self.done += 1
        return ""

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://localhost:{self._port}/readyz").is_success
        except httpx.TransportError:
            return False

    def stop_service(self) -> None:
        """End the service as Ctrl-C in its terminal does."""
        if self._service is not None and self._service.poll() is None:
            os.killpg(self._service.pid, signal.SIGINT)
            self._service.wait(60)
        self._service = None

    def ask_for_training(self) -> None:
        """Classify an image with the model that was trained, which is the default model of the last service."""
        path = self.clone / "request.py"
        path.write_text(re.sub(r'open\("[^"]*"', 'open("photos/test/cat/0.jpg"', path.read_text()))
        printed = self.run(".venv/bin/python request.py")
        if not any(subject in printed for subject in SUBJECTS):
            self.wrong.append(f"the trained model gives {printed!r}")

    def _local(self, text: str) -> str:
        return text.replace("localhost:8000", f"localhost:{self._port}")


def _write_inputs(clone: Path) -> None:
    """The files that the user has: weights, validation images, labelled images."""
    torch.manual_seed(0)
    torch.save(_resnet18().state_dict(), clone / "resnet18-f37072fd.pth")
    photographs = {
        name: Image.open(ROOT / "export" / "photographs" / f"{name}.jpg").convert("RGB") for name in SUBJECTS
    }
    for number in range(1000):
        _cut(photographs[SUBJECTS[number % 6]], number, clone / "imagenet" / "val" / f"n{number:08d}" / "0.JPEG")
    for split, count in (("train", 24), ("test", 6)):
        for name, photograph in photographs.items():
            for number in range(count):
                _cut(
                    photograph,
                    number + (500 if split == "test" else 0),
                    clone / "photos" / split / name / f"{number}.jpg",
                )


def _cut(photograph: Image.Image, number: int, path: Path) -> None:
    """Write one of many parts of a photograph, half as wide and as high."""
    width, height = photograph.width // 2, photograph.height // 2
    left, top = number * 37 % (width + 1), number * 53 % (height + 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph.crop((left, top, left + width, top + height)).resize((160, 160)).save(path, "JPEG")


def _resnet18() -> nn.Module:
    """Modules whose state is named as that of torchvision's ResNet-18."""
    network = nn.Module()
    network.conv1, network.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        first = _block(64 if stage == 1 else width // 2, width, 1 if stage == 1 else 2)
        network.add_module(f"layer{stage}", nn.Sequential(first, _block(width, width, 1)))
    network.fc = nn.Linear(512, 1000)
    return network


def _block(inputs: int, width: int, stride: int) -> nn.Module:
    block = nn.Module()
    block.conv1, block.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
    block.conv2, block.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
    if stride != 1:
        block.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return block
