"""The files of the page over HTTP."""

from __future__ import annotations

import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from service.core.settings import Settings, shipped_repository
from tests.support.service import Client, serve

FILES = sorted(file.name for file in (resources.files("service") / "page").iterdir())


def test_the_page(client: Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
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
