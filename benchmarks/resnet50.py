"""Writes a repository with a ResNet-50 of random weights: `python -m benchmarks.resnet50 FOLDER [--float16] [--int8]`.

It needs the extra `train`. Run it as a process of its own: PyTorch's threads then disturb no measurement.
"""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "resnet50-random"


def main() -> None:
    """Write the checkpoint and the repository, and print the repository's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--float16", action="store_true")
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    from export.build import build  # imports PyTorch, which a reader of NAME does not need
    from tests.support.networks import make_checkpoint

    checkpoint, repository = arguments.folder / "resnet50.safetensors", arguments.folder / "repository"
    make_checkpoint("resnet50", size=224, classes=1000).save(checkpoint)
    build(checkpoint, repository, NAME, float16=arguments.float16, int8=arguments.int8, allow_unfused=True)
    print(repository)


if __name__ == "__main__":
    main()
