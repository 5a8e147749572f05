"""The settings of malloc, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import malloc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the C library is glibc")

FILL = """
import resource, sys
import numpy as np
from models import malloc

def step():
    return [np.ones(16 << 20, np.uint8) for _ in range(4)]

if sys.argv[1] == "keep":
    malloc.keep_freed_blocks()
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

START = """
import os, sys
from pathlib import Path
from models import malloc

print("started")
malloc.HUGE_PAGES = Path(sys.argv[1])
malloc.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[2:])
"""

HUGE = """
from pathlib import Path
import numpy as np
from models import malloc

malloc.use_huge_pages()
block = np.ones(64 << 20, np.uint8)
sizes = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
print(sizes["AnonHugePages:"])
"""


def run(script: str, *arguments: str, tunables: str | None = None) -> str:
    """The output of a process with this value of GLIBC_TUNABLES."""
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    # Not buffered: starting again drops what is in the buffer.
    command = [sys.executable, "-u", "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout


def test_freed_blocks_give_their_pages_to_the_next_ones() -> None:
    faults = {mode: int(run(FILL, mode, tunables="glibc.malloc.hugetlb=0")) for mode in ("default", "keep")}
    assert faults["default"] > 1000  # 16 MB are 4,096 pages of 4 kB
    assert faults["keep"] < 100


@pytest.mark.parametrize(
    ("tunables", "after"),
    [(None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.perturb=0", "glibc.malloc.perturb=0:glibc.malloc.hugetlb=1")],
)
def test_process_starts_again_once_where_the_program_decides(tmp_path: Path, tunables: str | None, after: str) -> None:
    system = tmp_path / "enabled"
    system.write_text("always [madvise] never\n")
    printed = run(START, str(system), "--epochs", "3", tunables=tunables).splitlines()
    assert printed == ["started", "started", f"{after} ['--epochs', '3']"]


@pytest.mark.parametrize(
    ("choice", "tunables"),
    [
        ("[always] madvise never", None),
        ("always madvise [never]", None),
        (None, None),
        ("always [madvise] never", "glibc.malloc.hugetlb=0"),
    ],
)
def test_process_goes_on_where_there_is_nothing_to_decide(
    tmp_path: Path, choice: str | None, tunables: str | None
) -> None:
    system = tmp_path / "enabled"
    if choice is not None:
        system.write_text(f"{choice}\n")
    assert run(START, str(system), tunables=tunables).splitlines() == ["started", f"{tunables} []"]


@pytest.mark.skipif(
    not malloc.HUGE_PAGES.exists() or "[madvise]" not in malloc.HUGE_PAGES.read_text(),
    reason="the system does not leave huge pages to the program",
)
def test_large_blocks_lie_in_huge_pages() -> None:
    assert int(run(HUGE)) >= 60 << 10  # of 64 MB, in kB
