"""What the workflow made is made again from its records, to the same bytes; what was forged is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shrinkflow import files, records
from shrinkflow.provenance import rerun

pytestmark = pytest.mark.slow

CELL = "results/tiny/cells/digits/digitsnet/B/global-magnitude/ratio4/seed1"
CHECKPOINT, METRICS = f"{CELL}/checkpoint.safetensors", f"{CELL}/metrics.json"
DATASET = "data/processed/tiny/digits/dataset.safetensors"


def verify(jobs: list[rerun.Job]) -> dict[str, rerun.Outcome]:
    """Return the outcomes of all artifacts that were not made again to the same bytes."""
    outcomes = rerun.verify(jobs, 2, lambda outcome: None)
    return {outcome.artifact: outcome for outcome in outcomes if not outcome.identical}


def forge(path: str, **changes) -> None:
    """Change one weight by a half, and let the record say that this is what was made."""
    arrays, metadata = files.read_tensors(path)
    weights = next(iter(arrays.values())).reshape(-1)
    weights[np.flatnonzero(weights)[0]] += 0.5
    files.write_tensors(path, arrays, metadata)
    lies = records.record_path(path)
    record = records.read(lies) | changes | {"artifact": records.describe(path)}
    files.write_json(lies, record | {"seal": records.seal(record)})


def elements(path: str) -> tuple[str, int, int]:
    """Return the name of the first tensor, and the numbers of elements and tensors."""
    arrays = files.read_tensors(path)[0]
    return next(iter(arrays)), sum(array.size for array in arrays.values()), len(arrays)


def test_everything_is_made_again_to_the_same_bytes(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    before = finished.artifacts()
    outcomes = rerun.verify(rerun.everything("tiny"), 2, lambda outcome: None)
    assert [str(outcome) for outcome in outcomes if outcome != rerun.Outcome(outcome.artifact, True)] == []
    computed = {path for path in before if not path.startswith("data/raw") and records.SUFFIX not in path}
    assert {outcome.artifact for outcome in outcomes} == computed
    assert finished.artifacts() == before


def test_a_forged_checkpoint_is_named_though_all_made_of_it_is_honest(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    forge(CHECKPOINT)
    command = records.read(records.record_path(METRICS))["command"]
    subprocess.run([sys.executable, f"workflow/scripts/{command[0]}", *command[1:]], check=True)
    named = verify(rerun.jobs_of([CELL]))
    assert list(named) == [CHECKPOINT]
    name, size, count = elements(CHECKPOINT)
    assert named[CHECKPOINT].distance.startswith(f"1 of {size} elements (")
    assert named[CHECKPOINT].distance.endswith(f"in 1 of {count} tensors, by up to 0.5 (in {name})")
    assert named[CHECKPOINT].failure is None
    assert "nothing in the recorded environment differs" in str(named[CHECKPOINT])


def test_an_input_that_is_not_what_was_recorded_is_named(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    data = bytearray(Path(DATASET).read_bytes())
    data[-1] ^= 1
    Path(DATASET).write_bytes(data)
    named = verify(rerun.jobs_of([CELL]))
    scores = records.read(records.record_path(f"{CELL}/mask.safetensors"))["inputs"][0]["path"]
    assert sorted(named) == sorted([CHECKPOINT, f"{CELL}/history.csv", METRICS, scores])
    for outcome in named.values():
        assert outcome.failure.startswith(f"its input {DATASET} is not what it was made of")


def test_another_version_of_torch_explains_a_difference(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    environment = records.read(records.record_path(CHECKPOINT))["environment"]
    torch = environment["packages"]["torch"]
    environment["packages"]["torch"] = "2.0.1"
    forge(CHECKPOINT, environment=environment)
    (job,) = (job for job in rerun.jobs_of([CELL]) if job.outputs[0].path == CHECKPOINT)
    named = verify([job])
    assert list(named) == [CHECKPOINT]
    assert named[CHECKPOINT].explained
    assert named[CHECKPOINT].environment == (f"torch 2.0.1 then, {torch} now",)


def test_what_lost_its_record_is_told_and_what_only_has_one_is_compared_by_it(copy, monkeypatch):
    monkeypatch.chdir(copy.folder)
    records.record_path(METRICS).unlink()
    Path(CHECKPOINT).unlink()
    named = verify(rerun.jobs_of([CELL]))
    assert {path: outcome.failure for path, outcome in named.items()} == {METRICS: "has no record"}
