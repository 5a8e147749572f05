"""People's own folders and files, and the commands that work on them: cases 22, 24 and the commands of case 25."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tests.acceptance.faults.case import Failed, check, expect
from tests.acceptance.faults.served import ROOT

PHOTOGRAPHS = sorted((ROOT / "export" / "photographs").glob("*.jpg"))
REPOSITORY = ROOT / "models" / "pretrained" / "repository"
MODEL = "fashion-mnist-resnet20"


def run(
    *arguments: object, status: int = 0, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command of the project, `python -m ...`, which must end with a status and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
    )
    expect("Traceback" not in result.stderr, f"traceback: {result.stderr[-300:]}")
    expect(done.returncode == status, f"status {done.returncode}, not {status}: {result.stderr[-300:]}")
    return result


def classify(*arguments: object, status: int = 0, stdin: bytes = b"") -> tuple[list[dict[str, str]], str]:
    """The rows of `resnet-classify --format csv`, and its standard error."""
    done = run("service.cli.classify", *arguments, "--format", "csv", status=status, stdin=stdin)
    return list(csv.DictReader(io.StringIO(done.stdout))), done.stderr


def train(folder: Path, out: Path, *options: object, arch: str = "tiny", status: int = 0) -> str:
    """The standard error of `resnet-train` with one epoch."""
    command = ("models", "train", "--arch", arch, "--data", folder, "--out", out, "--epochs", 1)
    return run(*command, *options, status=status).stderr


def make_images(folder: Path, count: int, classes: Sequence[str] = ("ant", "bee"), size: int = 64) -> Path:
    """Image files of noise in train and test, one folder per class; a class differs in its brightness."""
    rng = np.random.default_rng(0)
    for split, images in (("train", count), ("test", max(2, count // 4))):
        for index in range(images):
            label = index % len(classes)
            path = folder / split / classes[label] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (size, size, 3), dtype=np.uint8) + np.uint8(100 * label)
            Image.fromarray(pixels).save(path)
    return folder


@check(22, "names that are not UTF-8, hidden files, links, .jfif: scored to the end, and the same in training")
def odd_names(folder: Path) -> str:
    data = make_images(folder / "data", 16)
    ant, source = data / "train" / "ant", PHOTOGRAPHS[0].read_bytes()
    odd = [
        os.fsdecode(b"caf\xe9.jpg"),
        "n" * 251 + ".jpg",
        "b.jfif",
        "c.JPE",
        "new\nline.jpg",
        'quote".jpg',
        "emoji 🐜.jpg",
    ]
    for name in odd:
        (ant / name).write_bytes(source)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "x.jpg").write_bytes(source)
    (ant / "linked").symlink_to(folder / "elsewhere")
    (ant / "linked.jpg").symlink_to(PHOTOGRAPHS[0])
    (ant / ".hidden.jpg").write_bytes(b"no image")
    (ant / "._b.jpg").write_bytes(b"no image")
    (ant / ".cache").mkdir()
    (ant / "loop").symlink_to("..")
    (ant / "broken.jpg").symlink_to("nowhere")
    (ant / "notes.txt").write_text("x")
    os.mkfifo(ant / "pipe.jpg")
    expected = 8 + len(odd) + 2
    for format_ in ("csv", "jsonl", "table"):
        output = folder / f"answers.{format_}"
        extra = ("--cam", folder / "maps", "--embedding", folder / "e.npz") if format_ == "jsonl" else ()
        said = run("service.cli.classify", ant, "--format", format_, "--output", output, *extra).stderr
        for reason in ("hidden", "linked to a folder around it", "linked to nothing", "suffix", "not a regular file"):
            expect(reason in said, f"not said: {reason}: {said}")
    names = [json.loads(line)["file"] for line in (folder / "answers.jsonl").read_text().splitlines()]
    expect(all(os.path.exists(name) for name in names), "a name does not lead back to its file")
    rows = list(csv.DictReader((folder / "answers.csv").open(newline="")))
    expect(len(names) == len(rows) == expected, f"{len(names)} and {len(rows)} results of {expected} files")
    trained = train(data, folder / "run")
    expect(f"{8 + expected} training" in trained, f"training takes other files: {trained}")
    return f"{expected} of {expected} files in three formats and in training"


@check(22, "a byte-order mark in labels, keys, JSON and lists; val beside test")
def marks(folder: Path) -> str:
    data = make_images(folder / "data", 16)
    make_images(folder / "more", 16)
    (folder / "more" / "test").rename(data / "val")
    said = train(data, folder / "run")
    expect("val" in said and "4 test images" in said, f"val is not named: {said}")
    repository = folder / "repository"
    run("export", "build", folder / "run" / "model.safetensors", "--repository", repository, "--name", "m")
    (repository / "m" / "1" / "manifest.json").write_bytes(
        b"\xef\xbb\xbf" + (repository / "m" / "1" / "manifest.json").read_bytes()
    )
    listed = f"\ufeff{data / 'test' / 'ant'}\r\n{data / 'test' / 'bee' / '1.jpg'}\r\n".encode()
    rows, _ = classify("-", "--repository", repository, stdin=listed)
    expect(len(rows) == 3, f"{len(rows)} of 3 listed files")
    key = run("service.cli.api_key", "web").stdout
    (folder / "keys.toml").write_text(key, encoding="utf-8-sig")
    run("tests.acceptance.faults.folders", "keys", folder / "keys.toml")
    return "val named, manifest, keys and a list with a mark read"


@check(24, "a last batch of one image, --validation as large as the data, --resume with a mistyped --out")
def options_of_training(folder: Path) -> str:
    data = make_images(folder / "data", 9)
    train(data, folder / "one", "--batch-size", 8, "--size", 32, arch="resnet18")
    said = train(data, folder / "all", "--validation", 9, status=2)
    expect("--validation 9" in said, said)
    said = train(data, folder / "oen", "--resume", status=2)
    expect("no run to resume" in said and not (folder / "oen").exists(), said)
    (folder / "one" / "metrics.jsonl").unlink()
    command = ("--batch-size", 8, "--size", 32, "--resume")
    train(data, folder / "one", *command, arch="resnet18")
    lines = (folder / "one" / "metrics.jsonl").read_text().splitlines()
    expect(len(lines) == 1, "the figures are lost")
    return "trained, refused, refused, resumed with its figures"


@check(24, "a loss that is not a number stops the run, and the last good checkpoint is kept")
def divergence(folder: Path) -> str:
    data = make_images(folder / "data", 32)
    options = ("--batch-size", 4, "--warmup", 0, "--lr", "1e30")
    said = train(data, folder / "run", *options, status=2)
    expect("diverged" in said and "--lr" in said, said)
    expect(not (folder / "run" / "model.safetensors").exists(), "a spoiled checkpoint was written")
    return said.strip().splitlines()[-1][:100]


@check(24, "damaged images are listed all at once, before training")
def damaged_images(folder: Path) -> str:
    data = make_images(folder / "data", 40)
    damaged = [data / "train" / "ant" / "0.jpg", data / "train" / "bee" / "33.jpg", data / "test" / "ant" / "8.jpg"]
    damaged[0].write_bytes(damaged[0].read_bytes()[:700])
    damaged[1].write_bytes(b"<html>404</html>")
    damaged[2].write_bytes(b"")
    said = train(data, folder / "run", status=2)
    expect(all(str(path) in said for path in damaged), f"not all are listed: {said}")
    expect("epoch" not in said, "training began")
    return "3 of 3 listed"


@check(24, "the size of photographs follows from the architecture, and is printed")
def size(folder: Path) -> str:
    data = folder / "data"
    for index, photograph in enumerate(PHOTOGRAPHS * 4):
        place = data / ("train" if index % 4 else "test") / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.jpg").write_bytes(photograph.read_bytes())
    started = time.monotonic()
    said = train(data, folder / "run", arch="resnet20")
    expect("32 x 32 pixels" in said, said)
    return f"32 x 32, {time.monotonic() - started:.0f} s"


@contextmanager
def many_files(folder: Path, count: int) -> Iterator[Path]:
    """A folder of links to one image."""
    image = next((ROOT / "models" / "pretrained" / "examples").iterdir())
    (folder / "many").mkdir()
    for index in range(count):
        (folder / "many" / f"{index:05}.png").symlink_to(image)
    yield folder / "many"


@check(25, "resnet-classify: a list on standard input, more images than the queue holds, executor and precision")
def lists(folder: Path) -> str:
    with many_files(folder, 2000) as many:
        paths = b"\0".join(os.fsencode(path) for path in sorted(many.iterdir())) + b"\0missing.png\0"
        os.environ["RESNET_SERVE_MAX_IN_FLIGHT_IMAGES"] = os.environ["RESNET_SERVE_MAX_IMAGES"] = "8"
        try:
            rows, _ = classify("-", "--precision", "int8", stdin=paths, status=1)
        finally:
            del os.environ["RESNET_SERVE_MAX_IN_FLIGHT_IMAGES"], os.environ["RESNET_SERVE_MAX_IMAGES"]
    expect(len(rows) == 2001, f"{len(rows)} rows")
    failed = [row["file"] for row in rows if row["error"]]
    expect(failed == ["missing.png"], f"failed: {failed[:3]}")
    for options in (("--executor", "nope"), ("--precision", "float8")):
        run("service.cli.classify", PHOTOGRAPHS[0], *options, status=2)
    return "2,000 of 2,000 files, the missing one named"


@check(25, "resnet-classify: Ctrl-C keeps the results so far")
def ctrl_c(folder: Path) -> str:
    figures = []
    with many_files(folder, 20_000) as many:
        for format_ in ("jsonl", "table"):
            output = folder / f"answers.{format_}"
            command = [sys.executable, "-m", "service.cli.classify", str(many), "--executor", "simulated:20"]
            process = subprocess.Popen(
                [*command, "--format", format_, "--output", str(output), "--embedding", str(folder / "e.npz")],
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            _wait_until_loaded(process, output, format_)
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            said = process.communicate(timeout=60)[1].decode()
            expect(process.returncode == 130, f"status {process.returncode}: {said[-300:]}")
            expect("Traceback" not in said, said[-300:])
            (done,) = re.findall(r"stopped: ([\d,]+) of 20,000", said) or [None]
            expect(done is not None, f"the number of files is not printed: {said[-300:]}")
            kept = sum(".png" in line for line in output.read_text().splitlines())
            expect(kept == int(str(done).replace(",", "")) > 0, f"{kept} results are kept, of {done}")
            figures.append(f"{kept:,} kept in {time.monotonic() - started:.1f} s")
    return ", ".join(figures)


def _wait_until_loaded(process: subprocess.Popen[bytes], output: Path, format_: str) -> None:
    """Wait for the first results; the table is written at the end, so its run gets the time that the other one took."""
    deadline = time.monotonic() + 60
    if format_ == "table":
        time.sleep(8)
    while format_ != "table" and not (output.exists() and output.stat().st_size):
        if time.monotonic() > deadline or process.poll() is not None:
            raise Failed("nothing was classified within 60 s")
        time.sleep(0.05)


@check(25, "without a terminal, long work prints a line now and then")
def progress(folder: Path) -> str:
    with many_files(folder, 4000) as many:
        _, said = classify(many, "--executor", "simulated:300")
    lines = [line for line in said.splitlines() if "left" in line]
    expect(lines, f"no line: {said}")
    return lines[0]


@check(25, "builds at the same time into one model end in different versions")
def concurrent_builds(folder: Path) -> str:
    train(make_images(folder / "data", 16), folder / "run")
    command = [sys.executable, "-m", "export", "build", str(folder / "run" / "model.safetensors"), "--name", "m"]
    builds = [
        subprocess.Popen(
            [*command, "--repository", str(folder / "repository")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    for build in builds:
        said = build.communicate()[1].decode()
        expect(build.returncode == 0, f"status {build.returncode}: {said[-300:]}")
    names = sorted(path.name for path in (folder / "repository" / "m").iterdir())
    expect(names == ["1", "2", "3"], f"versions {names}")
    run("export", "verify", folder / "repository")
    return f"versions {', '.join(names)}"


@check(25, "tune marks a winner of a disturbed machine, and fits 80 columns")
def tune(folder: Path) -> str:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        done = run("service.cli.tune", REPOSITORY / MODEL, "--cache", folder, "--seconds", 20, "--threads", "1")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    wide = [line for line in done.stdout.splitlines() if len(line) > 80 and not line.startswith("written: ")]
    expect(not wide, f"wider than 80 columns: {wide[:1]}")
    expect("images/s*" in done.stdout and "quiet machine" in done.stderr, f"not marked: {done.stdout[-400:]}")
    return next(line for line in done.stdout.splitlines() if line.startswith("best: "))


def _read_keys(path: Path) -> None:
    from service.core.api_keys import ApiKeyStore

    ApiKeyStore(path)


if __name__ == "__main__":
    _read_keys(Path(sys.argv[2]))
