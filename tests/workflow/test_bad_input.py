"""A study that cannot work is refused in plain words, before anything is made."""

from __future__ import annotations

import copy as copying
import hashlib
import re
import zipfile

import pytest
import yaml

from tests.workflow.conftest import TINY, Project

pytestmark = pytest.mark.slow


def refused(project: Project, *arguments: str) -> str:
    done = project.snakemake("--cores", "1", *arguments)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in text
    assert not (project.folder / "results").exists()
    assert not (project.folder / "data").exists()
    return text


def test_faults_are_told_by_snakemake_itself_and_nothing_is_made(tmp_path):
    study = copying.deepcopy(TINY)
    study["finetun"] = study.pop("finetune")
    study["seeds"] = [1.5]
    text = refused(Project(tmp_path, study))
    assert "error: study.yaml: unknown key 'finetun'; did you mean 'finetune'?" in text
    assert "error: study.yaml: 'seeds[0]' must be an integer, not 1.5" in text


def test_a_ratio_beyond_the_model_is_refused_before_anything_trains(tmp_path):
    text = refused(Project(tmp_path, {**copying.deepcopy(TINY), "ratios": [2, 100]}))
    assert "compression ratio 100 is impossible for 'digitsnet' on 'digits'" in text
    assert "choose a ratio from 1 to 54.1" in text


def test_methods_that_cannot_work_are_refused_before_anything_trains(tmp_path):
    study = copying.deepcopy(TINY)
    whole = ["features.3.weight", "features.6.weight"]
    study["ratios"] = [2, 30]
    study["strategies"] += [
        {"name": "pattern", "score": "magnitude", "granularity": "2:4"},
        {"name": "whole", "score": "filter-l1", "granularity": "filter", "exclude": whole},
        {"name": "ticket", "score": "magnitude", "retraining": "weight-rewinding", "rewind_to": 1},
        {"name": "like", "score": "random", "scope": "like:snip"},
    ]
    text = refused(Project(tmp_path, study))
    for said in (
        "strategy 'pattern': 2:4 does not fit 'features.0.weight' of 'digitsnet' on 'digits', whose 1 inputs 4 does not",
        "strategy 'whole': compression ratio 30 is impossible for whole filters of 'digitsnet' on 'digits'; choose",
        "strategy 'ticket' rewinds to epoch 1, which was not saved: 'weights.A.keep' is [0]; add 1 there",
        "'strategies[6]': 'like:snip' takes the layer sizes of a strategy that is not in the study",
    ):
        assert f"error: study.yaml: {said}" in text


def test_the_default_study_does_not_leak_into_another(tmp_path):
    study = copying.deepcopy(TINY)
    del study["seeds"]
    assert "the key 'seeds' is missing" in refused(Project(tmp_path, study))


def test_yaml_that_is_none(tmp_path):
    project = Project(tmp_path)
    (tmp_path / "study.yaml").write_text("study: [unclosed\n")
    done = project.snakemake("--cores", "1")
    assert done.returncode != 0
    assert not (tmp_path / "results").exists()


def test_a_diverging_cell_fails_with_its_name_and_the_others_go_on(tmp_path):
    study = copying.deepcopy(TINY)
    study["weights"] = {"A": study["weights"]["B"]}
    study["recipes"]["wild"] = {"optimizer": "sgd", "lr": 1.0e30, "epochs": 2}
    study["finetune"] = "wild"
    study["strategies"] = ["random", "global-magnitude"]
    project = Project(tmp_path, study)
    done = project.snakemake("--cores", "2")
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "error: digits/digitsnet/A/random/ratio4/seed1: training diverged in epoch 1" in text
    assert "lower 'lr' (1e+30) of its recipe" in text
    assert not list(tmp_path.rglob("metrics.json"))
    assert not list(tmp_path.rglob(".part.*"))
    # What was good is still there.
    assert len(list(tmp_path.glob("results/tiny/cells/**/mask.safetensors"))) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "$(touch pwned)"}, "'study' cannot be '$(touch pwned)'"),
        ({"seeds": [10**40, float("nan")]}, "'seeds[1]' must be an integer, not nan"),
        ({"weights": {"{x}": {"recipe": "long", "seed": 1}}}, "'{x}' in 'weights' cannot be a name"),
        ({"description": "a\u202eb"}, "'description' has a character that is not seen (U+202E)"),
        ({"k": [[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]}, "the key 'k' holds more than a study can have"),
        ({"__use_yte__": False}, "the key '__use_yte__' makes Snakemake run Python in this file"),
    ],
)
def test_hostile_studies_are_told_by_snakemake_and_nothing_is_made(tmp_path, change, message):
    project = Project(tmp_path, copying.deepcopy(TINY) | change)
    before = sorted(tmp_path.iterdir())
    assert f"error: study.yaml: {message}" in refused(project, "--dry-run")
    assert set(tmp_path.iterdir()) - set(before) <= {tmp_path / ".snakemake"}


def test_a_folder_that_cannot_be_read_is_told_without_a_traceback(tmp_path):
    study = copying.deepcopy(TINY)
    study["datasets"] = {
        "pets": {"source": "imagefolder", "folder": "pets", "shape": [1, 8, 8], "classes": 2}
    }
    study["pairs"][0]["dataset"] = "pets"
    project = Project(tmp_path, study)
    (tmp_path / "pets/cat").mkdir(parents=True)
    (tmp_path / "pets/cat/1.png").symlink_to("nowhere")
    text = refused(project, "datasets")
    assert "error: pets/cat/1.png is no regular file (or a dangling link); remove it" in text


# What a shell, a pattern or a format string could take for something else.
ODD = 'a b\'c $(touch pwned) `touch pwned` "d";&|é#*~%s[1]?'


def test_odd_names_of_folders_and_files_reach_no_shell(tmp_path):
    """The project, an archive, a strategy and the description, through real jobs."""
    study = copying.deepcopy(TINY)
    archive, code = f"{ODD}/{ODD}.zip", f"{ODD}/{ODD}.py"
    project = Project(tmp_path / ODD, study)
    (project.folder / ODD).mkdir()
    with zipfile.ZipFile(project.folder / archive, "w") as packed:
        for index in range(80):
            picture = tmp_path / "picture.png"
            write_png(picture, 3 * index)
            packed.write(picture, f"{ODD}{index % 2}/{ODD}{index}.png")
    (project.folder / code).write_text(
        "from shrinkflow.prunable import prunable\n\n\n"
        "def square(model, data, generator, *, text: str = ''):\n"
        "    return {name: weight.detach() ** 2 for name, weight in prunable(model).items()}\n"
    )
    digest = hashlib.sha256((project.folder / archive).read_bytes()).hexdigest()
    study["description"] = f"{ODD} {{wildcards.x}} {{x}}\n{ODD}"
    study["datasets"] = {
        "pets": {
            "source": "imagefolder",
            "archive": archive,
            "sha256": digest,
            "obtain": ODD,
            "shape": [1, 8, 8],
            "classes": 2,
        }
    }
    study["pairs"] = [{"dataset": "pets", "model": "digitsnet", "weights": ["B"]}]
    study["strategies"].append(
        {"name": "mine", "file": code, "function": "square", "parameters": {"text": ODD}}
    )
    project.configure(study)
    project.run("--dry-run", "--cores", "2")
    project.run("--cores", "2", "results/tiny/cells/pets/digitsnet/B/mine/ratio4/seed1/mask.safetensors")
    assert project.stale("datasets") == []
    assert [path for path in tmp_path.rglob("*pwned") if path.name == "pwned"] == []


def test_a_folder_with_braces_is_refused(tmp_path):
    text = refused(Project(tmp_path / "a {b}"), "--dry-run")
    assert "rename what has braces in its name" in text


def test_a_folder_of_pictures_with_a_broken_one(tmp_path):
    pictures = tmp_path / "pictures"
    for name in ("cat", "dog"):
        (pictures / name).mkdir(parents=True)
        for index in range(12):
            write_png(pictures / name / f"{index}.png", 10 * index)
    (pictures / "dog" / "3.png").write_bytes(b"not a picture")
    study = copying.deepcopy(TINY)
    study["datasets"] = {
        "pets": {"source": "imagefolder", "folder": "pictures", "shape": [1, 8, 8], "classes": 2}
    }
    study["pairs"][0]["dataset"] = "pets"
    project = Project(tmp_path / "project", study)
    (tmp_path / "pictures").rename(project.folder / "pictures")
    done = project.snakemake("--cores", "2", "datasets")
    assert done.returncode != 0
    assert "3.png" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    write_png(project.folder / "pictures" / "dog" / "3.png", 9)
    project.run("--cores", "2", "datasets")
    assert project.stale("datasets") == []
    write_png(project.folder / "pictures" / "dog" / "3.png", 200)
    assert [job.rule for job in project.stale("datasets")] == ["prepare", "datasets"]


def write_png(path, value: int) -> None:
    from PIL import Image

    Image.new("L", (8, 8), value).save(path)


@pytest.mark.parametrize("name", ["cifar10", "digits-ab"])
def test_shipped_studies_plan_their_jobs(tmp_path, name):
    project = Project(tmp_path)
    done = project.snakemake(
        "--dry-run", "--cores", "2", "--configfile", f"config/studies/{name}.yaml", config=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    study = yaml.safe_load((tmp_path / f"config/studies/{name}.yaml").read_text())
    per_weights = len(study["seeds"]) * (1 + len(study["strategies"]) * (len(study["ratios"]) - 1))
    cells = len(study["pairs"]) * len(study["weights"]) * per_weights
    planned = re.search(r"^finetune +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    assert planned is not None
    assert int(planned[1]) == cells


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_made(tmp_path, monkeypatch):
    # What CUDA takes for no GPU, wherever this runs.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    project = Project(tmp_path, TINY | {"device": "cuda"})
    text = refused(project)
    assert "error: 'device' is cuda, but this machine has no GPU; set it to auto or cpu" in text
    # A plan, and jobs that need none, are not refused.
    project.run("--dry-run", "--cores", "1")
    project.run("--cores", "1", "data/raw/digits/digits.csv.gz")


def test_jobs_learn_how_many_may_share_a_gpu_and_whether_a_scheduler_started_them(tmp_path):
    project = Project(tmp_path)
    (tmp_path / "own.py").write_text(
        "import os\n"
        "def own(model, data, generator):\n"
        "    found = (os.environ.get('SHRINKFLOW_' + name) for name in ('JOBS_PER_GPU', 'GPU_ASSIGNED'))\n"
        "    raise ValueError(' '.join(map(str, found)))\n"
    )
    own = {"name": "own", "file": "own.py", "function": "own"}
    project.configure(TINY | {"jobs_per_gpu": 3, "strategies": [*TINY["strategies"], own]})
    scores = "results/tiny/scores/digits/digitsnet/B/own/seed1/from-pretrained/scores.safetensors"
    # What a job runs that Snakemake submitted, and what runs here.
    for mode, said in (("default", "3 None"), ("remote", "3 yes")):
        done = project.snakemake("--cores", "2", "--mode", mode, "--show-failed-logs", scores)
        assert f"ValueError: {said}" in done.stdout + done.stderr
