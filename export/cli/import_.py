"""`resnet-export import`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from export.cli.import_onnx import BlueFirst, LogitsOption, PixelsOption, onnx_options, print_imported_onnx
from export.cli.import_weights import Target, print_imported_weights
from export.cli.options import (
    Deviation,
    Float16,
    Int8,
    Interpolation,
    Labels,
    Layout,
    Mean,
    Output,
    Resize,
    Size,
    TestData,
    check_by_position,
    check_name,
    preprocess_overrides,
)
from models.artifact.parity import ParityError
from models.console import ByPosition, fail

SOURCE = (
    "A file of weights, a folder as a model hub has it, hf-hub:OWNER/NAME[@REVISION], torchvision:NAME[.WEIGHTS] or "
    "url:https://…#sha256=…"
)


def import_command(
    source: Annotated[str, typer.Argument(help=SOURCE, metavar="SOURCE")],
    repository: Annotated[Path | None, typer.Option(help="Folder of models: build a version of a model in it.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: made from SOURCE.")] = None,
    output: Output = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then start resnet-serve on the repository.")] = False,
    port: Annotated[int | None, typer.Option(help="With --serve: port of the service.", min=1, max=65535)] = None,
    data: TestData = None,
    float16: Float16 = False,
    int8: Int8 = False,
    by_position: ByPosition = False,
    arch: Annotated[str | None, typer.Option(help="Architecture of the weights. Default: detected.")] = None,
    layout: Layout = None,
    labels: Labels = None,
    size: Size = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Deviation = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="SOURCE is the file of an ONNX classifier.")] = False,
    pixels: PixelsOption = None,
    bgr: BlueFirst = False,
    logits: LogitsOption = None,
) -> None:
    """Import weights of torchvision, timm or transformers, or any ONNX classifier, and build a version from them.

    Architecture and preprocessing are detected from the files; options override them.
    """
    from export.errors import BuildError
    from export.importing import ImportOverrides
    from models.data import DataError

    _check_combination(repository, output, serve, port, onnx and (arch or layout or output))
    _check_version(repository, data, by_position, {"--name": name, "--float16": float16, "--int8": int8})
    only_onnx = onnx_options(onnx, pixels, bgr, logits)
    preprocess = preprocess_overrides(size, resize, interpolation, mean, std)
    # Files that are written in part are removed then, as on Ctrl-C.
    terminate = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if onnx and repository is not None:
            from export.wrapping import OnnxOptions

            name = name or Path(source).stem
            check_name(name)
            options = OnnxOptions(
                labels, preprocess, **only_onnx, data=data, by_position=by_position, float16=float16, int8=int8
            )
            print_imported_onnx(Path(source), repository, name, options)
        else:
            target = Target(output, repository, name, data, float16, int8, by_position)
            print_imported_weights(source, arch, ImportOverrides(layout, labels, preprocess), target)
    except (BuildError, DataError, ParityError, OSError) as error:
        fail(error)
    finally:
        signal.signal(signal.SIGTERM, terminate)
    if serve:
        _serve(repository, port)


def _check_combination(
    repository: Path | None, output: Path | None, serve: bool, port: int | None, only_weights: object
) -> None:
    if repository is None and output is None:
        fail("give --repository to build a version of a model, or --output to write a checkpoint")
    if only_weights:
        fail("--onnx takes none of --arch, --layout and --output")
    if serve and repository is None:
        fail("--serve needs --repository")
    if port is not None and not serve:
        fail("--port is for --serve")


def _check_version(repository: Path | None, data: Path | None, by_position: bool, others: dict[str, object]) -> None:
    given = [option for option, value in {"--data": data, **others}.items() if value]
    if repository is None and given:
        fail(f"{', '.join(given)}: only for a version of a model: give --repository, too")
    check_by_position(by_position, data)


def _serve(repository: Path | None, port: int | None) -> NoReturn:
    """Replace this process by the service, which `export` must not import."""
    options = [] if port is None else ["--port", str(port)]
    arguments = [sys.executable, "-P", "-m", "service", "--repository", str(repository), *options]
    sys.stdout.flush()
    os.execv(sys.executable, arguments)
