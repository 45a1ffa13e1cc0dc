"""fetch.py and shrinkflow.data.fetching: places in order, hashes, plain errors, no leavings."""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fetch
from shrinkflow.data import fetching
from shrinkflow.errors import UserError

GOOD = b"real bytes" * 1000
BAD = b"other bytes"
MD5 = "md5:" + hashlib.md5(GOOD).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(GOOD).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/missing":
            self.send_error(404)
            return
        body = BAD if self.path == "/bad" else GOOD
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:500] if self.path == "/short" else body)

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    paths: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.paths = []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fetching.MIRROR, raising=False)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror"
    (folder / "weights").mkdir(parents=True)
    monkeypatch.setenv(fetching.MIRROR, str(folder))
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "site" / "bringing_package" / "inner"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "file.bin").write_bytes(GOOD)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "bringing_package", raising=False)
    return "bringing_package/inner/file.bin"


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("checksum", [MD5, SHA256, MD5.upper()])
def test_download(server: Server, tmp_path: Path, checksum: str) -> None:
    out = tmp_path / "raw" / "file.bin"
    fetching.fetch("file.bin", checksum, out, urls=[f"{server.url}/good"])
    assert out.read_bytes() == GOOD
    assert contents(out.parent) == ["file.bin"]


def test_order_mirror_then_package_then_path_then_urls(
    server: Server, mirror: Path, package: str, tmp_path: Path
) -> None:
    """Each place holds bytes of its own, so the hash that passes tells which one was read."""
    bytes_of = {"mirror": b"m", "weights": b"w", "package": b"p", "path": b"l", "url": GOOD}
    local = tmp_path / "local.bin"
    in_package = tmp_path / "site" / package
    files = {
        "mirror": mirror / "file.bin",
        "weights": mirror / "weights" / "file.bin",
        "package": in_package,
        "path": local,
    }
    for place, file in files.items():
        file.write_bytes(bytes_of[place])
    for place in bytes_of:
        out = tmp_path / "out" / place
        checksum = "sha256:" + hashlib.sha256(bytes_of[place]).hexdigest()
        urls = [f"{server.url}/missing", f"{server.url}/good"]
        fetching.fetch("file.bin", checksum, out, package=package, path=local, urls=urls)
        assert out.read_bytes() == bytes_of[place]
        assert server.paths == (["/missing", "/good"] if place == "url" else [])
        if place in files:
            files[place].unlink()


@pytest.mark.parametrize("place", ["mirror", "package", "path", "url"])
def test_wrong_checksum_is_an_error_wherever_and_leaves_nothing(
    place: str, server: Server, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good URL behind the bad place must not be asked: the user should know of the bad file."""
    local = tmp_path / "local" / "file.bin"
    local.parent.mkdir()
    local.write_bytes(BAD)
    (tmp_path / "site" / package).write_bytes(BAD)
    if place == "mirror":
        monkeypatch.setenv(fetching.MIRROR, str(local.parent))
    out = tmp_path / "out" / "file.bin"
    with pytest.raises(UserError) as caught:
        fetching.fetch(
            "file.bin",
            SHA256,
            out,
            package=package if place == "package" else None,
            path=local if place == "path" else None,
            urls=[f"{server.url}/bad"] * (place == "url") + [f"{server.url}/good"],
        )
    message = str(caught.value)
    assert "file.bin" in message
    assert hashlib.sha256(BAD).hexdigest() in message
    assert hashlib.sha256(GOOD).hexdigest() in message
    assert contents(out.parent) == []
    assert "/good" not in server.paths


def test_wrong_checksum_keeps_an_older_good_file(tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    out.write_bytes(GOOD)
    local = tmp_path / "local.bin"
    local.write_bytes(BAD)
    with pytest.raises(UserError):
        fetching.fetch("out.bin", MD5, out, path=local)
    assert out.read_bytes() == GOOD
    assert contents(tmp_path) == ["local.bin", "out.bin"]


def test_broken_off_download_is_not_called_a_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broke off after 500 of 10000 bytes"):
        fetching.fetch("f", MD5, tmp_path / "out" / "f", urls=[f"{server.url}/short"])
    assert contents(tmp_path / "out") == []


def test_next_url_after_one_that_failed_midway(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "f"
    fetching.fetch("f", MD5, out, urls=[f"{server.url}/short", f"{server.url}/good"])
    assert out.read_bytes() == GOOD


def test_nowhere_lists_every_reason_and_how_to_obtain_it(
    server: Server, mirror: Path, tmp_path: Path
) -> None:
    with Server(("127.0.0.1", 0), Handler) as closed:
        unreachable = closed.url
    with pytest.raises(UserError) as caught:
        fetching.fetch(
            "flowers.zip",
            MD5,
            tmp_path / "out" / "flowers.zip",
            package="surely_not_installed/x",
            path=tmp_path / "nothing.zip",
            urls=[f"{server.url}/missing", unreachable],
            obtain="ask the herbarium",
        )
    message = str(caught.value)
    for expected in (
        "flowers.zip",
        f"{mirror} (SHRINKFLOW_MIRROR) does not have it",
        "surely_not_installed is not installed",
        "nothing.zip is not a file",
        "answered 404",
        "could not be reached",
        "ask the herbarium",
    ):
        assert expected in message
    assert "\n" not in message
    assert contents(tmp_path / "out") == []


def test_nothing_given_names_the_mirror(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SHRINKFLOW_MIRROR is not set"):
        fetching.fetch("f", MD5, tmp_path / "f")


def test_mirror_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fetching.MIRROR, str(tmp_path / "typo"))
    with pytest.raises(UserError, match=r"SHRINKFLOW_MIRROR names .*typo, which is no folder"):
        fetching.fetch("f", MD5, tmp_path / "f", path=tmp_path)


def test_folder_in_the_mirror_of_that_name_is_not_the_file(mirror: Path, tmp_path: Path) -> None:
    (mirror / "f").mkdir()
    with pytest.raises(UserError, match="does not have it"):
        fetching.fetch("f", MD5, tmp_path / "f")


def test_package_without_the_file(package: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"brings no file inner/other\.bin"):
        fetching.fetch("f", MD5, tmp_path / "f", package="bringing_package/inner/other.bin")


@pytest.mark.parametrize("name", ["../f", "a/f", "/etc/passwd", ""])
def test_name_with_a_folder_is_refused(name: str, mirror: Path, tmp_path: Path) -> None:
    (mirror.parent / "f").write_bytes(GOOD)
    with pytest.raises(UserError, match="plain file name"):
        fetching.fetch(name, MD5, tmp_path / "out" / "f")


@pytest.mark.parametrize(
    "checksum",
    [
        "",
        "md5",
        "md5:",
        MD5[:-1],
        MD5 + "0",
        "sha1:" + "0" * 40,
        "md5:" + "g" * 32,
        SHA256[:-1],
        "sha256-prefix:" + "0" * 7,
        "md5-prefix:" + "0" * 8,
    ],
)
def test_malformed_checksum(checksum: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither md5: with 32 nor sha256: with 64"):
        fetching.fetch("f", checksum, tmp_path / "f", path=tmp_path)


def test_a_prefix_of_the_hash_is_the_beginning_and_no_other_part(tmp_path: Path) -> None:
    digest = hashlib.sha256(GOOD).hexdigest()
    local = tmp_path / "local.bin"
    local.write_bytes(GOOD)
    for length in (8, 9, 63, 64):
        fetching.fetch("f", f"sha256-prefix:{digest[:length]}", tmp_path / "out", path=local)
        fetching.verify(tmp_path / "out", f"sha256-prefix:{digest[:length]}")
    for wrong in (digest[1:9], digest[-8:]):
        with pytest.raises(UserError, match=f"sha256 {digest}, expected one that begins with {wrong}; it is"):
            fetching.verify(local, f"sha256-prefix:{wrong}")


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="url 'data:,x' begins with none of https://"):
        fetching.fetch("f", MD5, tmp_path / "f", urls=["data:,x"])


def test_verify(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(GOOD)
    fetching.verify(file, MD5)
    fetching.verify(file, SHA256)
    with pytest.raises(UserError, match=f"{file} has md5"):
        fetching.verify(file, "md5:" + "0" * 32)
    with pytest.raises(UserError, match="does not exist"):
        fetching.verify(tmp_path / "g", MD5)


def test_program_writes_a_record_that_does_not_say_where(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror / "f.bin").write_bytes(GOOD)
    out = tmp_path / "raw.bin"
    url = "https://example.org/f.bin"
    words = ["fetch.py", "--name", "f.bin", "--checksum", SHA256, "--url", url, "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    fetch.main()
    assert out.read_bytes() == GOOD
    text = Path(f"{out}.record.json").read_text()
    record = json.loads(text)
    assert record["inputs"] == []
    assert record["parameters"] == {"name": "f.bin", "checksum": SHA256, "urls": [url]}
    assert record["artifact"]["md5"] == hashlib.md5(GOOD).hexdigest()
    assert str(mirror) not in text


def test_program_leaves_no_record_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "f"
    monkeypatch.setattr("sys.argv", ["fetch.py", "--name", "f", "--checksum", MD5, "--out", str(out)])
    with pytest.raises(UserError):
        fetch.main()
    assert contents(out.parent) == []
