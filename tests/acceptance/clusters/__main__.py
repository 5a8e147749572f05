"""Clusters: object storage, scoring, Ray, and manifests.

    python -m tests.acceptance.clusters [LINE ...]

Needs an environment with the `cpu` and `dev` extras. Line 1 also needs `moto[server]` and `s3fs`. Line 3 needs the
extras `ray` and `train`, and `pip install scikit-image scikit-learn`, which bring the photographs. Line 2 and the
second half of line 3 are timings: nothing else may run on the machine. Line 4 needs the extra `ray`. Line 5 also needs
kubectl, checkov on the PATH or in CHECKOV, and podman with an image `python:3.11-slim`.
"""

from tests.acceptance.clusters import manifests, not_run, ray_scoring, ray_serve, scoring, stored_scoring
from tests.acceptance.report import run

if __name__ == "__main__":
    run(
        {
            1: stored_scoring.check,
            2: scoring.check,
            3: ray_scoring.check,
            4: ray_serve.check,
            5: manifests.check,
            6: not_run.check,
        }
    )
