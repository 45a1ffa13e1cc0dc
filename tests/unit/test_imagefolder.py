"""shrinkflow.data.imagefolder: layouts, exact pixels, refusals that name the offender."""

from __future__ import annotations

import io
import os
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shrinkflow.data import imagefolder, members
from shrinkflow.data.dataset import Pictures
from shrinkflow.errors import UserError

SHAPE = (3, 4, 6)


def pixels(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(array: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    """Encode [c, h, w]."""
    picture = Image.fromarray(np.moveaxis(array, 0, 2) if len(array) == 3 else array[0])
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def picture(seed: int = 0, **options: object) -> bytes:
    return encode(pixels(seed), **options)


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


WRITERS = {"x": write, "x.tar.gz": tar, "x.zip": zipped}

# Neither the order of writing nor that of the classes is that of the paths.
PARTED = {
    "test/dog/a.png": 5,
    "train/dog/b.png": 3,
    "train/dog/a.png": 2,
    "test/cat/z.png": 4,
    "train/cat/10.png": 0,
    "train/cat/9.png": 1,
}
FLAT = {"dog/a.png": 2, "cat/a.png": 0, "cat/b.png": 1, "emu/c.png": 3}


def tree(seeds: Mapping[str, int], around: str = "") -> dict[str, bytes]:
    return {around + name: picture(seed) for name, seed in seeds.items()}


def load(root: Path, files: Mapping[str, bytes], shape: tuple[int, int, int] = SHAPE) -> Pictures:
    return imagefolder.load([write(root, files)], shape)


@pytest.mark.parametrize("around", ["", "pictures/", "a/b/"])
@pytest.mark.parametrize("kind", WRITERS)
def test_train_and_test(kind: str, around: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, tree(PARTED, around))
    found = imagefolder.load([path], SHAPE)
    # by path: test/cat/z, test/dog/a, train/cat/10, train/cat/9, train/dog/a, train/dog/b
    np.testing.assert_array_equal(found.images, [pixels(i) for i in (4, 5, 0, 1, 2, 3)])
    assert found.images.dtype == np.uint8
    assert found.labels.tolist() == [0, 1, 0, 0, 1, 1]
    assert found.labels.dtype == np.int64
    assert found.classes == ("cat", "dog")
    assert found.test is not None
    assert found.test.tolist() == [0, 1]
    assert found.test.dtype == np.int64


@pytest.mark.parametrize("around", ["", "pictures/", "train/"])
@pytest.mark.parametrize("kind", WRITERS)
def test_class_folders_alone(kind: str, around: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, tree(FLAT, around))
    found = imagefolder.load([path], SHAPE)
    np.testing.assert_array_equal(found.images, [pixels(i) for i in (0, 1, 2, 3)])
    assert found.labels.tolist() == [0, 0, 1, 2]
    assert found.classes == ("cat", "dog", "emu")
    assert found.test is None


def test_val_serves_as_test_part(tmp_path: Path) -> None:
    files = {name.replace("test/", "val/"): data for name, data in tree(PARTED).items()}
    found = load(tmp_path, files)
    assert found.test is not None
    assert found.test.tolist() == [4, 5]
    np.testing.assert_array_equal(found.images[found.test], [pixels(4), pixels(5)])


def test_train_test_and_val_is_ambiguous(tmp_path: Path) -> None:
    files = tree(PARTED) | {"val/cat/1.png": picture(), "val/dog/1.png": picture()}
    with pytest.raises(UserError, match=r"has train, val and test; .* move those of val"):
        load(tmp_path, files)


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    """A train is also a vehicle; what holds pictures is a class."""
    found = load(tmp_path, {"train/1.png": picture(), "test/1.png": picture(1)})
    assert found.classes == ("test", "train")
    assert found.test is None


def test_clutter_and_texts_are_passed_over(tmp_path: Path) -> None:
    clutter = {
        ".DS_Store": b"x",
        "__MACOSX/train/cat/1.png": b"x",
        "train/.DS_Store": b"x",
        "train/cat/._9.png": b"x",
        "train/cat/Thumbs.db": b"x",
        ".cache/x/1.png": b"x",
        "README.md": b"x",
        "train/LICENSE": b"x",
    }
    found = load(tmp_path, tree(PARTED) | clutter)
    assert len(found.images) == 6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["x.tar.gz", "x.zip"])
def test_order_of_storage_does_not_matter(kind: str, seed: int, tmp_path: Path) -> None:
    files = tree(PARTED)
    order = np.random.default_rng(seed).permutation(list(files))
    path = WRITERS[kind](tmp_path / kind, {name: files[name] for name in order})
    found = imagefolder.load([path], SHAPE)
    np.testing.assert_array_equal(found.images, [pixels(i) for i in (4, 5, 0, 1, 2, 3)])
    assert found.labels.tolist() == [0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_are_exact(form: str, tmp_path: Path) -> None:
    found = load(tmp_path, {f"{c}/1.png": picture(7, form=form) for c in "ab"})
    np.testing.assert_array_equal(found.images, [pixels(7)] * 2)


@pytest.mark.parametrize(("form", "quality"), [("JPEG", 95), ("WEBP", 95)])
def test_lossy_formats_are_near(form: str, quality: int, tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 8, (3, 16, 16))
    data = encode(ramp, form, quality=quality)
    found = load(tmp_path, {f"{c}/1.jpg": data for c in "ab"}, (3, 16, 16))
    assert abs(found.images.astype(int) - ramp).max() <= 8


def test_colour_to_grey_by_hand(tmp_path: Path) -> None:
    """ITU-R 601: L = (299 R + 587 G + 114 B) / 1000."""
    colour = np.zeros(SHAPE, dtype=np.uint8)
    colour[:, 0, 0] = (200, 100, 50)  # 59.8 + 58.7 + 5.7 = 124.2
    colour[:, 0, 1] = (255, 255, 255)
    found = load(tmp_path, {f"{c}/1.png": encode(colour) for c in "ab"}, (1, 4, 6))
    assert found.images.shape == (2, 1, 4, 6)
    assert found.images[0, 0, 0, :3].tolist() == [124, 255, 0]


def test_grey_and_palette_to_colour(tmp_path: Path) -> None:
    grey = pixels(3, (1, 4, 6))
    stream = io.BytesIO()
    Image.fromarray(grey[0]).convert("P").save(stream, "PNG")
    found = load(tmp_path, {"a/1.png": encode(grey), "b/1.png": stream.getvalue()})
    np.testing.assert_array_equal(found.images, [np.repeat(grey, 3, axis=0)] * 2)


def refused(root: Path, files: Mapping[str, bytes], shape: tuple[int, int, int] = SHAPE) -> str:
    with pytest.raises(UserError) as caught:
        load(root, files, shape)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        picture()[:60],
        b"\xff\xd8\xff" + b"\0" * 100,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n",
        picture(form="GIF"),
    ],
)
def test_unreadable_picture_is_named(data: bytes, tmp_path: Path) -> None:
    message = refused(tmp_path, tree(PARTED) | {"train/dog/odd.png": data})
    assert "train/dog/odd.png is no readable picture" in message


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9, 0.97])
def test_truncated_jpeg_is_named(place: float, tmp_path: Path) -> None:
    data = encode(pixels(0, (3, 40, 40)), "JPEG")
    files = {"a/1.jpg": data[: int(place * len(data))], "b/1.jpg": data}
    assert "a/1.jpg is no readable picture" in refused(tmp_path, files, (3, 40, 40))


@settings(deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.sampled_from(["PNG", "JPEG"]))
def test_damaged_pictures_raise_nothing_but_user_errors(place: float, flip: int, form: str) -> None:
    data = bytearray(picture(form=form))
    data[int(place * len(data))] ^= flip
    try:
        found = imagefolder._decode(Path("x"), "a/1.png", bytes(data), SHAPE, None)
    except UserError:
        return
    assert found.shape == SHAPE


def test_another_size_names_both_pictures(tmp_path: Path) -> None:
    files = {"a/1.png": picture(), "a/2.png": encode(pixels(0, (3, 5, 6))), "b/1.png": picture()}
    message = refused(tmp_path, files)
    assert "a/2.png is 6 x 5 pixels, but a/1.png is 6 x 4" in message


def test_size_other_than_stated(tmp_path: Path) -> None:
    message = refused(tmp_path, tree(FLAT), (3, 6, 4))
    assert "cat/a.png is 6 x 4 pixels, but shape says 4 x 6" in message


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), 60000, dtype=np.uint16)).save(stream, "PNG")
    message = refused(tmp_path, {"a/1.png": stream.getvalue(), "b/1.png": picture()})
    assert "a/1.png has more than 8 bits" in message


def test_huge_picture_is_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("1", (12000, 6000)).save(stream, "PNG")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was unpacked"))
    files = {"a/1.png": stream.getvalue(), "b/1.png": picture()}
    assert "a/1.png is 12000 x 6000 pixels, but shape says 6 x 4" in refused(tmp_path, files)


@pytest.mark.parametrize("most", [23, 13, 3])
def test_decompression_bomb(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow only warns up to twice its limit; here both are refused."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    assert "has too many pixels for a picture" in refused(tmp_path, tree(FLAT))


def test_more_pictures_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LARGEST_TOTAL", 4 * 3 * 4 * 6 - 1)
    assert "4 pictures of 6 x 4 need more than" in refused(tmp_path, tree(FLAT))
    monkeypatch.setattr(members, "LARGEST_TOTAL", 4 * 3 * 4 * 6)
    assert len(load(tmp_path, {}).images) == 4


def test_empty_class(tmp_path: Path) -> None:
    (tmp_path / "train" / "emu").mkdir(parents=True)
    (tmp_path / "test" / "emu").mkdir(parents=True)
    assert "the class folder train/emu is empty" in refused(tmp_path, tree(PARTED))


def test_empty_class_without_parts(tmp_path: Path) -> None:
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / ".hidden.png").write_bytes(picture())
    assert "the class folder fox is empty" in refused(tmp_path, tree(FLAT))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"train/emu/1.png": b""}, "class 'emu' is in train but not in test"),
        ({"test/emu/1.png": b""}, "class 'emu' is in test but not in train"),
        ({"train/cat/more/1.png": b""}, "train/cat/more is a folder in the class folder train/cat"),
        ({"train/logo.png": b""}, "train/logo.png lies outside the class folders"),
        ({"preview.JPG": b""}, "preview.JPG lies outside the class folders"),
        ({"extra/cat/1.png": b""}, "has the folders extra, test, train; expected class folders"),
        ({"cow/1.png": b""}, "has the folders cow, test, train; expected class folders"),
        ({"train/cat/notes.txt": b"x"}, "train/cat/notes.txt is no readable picture"),
    ],
)
def test_odd_layouts(extra: dict[str, bytes], message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, tree(PARTED) | extra)


def test_train_without_pictures_beside_test(tmp_path: Path) -> None:
    files = {name: data for name, data in tree(PARTED).items() if name.startswith("test/")}
    (tmp_path / "train").mkdir()
    assert "class 'cat' is in test but not in train" in refused(tmp_path, files)


@pytest.mark.parametrize("files", [{}, {"README.md": b"x"}, {".hidden/cat/1.png": b"x"}])
def test_no_pictures_at_all(files: dict[str, bytes], tmp_path: Path) -> None:
    assert "holds no pictures in class folders" in refused(tmp_path, files)


def test_one_path_and_known_channels(tmp_path: Path) -> None:
    path = write(tmp_path, tree(FLAT))
    with pytest.raises(UserError, match="give one folder or archive of pictures, not 2"):
        imagefolder.load([path, path], SHAPE)
    with pytest.raises(UserError, match="shape has 4 channels"):
        imagefolder.load([path], (4, 4, 6))


def test_real_pictures() -> None:
    """CIFAR-10 as 60,000 JPEGs: counts, order, pixels, and well under a minute on one core."""
    mirror = os.environ.get("SHRINKFLOW_MIRROR")
    if not mirror or not (archive := Path(mirror, "cifar10-images.tar.gz")).is_file():
        pytest.skip("SHRINKFLOW_MIRROR names no folder with cifar10-images.tar.gz")
    start = time.process_time()
    found = imagefolder.load([archive], (3, 32, 32))
    assert time.process_time() - start < 60
    assert found.images.shape == (60_000, 3, 32, 32)
    assert found.test is not None
    train = np.setdiff1d(np.arange(60_000), found.test)
    assert np.bincount(found.labels[train]).tolist() == [5000] * 10
    assert np.bincount(found.labels[found.test]).tolist() == [1000] * 10
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert found.classes == tuple(names.split(" "))
    # test/airplane/0000.jpg is the first path and an early member, so reading it is quick.
    with tarfile.open(archive) as stream:
        name = "cifar10-images/test/airplane/0000.jpg"
        first = next(member for member in stream if member.name == name)
        reader = stream.extractfile(first)
        assert reader is not None
        expected = np.asarray(Image.open(reader).convert("RGB"))
    np.testing.assert_array_equal(found.images[0], np.moveaxis(expected, 2, 0))
