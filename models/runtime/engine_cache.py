"""The engine cache: a folder of plans, and of measurements, that are valid on one kind of machine only.

    cache/<SHA-256 of the ONNX file>/<precision>-sm90-trt11.4.plan      the plan, as the runtime reads it
                                     <precision>-sm90-trt11.4.json      its description, an `engine_plan.Plan`
                                     tuning.json                        measurements, beside the float32 file's plans
    cache/timing-sm90-trt11.4.bin                                       TensorRT's timing cache: speeds up later builds

A runtime that reads a plan of another platform fails with a cryptic line or crashes, so `find` compares the description
with the platform, and the plan with the description. `export` writes the cache, `service` reads it.

    EngineCacheError     also: this user cannot write to the folder
    ├── PlanMissing      no plan was built
    ├── PlanForeign      the plan was built for another platform; names both
    └── PlanDamaged      the plan differs from its description, or has none
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from tempfile import TemporaryFile

from pydantic import ValidationError

from models.artifact.manifest import Precision
from models.files import atomic_write
from models.runtime.engine_plan import Plan, Platform
from models.validation import first_error

TUNING_FILE = "tuning.json"
ENVIRONMENT = "RESNET_SERVE_CACHE"
"""Environment variable with the folder, for the service and for the commands that write the cache."""


class EngineCacheError(Exception):
    """No engine in the cache can be run, or none can be stored; the message is one line with the reason."""


class PlanMissing(EngineCacheError):
    """No plan was built for this file and precision."""


class PlanDamaged(EngineCacheError):
    """A plan differs from its description, or has none."""


class PlanForeign(EngineCacheError):
    """A plan was built for another platform; the message names both."""


def default_folder() -> Path:
    """The cache's folder unless an option sets one: a variable of the environment, or a place in the home folder."""
    if folder := os.environ.get(ENVIRONMENT):
        return Path(folder)
    # Relative paths are ignored, as in the XDG base directory specification.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else _home_cache()) / "resnet-serve"


def _home_cache() -> Path:
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry in the user database, as for `docker run --user 12345`
        return Path("/var/cache")


def require_writable(cache: Path) -> None:
    """Create the folder if it does not exist, and write to it: before minutes of work whose result goes there.

    Raises:
        EngineCacheError: this user cannot write there.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise EngineCacheError(
            f"{cache}: cannot be written: {error.strerror}: set another folder with --cache or {ENVIRONMENT}"
        ) from error


def tuning_file(cache: Path, onnx_sha256: str) -> Path:
    """File of a version's measurements, by the hash of its float32 ONNX file."""
    return cache / onnx_sha256 / TUNING_FILE


def timing_file(cache: Path, platform: Platform) -> Path:
    """TensorRT's timing cache of a platform, shared by all models."""
    return cache / f"timing-{platform.tag}.bin"


def write(cache: Path, plan: Plan, content: bytes) -> Path:
    """Store a plan with its description, so that a reader never gets a part of it.

    Args:
        cache: folder; created if it does not exist.
        plan: description, with the hash of the content.
        content: serialized engine from the builder.

    Returns:
        The plan's file.

    Raises:
        OSError: the files cannot be written.
    """
    path = cache / plan.onnx_sha256 / plan.name
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        # Two processes that build the same engine must not mix their files.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The old description is removed first and the new one written last: readers ignore a plan without one.
        _description(path).unlink(missing_ok=True)
        atomic_write(path, content)
        atomic_write(_description(path), plan.to_json().encode())
    finally:
        os.close(lock)
    return path


def built(cache: Path, onnx_sha256: str, precision: Precision) -> list[Path]:
    """All plans of a file in a precision, for any platform."""
    return sorted((cache / onnx_sha256).glob(f"{precision}-*.plan"))


def find(cache: Path, onnx_sha256: str, precision: Precision, platform: Platform) -> tuple[Plan, bytes]:
    """The plan that a platform can run.

    Args:
        cache: folder.
        onnx_sha256: hash of the ONNX file that the plan was built from.
        precision: precision of that file.
        platform: the platform that is to run it.

    Returns:
        The description, and the content, which agrees with the description's hash.

    Raises:
        PlanMissing: no plan was built for this file in this precision.
        PlanForeign: all plans are for other platforms.
        PlanDamaged: a plan differs from its description or cannot be read.
    """
    plans = built(cache, onnx_sha256, precision)
    if not plans:
        raise PlanMissing(f"no engine in {precision} has been built for {platform}")
    errors: list[EngineCacheError] = []
    for path in plans:
        try:
            plan = read(path)
            if not plan.fits(platform):
                raise PlanForeign(f"{plan.name}: built for {plan.built_for}, this machine has {platform}")
            if (plan.onnx_sha256, plan.precision) != (onnx_sha256, precision):
                raise PlanDamaged(f"{path.name}: its description is that of another engine: build it again")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != plan.sha256:
                raise PlanDamaged(f"{path.name}: its content is not what was built: build it again")
            return plan, content
        except EngineCacheError as error:
            errors.append(error)
        except OSError as error:
            errors.append(PlanDamaged(f"{path.name}: cannot be read: {error.strerror}"))
    # A damaged plan may be the one that was built for this platform.
    raise next((error for error in errors if isinstance(error, PlanDamaged)), errors[0])


def read(path: Path) -> Plan:
    """The description of a plan.

    Raises:
        PlanDamaged: the description is missing or not valid.
    """
    try:
        return Plan.model_validate_json(_description(path).read_bytes())
    except FileNotFoundError:
        raise PlanDamaged(f"{path.name}: has no description beside it: build it again") from None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_error(error)
        raise PlanDamaged(f"{path.name}: its description cannot be read: {reason}: build it again") from error


def _description(plan: Path) -> Path:
    return plan.with_suffix(".json")
