from __future__ import annotations

import pytest

from shrinkflow import files, fingerprint, records
from shrinkflow.errors import UserError

PROGRAM = str(fingerprint.LIBRARY.parent / "prune.py")


def make(tmp_path, text: str = "result", inputs=()):
    out = tmp_path / "out.txt"
    with records.job(PROGRAM, inputs=inputs, outputs=[out], parameters={"ratio": 2}) as job:
        job.findings["collapsed"] = []
        files.write_text(out, text)
    return out


def test_a_record_says_what_made_the_artifact(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("source")
    out = make(tmp_path, inputs=[source])
    record = files.read_json(records.record_path(out))
    assert record["artifact"] == {
        "path": out.as_posix(),
        "md5": "b4a88417b3d0170d754c647c30b7216a",
        "size": 6,
    }
    assert record["outputs"] == [record["artifact"]]
    assert record["inputs"] == [records.describe(source)]
    assert record["parameters"] == {"ratio": 2}
    assert record["code"] == {
        "program": "prune.py",
        "plugins": [],
        "fingerprint": fingerprint.fingerprint(PROGRAM),
    }
    assert set(record["environment"]["packages"]) == {"numpy", "safetensors"}


def test_records_do_not_vary(tmp_path):
    first = records.record_path(make(tmp_path)).read_bytes()
    assert records.record_path(make(tmp_path)).read_bytes() == first


def test_a_failed_job_leaves_no_record(tmp_path):
    with (
        pytest.raises(RuntimeError),
        records.job(PROGRAM, inputs=[], outputs=[tmp_path / "out.txt"], parameters={}),
    ):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_not_what_its_record_says_is_refused(tmp_path):
    out = make(tmp_path)
    out.write_text("Result")
    with pytest.raises(UserError, match=r"out.txt was changed after it was made .* delete it"):
        records.describe_input(out)


def test_a_missing_input_is_a_plain_error(tmp_path):
    with pytest.raises(UserError, match=r"input .*none.txt does not exist"):
        records.describe_input(tmp_path / "none.txt")


def test_the_command_of_a_record_leaves_out_where_bytes_came_from():
    words = [
        "--name",
        "a.csv",
        "--url",
        "https://example.org/a.csv",
        "--path",
        "/home/me/a.csv",
        "--out",
        "x",
    ]
    assert records.command("/somewhere/fetch.py", words) == ["fetch.py", "--name", "a.csv", "--out", "x"]


def test_an_edited_record_is_refused(tmp_path):
    out = make(tmp_path)
    lies = records.record_path(out)
    assert records.read(lies)["parameters"] == {"ratio": 2}
    lies.write_text(lies.read_text().replace('"ratio": 2', '"ratio": 3'))
    with pytest.raises(UserError, match=r"out.txt.record.json was changed after it was written"):
        records.read(lies)
    lies.write_text("[]")
    with pytest.raises(UserError, match=r"changed after it was written"):
        records.read(lies)


def test_the_id_stands_for_what_was_asked_and_not_for_what_came_out(tmp_path):
    first = records.read(records.record_path(make(tmp_path, "one")))
    second = records.read(records.record_path(make(tmp_path, "two")))
    assert first["id"] == second["id"]
    assert first["seal"] != second["seal"]
    source = tmp_path / "in.txt"
    source.write_text("source")
    assert records.read(records.record_path(make(tmp_path, inputs=[source])))["id"] != first["id"]
