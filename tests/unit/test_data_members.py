"""shrinkflow.data.members: folders and archives alike, hostile archives refused, folder hashes."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkflow.data import members
from shrinkflow.errors import UserError

FILES = {
    "top/a/1.png": b"one" * 300,
    "top/a/2.png": b"",
    "top/b/deep/3.png": b"three",
    "top/readme.txt": b"text",
}
FOLDERS = {"top", "top/a", "top/b", "top/b/deep", "top/empty"}
CLUTTER = {
    "top/.DS_Store": b"x",
    "__MACOSX/top/a/1.png": b"x",
    "top/a/._1.png": b"x",
    "top/.git/config": b"x",
    "top/b/Thumbs.db": b"x",
}


def write_folder(root: Path, files: Mapping[str, bytes], folders: object = ("top/empty",)) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name in folders:  # type: ignore[attr-defined]
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            add(archive, name, data)
        folder = tarfile.TarInfo("top/empty")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("top/empty/", b"")
    return path


WRITERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "x": write_folder,
    "x.tar": lambda path, files: write_tar(path, files, "w"),
    "x.tar.gz": write_tar,
    "x.tgz": write_tar,
    "X.ZIP": write_zip,
}


def everything(path: Path) -> tuple[dict[str, bytes], set[str]]:
    with members.opened(path) as found:
        return {name: read() for name, read in found.files.items()}, found.folders


@pytest.mark.parametrize("name", WRITERS)
def test_all_kinds_are_read_alike(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name, FILES | CLUTTER)
    assert everything(path) == (FILES, FOLDERS)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_and_dot_prefix(form: int, mode: str, tmp_path: Path) -> None:
    """`tar czf x.tgz .` writes names with `./`; long names need a header of their own."""
    long = "top/" + "d" * 120 + "/1.png"
    path = tmp_path / "x.tgz"
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        add(archive, ".", type=tarfile.DIRTYPE)
        add(archive, "./top", type=tarfile.DIRTYPE)
        add(archive, "./" + long, b"data")
    assert everything(path)[0] == {long: b"data"}


def test_a_folders_files_may_be_links_as_dvc_makes_them(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"one")
    folder = write_folder(tmp_path / "x", {})
    (folder / "1.png").symlink_to(tmp_path / "cache")
    assert everything(folder)[0] == {"1.png": b"one"}


def test_a_folder_refuses_what_is_no_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", FILES)
    (folder / "pipe").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match="pipe is no regular file"):
        everything(folder)
    (folder / "pipe").unlink()
    (folder / "loop").symlink_to(folder)
    with pytest.raises(UserError, match="loop is a link to a folder"):
        everything(folder)
    (folder / "loop").unlink()
    (folder / "gone").symlink_to(folder / "nothing")
    with pytest.raises(UserError, match="gone is no regular file"):
        everything(folder)


def test_what_does_not_exist_or_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.zip does not exist"):
        everything(tmp_path / "x.zip")
    (tmp_path / "x.rar").touch()
    with pytest.raises(UserError, match=r"x.rar is no folder and .* \.tar, \.tar\.gz"):
        everything(tmp_path / "x.rar")


HOSTILE: dict[str, dict[str, object]] = {
    "/etc/passwd": {},
    "//etc/passwd": {},
    "../x": {},
    "a/../../x": {},
    "./../x": {},
    "..": {"type": tarfile.DIRTYPE},
    "soft": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard": {"type": tarfile.LNKTYPE, "linkname": "top/a/1.png"},
    "pipe": {"type": tarfile.FIFOTYPE},
    "disk": {"type": tarfile.BLKTYPE},
    "tty": {"type": tarfile.CHRTYPE},
    "unknown": {"type": b"Z", "linkname": "x"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tar_members_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "top/a/1.png", b"one")
        add(archive, name, **HOSTILE[name])
    with pytest.raises(UserError, match=r"such archives are refused") as caught:
        everything(path)
    assert name in str(caught.value)


def test_sparse_tar_member_is_refused(tmp_path: Path) -> None:
    """512 bytes of archive that unpack to 8 GiB."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(8 << 30)}
        add(archive, "top/a/1.png", b"1", pax_headers=sparse)
    with pytest.raises(UserError, match=r"1\.png is a link, a device or a sparse file"):
        everything(path)


@pytest.mark.parametrize("name", ["a/1.png", "a/.hidden"])
@pytest.mark.parametrize("size", ["-512", "-1024", "-1536", "-5000", str(1 << 60), "x"])
def test_false_sizes_end_in_an_error(size: str, name: str, tmp_path: Path) -> None:
    """A negative size would make tarfile read the same header for ever."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, name, b"1" * 2000, pax_headers={"size": size})
        add(archive, "a/2.png", b"1" * 2000)
    with pytest.raises(UserError):
        everything(path)


def test_negative_size_of_a_long_name(tmp_path: Path) -> None:
    """Passed on to gzip, it would mean the whole rest of the archive, however large."""
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = -512
    path = tmp_path / "x.tgz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)))
    with pytest.raises(UserError, match="a negative size"):
        everything(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_hostile_zip_members_are_refused(kind: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("odd")
        info.external_attr = (kind | 0o644) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="member odd is a link or a device"):
        everything(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "../x/"])
def test_zip_members_that_point_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(UserError, match="points outside the archive"):
        everything(path)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="a is encrypted"):
        everything(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_the_same_name_twice_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("a/1.png", b"1")
            zipped.writestr("a//1.png", b"2")
    else:
        with tarfile.open(path, "w") as archive:
            add(archive, "a/1.png", b"1")
            add(archive, "./a/1.png", b"2")
    with pytest.raises(UserError, match=r"holds a/1\.png twice"):
        everything(path)


@pytest.mark.parametrize("name", ["x.tar.gz", "X.ZIP"])
def test_bombs_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LARGEST_TOTAL", 1 << 20)
    bomb = {f"top/a/{i}.png": bytes(300_000) for i in range(5)}
    path = WRITERS[name](tmp_path / name, bomb)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="unpacks to more than"):
        everything(path)


def test_bomb_in_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tarfile reads the header of a long name whole, before it gives the member out."""
    monkeypatch.setattr(members, "LARGEST_TOTAL", 1 << 20)
    path = tmp_path / "x.tgz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "n" * (2 << 20), b"1")
    with pytest.raises(UserError, match="unpacks to more than"):
        everything(path)


def test_bomb_behind_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LARGEST_TOTAL", 1 << 20)
    path = write_tar(tmp_path / "x.tgz", FILES)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(4 << 20)))
    with pytest.raises(UserError, match="unpacks to more than"):
        everything(path)


@pytest.mark.parametrize("name", WRITERS)
def test_file_too_large_for_a_picture(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS[name](tmp_path / name, FILES)
    monkeypatch.setattr(members, "LARGEST_FILE", 899)
    with pytest.raises(UserError, match=r"1\.png has 900 bytes, more than a picture may have"):
        everything(path)


# Stored, deflated and plain archives of files whose bytes do not compress away.
NOISE = {f"top/{c}/{i}.png": os.urandom(200 + 150 * i) for c in "ab" for i in range(3)}


def bytes_of(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return WRITERS[name](Path(folder, name), NOISE).read_bytes()


ARCHIVES = {name: bytes_of(name) for name in ("x.tar", "x.tgz", "X.ZIP")}


def contents_or_error(name: str, data: bytes) -> dict[str, bytes] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            return everything(path)[0]
        except UserError:
            return None


@settings(deadline=None)
@given(st.sampled_from(sorted(ARCHIVES)), st.floats(0, 1, exclude_max=True))
def test_truncated_archives_never_lose_a_file_silently(name: str, place: float) -> None:
    data = ARCHIVES[name]
    found = contents_or_error(name, data[: int(place * len(data))])
    # A .tar may lose some of the zeros at its end.
    assert found is None or (found == NOISE and name == "x.tar" and place > 0.3)


def test_tar_cut_between_two_members(tmp_path: Path) -> None:
    """tarfile by itself takes this for the end."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a/1.png", b"1")
        add(archive, "a/2.png", b"2")
    path.write_bytes(path.read_bytes()[:1024])
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a/1.png"]
    with pytest.raises(UserError, match=r"x.tar is damaged or incomplete \(its end is missing\)"):
        everything(path)


def test_tar_with_a_damaged_header_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a/1.png", b"1")
        add(archive, "a/2.png", b"2")
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1
    path.write_bytes(data)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a/1.png"]
    with pytest.raises(UserError, match="is damaged or incomplete"):
        everything(path)


@settings(deadline=None)
@given(st.sampled_from(sorted(ARCHIVES)), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_damaged_archives_raise_nothing_but_user_errors(name: str, place: float, flip: int) -> None:
    data = bytearray(ARCHIVES[name])
    data[int(place * len(data))] ^= flip
    found = contents_or_error(name, bytes(data))
    if name == "x.tgz":
        # gzip's checksum covers all but its own header.
        assert found in (None, NOISE)


def test_zip_directory_that_points_before_the_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", FILES)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # the directory's offset
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip is damaged"):
        everything(path)


@settings(deadline=None)
@given(st.sampled_from(["x.tar", "x.tgz", "X.ZIP"]), st.binary(max_size=2000))
def test_garbage_is_refused(name: str, data: bytes) -> None:
    assert contents_or_error(name, data) is None


names = st.text("ab\n ", min_size=1, max_size=3)
trees = st.dictionaries(st.tuples(names, names).map("/".join), st.binary(max_size=3), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(trees, trees)
def test_folder_digest_tells_any_two_folders_apart(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as root:
        digests = []
        for i, tree in enumerate((first, second, dict(reversed(first.items())))):
            digests.append(members.folder_digest(write_folder(Path(root, str(i)), tree, ())))
    assert (digests[0] == digests[1]) == (first == second)
    assert digests[0] == digests[2]


def test_folder_digest_is_stale_when_and_only_when(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", FILES)
    before = members.folder_digest(folder)
    assert len(before) == 32

    os.utime(folder / "top/a/1.png", (1, 1))
    (folder / "top/a/1.png").chmod(0o600)
    write_folder(folder, CLUTTER)
    assert members.folder_digest(folder) == before
    assert members.folder_digest(str(write_folder(tmp_path / "elsewhere", FILES))) == before

    (folder / "top/a/1.png").rename(folder / "top/a/9.png")
    renamed = members.folder_digest(folder)
    (folder / "top/a/9.png").rename(folder / "top/a/1.png")
    (folder / "top/a/1.png").write_bytes(b"two" * 300)
    changed = members.folder_digest(folder)
    (folder / "top/a/1.png").write_bytes(FILES["top/a/1.png"])
    (folder / "top/new").mkdir()
    grown = members.folder_digest(folder)
    (folder / "top/new").rmdir()
    assert len({before, renamed, changed, grown}) == 4
    assert members.folder_digest(folder) == before


def test_folder_digest_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", FILES)
    before = members.folder_digest(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).touch()
    assert members.folder_digest(folder) != before


def test_folder_digest_of_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is not a folder"):
        members.folder_digest(tmp_path / "nothing")
