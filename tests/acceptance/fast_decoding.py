"""How often `--decode fast` and `exact` give the same first class: `python -m tests.acceptance.fast_decoding`.

No network that was trained on ImageNet can be had here. So a ResNet-20 learns to tell from which of 17 photographs a
cutting is: people, animals, textures, cells, stars. The cuttings that it is tested on are JPEG files of 150 to 1,400
pixels and of different qualities, of which most are decoded at a half or a quarter of their size. It takes two minutes.

Needs the `train` extra, and `pip install scikit-image scikit-learn`, which bring the photographs.
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from models.imaging.preprocess import Preprocess
from models.training import checkpoint
from models.training.evaluate import predict
from service.core.choices import DecodeMode
from service.decoding.decoder import decode

SIZE, SHORTER = 64, 73
_PER_CLASS = {"train": 200, "test": 60}
_SCIKIT_IMAGE = [
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png"),
    *("gravel.png", "ihc.png", "moon.png", "motorcycle_left.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg"),
]
_SCIKIT_LEARN = ("flower.jpg", "china.jpg")


def agreement() -> tuple[float, int]:
    """The share of images with the same first class, and how many there are."""
    with TemporaryDirectory() as folder:
        files = write_data(Path(folder) / "data")
        recipe = ["--arch", "resnet20", "--size", str(SIZE), "--epochs", "10", "--batch-size", "64", "--lr", "0.05"]
        command = [
            sys.executable,
            "-m",
            "models",
            "train",
            *recipe,
            "--data",
            f"{folder}/data",
            "--out",
            f"{folder}/run",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        trained = checkpoint.load(Path(folder) / "run" / "model.safetensors")
    model = trained.model()
    exact, fast = (
        predict(model, _pixels(files, trained.preprocess, mode), trained.preprocess).argmax(1)
        for mode in ("exact", "fast")
    )
    return float((exact == fast).float().mean()), len(files)


def write_data(folder: Path) -> list[bytes]:
    """train/PHOTOGRAPH/*.png, brought to the size of training, and test/PHOTOGRAPH/*.jpg, as they were cut; gives the
    latter."""
    random = np.random.default_rng(0)
    tests = []
    for path in find_photographs():
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        for split, count in _PER_CLASS.items():
            place = folder / split / path.stem
            place.mkdir(parents=True)
            for number in range(count):
                cutting = _cutting(photograph, random)
                if split == "train":
                    scale = SHORTER / min(cutting.size)
                    size = (round(cutting.width * scale), round(cutting.height * scale))
                    cutting.resize(size, Image.Resampling.BILINEAR).save(place / f"{number}.png")
                else:
                    buffer = io.BytesIO()
                    cutting.save(buffer, "JPEG", quality=int(random.integers(75, 96)))
                    (place / f"{number}.jpg").write_bytes(buffer.getvalue())
                    tests.append(buffer.getvalue())
    return tests


def find_photographs() -> list[Path]:
    """Files of photographs that scikit-image and scikit-learn bring."""
    found = []
    for package, folder, names in (("skimage", "data", _SCIKIT_IMAGE), ("sklearn", "datasets/images", _SCIKIT_LEARN)):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("pip install scikit-image scikit-learn")
        found += [Path(spec.origin).parent / folder / name for name in names]
    return found


def _cutting(photograph: Image.Image, random: np.random.Generator) -> Image.Image:
    """A random part whose sides are up to 4 : 3."""
    shorter = min(photograph.size)
    side = int(random.integers(min(150, shorter // 2), shorter + 1))
    longer = int(side * random.uniform(1, 4 / 3))
    width, height = (side, longer) if random.random() < 0.5 else (longer, side)
    width, height = min(width, photograph.width), min(height, photograph.height)
    left, top = (int(random.integers(0, room + 1)) for room in (photograph.width - width, photograph.height - height))
    return photograph.crop((left, top, left + width, top + height))


def _pixels(
    files: list[bytes], preprocess: Preprocess, mode: DecodeMode
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([decode(data, preprocess, mode).pixels for data in files])


if __name__ == "__main__":
    share, images = agreement()
    print(f"{share:.2%} of {images} images have the same first class")
