"""The steps of `benchmarks/gpu.sh`. Each yields the lines of its section in the report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import resnet50
from benchmarks.gpu import decoder
from benchmarks.gpu import service as served
from benchmarks.gpu.executors import GpuRow, Kind, examine, in_own_process
from benchmarks.gpu.report import GpuReport, NotDone, describe, tabulate
from benchmarks.gpu.training import measure_training
from benchmarks.gpu.workers import serve_with_workers
from benchmarks.serve import payloads
from models.artifact import manifest
from service import executors
from service.core.settings import shipped_repository
from service.executors.base import ExecutorError
from service.registry.repository import LoadError

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT / "export" / "photographs"
SHIPPED = shipped_repository() / "fashion-mnist-resnet20" / "1"


def run_tests(out: Path) -> Iterator[str]:
    if find_spec("pytest") is None:
        raise NotDone("pytest is not installed")
    # Test modules whose packages are not installed, and warnings of other versions, must not stop the other tests.
    options = ["-m", "gpu", "-q", "-rfEs", "-W", "default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, "tests"], capture_output=True, text=True, cwd=ROOT)
    (out / "tests.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    tail = (done.stdout.strip() or done.stderr.strip()).splitlines()[-20:]
    if done.returncode not in (0, 1):
        raise NotDone(f"pytest ended with {done.returncode}: {tail[-1] if tail else 'without output'}")
    yield from (f"    {line}" for line in tail)


def export_resnet50(out: Path, versions: list[Path]) -> Iterator[str]:
    if versions != [SHIPPED]:
        raise NotDone("the versions to measure were given")
    folder = out / "resnet50"
    if not (folder / "repository").exists():
        folder.mkdir(exist_ok=True)
        # On GPUs only engines compute in int8, and choosing the layers that stay in float takes minutes.
        builds = any(find_spec(name) for name in ("tensorrt", "triton"))
        precisions = ["--float16", *(["--int8"] if builds else [])]
        _run(sys.executable, "-m", "benchmarks.resnet50", str(folder), *precisions)
    (version,) = (folder / "repository" / resnet50.NAME).glob("[0-9]*")
    versions.append(version)
    yield "ResNet-50 with random weights, whose normalisation has the statistics of photographs."


def build_engines(versions: list[Path]) -> Iterator[str]:
    for version in versions:
        built = _run(sys.executable, "-m", "export", "engines", str(version))
        yield from (f"    {line}" for line in built.splitlines())


def find_kinds(versions: Sequence[Path], report: GpuReport) -> Iterator[Kind]:
    """Every executor and precision on GPUs whose runtime is installed and whose file is in the version."""
    for version in versions:
        described = manifest.read(version)
        for name in executors.names():
            try:
                runtime = executors.find(name)
            except ExecutorError as error:
                report.missing.append(f"{name}: {error}")
                continue
            for precision in runtime.artifacts if runtime.device == "gpu" else ():
                kind = Kind(version, name, precision)
                try:
                    runtime.select_artifact(described, precision)
                except ExecutorError as error:
                    report.missing.append(f"{kind}: {error}")
                else:
                    yield kind


def examine_all(versions: Sequence[Path], out: Path, report: GpuReport) -> Iterator[str]:
    loaded = False
    for kind in find_kinds(versions, report):
        try:
            report.rows += in_own_process(examine, kind)
            yield f"- {kind}: golden images within its bound on every bucket and stream"
        except LoadError as error:
            yield f"- {kind}: **{error}**"
        except Exception as error:  # native runtimes raise errors of any class; the next one may work
            report.missing.append(f"{kind}: {describe(error)}")
            continue
        loaded = True
    if not loaded:
        raise NotDone("no executor could be loaded")
    if report.rows:
        yield from ("", *tabulate(report.rows, out, report))


def examine_decoder() -> Iterator[str]:
    difference, rates = in_own_process(decoder.examine, payloads.photographs(PHOTOGRAPHS))
    yield from (
        f"{difference.on_gpu} of {difference.photographs} photographs are decoded there; the pixels differ from "
        f"Pillow's by {difference.largest} of 255 at most, in {difference.share:.1e} of all values.",
        "",
        "| decoded by | threads | files per call | photographs/s |",
        "|---|---|---|---|",
    )
    yield from (f"| {rate.where} | {rate.threads} | {rate.together} | {rate.per_second:,.0f} |" for rate in rates)


def serve_all(versions: Sequence[Path], report: GpuReport) -> Iterator[str]:
    """Each executor in its fastest precision, with and without decoding on the GPU."""
    photographs = payloads.photographs(PHOTOGRAPHS)
    columns = (
        "model", "executor", "precision", "decoded by", "clients", "images per request", "images/s", "p50, ms",
        "p99, ms", "failed",
    )  # fmt: skip
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for kind in _fastest(find_kinds(versions, report), report.rows):
        for where, options in {"CPUs": [], "GPU": ["--decode-gpu", "0"]}.items():
            if options and not _decodes_on_gpu(kind.version):
                continue
            try:
                for seen in served.load(kind, photographs, options):
                    yield (
                        f"| {kind.version.parent.name} | {kind.executor} | {kind.precision} | {where} | {seen.clients} "
                        f"| {seen.images} | {seen.images_per_second:,.0f} | {seen.p50_ms:.1f} | {seen.p99_ms:.1f} "
                        f"| {seen.failed} |"
                    )
            except Exception as error:  # as in `examine_all`
                report.missing.append(f"{kind}, decoded by {where}, over HTTP: {describe(error)}")


def measure_workers(versions: Sequence[Path], out: Path, report: GpuReport, simulated: str | None) -> Iterator[str]:
    """The fastest executor of the last version, or one of fixed service time, with several numbers of workers."""
    version, photographs = versions[-1], payloads.photographs(PHOTOGRAPHS)
    if simulated is not None:
        yield from serve_with_workers(version, ["--executor", f"simulated:{simulated}"], photographs, out)
        return
    kinds = [kind for kind in _fastest(find_kinds(versions, report), report.rows) if kind.version == version]
    if not kinds:
        raise NotDone("no executor could be loaded")
    executor = ["--executor", kinds[0].executor, "--precision", kinds[0].precision]
    yield from serve_with_workers(version, executor, photographs, out, _decodes_on_gpu(version))


def train_networks(out: Path, report: GpuReport) -> Iterator[str]:
    if find_spec("torch") is None:
        raise NotDone("torch is not installed")
    yield from measure_training(sorted(PHOTOGRAPHS.glob("*.jpg")), out, report)


def _decodes_on_gpu(version: Path) -> bool:
    """Whether the GPU can decode JPEG files for a version: nvImageCodec is installed, and its images have colours."""
    installed = find_spec("nvidia") is not None and find_spec("nvidia.nvimgcodec") is not None
    return installed and manifest.read(version).preprocess.mode == "RGB"


def _fastest(kinds: Iterable[Kind], rows: Sequence[GpuRow]) -> list[Kind]:
    """The fastest kind of each version and executor; all kinds if none was measured."""
    if not rows:
        return list(kinds)
    rates = {
        (row.model, row.executor, row.precision): row.all_streams for row in rows
    }  # of the largest batch, which is the last
    best: dict[tuple[str, str], tuple[float, Kind]] = {}
    for kind in kinds:
        model = kind.version.parent.name
        rate = rates.get((model, kind.executor, kind.precision), 0.0)
        if rate > best.get((model, kind.executor), (0.0, kind))[0]:
            best[model, kind.executor] = rate, kind
    return [kind for _, kind in best.values()]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()
        raise NotDone(output[-1] if output else f"{command[1]} ended with {done.returncode}")
    return (done.stdout + done.stderr).strip()
