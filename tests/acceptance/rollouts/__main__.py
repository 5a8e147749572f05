"""Rollouts: traffic policies, shadows, and more models than memory.

    python -m tests.acceptance.rollouts [LINE ...]

Needs an environment with the `cpu` and `dev` extras; line 3 the data set Fashion-MNIST of Debian's
`dataset-fashion-mnist`, line 6 the browser of the test suite. Lines 2 and 5 are timings: nothing else may run on the
machine. Line 5 takes 17 minutes; RUN_SECONDS (200) is the length of each of its three runs.
"""

from tests.acceptance.report import run
from tests.acceptance.rollouts import many_models, measured_agreement, page, rolled_back, shadow_cost, shares

if __name__ == "__main__":
    run(
        {
            1: shares.check,
            2: shadow_cost.check,
            3: measured_agreement.check,
            4: rolled_back.check,
            5: many_models.check,
            6: page.check,
        }
    )
