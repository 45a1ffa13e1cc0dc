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
