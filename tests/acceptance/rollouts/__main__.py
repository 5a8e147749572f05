"""Rollouts: traffic policies, shadows, and more models than memory.

    python -m tests.acceptance.rollouts [LINE ...]

Needs an environment with the `cpu` and `dev` extras; line 3 the data set Fashion-MNIST of Debian's
`dataset-fashion-mnist`. Line 2 is a timing: nothing else may run on the machine.
"""

from tests.acceptance.report import run
from tests.acceptance.rollouts import measured_agreement, shadow_cost, shares

if __name__ == "__main__":
    run({1: shares.check, 2: shadow_cost.check, 3: measured_agreement.check})
