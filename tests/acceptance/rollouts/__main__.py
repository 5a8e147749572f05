"""Rollouts: traffic policies, shadows, and more models than memory.

    python -m tests.acceptance.rollouts [LINE ...]

Needs an environment with the `cpu` and `dev` extras.
"""

from tests.acceptance.report import run
from tests.acceptance.rollouts import shares

if __name__ == "__main__":
    run({1: shares.check})
