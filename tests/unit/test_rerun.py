from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkflow import files, records
from shrinkflow.errors import UserError
from shrinkflow.provenance import rerun

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
CELL = "results/s/cells/digits/net/A/random/ratio2/seed1"
MASK = f"{CELL}/mask.safetensors"
SCORES = "results/s/scores/digits/net/A/random/seed1/from-pretrained/scores.safetensors"

# Makes a data set of a folder of pictures: their names, and the number of threads it was given.
SHOW = """
import argparse, os
from shrinkflow import files, records
from shrinkflow.data.members import folder_digest

parser = argparse.ArgumentParser()
for flag in ("--name", "--folder", "--out"):
    parser.add_argument(flag)
args = parser.parse_args()
parameters = {"name": args.name, "folder": folder_digest(args.folder)}
with records.job(__file__, inputs=[], outputs=[args.out], parameters=parameters):
    files.write_text(args.out, f"{sorted(os.listdir(args.folder))} {os.environ.get('OMP_NUM_THREADS')}")
"""

# A program that begins, says so, and does not end.
SLEEP = """
import os, sys, time

with open(os.environ["PIDS"], "a") as stream:
    stream.write(f"{os.getpid()}\\n")
with open("half-made", "w") as stream:
    stream.write("half")
time.sleep(600)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that made the mask of one cell from scores; the scores have no record."""
    folder = tmp_path / "project"
    (folder / "workflow" / "scripts").mkdir(parents=True)
    for program in ("prune.py", "collect.py"):
        (folder / "workflow" / "scripts" / program).symlink_to(SCRIPTS / program)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    scores = {"a": np.arange(6, dtype=np.float32), "b": np.arange(4, dtype=np.float32)}
    files.write_tensors(
        SCORES, scores, {"order": ["a", "b"], "params": 10, "macs": 20, "uses": {"a": 2, "b": 2}}
    )
    run("prune.py", "--scores", SCORES, "--scope", "global", "--ratio", "2", "--out", MASK)
    return folder


def run(program: str, *words: str) -> None:
    subprocess.run([sys.executable, f"workflow/scripts/{program}", *words], check=True)


def program(name: str, code: str) -> None:
    Path("workflow/scripts", name).write_text(code)


def forge(path: str, **changes) -> None:
    """Rewrite parts of an artifact's record, and seal it again."""
    lies = records.record_path(path)
    record = files.read_json(lies) | changes
    files.write_json(lies, record | {"seal": records.seal(record)})


def record_of(path: str) -> dict:
    return records.read(records.record_path(path))


def again(path: str = MASK) -> rerun.Outcome:
    """Return what comes of doing the job of one artifact again."""
    scratch = Path(tempfile.gettempdir())
    (job,) = (job for job in rerun.everything("s") if path in [node.path for node in job.outputs])
    (outcome,) = rerun.rerun(job, scratch)
    assert outcome.artifact == path
    assert list(scratch.iterdir()) == []
    return outcome


def flip(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


def test_a_job_done_again_gives_the_same_bytes_and_changes_nothing(project):
    before = {path: path.read_bytes() for path in project.rglob("*.safetensors*")}
    outcome = again()
    assert outcome == rerun.Outcome(MASK, identical=True)
    assert str(outcome) == f"{MASK}: identical"
    assert {path: path.read_bytes() for path in project.rglob("*.safetensors*")} == before


def test_a_forged_artifact_is_named_with_its_distance(project):
    flip(MASK)
    forge(MASK, artifact=records.describe(MASK))
    outcome = again()
    assert not outcome.identical
    assert not outcome.explained
    assert outcome.distance == "1 of 10 elements (10 %) differ, in 1 of 2 tensors, by up to 1 (in b)"
    assert "nothing in the recorded environment differs: this is a defect" in str(outcome)


def test_where_the_environment_differs_a_difference_is_explained(project):
    record = record_of(MASK)
    environment = record["environment"] | {"python": "3.9.1", "cpu": "AVX9"}
    environment["packages"] = environment["packages"] | {"numpy": "1.0"}
    code = record["code"] | {"fingerprint": "0" * 16}
    forge(MASK, environment=environment, code=code)
    outcome = again()
    now = record["environment"]
    assert outcome.identical
    assert set(outcome.environment) == {
        f"numpy 1.0 then, {now['packages']['numpy']} now",
        f"Python 3.9.1 then, {now['python']} now",
        "instructions AVX9 then, absent now",
        f"other code (fingerprint {'0' * 16} then, {record['code']['fingerprint']} now)",
    }
    flip(MASK)
    forge(MASK, artifact=records.describe(MASK))
    differing = again()
    assert differing.explained
    assert differing.environment == outcome.environment
    assert "numpy 1.0 then" in str(differing) and "statistically the same" in str(differing)


def test_an_artifact_that_is_not_its_records_is_no_matter_of_reproducibility(project):
    recorded = record_of(MASK)["artifact"]["md5"]
    flip(MASK)
    outcome = again()
    assert outcome.failure == (
        f"has md5 {files.digest(MASK)}, its record says {recorded}, and made again it has {recorded}"
    )
    assert "1 of 10 elements" in str(outcome)
    assert not outcome.explained


def test_an_artifact_that_is_not_here_is_compared_by_its_record(project):
    Path(MASK).unlink()
    assert again().identical
    recorded = record_of(MASK)["artifact"]
    forge(MASK, artifact=recorded | {"md5": "0" * 32})
    assert again().distance == f"md5 {'0' * 32} then, {recorded['md5']} now; the file itself is not here"


def test_a_record_that_says_what_is_not_so_is_told(project):
    good = record_of(MASK)
    forge(
        MASK,
        parameters={"ratio": 9.0, "budget": "parameters", "scope": "global"},
        findings={"collapsed": ["a"]},
    )
    said = 'parameters.ratio 9.0 then, 2.0 now; findings.collapsed.0 "a" then, absent now'
    outcome = again()
    assert not outcome.identical
    assert outcome.distance.startswith(f"only in its record: {said}")
    forge(MASK, parameters=good["parameters"], findings=good["findings"], id="0" * 16)
    assert again().distance == f"only in its record: id {'0' * 16} then, {good['id']} now"


def test_an_input_that_was_changed_or_is_lost_is_named(project):
    recorded = files.digest(SCORES)
    flip(SCORES)
    assert again().failure == (
        f"its input {SCORES} is not what it was made of (md5 {recorded} then, {files.digest(SCORES)} now)"
    )
    Path(SCORES).unlink()
    assert again().failure == f"its input {SCORES} is not here"


def test_the_record_of_an_input_counts_as_well(project):
    files.write_json(records.record_path(SCORES), {"artifact": records.describe(SCORES)})
    assert again().failure.startswith(
        f"its job failed: {SCORES}.record.json was changed after it was written"
    )


def test_a_job_that_fails_says_its_last_line(project):
    command = record_of(MASK)["command"]
    forge(MASK, command=[*command[:-1], SCORES, "--previous", f"{CELL}/none"])
    assert again().failure == f"its job failed: input {CELL}/none does not exist"
    forge(MASK, command=[*command, "--unknown"])
    assert again().failure == "its job failed: prune.py: error: unrecognized arguments: --unknown"
    forge(MASK, command=[*command[:-1], f"{CELL}/elsewhere"])
    assert again().failure == "its command, done again, does not make it"
    program("silent.py", "raise SystemExit(3)")
    forge(MASK, command=["silent.py"])
    assert again().failure == "its job failed: silent.py ended with status 3 and said nothing"
    program("killed.py", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    forge(MASK, command=["killed.py"])
    assert again().failure == "its job was killed (SIGKILL)"


@pytest.mark.parametrize("plugin", ["../../../outside.py", "/etc/hosts"])
def test_a_record_cannot_bring_in_code_from_elsewhere(project, plugin):
    code = record_of(MASK)["code"]
    forge(MASK, code=code | {"plugins": [plugin]})
    assert "only what lies in the project can be made again elsewhere" in again().failure


@pytest.mark.parametrize("form", ["{}/out", "../out", "results/../../out"])
@pytest.mark.parametrize("flag", [["--out"], ["--out="]])
def test_a_record_cannot_make_a_job_write_elsewhere(project, tmp_path, form, flag):
    out = form.format(tmp_path)
    command = record_of(MASK)["command"][:-2]
    forge(MASK, command=[*command, f"{flag[0]}{out}"] if flag[0].endswith("=") else [*command, *flag, out])
    assert (
        again().failure
        == f"its record names {out}; only what lies in the project can be made again elsewhere"
    )
    forge(MASK, inputs=[{"path": out, "md5": "0" * 32}], command=["prune.py"])
    assert f"its record names {out};" in again().failure
    assert not list(tmp_path.rglob("out*"))


@pytest.mark.parametrize("name", ["../scripts/prune.py", "/bin/sh", "none.py", "shrinkflow"])
def test_a_record_cannot_name_any_program_but_the_projects(project, name):
    forge(MASK, command=[name, *record_of(MASK)["command"][1:]])
    assert again().failure == f"its record names the program '{name}', which is not in workflow/scripts"


def test_records_that_are_lost_edited_or_anothers_are_told(project):
    outcomes = rerun.verify(rerun.jobs_of([CELL]), 1, lambda outcome: None)
    assert outcomes == [
        rerun.Outcome(MASK, identical=True),
        rerun.Outcome(SCORES, identical=False, failure="has no record"),
    ]
    lies = records.record_path(MASK)
    files.write_json(lies, files.read_json(lies) | {"findings": {}})
    assert "was changed after it was written" in again().failure
    forge(MASK, artifact=records.describe(SCORES))
    assert again().failure == f"carries the record of {SCORES}"
    lies.unlink()
    (job,) = rerun.jobs_of([CELL])
    assert rerun.rerun(job, Path(tempfile.gettempdir()))[0].failure == "has no record"


def test_threads_and_a_folder_of_pictures_are_as_they_were(project, monkeypatch):
    program("show.py", SHOW)
    (project.parent / "pictures").mkdir()
    (project.parent / "pictures" / "a.png").touch()
    out = "data/processed/s/mine/mine.txt"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run("show.py", "--name", "mine", "--folder", "../pictures", "--out", out)
    assert Path(out).read_text() == "['a.png'] 1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    Path("study.yaml").write_text("datasets: {digits: , mine: {folder: ../pictures}}")
    found = rerun.pictures("study.yaml")
    assert found == {"mine": "../pictures"}
    jobs = [job for job in rerun.everything("s") if job.outputs[0].path == out]
    assert rerun.verify(jobs, 1, lambda outcome: None, found) == [rerun.Outcome(out, identical=True)]
    assert again(out).failure == "its folder of pictures is not known"
    (project.parent / "pictures" / "b.png").touch()
    (changed,) = rerun.verify(jobs, 1, lambda outcome: None, found)
    assert changed.failure.startswith("the pictures in ../pictures are not those it was made of (md5 ")
    (lost,) = rerun.verify(jobs, 1, lambda outcome: None, {"mine": "../none"})
    assert lost.failure == "its folder of pictures ../none is not here"


def test_jobs_have_all_their_outputs_and_a_cell_its_scores(project):
    curve = "results/s/cells/digits/net/A/random/curve.csv"
    Path(CELL, ".part.mask.safetensors").write_text("half")
    record = record_of(MASK)
    for path in (f"{CELL}/twin.txt", curve):
        files.write_text(path, "text")
        other = {"id": "0" * 16} if path == curve else {}
        files.write_json(records.record_path(path), {})
        forge(path, **record | {"artifact": records.describe(path)} | other)
    paths = [[node.path for node in job.outputs] for job in rerun.jobs_of([CELL, CELL])]
    assert paths == [[MASK, f"{CELL}/twin.txt"], [SCORES]]
    everything = [[node.path for node in job.outputs] for job in rerun.everything("s")]
    assert everything == [[curve], [MASK, f"{CELL}/twin.txt"], [SCORES]]


def test_raw_files_and_other_studies_are_left_out(project):
    command = record_of(MASK)["command"]
    processed = "data/processed/s/digits/dataset.safetensors"
    raw, other = "data/raw/digits/digits.csv.gz", "results/other/pretrained/x.safetensors"
    for path, inputs in ((processed, [raw]), (raw, []), (other, [])):
        files.write_text(path, "text")
        files.write_json(records.record_path(path), {})
        described = records.describe(path)
        made_of = [{"path": name, "md5": "0" * 32} for name in inputs]
        forge(path, id=path, artifact=described, outputs=[described], inputs=made_of, command=command)
    assert [job.outputs[0].path for job in rerun.everything("s")] == [processed, MASK, SCORES]


def test_cells_are_found_and_what_is_none_is_refused(project):
    Path(CELL).with_name("seed2").mkdir()
    assert rerun.cells("s") == [CELL, CELL.replace("seed1", "seed2")]
    for folder in (CELL.replace("seed1", "seed9"), "results/s/cells", str(Path(CELL).absolute())):
        with pytest.raises(UserError, match="is not the folder of a cell that is here"):
            rerun.jobs_of([folder])
    with pytest.raises(UserError, match="nothing of the study 'none' to verify"):
        rerun.everything("none")


NAMES = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=20).map(sorted)


@given(NAMES, st.integers(1, 30), st.integers(0, 2**64), st.randoms(use_true_random=False))
def test_a_sample_is_a_subset_whatever_the_order(cells, n, seed, random):
    drawn = rerun.sample(cells, n, seed)
    assert set(drawn) <= set(cells)
    assert len(drawn) == len(set(drawn)) == min(n, len(cells))
    shuffled = [*cells, *cells]
    random.shuffle(shuffled)
    assert rerun.sample(shuffled, n, seed) == drawn
    assert set(drawn) <= set(rerun.sample(cells, n + 1, seed))


@given(NAMES, st.text(min_size=1, max_size=8), st.integers(1, 20), st.integers(0, 99))
def test_a_new_cell_displaces_at_most_one_of_a_sample(cells, new, n, seed):
    before, after = set(rerun.sample(cells, n, seed)), set(rerun.sample([*cells, new], n, seed))
    assert after - before <= {new}
    assert len(before - after) <= 1


def test_samples_of_other_seeds_are_others():
    cells = [f"seed{i}" for i in range(20)]
    assert len({tuple(rerun.sample(cells, 5, seed)) for seed in range(20)}) > 15
    with pytest.raises(UserError, match="a sample of 0 cells"):
        rerun.sample(cells, 0, 1)


def jobs(names: str) -> list[rerun.Job]:
    return [rerun.Job((rerun.Node(name, None),)) for name in names]


def test_outcomes_come_in_the_order_of_the_jobs_though_later_ones_end_first(project, monkeypatch):
    def slow(job, scratch, processes, pictures):
        path = job.outputs[0].path
        time.sleep(0.3 if path == "a" else 0)
        return [rerun.Outcome(f"{path}{i}", identical=True) for i in range(2)]

    monkeypatch.setattr(rerun, "rerun", slow)
    reported: list[rerun.Outcome] = []
    outcomes = rerun.verify(jobs("abcd"), 3, reported.append)
    assert reported == outcomes
    assert [outcome.artifact for outcome in outcomes] == ["a0", "a1", "b0", "b1", "c0", "c1", "d0", "d1"]


def test_what_breaks_off_leaves_no_scratch_and_starts_nothing_more(project, monkeypatch):
    started: list[str] = []

    def fail(job, scratch, processes, pictures):
        started.append(job.outputs[0].path)
        (scratch / "half").touch()
        return [rerun.Outcome(job.outputs[0].path, identical=True)]

    def refuse(outcome):
        raise BrokenPipeError

    monkeypatch.setattr(rerun, "rerun", fail)
    with pytest.raises(BrokenPipeError):
        rerun.verify(jobs("abc"), 1, refuse)
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    processes = rerun.Processes()
    processes.end()
    with pytest.raises(rerun.CancelledError):
        processes.run(["true"], Path(), {})


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_jobs_and_leaves_no_scratch(project, tmp_path, kind):
    program("sleep.py", SLEEP)
    for seed in (1, 2, 3):
        path = MASK.replace("seed1", f"seed{seed}")
        files.write_text(path, "text")
        record = record_of(MASK)
        described = records.describe(path)
        files.write_json(records.record_path(path), {})
        forge(
            path,
            **record | {"id": path, "artifact": described, "outputs": [described], "command": ["sleep.py"]},
        )
    code = (
        "from shrinkflow import errors; from shrinkflow.provenance import rerun; "
        "errors.run(lambda: print(rerun.verify(rerun.jobs_of(rerun.cells('s')), 2, print)))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch"), "PIDS": str(tmp_path / "pids")}
    # A shell's background jobs ignore SIGINT, and what they start does too, unless it is told otherwise.
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(pids := started(tmp_path / "pids")) < 2:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(kind)
    assert running.communicate(timeout=30)[0] == b""
    assert running.returncode == 128 + kind
    assert list((tmp_path / "scratch").iterdir()) == []
    assert started(tmp_path / "pids") == pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def started(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_summary_counts_each_kind():
    outcomes = [
        rerun.Outcome("a", identical=True),
        rerun.Outcome("b", identical=True, environment=("x 1 then, 2 now",)),
        rerun.Outcome("c", identical=False, distance="far", environment=("x 1 then, 2 now",)),
        rerun.Outcome("d", identical=False, distance="far"),
        rerun.Outcome("e", identical=False, failure="why"),
    ]
    assert rerun.summary(outcomes) == (
        "2 of 5 artifacts are identical; different, as the environment is: 1; different without explanation: 1; "
        "not compared: 1"
    )
    assert rerun.summary(outcomes[:2]) == "2 of 2 artifacts are identical"
