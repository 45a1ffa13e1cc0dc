"""Which GPU a job gets: real processes, real locks; only the GPUs are made up, by a program `nvidia-smi`."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shrinkflow import devices
from shrinkflow.errors import UserError

A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")

# Takes a GPU, says which, and keeps it until its standard input ends.
HOLD = """
import sys
from shrinkflow import devices
name = devices.take()
print(name, devices.os.environ.get(devices.VISIBLE), flush=True)
sys.stdin.read()
"""

# Takes and gives up again and again, noting when; a line is written at once, so lines of processes do not mix.
CHURN = """
import os, random, sys, time
from shrinkflow import devices
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
draw = random.Random(sys.argv[2])
for _ in range(12):
    os.environ.pop(devices.VISIBLE, None)
    name = devices.take()
    begin = time.monotonic_ns()
    time.sleep(draw.random() * 0.02)
    os.write(log, f"{name} {begin} {time.monotonic_ns()}\\n".encode())
    devices.release()
"""

# Starts a program that outlives it, and that gets all open files it can get.
PARENT = """
import subprocess, sys
from shrinkflow import devices
devices.take()
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, leases: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with three GPUs, and the way to give it others."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(*names: str, status: int = 0) -> None:
        script = "".join(f"echo {name}\n" for name in names)
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}exit {status}\n")
        (folder / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv(devices.LEASES, str(leases))
    # So that what `take` sets is put back as well.
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    for name in (devices.VISIBLE, devices.JOBS_PER_GPU, devices.ASSIGNED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    make(A, B, C)
    return make


class Jobs:
    """Processes that hold GPUs; those that still live are killed at the end."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, program: str = HOLD, *words: str, **environment: str) -> subprocess.Popen[str]:
        job = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.started.append(job)
        return job

    def got(self, **environment: str) -> str:
        """Start a job and return the GPU it got."""
        return self.start(**environment).stdout.readline().split()[0]


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    found = Jobs()
    yield found
    for job in found.started:
        job.kill()
        job.wait()
        for stream in (job.stdin, job.stdout, job.stderr):
            stream.close()


def waits(job: subprocess.Popen[str]) -> str:
    """Return the line by which a job says that it waits."""
    assert select.select([job.stderr], [], [], 20)[0], "it does not wait"
    line = job.stderr.readline()
    assert line.startswith("waits for a GPU"), line
    return line


def test_jobs_get_different_gpus_and_see_no_other(jobs):
    lines = [jobs.start().stdout.readline().split() for _ in range(3)]
    assert [name for name, _ in lines] == [A, B, C]
    assert all(name == seen for name, seen in lines)


def test_a_job_waits_and_says_so_until_a_gpu_is_free(jobs, machine):
    machine(A)
    first = jobs.start()
    assert first.stdout.readline().split()[0] == A
    second = jobs.start()
    assert re.search(rf"1 may be used, taken by processes {first.pid}$", waits(second))
    assert second.poll() is None
    first.stdin.close()
    assert second.stdout.readline().split()[0] == A
    second.stdin.close()
    assert second.stderr.read() == "", "it says so once"


def test_a_killed_job_leaves_its_gpu_free(jobs, machine):
    machine(A)
    first = jobs.start()
    first.stdout.readline()
    second = jobs.start()
    waits(second)
    os.kill(first.pid, signal.SIGKILL)
    assert second.stdout.readline().split()[0] == A


def test_programs_that_a_job_started_do_not_keep_its_gpu(jobs, machine):
    machine(A)
    parent = jobs.start(PARENT)
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        os.kill(child, 0)
        next_one = jobs.start()
        next_one.stdin.close()
        assert next_one.stdout.readline().split()[0] == A
        assert next_one.stderr.read() == "", "it had to wait for the program"
    finally:
        os.kill(child, signal.SIGKILL)


def test_several_jobs_share_a_gpu_if_the_study_says_so_and_spread_over_all_first(jobs, machine):
    machine(A, B)
    found = [jobs.got(**{devices.JOBS_PER_GPU: "2"}) for _ in range(4)]
    assert found == [A, B, A, B]
    waits(jobs.start(**{devices.JOBS_PER_GPU: "2"}))


def test_the_gpu_with_the_fewest_jobs_is_next(jobs, machine):
    machine(A, B)
    share = {devices.JOBS_PER_GPU: "3"}
    first = jobs.start(**share)
    assert first.stdout.readline().split()[0] == A
    assert [jobs.got(**share) for _ in range(3)] == [B, A, B]
    # A has lost its first slot, B none: A is next, and again after that, for then both have two.
    first.stdin.close()
    first.wait()
    assert [jobs.got(**share) for _ in range(2)] == [A, A]


@pytest.mark.parametrize(("first", "second"), [("1", "4"), ("4", "1")])
def test_a_job_that_wants_a_gpu_alone_has_it_alone(jobs, machine, first, second):
    machine(A)
    assert jobs.got(**{devices.JOBS_PER_GPU: first}) == A
    waits(jobs.start(**{devices.JOBS_PER_GPU: second}))


@pytest.mark.parametrize("sharing", [1, 2])
def test_never_more_jobs_on_a_gpu_than_may_share_it(tmp_path, jobs, sharing):
    log = tmp_path / "log"
    log.touch()
    running = [jobs.start(CHURN, str(log), str(n), **{devices.JOBS_PER_GPU: str(sharing)}) for n in range(8)]
    for job in running:
        assert job.wait(120) == 0, job.stderr.read()
    turns = [line.split() for line in log.read_text().splitlines()]
    assert len(turns) == 8 * 12
    assert {name for name, *_ in turns} == {A, B, C}
    most: Counter[str] = Counter()
    for name in (A, B, C):
        # An end before a begin of the same instant: the two did not overlap.
        moments = [(int(begin), 1) for n, begin, _ in turns if n == name]
        moments += [(int(end), -1) for n, _, end in turns if n == name]
        count = 0
        for _, change in sorted(moments):
            count += change
            most[name] = max(most[name], count)
    assert max(most.values()) == sharing, most


def test_one_process_takes_one_gpu_however_often_it_asks(monkeypatch):
    try:
        assert devices.take() == devices.take() == A
        assert os.environ[devices.VISIBLE] == A
    finally:
        devices.release()


@pytest.mark.parametrize(
    ("restriction", "found"),
    [
        ("1", [B]),
        ("2,0", [C, A]),
        (f"{C}", [C]),
        (" GPU-bbbb , 0", [B, A]),
        ("0,0", [A]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,7,1", [A]),
        ("0,-1,1", [A]),
        ("GPU-", []),
        ("MIG-5c89/1/0", ["MIG-5c89/1/0"]),
    ],
)
def test_a_restriction_of_the_users_is_kept(monkeypatch, restriction, found):
    monkeypatch.setenv(devices.VISIBLE, restriction)
    assert devices.visible() == found


def test_a_number_and_a_name_of_one_gpu_are_one_gpu_to_studies_with_other_restrictions(jobs):
    assert jobs.got(**{devices.VISIBLE: "1,2"}) == B
    assert jobs.got(**{devices.VISIBLE: f"{B},{C}"}) == C
    waits(jobs.start(**{devices.VISIBLE: "1"}))


def test_a_part_of_a_gpu_is_leased_by_its_name(jobs, leases):
    parts = {devices.VISIBLE: "MIG-5c89/1/0,MIG-5c89/2/0"}
    assert [jobs.got(**parts) for _ in range(2)] == ["MIG-5c89/1/0", "MIG-5c89/2/0"]
    assert sorted(path.name for path in leases.iterdir()) == ["MIG-5c89_1_0.0", "MIG-5c89_2_0.0", "lock"]


def test_the_gpu_that_a_scheduler_chose_is_taken_without_a_lease(jobs, leases):
    chosen = {devices.VISIBLE: "1", devices.ASSIGNED: "yes"}
    assert [jobs.start(**chosen).stdout.readline().split() for _ in range(2)] == [[B, "1"]] * 2
    assert not leases.exists()


def test_of_several_gpus_that_a_scheduler_gave_jobs_take_one_each(jobs):
    chosen = {devices.VISIBLE: "1,2", devices.ASSIGNED: "yes"}
    assert [jobs.got(**chosen) for _ in range(2)] == [B, C]


@pytest.mark.parametrize("driver", ["none listed", "fails", "missing"])
def test_where_no_gpu_can_be_listed_none_is_taken(machine, monkeypatch, leases, driver):
    machine(*((A,) if driver == "fails" else ()), status=driver == "fails")
    if driver == "missing":
        monkeypatch.setenv("PATH", "/nowhere")
    assert devices.take() is None
    assert not leases.exists()


def test_absent_is_said_only_where_it_is_certain(monkeypatch):
    monkeypatch.setattr(devices, "_SIGNS", ())
    assert not devices.absent()
    monkeypatch.setenv(devices.VISIBLE, "")
    assert devices.absent()
    monkeypatch.delenv(devices.VISIBLE)
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.absent()
    monkeypatch.setattr(devices, "_SIGNS", ("/dev/null",))
    assert not devices.absent()


def spoil_by_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def spoil_by_file(folder: Path) -> None:
    folder.touch(mode=0o600)


def spoil_by_mode(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def spoil_by_owner(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize("spoil", [spoil_by_link, spoil_by_file, spoil_by_mode, spoil_by_owner])
def test_a_folder_of_locks_that_others_could_use_is_refused(leases, spoil):
    spoil(leases)
    with pytest.raises(UserError, match=r"leases.* is no folder that you alone can enter; delete it"):
        devices.take()
    assert devices.VISIBLE not in os.environ


def test_the_folder_of_locks_is_closed_to_others(jobs, leases):
    old = os.umask(0)
    try:
        jobs.got()
    finally:
        os.umask(old)
    assert leases.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in leases.iterdir()} == {0o600}


def test_the_usual_folder_depends_on_the_user_alone(monkeypatch, tmp_path):
    monkeypatch.delenv(devices.LEASES)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    usual = Path(f"/tmp/shrinkflow-gpus-{os.getuid()}")
    made = not usual.exists()
    assert devices.leases() == usual
    if made:
        usual.rmdir()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_jobs_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv(devices.JOBS_PER_GPU, text)
    with pytest.raises(UserError, match=f"SHRINKFLOW_JOBS_PER_GPU must be a number from 1, not '{text}'"):
        devices.take()


def test_every_waiting_job_has_its_turn(jobs, machine):
    machine(A)
    first = jobs.start()
    first.stdout.readline()
    waiting = [jobs.start() for _ in range(4)]
    for job in waiting:
        waits(job)
        job.stdin.close()
    first.stdin.close()
    begin = time.monotonic()
    assert [job.wait(60) for job in waiting] == [0] * 4
    assert time.monotonic() - begin < 30


def test_choosing_a_gpu_is_no_part_of_the_code_of_jobs():
    from shrinkflow import fingerprint

    programs = Path(devices.__file__).parents[1]
    names = {path.name for path in fingerprint.closure(programs / "finetune.py")}
    assert "training.py" in names and "devices.py" not in names
