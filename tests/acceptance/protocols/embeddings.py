"""Embeddings by the `openai` package, of a network that learns photographs of scikit-image and scikit-learn.

Training patches come from the left 60 % of each photograph. The embeddings are those of patches of the right 30 %,
which share no pixel with them.
"""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from models.training import checkpoint
from models.training.evaluate import normalise
from service.cli.api_key import make_key
from tests.acceptance.server import Server, serve
from tests.acceptance.training.fine_tuning import ARCH, accuracy, read_photographs, write_patches

TRAINING_PATCHES, PATCHES = 100, 12
"""Patches per photograph: for training, and for the table."""
EPOCHS = 15
ONE_BATCH = ("--instances", "1", "--single-image-threads", "0")
"""A request is computed in the same batches each time, so that its values can be compared bit for bit."""
LAYERS = (1, 2, 3)
MAX_ERROR = 1e-4
"""Largest difference from PyTorch's features, relative to the largest one."""

Vectors = NDArray[np.float32]


def check() -> tuple[bool, str]:
    """Embeddings by the `openai` package equal those of `/v1/classify`; crops of one photograph are most alike."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = prepare(folder)
        with serve(
            "--repository", str(folder / "repository"), "--api-keys", str(folder / "keys.toml"), *ONE_BATCH
        ) as server:
            client = Client(server, (folder / "key").read_text())
            held = [
                client.equals_classify([data for each in files.values() for data in each[:2]]),
                client.shortens(next(iter(files.values()))[0]),
                client.refuses(),
                client.equals_pytorch(folder / "run" / "model.safetensors", next(iter(files.values()))),
            ]
            vectors = {name: client.create(each, extra_body={"normalize": True}) for name, each in files.items()}
        alike, figure = print_table(vectors)
        return all(held) and alike, figure


def prepare(folder: Path) -> dict[str, list[bytes]]:
    """Train a network, export it with its stages, and write an API key. Gives PNG files by photograph."""
    photographs = read_photographs(folder / "wheels")
    write_patches(photographs, folder / "data", TRAINING_PATCHES)
    options = ("--arch", ARCH, "--seed", 0, "--epochs", EPOCHS, "--random-crop", 0.5)
    top1 = accuracy(folder / "data", folder / "run", *options)
    print(f"{len(photographs)} photographs; the network names {top1:.1%} of their test patches", flush=True)
    command = [sys.executable, "-m", "export", "build", folder / "run" / "model.safetensors", "--layers"]
    command += ["--repository", folder / "repository", "--name", "photographs"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    secret, entry = make_key("acceptance", ["classify"])
    (folder / "key").write_text(secret)
    (folder / "keys.toml").write_text(entry)
    return {
        name: [path.read_bytes() for path in sorted((folder / "data" / "test" / name).iterdir())[:PATCHES]]
        for name in photographs
    }


class Client:
    """Both clients of the package, and plain requests."""

    def __init__(self, server: Server, key: str) -> None:
        self._url, self._key = server.url, key
        self._sync = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key)

    def create(self, files: list[bytes], **options: Any) -> Vectors:
        """Embeddings by the synchronous client, float32 [n, features]."""
        return _vectors(self._sync.embeddings.create(**self._request(files), **options))

    def _create_async(self, files: list[bytes], **options: Any) -> Vectors:
        async def create() -> Vectors:
            async with openai.AsyncOpenAI(base_url=f"{self._url}/v1", api_key=self._key) as client:
                return _vectors(await client.embeddings.create(**self._request(files), **options))

        return asyncio.run(create())

    @staticmethod
    def _request(files: list[bytes]) -> dict[str, Any]:
        texts = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in files]
        return {"model": "photographs", "input": texts[0] if len(texts) == 1 else texts}

    def _classify(self, files: list[bytes], query: str = "") -> Vectors:
        form = [("image", ("a.png", data, "image/png")) for data in files]
        headers = {"authorization": f"Bearer {self._key}"}
        response = httpx.post(f"{self._url}/v1/classify?embedding=true{query}", files=form, headers=headers, timeout=60)
        return np.array([result["embedding"] for result in response.raise_for_status().json()["results"]], np.float32)

    def equals_classify(self, files: list[bytes]) -> bool:
        """Whether both clients and both encodings give the bits of `/v1/classify`, of one image and of a list."""
        equal = True
        for some in (files[:1], files):
            expected = self._classify(some)
            for create in (self.create, self._create_async):
                for encoding in ("float", "base64"):
                    found = create(some, encoding_format=encoding)
                    equal &= found.tobytes() == expected.tobytes()
            equal &= self.create(some).tobytes() == expected.tobytes()  # the package chooses the encoding
        print(f"{'equal' if equal else 'OTHER'} bits: sync and async, float and base64, 1 and {len(files)} images")
        return equal

    def shortens(self, file: bytes) -> bool:
        """Whether `dimensions` gives the first values, scaled to the length 1."""
        (whole,), (short,) = self._classify([file]).astype(np.float64), self.create([file], dimensions=16)
        right = bool(np.allclose(short, whole[:16] / np.linalg.norm(whole[:16]), rtol=1e-6))
        print(f"dimensions=16: {len(short)} values of length {np.linalg.norm(short):.6f}{'' if right else ', WRONG'}")
        return right

    def refuses(self) -> bool:
        """Whether a URL, too many dimensions and an unknown model are refused in words that the package reads."""
        refused = 0
        url: dict[str, Any] = {"model": "photographs", "input": "https://example.com/cat.jpg"}
        image: dict[str, Any] = {"model": "photographs", "input": self._request([_png()])["input"]}
        for request, kind in (
            (url, openai.BadRequestError),
            ({**image, "dimensions": 4096}, openai.BadRequestError),
            ({**image, "model": "clip"}, openai.NotFoundError),
        ):
            try:
                self._sync.embeddings.create(**request)
            except kind as error:
                refused += 1
                print(f"refused: {error.body}")
        return refused == 3

    def equals_pytorch(self, path: Path, files: list[bytes]) -> bool:
        """Whether `layer` gives PyTorch's features of each stage, averaged over their positions."""
        trained = checkpoint.load(path)
        model, stages = trained.model().eval(), list[Vectors]()
        for stage in model.stages:
            stage.register_forward_hook(
                lambda _, __, output: stages.append(F.adaptive_avg_pool2d(output, 1).flatten(1).numpy())
            )
        pixels = np.stack([trained.preprocess.apply(_open(data)) for data in files])
        with torch.no_grad():
            model(normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), trained.preprocess))
        worst = 0.0
        for layer, expected in zip(LAYERS, stages, strict=True):
            found = self.create(files, extra_body={"layer": layer})
            equal = found.tobytes() == self._classify(files, f"&layer={layer}").tobytes()
            error = float(np.abs(found - expected).max() / np.abs(expected).max()) if equal else np.inf
            print(f"layer={layer}: {found.shape[1]} features, {error:.1e} from PyTorch's")
            worst = max(worst, error)
        return worst <= MAX_ERROR


def print_table(vectors: dict[str, Vectors]) -> tuple[bool, str]:
    """Print mean cosine similarities of crops of each photograph; whether all are above those with crops of others."""
    print(f"{'photograph':20} {'its crops':>9} {'others':>7}  the most similar other one")
    above_others = above_nearest = 0
    for name, own in vectors.items():
        pairs = own @ own.T
        within = float((pairs.sum() - np.trace(pairs)) / (len(own) * (len(own) - 1)))
        across = {other: float((own @ each.T).mean()) for other, each in vectors.items() if other != name}
        nearest, others = max(across, key=across.__getitem__), float(np.mean(list(across.values())))
        above_others += within > others
        above_nearest += within > across[nearest]
        print(f"{name:20} {within:9.3f} {others:7.3f}  {nearest} {across[nearest]:.3f}")
    figure = (
        f"crops of {above_others} of {len(vectors)} photographs are more alike than crops of two photographs, and of "
        f"{above_nearest} also than those with the most similar other one"
    )
    return above_others == len(vectors), figure


def _vectors(answer: Any) -> Vectors:
    """The package decodes base64 only if it chose the encoding itself."""
    return np.stack([_values(item.embedding) for item in answer.data])


def _values(embedding: list[float] | str) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.array(embedding, np.float32)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    return buffer.getvalue()
