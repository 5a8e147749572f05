"""Checkpoints as tools write them: each is right or refused in one line.

Fastai's, DeepSpeed's, MMEngine's and the other tools' files are written here with their keys and names; the tools
themselves are not installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from export.importing import ImportOverrides, import_weights
from tests.acceptance.weights.checkpoint_files import CLASSES, CONTENTS, FILES, network, write_index
from tests.acceptance.weights.foreign_files import FOREIGN, MARK
from tests.acceptance.weights.importer import Importer

_MAX_ERROR = 1e-4
"""Largest difference of a logit, relative to their spread."""
_HALF = ("half", "bfloat16", "DeepSpeed, stage 1", "safetensors, half, module.")
_MAX_MEMORY = 2 * 1024**3
"""Bytes that an import may take; torch and a network of 45 MB take less than 1 GiB."""


def check() -> tuple[bool, str]:
    """Import each of the files, and compare its logits or read its refusal."""
    wrong: list[str] = []
    worst = 0.0
    with TemporaryDirectory() as base:
        os.chdir(base)
        (labels := Path(base) / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
        for name, path, expected in _usable(Path(base)):
            error = _error(name, path, expected, labels)
            worst = max(worst, error)
            print(f"  right    {name}: {error:.1e}", flush=True)
            wrong += [name] if error > _MAX_ERROR else []
            path.unlink()
        importer = Importer()
        for name, (write, reason) in FOREIGN.items():
            with TemporaryDirectory(dir=base) as folder:
                output = Path(folder) / "out.safetensors"
                arguments = ["import", str(write(Path(folder))), "--arch", "resnet18", "-o", str(output)]
                refused = importer.refuses(name, reason, *arguments, folder=Path(folder))
                wrong += [] if refused and not output.exists() else [name]
        memory = importer.close()
        wrong += [] if memory < _MAX_MEMORY else [f"{memory / 1e6:.0f} MB"]
        if (Path(base) / MARK).exists() or Path(MARK).exists():
            wrong.append("code ran")
        os.chdir("/")
    return not wrong, (
        f"{len(CONTENTS) + len(FILES) + 2} files right, largest error {worst:.1e} of the spread; {len(FOREIGN)} "
        f"refused in one line, by a process of at most {memory / 1e6:.0f} MB; wrong: {wrong or 'none'}"
    )


def _usable(base: Path) -> Iterator[tuple[str, Path, nn.Module]]:
    """The files with the network that is right for each."""
    for name, (content, seed) in CONTENTS.items():
        torch.save(content(), base / "a.pth")
        yield name, base / "a.pth", network(seed)
    for name, (file, write) in FILES.items():
        write(base / file)
        yield name, base / file, network()
    yield "two parts and their index", write_index(base), network()
    torch.save(network(0, 3, 1).state_dict(), base / "grey.pth")
    yield "one channel, three classes", base / "grey.pth", network(0, 3, 1)


def _error(name: str, path: Path, expected: nn.Module, labels: Path) -> float:
    """Largest difference of the logits, relative to their spread; infinite if the file is refused."""
    channels = expected.get_parameter("conv1.weight").shape[1]
    values = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    if len(expected.get_parameter("fc.bias")) != CLASSES:
        labels = labels.with_name("three.txt")
        labels.write_text("a\nb\nc\n")
    try:
        imported = import_weights(path, "resnet18", ImportOverrides(labels=labels, preprocess=values))
    except Exception as error:
        print(f"  refused  {error}", flush=True)
        return float("inf")
    if name in _HALF:  # the reference computes in float32 with the rounded weights
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float16
        reference = type(expected)(CLASSES)
        reference.load_state_dict(
            {key: value.to(dtype) if value.is_floating_point() else value
             for key, value in expected.state_dict().items()}
        )  # fmt: skip
        expected = reference.eval()
    images = torch.randn(8, channels, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, logits = imported.checkpoint.model()(images), expected(images)
    return float((found - logits).abs().max() / logits.std())
