from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from shrinkflow import files
from shrinkflow.provenance.distance import distance


@pytest.fixture
def pair(tmp_path):
    """Return a function that writes two files of one suffix and returns the distance between them."""

    def far(suffix: str, then, now) -> str:
        paths = [tmp_path / f"{when}{suffix}" for when in ("then", "now")]
        for path, content in zip(paths, (then, now), strict=True):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return distance(*paths)

    return far


@pytest.fixture
def tensors(tmp_path):
    def far(then: dict, now: dict, described: dict | None = None, redescribed: dict | None = None) -> str:
        files.write_tensors(tmp_path / "then.safetensors", then, described or {})
        files.write_tensors(tmp_path / "now.safetensors", now, redescribed or described or {})
        return distance(tmp_path / "then.safetensors", tmp_path / "now.safetensors")

    return far


def test_tensors_differ_in_a_share_of_elements_by_a_largest_gap(tensors):
    a, b, c = np.zeros((2, 3), np.float32), np.ones(4, np.float32), np.arange(10)
    then = {"a": a, "b": b, "c": c}
    moved, shifted = a.copy(), b.copy()
    moved[1, 2], moved[0, 0] = 0.25, -0.5
    shifted[3] = 1.125
    assert tensors(then, {"a": moved, "b": shifted, "c": c}) == (
        "3 of 20 elements (15 %) differ, in 2 of 3 tensors, by up to 0.5 (in a)"
    )


def test_unsigned_elements_do_not_wrap_around(tensors):
    then, now = {"mask": np.array([0, 1], np.uint8)}, {"mask": np.array([255, 1], np.uint8)}
    assert "1 of 2 elements (50 %) differ, in 1 of 1 tensors, by up to 255 (in mask)" in tensors(then, now)


def test_minus_zero_and_not_a_number_are_told_from_zero_by_their_bytes(tensors):
    then = {"a": np.array([0.0, 0.0, 1.0, np.nan])}
    now = {"a": np.array([-0.0, np.nan, np.inf, np.nan])}
    assert tensors(then, now) == (
        "3 of 4 elements (75 %) differ, in 1 of 1 tensors, by up to 0 (in a); "
        "2 of them are infinite or not a number, then or now"
    )


def test_other_names_shapes_types_and_metadata_of_tensors_are_said(tensors):
    said = tensors(
        {"a": np.zeros(2), "b": np.zeros((2, 3)), "c": np.zeros(1, np.float32)},
        {"b": np.zeros((3, 2)), "c": np.zeros(1, np.float64), "d": np.zeros(()), "e": np.zeros(1)},
        {"epoch": 3, "shape": [1, 8]},
        {"epoch": 4, "shape": [1, 8]},
    )
    assert said.split("; ") == [
        "tensors only then: a",
        "tensors only now: d, e",
        "b is float64 [2, 3] then, float64 [3, 2] now",
        "c is float32 [1] then, float64 [1] now",
        "metadata epoch 3 then, 4 now",
    ]


def test_tensors_in_another_order_have_the_same_values(tensors, tmp_path):
    assert tensors({"a": np.zeros(1)}, {"a": np.zeros(1)}, {"x": 1}, {"x": 2}) == "metadata x 1 then, 2 now"
    then, now = tmp_path / "then.safetensors", tmp_path / "now.safetensors"
    now.write_bytes(then.read_bytes().replace(b'{\\"x\\": 1}', b'{\\"x\\":1 }'))
    assert distance(then, now).startswith("the same values, written differently; bytes differ from offset ")


def test_a_damaged_tensor_file_is_compared_by_its_bytes(tensors, tmp_path):
    tensors({"a": np.zeros(1)}, {"a": np.ones(1)})
    then, now = tmp_path / "then.safetensors", tmp_path / "now.safetensors"
    now.write_bytes(then.read_bytes()[:-1])
    size = then.stat().st_size
    assert distance(then, now) == (
        f"not a whole safetensors file; bytes differ from offset {size - 1}, "
        f"length {size} then, {size - 1} now"
    )


def test_json_differs_in_named_fields_with_both_values(pair):
    then = '{"cell": {"seed": 1}, "metrics": {"top1": 0.5, "loss": null}, "layers": [{"n": 1}, {"n": 2}]}'
    now = '{"cell": {"seed": 1}, "metrics": {"top1": 0.75, "loss": 0.1}, "layers": [{"n": 1}, {"n": 3}]}'
    assert pair(".json", then, now) == (
        "metrics.top1 0.5 then, 0.75 now; metrics.loss null then, 0.1 now; layers.1.n 2 then, 3 now"
    )


def test_json_fields_that_are_missing_or_many_are_said(pair):
    assert pair(".json", '{"a": 1}', '{"b": []}') == "a 1 then, absent now; b absent then, [] now"
    assert pair(".json", "[1, 2, 3, 4, 5]", "[0, 0, 0, 0, 0]") == (
        "0 1 then, 0 now; 1 2 then, 0 now; 2 3 then, 0 now; and 2 more"
    )
    long = '"' + "x" * 100
    assert pair(".json", long + 'a"', long + 'b"') == f"value {long[:80]}... then, {long[:80]}... now"
    assert pair(".json", "1", "true") == "value 1 then, true now"
    assert pair(
        ".json", "{ }", "{}"
    ) == "the same values, written differently; bytes differ from offset 1, " + ("length 3 then, 2 now")


def test_tables_differ_in_rows_and_columns_by_a_largest_gap(pair):
    then = "name,x,y\na,1,2\nb,3,4\nc,5,6\n"
    now = "name,x,y\na,1,2.25\nb,3,4.5\nz,5,6\n"
    assert pair(".csv", then, now) == "3 of 3 rows differ, in y, name, by up to 0.5 (in y)"
    assert pair(".csv", then, "name,x,y\na,1,2\nb,3,4\n") == "3 rows then, 2 now"
    assert pair(".csv", then, "name,x,y\na,1,2\nb,3,\nc,5,6\n") == "1 of 3 rows differ, in y"


def test_other_columns_of_tables_are_said(pair):
    assert pair(".csv", "a,b\n1,2\n", "a,c\n1,2\n") == "columns only then: b; columns only now: c"
    assert pair(".csv", "a,b\n1,2\n", "b,a\n2,1\n") == "the columns are the same in another order"
    assert pair(".csv", "a,b\n1,2\n", "a,b\r\n1,2\r\n").startswith("the same values, written differently")
    assert pair(".csv", "a,b\n", "").startswith("not a whole csv file; bytes differ from offset 0")


def test_pictures_differ_in_a_share_of_pixels(tmp_path):
    then, now = tmp_path / "then.png", tmp_path / "now.png"
    picture = np.zeros((5, 4, 3), np.uint8)
    Image.fromarray(picture).save(then)
    picture[2, 1] = 0, 200, 7
    Image.fromarray(picture).save(now)
    assert distance(then, now) == "5 % of the pixels differ, by up to 200 of 255"
    Image.fromarray(np.zeros((5, 2, 3), np.uint8)).save(now)
    assert distance(then, now) == "4 x 5 pixels then, 2 x 5 now"
    now.write_bytes(b"x" + then.read_bytes()[1:])
    assert distance(then, now) == "not a whole png file; bytes differ from offset 0"
    broken = bytearray(then.read_bytes())
    broken[20] ^= 1
    now.write_bytes(broken)
    assert distance(then, now) == "not a whole png file; bytes differ from offset 20"


def test_drawings_differ_in_lines(pair):
    assert pair(".svg", "a\nb\nc\n", "a\nx\ny\n") == "2 of 3 lines differ, the first is line 2"
    assert pair(".svg", "a\nb\n", "a\nb\nc\n") == (
        "2 lines then, 3 now; 1 of 3 lines differ, the first is line 3"
    )


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
def test_other_files_differ_from_an_offset(pair, before):
    assert pair(".gz", b"." * before + b"ab", b"." * before + b"xb") == f"bytes differ from offset {before}"
    assert pair("", b"." * before, b"." * before + b"x") == (
        f"bytes differ from offset {before}, length {before} then, {before + 1} now"
    )
