"""Weights: names, architectures, checkpoints, ONNX classifiers, and the way out.

    python -m tests.acceptance.weights [LINE ...]

Needs an environment with the `cpu`, `train`, `hub` and `dev` extras, and the network: line 2 makes an environment of
its own for timm.
"""

from tests.acceptance.report import run
from tests.acceptance.weights import architectures, checkpoints, names, onnx_classifiers, round_trip

if __name__ == "__main__":
    run(
        {
            1: names.check,
            2: architectures.check,
            3: checkpoints.check,
            4: onnx_classifiers.check,
            5: round_trip.check,
        }
    )
