"""Compiles the protocol of `service/grpc`, as one step of the build; pyproject.toml has everything else.

`python setup.py compile_protocol --inplace` compiles it in a clone that is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build

FOLDER = Path("service", "grpc", "proto")
COMPILED = FOLDER / "protocol.binpb"


class CompileProtocol(Command):
    """Compiles the .proto files into a file of descriptors."""

    description = "compile the gRPC protocol"
    user_options: ClassVar = [("inplace", "i", "write into the source folder")]
    boolean_options: ClassVar = ["inplace"]

    def initialize_options(self) -> None:
        self.inplace = False
        self.editable_mode = False
        """Set by setuptools for `pip install -e`."""
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        from grpc_tools import protoc  # a requirement of the build, not of other commands

        target = Path(COMPILED) if self.inplace or self.editable_mode else Path(self.build_lib or "", COMPILED)
        target.parent.mkdir(parents=True, exist_ok=True)
        arguments = [f"--proto_path={FOLDER}", f"--descriptor_set_out={target}", *self.get_source_files()]
        if protoc.main(["protoc", *arguments]):
            raise SystemExit(f"the protocol in {FOLDER} cannot be compiled; protoc's message is above")

    def get_source_files(self) -> list[str]:
        return [str(path) for path in sorted(FOLDER.glob("*.proto"))]

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib or "", COMPILED))]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The build, with the protocol."""

    sub_commands: ClassVar = [*build.sub_commands, ("compile_protocol", None)]


setup(cmdclass={"build": Build, "compile_protocol": CompileProtocol})
