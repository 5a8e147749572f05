"""The conclusions of the studies, from their committed numbers; the cheap studies are repeated.

    python -m tests.acceptance.studies [LINE ...]

Needs the `train` extra and Fashion-MNIST (Debian's `dataset-fashion-mnist`; another folder in FASHION_MNIST). Line 1 is
timed: nothing else should run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from models.studies import STUDIES, pieces, shattered_gradients, signal_growth
from models.studies.study import draw
from tests.acceptance.report import run

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "studies"
DATA = os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist")


def line_1() -> tuple[bool, str]:
    """Every study ran in full, and has a page and the figure its numbers give; --quick ends within two minutes."""
    wrong, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, study in STUDIES.items():
            page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
            if f"]({name}.png)" not in page or f"resnet-study {name}" not in page:
                wrong.append(f"{name}: the page has no figure or no command")
            result = _result(name)
            if study.QUICK.items() <= result["settings"].items():
                wrong.append(f"{name}: the numbers are those of --quick")
            redrawn = Path(folder) / "redrawn"
            pieces.write_json(result, redrawn / f"{name}.json")
            draw(study, redrawn)
            if any(
                (redrawn / f"{name}{s}").read_bytes() != (PAGES / f"{name}{s}").read_bytes() for s in (".png", ".svg")
            ):
                wrong.append(f"{name}: the figure is not the one that the numbers give")
            command = [sys.executable, "-m", "models", "study", name, "--quick", "--data", DATA]
            started = time.perf_counter()
            subprocess.run(
                [*command, "--work", f"{folder}/work", "--out", folder], cwd=ROOT, check=True, capture_output=True
            )
            seconds[name] = time.perf_counter() - started
            print(f"  {name} --quick: {seconds[name]:.1f} s", flush=True)
    slowest = max(seconds, key=lambda name: seconds[name])
    holds = not wrong and seconds[slowest] < 120
    return (
        holds,
        f"{len(STUDIES)} studies; slowest --quick {seconds[slowest]:.0f} s ({slowest}); wrong: {wrong or 'none'}",
    )


def line_2() -> tuple[bool, str]:
    """Degradation: training error of plain-56 above plain-20, of resnet-56 not above resnet-20."""
    networks = _result("degradation")["numbers"]["networks"]
    errors = {arch: np.asarray(network["train_error"]) for arch, network in networks.items()}
    holds = (
        all(len(values) >= 3 for values in errors.values())
        and errors["plain56"].min() > errors["plain20"].max()
        and errors["resnet56"].mean() <= errors["resnet20"].mean()
    )
    figures = ", ".join(
        f"{arch} {100 * values.mean():.2f} % ({100 * values.min():.2f} to {100 * values.max():.2f})"
        for arch, values in errors.items()
    )
    return holds, f"final training error, mean and range over {len(errors['plain20'])} seeds: {figures}"


def line_3() -> tuple[bool, str]:
    """Shattered gradients: plain-50 below 0.1, shallow above 0.5, residual-50 between; committed and computed again."""
    lag = 2
    settings = shattered_gradients.ShatteredGradientsSettings(seeds=20)
    with tempfile.TemporaryDirectory() as folder:
        again = pieces.compute(shattered_gradients.split(settings, None), Path(folder))
    holds, texts = True, []
    for source, numbers in (("committed", _result("shattered-gradients")["numbers"]), ("again", again)):
        plain, shallow, residual, scaled = (
            numbers[name]["mean"][lag]
            for name in ("plain, 50 layers", "plain, 2 layers", *shattered_gradients.RESIDUAL)
        )
        holds &= plain < 0.1 and shallow > 0.5 and plain + 0.1 < residual and plain + 0.1 < scaled
        texts.append(
            f"{source}: plain-50 {plain:.3f}, shallow {shallow:.3f}, residual-50 {residual:.3f}, "
            f"with branches x 0.1 {scaled:.3f}"
        )
    return holds, f"at a distance of {lag * 4 / 255:.3f}, {'; '.join(texts)}"


def line_4() -> tuple[bool, str]:
    """Signal growth: growth per block within 5 % of theory where theory is exact; committed and computed again."""
    settings = signal_growth.SignalGrowthSettings(seeds=20)
    with tempfile.TemporaryDirectory() as folder:
        again = signal_growth.summarise(pieces.compute(signal_growth.split(settings, None), Path(folder)))
    texts, holds = [], True
    for source, numbers in (("committed", _result("signal-growth")["numbers"]), ("again", again)):
        deviations = {
            f"{kind} of {name}": growth["measured"] / growth["theory"] - 1
            for name, case in numbers.items()
            for kind, growth in case["growth"].items()
            if growth["exact"]
        }
        worst = max(deviations, key=lambda name: abs(deviations[name]))
        holds &= abs(deviations[worst]) <= 0.05
        doubling = numbers["residual, He"]["growth"]["signal"]["measured"]
        linear = numbers["residual, He, normalised"]["growth"]["signal"]["measured"]
        texts.append(
            f"{source}: x {doubling:.3f} a block (theory 2) and with normalisation + {linear:.3f} (theory 1); "
            f"{len(deviations)} cases, the largest deviation is {deviations[worst]:+.1%} ({worst})"
        )
    return holds, "; ".join(texts)


def line_5() -> tuple[bool, str]:
    """Each page says where our result and the literature differ."""
    heading = "## Where ours differs"
    pages = {name: (PAGES / f"{name}.md").read_text(encoding="utf-8") for name in STUDIES}
    without = [name for name, page in pages.items() if len(page.partition(heading)[2].strip()) < 100]
    return not without, f"{len(pages)} pages; without a section that says so: {without or 'none'}"


def _result(name: str) -> dict[str, Any]:
    return json.loads((PAGES / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


if __name__ == "__main__":
    run({1: line_1, 2: line_2, 3: line_3, 4: line_4, 5: line_5})
