"""Training: accuracy, fine-tuning, resuming, formulas, data, and ensembles.

    python -m tests.acceptance.training [LINE ...]

Needs an environment with the `cpu`, `train` and `dev` extras, and Debian's `dataset-fashion-mnist`. Line 5 is timed:
nothing else should run on the machine.
"""

from tests.acceptance.report import run
from tests.acceptance.training import data_rate, ensemble, fashion_mnist, fine_tuning, formulas, resuming

if __name__ == "__main__":
    run(
        {
            1: fashion_mnist.check,
            2: fine_tuning.check,
            3: resuming.check,
            4: formulas.check,
            5: data_rate.check,
            6: ensemble.check,
        }
    )
