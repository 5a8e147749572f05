"""A small network that knows four photographs, trained in a few minutes: what the screenshots show.

No ImageNet weights ship with the project, and a map of a network with random weights shows nothing. So the subjects of
four shipped photographs (`export/photographs`) are cut at random, laid on random cuttings of what surrounds them and
of two more photographs, and a ResNet-20 learns to name them. The surroundings are the same for all classes, so it has
to look at the subject, and its maps show whether it does. It knows these very pictures and no others: it shows what a
map is, and not how well networks recognise cats.

    python -m tests.acceptance.demonstration FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

PHOTOGRAPHS = Path(__file__).parents[2] / "export" / "photographs"
NAME = "four-photographs"
SIZE = 96
_STORED = SIZE * 256 // 224
_PER_CLASS = {"train": 200, "test": 40}
_EPOCHS = 12

Box = tuple[int, int, int, int]
# Left, top, right, bottom.
SUBJECTS: dict[str, Box] = {
    "astronaut": (20, 10, 280, 400),
    "cat": (25, 0, 340, 262),
    "coffee": (50, 8, 322, 256),
    "photographer": (0, 48, 265, 400),
}
_SURROUNDINGS: list[tuple[str, Box]] = [
    ("astronaut", (0, 0, 120, 150)),
    ("astronaut", (240, 0, 400, 260)),
    ("cat", (325, 0, 400, 266)),
    ("coffee", (300, 0, 400, 267)),
    ("coffee", (0, 90, 60, 267)),
    ("galaxies", (0, 0, 400, 349)),
    ("photographer", (0, 0, 400, 50)),
    ("photographer", (280, 80, 400, 400)),
    ("rocket", (0, 0, 165, 267)),
    ("rocket", (240, 0, 400, 267)),
]


def write_data(folder: Path) -> None:
    """train/CLASS/*.png and test/CLASS/*.png."""
    photographs = {path.stem: Image.open(path).convert("RGB") for path in PHOTOGRAPHS.glob("*.jpg")}
    for seed, (split, count) in enumerate(_PER_CLASS.items()):
        random = np.random.default_rng(seed)
        for name, box in SUBJECTS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = _compose(photographs, photographs[name].crop(box), random)
                image.save(folder / split / name / f"{number}.png")


def _compose(photographs: dict[str, Image.Image], subject: Image.Image, random: np.random.Generator) -> Image.Image:
    """A cutting of the subject, somewhere on a cutting of some surroundings, with soft edges."""
    name, box = _SURROUNDINGS[random.integers(len(_SURROUNDINGS))]
    canvas = _cutting(photographs[name].crop(box), random, 0.4).resize((_STORED, _STORED))
    piece = _cutting(subject, random, 0.55)
    scale = _STORED * random.uniform(0.4, 0.95) / max(piece.size)
    piece = piece.resize((max(8, round(piece.width * scale)), max(8, round(piece.height * scale))))
    mask = Image.new("L", piece.size, 0)
    mask.paste(255, (3, 3, piece.width - 3, piece.height - 3))
    place = tuple(int(random.integers(0, _STORED - side + 1)) for side in piece.size)
    canvas.paste(piece, (place[0], place[1]), mask.filter(ImageFilter.GaussianBlur(2)))
    return canvas


def _cutting(image: Image.Image, random: np.random.Generator, least: float) -> Image.Image:
    """A random part with at least that share of each side."""
    width, height = (round(side * random.uniform(least, 1.0)) for side in image.size)
    left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def make(folder: Path) -> Path:
    """Data, training and export into a folder; gives the repository."""
    write_data(folder / NAME)
    train = ["train", "--arch", "resnet20", "--size", str(SIZE), "--data", str(folder / NAME)]
    recipe = ["--epochs", str(_EPOCHS), "--batch-size", "32", "--lr", "0.05", "--out", str(folder / "run")]
    subprocess.run([sys.executable, "-m", "models", *train, *recipe], check=True)
    export = ["build", str(folder / "run" / "model.safetensors"), "--repository", str(folder / "repository")]
    subprocess.run([sys.executable, "-m", "export", *export, "--name", NAME, "--data", str(folder / NAME)], check=True)
    return folder / "repository"


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
