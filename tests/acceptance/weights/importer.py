"""A process that runs `resnet-export` for one file after another, so that its memory can be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import json, sys
from typer.testing import CliRunner
from export.__main__ import app
for line in sys.stdin:
    done = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([done.exit_code, done.stderr if done.exit_code else repr(done.exception)]), flush=True)
"""


class Importer:
    """The process; it runs until `close`."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "500"}
        self._child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what the command writes to its standard error."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(arguments) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        code, text = json.loads(line) if line else (self._child.wait(), "the process ended")
        return code, text

    def refuses(self, name: str, reason: str, *arguments: str, folder: Path) -> bool:
        """Whether the command ends in one line with the reason; prints it."""
        code, text = self.run(*arguments)
        print(f"  refused  {name}: {text.strip().replace(f'{folder}/', '')}", flush=True)
        one_line = text.startswith("error: ") and text.count("\n") == 1
        holds = code == 2 and one_line and reason in text
        if not holds:
            print(f"  WRONG    {name}: exit {code}, expected {reason!r}", flush=True)
        return holds

    def close(self) -> int:
        """End the process; gives the most bytes that it took."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        _, status, usage = os.wait4(self._child.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_maxrss * 1024
