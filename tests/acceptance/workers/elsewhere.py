"""Lines 3 and 7: what is measured on other machines, by commands that this script names."""

from __future__ import annotations


def check_gpu() -> tuple[bool, str]:
    """Line 3: needs a GPU of the H100 class and 16 CPUs."""
    return False, "not measured here: run benchmarks/gpu.sh on a host with an H100 and 16 CPUs, and read its report"


def check_peers() -> tuple[bool, str]:
    """Line 7: needs the other servers."""
    return False, "not measured here: run the comparison with the other servers on two CPUs, and read its report"
