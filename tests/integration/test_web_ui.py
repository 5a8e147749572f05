"""The files of the page over HTTP."""

from __future__ import annotations

import hashlib
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from service.core.settings import Settings, shipped_repository
from tests.support.service import Client, serve

PAGE = Path(str(resources.files("service"))) / "page"
FILES = sorted(
    file.relative_to(PAGE).as_posix() for file in PAGE.rglob("*") if file.is_file() and file.parent.name != "swagger-ui"
)


@pytest.mark.parametrize("path", ["/", "/docs", "/studies"])
def test_every_file_of_a_page_is_there(path: str, client: Client) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    files = re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)
    assert len(files) >= 3
    assert {client.get(f"/{file}").status_code for file in files} == {200}


def test_swagger_ui_is_the_documented_version() -> None:
    """A changed file needs a changed note: what runs on the origin of the API is known to the byte."""
    folder = PAGE / "swagger-ui"
    noted = dict(re.findall(r"`([\w.-]+)` \| `([0-9a-f]{64})`", (folder / "README.md").read_text()))
    assert noted.keys() == {file.name for file in folder.iterdir() if file.suffix in (".js", ".css")}
    assert noted == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in noted}


@pytest.mark.parametrize("path", ["/", "/docs", "/studies", "/page/swagger-ui/swagger-ui.css"])
def test_pages_may_load_nothing_from_another_origin(path: str, client: Client) -> None:
    for directive in client.get(path).headers["content-security-policy"].split(";"):
        assert set(directive.split()[1:]) <= {"'none'", "'self'", "blob:", "data:"}


@pytest.mark.parametrize("path", ["/", "/docs", "/studies", *(f"/page/{name}" for name in FILES)])
def test_page_has_no_foreign_origin_and_no_inline_code(path: str, client: Client) -> None:
    response = client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert response.headers["x-content-type-options"] == "nosniff"
    text = response.text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|url\(|@import|<style|\sstyle=|\son\w+=|innerHTML", text)


def test_unchanged_file_gets_304(client: Client) -> None:
    for path in ("/", "/page/style.css"):
        first = client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = client.request("GET", path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/page/none.js", "/examples/x.png"]
)
def test_other_files_get_404(path: str, client: Client) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.slow
def test_examples_of_the_shipped_model_or_a_folder(client: Client, tiny_repository: Path, tmp_path: Path) -> None:
    assert client.get("/examples").json() == []
    (tmp_path / "b.png").write_bytes(b"an image")
    (tmp_path / "a.jpg").write_bytes(b"another")
    (tmp_path / "notes.txt").write_text("private")
    with serve(Settings(repository=tiny_repository, examples=tmp_path)) as own:
        assert own.get("/examples").json() == ["a.jpg", "b.png"]
        assert own.get("/examples/b.png").content == b"an image"
        for name in ("notes.txt", "..%2Fb.png", "c.png"):
            assert own.get(f"/examples/{name}").status_code == 404
    copy = shutil.copytree(shipped_repository(), tmp_path / "repository")  # as in the volume of a container
    for repository in (shipped_repository(), copy):
        with serve(Settings(repository=repository)) as shipped:
            assert shipped.get("/examples").json() == ["ankle-boot.png", "pullover.png", "trouser.png"]
