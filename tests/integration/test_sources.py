"""Weights by name: a stand-in for the hub that breaks, refuses and lies; nothing is left behind, or fetched twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import torch

from export import sources
from export.errors import BuildError, FetchError
from export.importing import published
from export.importing.published import PublishedWeights
from export.sources import download, limits
from tests.support.hub import StandIn, stand_in

MODEL = "owner/resnet"
PATH = "/{repo_id}/resolve/{revision}/{filename}"
WEIGHTS = bytes(range(256)) * 4_000
CONFIG = json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}).encode()
FILES = {"config.json": CONFIG, "README.md": b"---\nlicense: mit\n---\n", "model.safetensors": WEIGHTS}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in that the names of the hub and of torchvision lead to, with empty caches."""
    constants = huggingface_hub.constants
    with stand_in() as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.file_download, "time", SimpleNamespace(sleep=lambda _: None))
        monkeypatch.setattr(download, "time", SimpleNamespace(sleep=lambda _: None))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("RESNET_EXPORT_TORCHVISION_URL", f"{state.url}/files")
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
        yield state


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def name_of_url(hub: StandIn, content: bytes = WEIGHTS) -> str:
    hub.files["model.safetensors"] = content
    return f"url:{hub.url}/files/model.safetensors#sha256={digest(WEIGHTS)}"


def left_behind(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name or path.name.endswith(".incomplete")]


@pytest.mark.parametrize("kind", ["hub", "url"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_broken_connection_is_continued_and_nothing_is_fetched_twice(
    kind: str, reset: bool, hub: StandIn, tmp_path: Path
) -> None:
    hub.add(MODEL, FILES)
    name = f"hf-hub:{MODEL}" if kind == "hub" else name_of_url(hub)
    hub.faults.breaks["model.safetensors"], hub.faults.reset = [300_000, 400_000], reset
    assert sources.fetch(name).path.read_bytes() == WEIGHTS
    begins = [int((seen.range or "bytes=0-")[6:-1]) for seen in hub.fetched("model.safetensors")]
    assert len(begins) == 3
    # A reset can discard bytes that came before it.
    assert reset or 0 < begins[1] < begins[2], begins
    assert left_behind(tmp_path) == []

    hub.requests.clear()
    assert sources.fetch(name).path.read_bytes() == WEIGHTS
    assert [seen for seen in hub.requests if seen.method == "GET"] == []


def test_commit_licence_and_revision_are_known(hub: StandIn) -> None:
    first = hub.add(MODEL, FILES)
    second = hub.add(MODEL, {**FILES, "model.safetensors": b"of v2"}, "v2")
    fetched = sources.fetch(f"hf-hub:{MODEL}")
    assert fetched.provenance == {"source": f"hf-hub:{MODEL}", "commit": first, "licence": "mit (README.md)"}
    assert sources.fetch(f"hf-hub:{MODEL}@v2").provenance["commit"] == second
    assert sources.fetch(f"hf-hub:{MODEL}@{second}").path.read_bytes() == b"of v2"


@pytest.mark.parametrize("how", ["setting", "unreachable", "down"])
def test_second_run_needs_no_network(how: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(MODEL, FILES)
    sources.fetch(f"hf-hub:{MODEL}")
    if how == "setting":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    elif how == "down":
        hub.faults.status["config.json"] = 503
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9" + PATH)
    fetched = sources.fetch(f"hf-hub:{MODEL}")
    assert (fetched.path.read_bytes(), fetched.licence) == (WEIGHTS, "mit (README.md)")
    with pytest.raises(FetchError, match="and the cache has none of"):
        sources.fetch("hf-hub:owner/other")


def test_safetensors_come_before_pickles_and_parts_come_with_their_index(hub: StandIn) -> None:
    parts = {"model-1.safetensors": b"one", "model-2.safetensors": b"two"}
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    hub.add("owner/parts", {**parts, "model.safetensors.index.json": index, "pytorch_model.bin": b"pickle"})
    hub.add("owner/pickle", {"pytorch_model.bin": b"pickle"})
    fetched = sources.fetch("hf-hub:owner/parts")
    assert fetched.path.name == "model.safetensors.index.json"
    assert {path.name: path.read_bytes() for path in fetched.path.parent.glob("model-*")} == parts
    assert fetched.licence is None
    assert hub.fetched("pytorch_model.bin") == []
    assert sources.fetch("hf-hub:owner/pickle").path.read_bytes() == b"pickle"


def refuse(hub: StandIn, change: str) -> None:
    faults = hub.faults
    if change == "gated":
        hub.gated.add(MODEL)
    elif change == "private":
        hub.private.add(MODEL)
    elif change == "forbidden":
        faults.status["config.json"] = 403
    elif change == "another file":
        faults.content["model.safetensors"] = WEIGHTS[::-1]
    elif change == "another length":
        faults.content["model.safetensors"] = WEIGHTS[:-1]
    elif change == "endless":
        faults.endless.add("model.safetensors")
    elif change == "local file":
        faults.location["model.safetensors"] = "file:///etc/passwd"
    elif change == "other scheme":
        faults.location["model.safetensors"] = "ftp://127.0.0.1/weights"
    elif change == "huge configuration":
        faults.length["config.json"] = 2**30
    elif change == "circle":
        faults.location["config.json"] = f"{hub.url}/{MODEL}/resolve/main/config.json"
    elif change == "breaks again and again":
        faults.breaks["model.safetensors"] = [0] * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gated", "it is gated: ask for access at"),
        ("private", "the hub has no such model, or it is private"),
        ("forbidden", "the token may not read it"),
        ("another file", "has another hash than the hub announces"),
        ("another length", "has another length than the hub announces"),
        ("endless", "sends more than 1,024,000 bytes"),
        ("local file", "/etc/passwd, which is not fetched"),
        ("other scheme", "leads to ftp://127.0.0.1/weights, which is not fetched"),
        ("huge configuration", "has 1,073,741,824 bytes, more than"),
        ("circle", "redirects in a circle"),
        ("breaks again and again", "the connection broke again and again"),
    ],
)
def test_hub_that_refuses_or_lies(change: str, message: str, hub: StandIn, tmp_path: Path) -> None:
    hub.add(MODEL, FILES)
    refuse(hub, change)
    with pytest.raises(FetchError, match=message) as caught:
        sources.fetch(f"hf-hub:{MODEL}")
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []
    assert not any(path.name == "model.safetensors" for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"hf-hub:{MODEL}@none", "has no revision 'none'"),
        ("hf-hub:owner/none", "the hub has no such model"),
        ("hf-hub:../../etc", "is no name of a model"),
        (f"hf-hub:{MODEL}@../..", "is no name of a model"),
        ("torchvision:resnet51", "there are: resnet18, resnet34"),
        ("torchvision:resnet50.V3", "resnet50 has the weights IMAGENET1K_V1, IMAGENET1K_V2"),
        ("url:https://localhost/model.pth", "needs the hash of the file"),
        ("url:https://localhost/model.pth#sha256=12", "is no hash of a file"),
        ("url:file:///etc/passwd", "only https:// is"),
        ("url:http://192.0.2.1/model.pth#sha256=12", "only https:// is"),
    ],
)
def test_wrong_names_are_refused(name: str, message: str, hub: StandIn) -> None:
    hub.add(MODEL, FILES)
    with pytest.raises(FetchError, match=message):
        sources.fetch(name)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model_type": "vit"}, "is a vit, no ResNet"), ({"architecture": "seresnet50.x"}, "is a seresnet50, which")],
)
def test_other_networks_are_refused_before_their_weights_are_fetched(
    config: dict[str, str], message: str, hub: StandIn
) -> None:
    hub.add(MODEL, {**FILES, "config.json": json.dumps(config).encode()})
    with pytest.raises(BuildError, match=f"{message}.*import --onnx"):
        sources.fetch(f"hf-hub:{MODEL}")
    assert hub.fetched("model.safetensors") == []


def test_token_stays_with_the_hub(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(MODEL, FILES)
    hub.gated.add(MODEL)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_standin")
    assert sources.fetch(f"hf-hub:{MODEL}").path.read_bytes() == WEIGHTS
    assert {seen.token for seen in hub.requests if "/cdn/" in seen.path} == {None}


def test_beginnings_that_killed_processes_left_are_removed(hub: StandIn, tmp_path: Path) -> None:
    """But none that another process writes now."""
    hub.add(MODEL, FILES)
    folder = tmp_path / "hub" / "models--owner--resnet" / "blobs"
    locks = tmp_path / "hub" / ".locks" / "models--owner--resnet"
    folder.mkdir(parents=True)
    locks.mkdir(parents=True)
    (folder / f"{digest(WEIGHTS)}.01234567.incomplete").write_bytes(b"half")
    (folder / "other.89abcdef.incomplete").write_bytes(b"half")
    with (locks / "other.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources.fetch(f"hf-hub:{MODEL}")
    assert [path.name for path in left_behind(tmp_path)] == ["other.89abcdef.incomplete"]


def test_damaged_file_in_the_cache_is_fetched_again(hub: StandIn) -> None:
    hub.add(MODEL, FILES)
    path = sources.fetch(f"hf-hub:{MODEL}").path
    path.resolve().write_bytes(WEIGHTS[:-1])
    assert sources.fetch(f"hf-hub:{MODEL}").path.read_bytes() == WEIGHTS


def fault_of_url(hub: StandIn, change: str) -> None:
    faults, file = hub.faults, "model.safetensors"
    if change == "absent":
        faults.status[file] = 404
    elif change == "another file":
        faults.content[file] = WEIGHTS[::-1]
    elif change == "endless":
        faults.endless.add(file)
    elif change == "too large":
        faults.length[file] = 2**60
    elif change == "local file":
        faults.location[file] = "file:///etc/passwd"
    elif change == "elsewhere":
        faults.location[file] = "http://192.0.2.1/weights"
    elif change == "breaks again and again":
        faults.breaks[file] = [0] * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("absent", "the server answers 404"),
        ("another file", f"its SHA-256 is {digest(WEIGHTS[::-1])}, but {digest(WEIGHTS)} was expected"),
        ("endless", "sends more than 5,000,000 bytes"),
        ("too large", "has room for"),
        ("local file", "file:///etc/passwd' is not allowed"),
        ("elsewhere", "192.0.2.1/weights: is not fetched"),
        ("breaks again and again", "the connection broke again and again"),
    ],
)
def test_server_of_files_that_refuses_or_lies(
    change: str, message: str, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_UNKNOWN_LENGTH", 5_000_000)
    name = name_of_url(hub)
    fault_of_url(hub, change)
    with pytest.raises(FetchError, match=message) as caught:
        sources.fetch(name)
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_aborted_download_leaves_nothing_and_begins_again(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of_url(hub)

    def interrupt(_: object, __: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(limits.Meter, "add", interrupt)
        sources.fetch(name)
    assert left_behind(tmp_path) == []
    # As if the process had been killed.
    target = tmp_path / "cache" / "resnet-export" / digest(WEIGHTS) / "model.safetensors"
    target.with_name(f".partial-{target.name}").write_bytes(b"half")
    assert sources.fetch(name).path == target
    assert target.read_bytes() == WEIGHTS
    assert left_behind(tmp_path) == []


def test_server_without_ranges_sends_the_file_again(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    name = name_of_url(hub)
    hub.faults.breaks["model.safetensors"], hub.faults.no_ranges = [300_000], True
    assert sources.fetch(name).path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "file"), [("small", "small-{}.pth"), ("small.V1", "small-{}.pth"), ("small.DEFAULT", "small-{}.pth")]
)
def test_names_of_torchvision(
    name: str, file: str, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache of torchvision, so that neither fetches what the other has."""
    row = PublishedWeights("small", "V1", digest(WEIGHTS)[:8])
    monkeypatch.setattr(published, "PUBLISHED", (PublishedWeights("small", "V0", "0" * 8), row))
    hub.files[row.file] = WEIGHTS
    fetched = sources.fetch(f"torchvision:{name}")
    assert fetched.path == tmp_path / "torch" / "checkpoints" / file.format(digest(WEIGHTS)[:8])
    assert (fetched.path.read_bytes(), fetched.architecture) == (WEIGHTS, "small")
    assert fetched.provenance["weights"] == "V1"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("pytorch_model.bin", "model.safetensors", "config.json"), "model.safetensors"),
        (("pytorch_model.bin", "model.safetensors.index.json"), "model.safetensors.index.json"),
        (("best.pth", "args.json"), "best.pth"),
        (("one.pth", "two.pth"), None),
        (("config.json",), None),
    ],
)
def test_local_folders(files: tuple[str, ...], found: str | None, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).touch()
    (tmp_path / "LICENSE").write_text("\n# Apache License\n")
    fetch: Callable[[], sources.FetchedWeights] = lambda: sources.fetch(str(tmp_path))  # noqa: E731
    if found is None:
        with pytest.raises(FetchError, match="has none of"):
            fetch()
    else:
        assert fetch().path == tmp_path / found
        assert (fetch().name, fetch().licence) == (tmp_path.name, "Apache License (LICENSE)")
