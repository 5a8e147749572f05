"""The program of `benchmarks/gpu.sh`: every step that this machine can do, and a report that also lists the others.

The report is written after each line, so a crash loses no results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.gpu import steps as do
from benchmarks.gpu.engine_step import measure_engine
from benchmarks.gpu.report import GpuReport, NotDone, describe
from models.runtime import cuda_driver
from models.runtime.cuda_driver import NoDevice

STEPS = ("tests", "resnet50", "tensorrt", "engine", "executors", "decoder", "service", "workers", "training")


def main() -> None:
    arguments = _arguments()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    reason = None
    try:
        devices = cuda_driver.devices()
    except NoDevice as error:
        devices, reason = [], str(error)
    report = GpuReport(devices)
    versions = [path.resolve() for path in arguments.version] or [do.SHIPPED]
    steps: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
        "tests": ("Tests that need a GPU", lambda: do.run_tests(out)),
        "resnet50": ("A ResNet-50 to measure", lambda: do.export_resnet50(out, versions)),
        "tensorrt": ("TensorRT engines", lambda: do.build_engines(versions)),
        "engine": ("The CUDA engine", lambda: measure_engine(_measured(out, versions), out, report)),
        "executors": ("Executors", lambda: do.examine_all(versions, out, report)),
        "decoder": ("Decoding on the GPU", do.examine_decoder),
        "service": ("The service over HTTP", lambda: do.serve_all(versions, report)),
        "workers": ("Workers", lambda: do.measure_workers(versions, out, report, arguments.simulated)),
        "training": ("Training", lambda: do.train_networks(out, report)),
    }
    for name, (title, step) in steps.items():
        print(f"{title} ...", file=sys.stderr, flush=True)
        try:
            if reason is not None and not (name == "workers" and arguments.simulated):
                raise NotDone(reason)
            if name not in (arguments.only or steps):
                raise NotDone("left out")
            for line in step():
                report.add(title, line)
                report.write(out)
        except Exception as error:  # the next steps may work
            report.missing.append(f"{title}: {describe(error)}")
        report.write(out)
    print(f"{out / 'report.md'}: {len(report.sections)} of {len(steps)} steps", file=sys.stderr)


def _measured(out: Path, versions: list[Path]) -> list[Path]:
    """The versions, with the ResNet-50 that the step resnet50 has exported before, if none were given."""
    exported = sorted((out / "resnet50" / "repository").glob("*/[0-9]*"))
    return [*versions, *exported[:1]] if versions == [do.SHIPPED] else versions


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks/gpu.sh", description="Measures a machine with an NVIDIA GPU.")
    parser.add_argument("out", type=Path, nargs="?", default=do.ROOT / "build" / "gpu", help="folder of the report")
    parser.add_argument("version", type=Path, nargs="*", help="folder in a model repository")
    parser.add_argument("--only", action="append", choices=STEPS, help="do this step only; repeatable")
    parser.add_argument(
        "--simulated",
        metavar="MS",
        help="without a GPU: the step workers, with an executor of MS milliseconds per batch",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
