"""The commands of the documentation run and print what it says.

tests/support/documented_blocks.py lists every block: run as printed, run with a reduction, or not run for a reason.
Each document is run in its own folder, which looks like a clone of the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from models.runtime.engine_cache import ENVIRONMENT
from tests.support import example_files
from tests.support.documentation import ROOT, NotRun, Output, Reduced, blocks, commands, differences
from tests.support.documented_blocks import BLOCKS
from tests.support.process import running

pytestmark = pytest.mark.slow

SECONDS = 300
"""Time limit of one command."""
SERVES = ".venv/bin/resnet-serve --"
RUN = [document for document, listed in BLOCKS.items() if any(not isinstance(entry, NotRun) for entry in listed)]


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    """Address of a service of the shipped model, for every document."""
    with running() as server:
        yield server.url


@pytest.fixture
def clone(tmp_path: Path, document: str) -> Path:
    """A folder with the files of the project and of the document's examples, in which commands may write."""
    shutil.copytree(ROOT / "models", tmp_path / "models")  # commands print paths in it
    for name in ("README.md", "benchmarks", "export", "service"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    text = (ROOT / document).read_text()
    for name, write in example_files.FILES.items():
        if name in text:
            write(tmp_path)
    return tmp_path


class Reader:
    """Types the blocks of a document.

    Args:
        folder: where commands run.
        url: address of the service that port 8000 of the documentation stands for.
        stack: ends the services that the document starts.
    """

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self._folder, self._url, self._stack = folder, url, stack
        self.output = ""
        """Standard output of the last block."""

    def type(self, language: str, text: str) -> None:
        """Run a block; a command that starts the service runs until the end of the document."""
        self.output = ""
        for command in [text] if language == "python" else commands(text):
            if command.startswith(SERVES):
                self._serve(command.split()[1:])
            elif language == "python":
                self._run([str(self._folder / ".venv" / "bin" / "python"), "-c", self._local(command)])
            else:
                self._run(["bash", "-c", f"set -o pipefail; {self._local(command)}"])

    def _serve(self, options: list[str]) -> None:
        given = [str(self._folder / option) if option == "repository" else option for option in options]
        self._url = self._stack.enter_context(running(*given)).url

    def _local(self, command: str) -> str:
        return command.replace("localhost:8000", self._url.removeprefix("http://"))

    def _run(self, command: list[str]) -> None:
        programs = f"{self._folder / '.venv' / 'bin'}:{os.environ['PATH']}"
        # Small tasks take many times as long if several threads share each of them on a busy machine.
        changes = {"OMP_NUM_THREADS": "1", "COLUMNS": "250", ENVIRONMENT: str(self._folder / "cache")}
        environment = {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT), **changes}
        done = subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        self.output += done.stdout


@pytest.mark.parametrize("document", RUN)
def test_commands_run_and_print_what_the_document_says(document: str, shipped: str, clone: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(clone, shipped, stack)
        for block, entry in zip(blocks((ROOT / document).read_text()), BLOCKS[document], strict=True):
            text = block.text
            if isinstance(entry, Reduced | Output):
                for printed, instead in entry.replace.items():
                    text = text.replace(printed, instead)
            if isinstance(entry, Output):
                found = differences(text, reader.output)
                assert not found, f"{document}:{block.line}: {found}"
            elif not isinstance(entry, NotRun):
                reader.type(block.language, text)
