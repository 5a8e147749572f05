"""Every fenced block of the documentation: run as printed, run with a reduction, compared, or not run for a reason."""

from __future__ import annotations

from tests.support.documentation import NotRun, Output, Printed, Reduced

Blocks = tuple[Printed, ...]

DRAWING = "a drawing, not a command"
CONTAINERS = "needs Docker or podman; python -m tests.acceptance.compose runs it"
GPU = "needs an NVIDIA GPU"
CLUSTER = "needs a Kubernetes cluster; tests/e2e/test_kubernetes.py renders and checks the manifests"
RAY = "needs Ray; python -m tests.acceptance.clusters 4 deploys this config on a local cluster"
RAY_DATA = "needs Ray; python -m tests.acceptance.clusters 3 scores on a local cluster"
ENGINES = "needs Ray, Spark or Daft; tests/integration/test_scoring_engines.py runs it where they are installed"
INSTALLS = "installs packages"
ACCEPTANCE = "acceptance, which is run by hand for up to 25 minutes"
MINUTES = "measures for minutes, and has no shorter form"

TINY_TRAINING = {
    "/usr/share/datasets/fashion-mnist": "fashion-mnist",
    "train_images=5000": "train_images=24",
    "test_images=1000": "test_images=12",
    "size=14": "size=8",
    "batch_size=64": "batch_size=12",
    "epochs=40": "epochs=1 --set seeds=1",
    "--out docs/studies": "--out out",
}
"""Reductions of the studies that train."""
FEWER_IMAGES = "one epoch with one seed, on 24 images of 8 x 8 pixels"
SHORT = {"--loads png --connections 32": "--loads png --connections 2 --open 0 --rounds 1 --seconds 0.2 --starts 1"}
SHORTER = "one round of 0.2 s over two connections, without open loops"

README: Blocks = (
    NotRun("make serve", "installs packages; the test's own service of the shipped model takes its place"),
    Printed("curl -H 'Content-Type: image/png'"),
    Output('{"model":"fashion-mnist-resnet20"'),
    Printed("curl -F image=@"),
    NotRun("python3 -m venv .venv", INSTALLS),
    NotRun(
        ".venv/bin/resnet-export import hf-hub:",
        "needs the network; python -m tests.acceptance.weights 1 runs such lines with a stand-in for the hub",
    ),
    Reduced(
        ".venv/bin/resnet-export import resnet18-f37072fd.pth",
        "random weights with torchvision's names; the file says nothing of its preprocessing",
    ),
    Output(
        "resnet18-f37072fd.pth: resnet18",
        {" of resnet18, whose file this is": ", assumed: the file is none that torchvision publishes"},
    ),
    Reduced(".venv/bin/resnet-export build resnet18", "a folder per class of ImageNet, with six images in all"),
    Reduced("import requests", "random weights, so that label and probability are other ones"),
    Output("{'label': '…'"),
    Reduced(
        ".venv/bin/resnet-export import classifier.onnx",
        "a classifier of two convolutions",
        {"--onnx": "--onnx --size 32"},
    ),
    Reduced(
        ".venv/bin/resnet-train --arch resnet18",
        "one epoch of a ResNet-20 on 24 photographs in two classes, 32 x 32 pixels",
        {"--arch resnet18": "--arch resnet20", "--epochs 90": "--epochs 1 --batch-size 8 --size 32"},
    ),
    Printed(".venv/bin/resnet-export inspect"),
    Output("model         fashion-mnist-resnet20"),
    Reduced(
        ".venv/bin/resnet-train --arch resnet20",
        "one epoch on 200 images of noise",
        {"/usr/share/datasets/fashion-mnist": "fashion-mnist", "--epochs 40": "--epochs 1"},
    ),
    Reduced(
        ".venv/bin/resnet-serve tune",
        "one second and one thread instead of three minutes",
        {"--max-latency": "--seconds 1 --threads 1 --max-latency"},
    ),
    NotRun(".venv/bin/resnet-serve --repository repository --executor onnxruntime-cuda", GPU),
    NotRun(".venv/bin/resnet-export engines", GPU),
    NotRun("docker compose up", CONTAINERS),
    Printed(".venv/bin/resnet-classify"),
    Output("┏"),
)

API: Blocks = (
    Printed("curl -H 'Accept: application/x-ndjson'"),
    Output('{"predictions":[{"label":"Trouser"'),
    Printed("curl -H 'Content-Type: image/png' --data-binary @models/pretrained/examples/pullover.png"),
    NotRun("[[model]]", "a file, not a command; tests/unit/test_traffic.py reads it"),
    Reduced(
        "resnet-serve tune",
        "the shipped model, for one second",
        {"REPOSITORY/NAME": "models/pretrained/repository/fashion-mnist-resnet20 --seconds 1 --threads 1"},
    ),
    Printed("import numpy as np"),
    Output("[[b'0.986249:1:Trouser']]"),
    Printed("python -P -m service.cli.api_key"),
)

ARCHITECTURE: Blocks = (
    NotRun(" images + labels", DRAWING),
    NotRun("repository/<model>/<version>/", DRAWING),
    NotRun("cache/<SHA-256 of the ONNX file>/", DRAWING),
)

BENCHMARKS: Blocks = (
    NotRun("benchmarks/gpu.sh", GPU),
    NotRun("python -m tests.acceptance.fusion_and_int8 3", ACCEPTANCE),
    NotRun("python -m tests.acceptance.import_and_tune 4", ACCEPTANCE),
    NotRun("python -m tests.acceptance.fusion_and_int8 2", ACCEPTANCE),
    NotRun("python -m benchmarks fusion VERSION", MINUTES),
    Reduced(
        "python -m benchmarks serve --out DIR",
        SHORTER,
        {
            "--out DIR": "--out out --loads png --connections 2 --open 0 --rounds 1 --seconds 0.2 --starts 1",
            "--repository REPOSITORY": "--repository models/pretrained/repository",
            "FOLDER": "models/pretrained/examples",
        },
    ),
    NotRun("pip install simplejpeg", INSTALLS),
)

CLUSTERS: Blocks = (
    NotRun("resnet-classify IMAGES --output-folder RESULTS --on ray", RAY_DATA),
    NotRun("import ray", ENGINES),
    NotRun("import pandas", ENGINES),
    NotRun("import daft", ENGINES),
    NotRun("# mine/kustomization.yaml", "settings, not a command; tests/e2e/test_kubernetes.py renders such a folder"),
    NotRun("kubectl apply -n vision -k mine", CLUSTER),
    NotRun("kubectl apply -f deploy/kserve/runtime.yaml", CLUSTER),
    NotRun("pip install -c constraints.txt -e '.[cpu,ray]'", RAY),
    NotRun("serve deploy deploy/ray/serve_config.yaml", RAY),
    NotRun("docker build --target ray", CLUSTER),
)

DEPLOYMENT: Blocks = (
    NotRun("docker compose up --build --detach", CONTAINERS),
    NotRun("cp .env.example .env", CONTAINERS),
    NotRun("mkdir -p runs", CONTAINERS),
    NotRun("docker compose run --rm --entrypoint mv", CONTAINERS),
    NotRun("docker compose run --rm -T --entrypoint tar", CONTAINERS),
    NotRun("docker compose --profile monitoring up", CONTAINERS),
    NotRun("docker compose run --rm --entrypoint resnet-serve cpu tune", CONTAINERS),
    NotRun("docker compose run --rm -T --no-deps", CONTAINERS),
    NotRun("docker compose --profile gpu up", GPU),
    NotRun("docker compose --profile gpu run", GPU),
    NotRun("COMPUTE_CAPABILITY=8.9 docker compose --profile engines up", CONTAINERS),
    NotRun("1,000,000 images/s x 16.5 ms", "arithmetic"),
    NotRun("1,000,000 / 72,976", "arithmetic"),
    NotRun("1,000,000 images/s x 2.1 ms", "arithmetic"),
)

PERFORMANCE: Blocks = (
    Reduced(
        "python -m benchmarks compare",
        "this project against itself",
        {"BEFORE AFTER": ". . --loads resnet20:2 --rounds 1 --seconds 0.2"},
    ),
    Reduced("python -m benchmarks serve", SHORTER, SHORT),
    NotRun("python -m tests.acceptance.workers 2", ACCEPTANCE),
    NotRun("PEERS_BENCH=FOLDER", "needs nine other servers"),
    NotRun("PEERS_BENCH=FOLDER", "needs nine other servers"),
    NotRun("python benchmarks/layers.py", "checks out former commits"),
    NotRun("PEERS_BENCH=FOLDER", "needs nine other servers"),
    NotRun("python -m benchmarks.decode_modes", MINUTES),
    NotRun("pip install scikit-image", INSTALLS),
)

BLOCKS: dict[str, Blocks] = {
    "CONTRIBUTING.md": (NotRun("make check", INSTALLS),),
    "README.md": README,
    "docs/api.md": API,
    "docs/architecture.md": ARCHITECTURE,
    "docs/benchmarks.md": BENCHMARKS,
    "docs/cuda-engine.md": (
        NotRun("pip install -c constraints.txt -e '.[kernels]'", INSTALLS),
        NotRun(" model.int8.onnx", DRAWING),
    ),
    "docs/decisions/README.md": (NotRun("python -m benchmarks compare", "docs/performance.md has the same command"),),
    "docs/decisions/batching.md": (NotRun("python -m benchmarks serve", "docs/performance.md has the same command"),),
    "docs/clusters.md": CLUSTERS,
    "docs/deployment.md": DEPLOYMENT,
    "docs/performance.md": PERFORMANCE,
    "docs/studies/README.md": (
        Reduced(
            "pip install",
            "without the installation; data of 200 images",
            {
                "pip install -c constraints.txt -e '.[cpu,train]'": "true",
                "shattered-gradients": "shattered-gradients --set seeds=2 --set width=20",
                "/usr/share/datasets/fashion-mnist --quick": "fashion-mnist --quick --set epochs=1 --set seeds=1 "
                "--set train_images=24 --set test_images=12 --set size=8",
            },
        ),
    ),
    "docs/studies/degradation.md": (
        Reduced(
            "resnet-study degradation",
            FEWER_IMAGES,
            {
                **TINY_TRAINING,
                "epochs=20": "epochs=1 --set seeds=1 --set train_images=24 --set size=8 --set batch_size=12",
                "test_images=2000": "test_images=12",
            },
        ),
    ),
    "docs/studies/finite-step.md": (
        Reduced(
            "resnet-study finite-step",
            "one seed, three lengths, 8 images",
            {**TINY_TRAINING, "images=64": "images=8 --set seeds=1 --set lengths=3"},
        ),
    ),
    "docs/studies/lesion.md": (
        Reduced(
            "resnet-study lesion",
            FEWER_IMAGES,
            {
                "/usr/share/datasets/fashion-mnist": "fashion-mnist",
                "--out docs/studies": "--out out",
                "checkpoints=runs/full-strength": "layers=20 --set epochs=1 --set seeds=1 --set train_images=24 "
                "--set size=8 --set batch_size=12 --set test_images=12 --set measured_images=12 --set draws=1 "
                "--set gradient_images=2",
            },
        ),
    ),
    "docs/studies/loss-surface.md": (
        Reduced(
            "resnet-study loss-surface",
            FEWER_IMAGES,
            {**TINY_TRAINING, "loss_images=500": "loss_images=12 --set points=3"},
        ),
    ),
    "docs/studies/order-of-operations.md": (Reduced("resnet-study order-of-operations", FEWER_IMAGES, TINY_TRAINING),),
    "docs/studies/shattered-gradients.md": (
        Reduced(
            "resnet-study shattered-gradients",
            "two seeds of 20 units",
            {"--out docs/studies": "--out out --set seeds=2 --set width=20"},
        ),
    ),
    "docs/studies/normalisation.md": (
        Reduced(
            "resnet-study normalisation",
            "one seed, on images of 8 x 8 pixels",
            {
                **TINY_TRAINING,
                "--out docs/studies": "--out out --set seeds=1 --set size=8",
            },
        ),
    ),
    "docs/studies/shortcuts.md": (Reduced("resnet-study shortcuts", FEWER_IMAGES, TINY_TRAINING),),
    "docs/studies/signal-growth.md": (
        Reduced(
            "resnet-study signal-growth",
            "two seeds of 32 units, 4 blocks",
            {"--out docs/studies": "--out out --set seeds=2 --set width=32 --set blocks=4 --set images=32"},
        ),
    ),
    "docs/studies/why-11-1-failed.md": (
        Reduced(
            "resnet-study why-11-1-failed",
            "two seeds of 20 units",
            {"--out docs/studies": "--out out --set seeds=2 --set width=20"},
        ),
    ),
}
"""The blocks of each document, in their order. A block that is not in the list fails a test."""
