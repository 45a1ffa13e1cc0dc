"""Both tools agree, whichever is used; and the trap of a false dvc.lock."""

from __future__ import annotations

import copy as copying
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow import versioned
from tests.workflow.conftest import TINY
from tests.workflow.versioned import CELL, FIGURE, Versioned

pytestmark = pytest.mark.slow


def with_lr(lr: float) -> dict:
    study = copying.deepcopy(TINY)
    study["recipes"]["short"]["lr"] = lr
    return study


def tensors(project: Versioned) -> dict[str, bytes]:
    return {path: data for path, data in project.artifacts().items() if path.endswith(".safetensors")}


def test_snakemake_then_snapshot_then_dvc_has_nothing_to_do(spoilt):
    spoilt.quiet()
    # The snapshot left files alone, times included.
    before = spoilt.lock()
    assert "and in DVC" in spoilt.shrinkflow("snapshot").stdout
    assert spoilt.lock() == before
    spoilt.quiet()


def test_dvc_from_nothing_gives_the_bytes_of_snakemake_and_leaves_it_nothing_to_do(snapshot, tmp_path):
    project = versioned.clone(snapshot, tmp_path / "clone")
    project.does("dvc", "repro")
    assert project.artifacts() == snapshot.artifacts()
    # The same lock, whoever made it.
    assert project.lock() == snapshot.lock()
    assert project.does("git", "status", "--porcelain") == ""
    project.quiet()


def test_clone_and_restore_leave_both_with_nothing_to_do(spoilt, tmp_path):
    project = versioned.clone(spoilt, tmp_path / "clone")
    said = project.shrinkflow("restore")
    assert said.returncode == 0, said.stderr
    assert "are current" in said.stdout
    assert project.artifacts() == spoilt.artifacts()
    project.quiet()
    # And content decides here as it does at home: a parameter, a strategy, a byte.
    project.configure(with_lr(0.02))
    counts = project.counts()
    # Weights B are trained by the same recipe.
    assert (counts["pretrain"], counts["score"], counts["finetune"]) == (1, 4, 8)
    project.configure({**TINY, "strategies": [*TINY["strategies"], "layerwise-magnitude"]})
    cells = {"score": 2, "prune": 2, "finetune": 2, "measure": 2, "collect": 2}
    assert project.counts() == {**cells, "summarise": 1, "compare": 1, "draw": 3, "report": 1}
    project.configure(TINY)
    assert project.stale() == []
    flip(project, f"{CELL}/mask.safetensors")
    assert project.counts() == {
        "finetune": 1,
        "measure": 1,
        "collect": 1,
        "summarise": 1,
        "compare": 1,
        "draw": 3,
        "report": 1,
    }


def flip(project: Versioned, path: str, at: int = -1) -> None:
    """Change a byte, as an editor would: the file is newer afterwards."""
    file = project.folder / path
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    later = time.time() + 60
    os.utime(file, (later, later))


def test_a_changed_parameter_never_goes_into_the_lock_with_old_bytes(spoilt, tmp_path):
    """The trap: a clone has no memory of Snakemake, which then makes nothing; DVC would lock what lies there."""
    project = versioned.clone(spoilt, tmp_path / "clone")
    project.does("dvc", "pull", "-q")
    # Only the finetuning of weights A and B changes: B's own training keeps its recipe.
    study = copying.deepcopy(TINY)
    study["recipes"]["after"] = {**TINY["recipes"]["short"], "lr": 0.02}
    study["finetune"] = "after"
    project.configure(study)
    said = project.call("dvc", "repro")
    # dvc.yaml lists a recipe that these cells do not obey any more: it is written anew first.
    assert said.returncode != 0
    assert "run 'shrinkflow stages'" in said.stderr
    assert project.lock() == spoilt.lock()
    project.shrinkflow("stages")
    said = project.does("dvc", "repro")
    lock = yaml.safe_load(project.lock())
    cells = lock["stages"]["cells-digits-digitsnet-random"]
    assert cells["params"]["config/config.yaml"]["recipes.after"]["lr"] == 0.02
    record = json.loads((project.folder / f"{CELL}/checkpoint.safetensors.record.json").read_text())
    assert record["command"][record["command"].index("--lr") + 1] == "0.02"
    # What did not change was not made again; what did is what a run from nothing gives.
    made = set(re.findall(r"^(?:local)?rule (\w+):", said, re.MULTILINE))
    assert made == {"finetune", "measure", "collect", "summarise", "compare", "draw", "report"}
    before, after = tensors(spoilt), tensors(project)
    assert {path for path in before if before[path] != after[path]} == {
        path for path in before if "/cells/" in path and path.endswith("checkpoint.safetensors")
    }
    fresh = versioned.clone(project, tmp_path / "fresh")
    fresh.configure(study)
    fresh.run()
    assert fresh.artifacts() == project.artifacts()
    project.quiet()
    assert project.trail(FIGURE, "--no-remote")[0] == 0


def test_a_lock_that_was_made_false_by_hand_is_told(spoilt):
    """`dvc commit -f` after a changed parameter, past every check: the records still say what was."""
    study = with_lr(0.02)
    spoilt.configure(study)
    spoilt.does("dvc", "commit", "-f", "-q")
    assert "up to date" in spoilt.does("dvc", "status")
    status, trail = spoilt.trail(FIGURE, "--where", "strategy=random", "--where", "weights=A")
    assert status == 1
    said = " ".join(trail["faults"])
    assert f"{CELL}/checkpoint.safetensors: was made with --lr 0.05, the study says --lr 0.02" in said
    assert "--lr 0.05" in spoilt.refused("snapshot", "--allow-dirty")


def test_adding_a_seed_or_a_strategy_computes_only_its_cells_by_dvc(spoilt):
    study = {**TINY, "strategies": [*TINY["strategies"], "layerwise-magnitude"]}
    spoilt.configure(study)
    before = spoilt.artifacts()
    said = spoilt.call("dvc", "repro")
    assert said.returncode != 0 and "shrinkflow stages" in said.stderr
    spoilt.shrinkflow("stages")
    said = spoilt.does("dvc", "exp", "run", "--name", "layerwise")
    made = re.findall(r"^(?:local)?rule (\w+):", said, re.MULTILINE)
    assert {rule: made.count(rule) for rule in set(made)} == {
        **{"score": 2, "prune": 2, "finetune": 2, "measure": 2, "collect": 2},
        **{"summarise": 1, "compare": 1, "draw": 3, "report": 1},
    }
    after = spoilt.artifacts()
    changed = {path for path in before if before[path] != after[path]}
    assert all(re.search(r"/tables/|/figures/|/report\.html", path) for path in changed)
    spoilt.quiet()
    diff = json.loads(spoilt.does("dvc", "metrics", "diff", "--json"))
    new = "results/tiny/cells/digits/digitsnet/A/layerwise-magnitude/top1.json"
    assert diff[new]["ratio 4"]["new"] > 0
    assert "layerwise" in spoilt.does("dvc", "exp", "show", "--csv")


def test_a_changed_parameter_is_told_before_anything_runs(spoilt):
    spoilt.configure(with_lr(0.02))
    diff = json.loads(spoilt.does("dvc", "params", "diff", "--json"))["config/config.yaml"]
    assert {key: (value["old"], value["new"]) for key, value in diff.items()} == {
        "recipes.short.lr": (0.05, 0.02)
    }
    said = spoilt.does("dvc", "status")
    assert "cells-digits-digitsnet-random" in said
    assert "pretrained-digits-digitsnet-B" in said
    assert "pretrained-digits-digitsnet-A" not in said


def test_a_ratio_left_out_is_moved_aside_and_not_locked(spoilt):
    study = {**TINY, "ratios": [1, 2]}
    spoilt.configure(study)
    spoilt.run()
    spoilt.commit("other ratios")
    said = spoilt.shrinkflow("snapshot")
    assert said.returncode == 0, said.stderr
    assert (
        f"{CELL}/mask.safetensors -> results/tiny/aside/cells/digits/digitsnet/A/random/ratio4" in said.stdout
    )
    assert not (spoilt.folder / CELL / "mask.safetensors").exists()
    assert (spoilt.folder / CELL.replace("tiny/", "tiny/aside/") / "mask.safetensors").is_file()
    spoilt.quiet()


def test_another_study_has_stages_of_its_own_and_shares_raw_files(spoilt):
    other = {**copying.deepcopy(TINY), "study": "other", "weights": {"A": TINY["weights"]["A"]}}
    path = spoilt.folder / "config/studies/other.yaml"
    path.write_text(yaml.safe_dump(other, sort_keys=False))
    config = ("--configfile", "config/studies/other.yaml")
    assert "written" in spoilt.shrinkflow("stages", *config).stdout
    stages = yaml.safe_load((spoilt.folder / "config/dvc/other/dvc.yaml").read_text())["stages"]
    # The archive is made by the default study's stage; DVC allows one.
    assert not [name for name in stages if name.startswith("raw-")]
    assert "data/raw/digits/digits.csv.gz" in stages["data-digits"]["deps"]
    spoilt.commit("another study")
    spoilt.does("dvc", "repro", "config/dvc/other/dvc.yaml")
    assert (spoilt.folder / "results/other/figures/compression.svg").is_file()
    assert spoilt.stale("--configfile", "config/studies/other.yaml") == []
    assert "up to date" in spoilt.does("dvc", "status")
    assert spoilt.trail("results/other/figures/compression.svg", "--no-remote")[0] == 0
    lock = (spoilt.folder / "config/dvc/other/dvc.lock").read_bytes()
    said = spoilt.shrinkflow("snapshot", *config)
    assert said.returncode == 0, said.stderr
    assert (spoilt.folder / "config/dvc/other/dvc.lock").read_bytes() == lock


def test_dvc_shows_metrics_plots_and_stages(spoilt):
    shown = json.loads(spoilt.does("dvc", "metrics", "show", "--json"))
    means = shown[""]["data"]["results/tiny/cells/digits/digitsnet/A/random/top1.json"]["data"]
    assert set(means) == {"ratio 4"}
    assert 0 < means["ratio 4"] < 1
    assert "cells-digits-digitsnet-random" in spoilt.does("dvc", "dag", "--dot")
    spoilt.does("dvc", "plots", "show", "--out", "plots")
    page = (spoilt.folder / "plots/index.html").read_text()
    assert "top-1 after finetuning" in page
    assert "static" in page
    shutil.rmtree(spoilt.folder / "plots")


@pytest.mark.parametrize("target", [CELL, f"{CELL}/metrics.json", FIGURE])
def test_one_cell_or_figure_is_restored_with_the_records_behind_it(spoilt, tmp_path, target):
    project = versioned.clone(spoilt, tmp_path / "clone")
    said = project.shrinkflow("restore", target)
    assert said.returncode == 0, said.stderr
    here, all_ = project.artifacts(), spoilt.artifacts()
    assert here == {path: all_[path] for path in here}
    wanted = {path for path in all_ if path == target or path.startswith(f"{target}/")}
    assert wanted <= set(here)
    # Of networks and data sets behind it, no more than the records.
    assert {path for path in here if path.endswith(".safetensors")} <= wanted
    assert project.stale(*sorted(wanted)) == []
    file = target if (project.folder / target).is_file() else f"{target}/metrics.json"
    status, trail = project.trail(file)
    assert status == 0, trail["faults"]
    assert "data/raw/digits/digits.csv.gz" in trail["steps"]
    assert trail["steps"]["data/raw/digits/digits.csv.gz"]["bytes"] == "not here"
    # A changed parameter is still seen, though the networks themselves are not here.
    project.configure(with_lr(0.02))
    assert project.trail(file)[0] == 1


def test_a_figure_that_was_mailed_is_traced_and_an_altered_one_told(spoilt, tmp_path):
    for form in ("svg", "png"):
        mailed = tmp_path / f"from a friend.{form}"
        shutil.copy(spoilt.folder / FIGURE.replace(".svg", f".{form}"), mailed)
        status, trail = spoilt.trail(str(mailed))
        assert status == 0, trail["faults"]
        assert trail["target"] == FIGURE.replace(".svg", f".{form}")
        assert "byte for byte" in trail["notes"][0]
    text = (spoilt.folder / FIGURE).read_text()
    altered = tmp_path / "altered.svg"
    altered.write_text(text.replace("stroke-width", "stroke-widht", 1))
    status, trail = spoilt.trail(str(altered))
    assert status == 1
    assert "was changed after it was drawn" in trail["faults"][0]
    altered.write_text(re.sub(r"(?<=<dc:identifier>)[0-9a-f]{16}", "0123456789abcdef", text))
    assert "which no figure here has" in spoilt.refused("trace", str(altered))
    (tmp_path / "other.svg").write_text("<svg/>")
    assert "carries no id" in spoilt.refused("trace", str(tmp_path / "other.svg"))


def test_a_trail_names_every_step_with_its_hashes_settings_code_and_machine(snapshot):
    status, trail = snapshot.trail(FIGURE, "--where", "strategy=random", "--where", "weights=A")
    assert status == 0, trail["faults"]
    steps = trail["steps"]
    pretrained = "results/tiny/pretrained/digits/digitsnet/A/checkpoint.safetensors"
    dataset = "data/processed/tiny/digits/dataset.safetensors"
    assert {
        *(FIGURE, "results/tiny/tables/results.csv", f"{Path(CELL).parent.parent}/curve.csv"),
        *(f"{CELL}/metrics.json", f"{CELL}/checkpoint.safetensors", f"{CELL}/mask.safetensors"),
        *("results/tiny/scores/digits/digitsnet/A/random/seed1/from-pretrained/scores.safetensors",),
        *(pretrained, dataset, "data/raw/digits/digits.csv.gz"),
    } <= set(steps)
    assert not [path for path in steps if "/B/" in path or "magnitude" in path]
    for step in steps.values():
        assert {step[name] for name in ("bytes", "record", "study", "lock", "remote")} == {"agrees"}
        assert re.fullmatch(r"[0-9a-f]{16}", step["made"]["code"]["fingerprint"])
        assert step["made"]["environment"]["python"]
    assert steps[pretrained]["made"]["environment"]["threads"] == 1
    assert steps[pretrained]["made"]["parameters"]["seed"] == 1
    assert trail["git"]["dirty"] == []
    (row,) = trail["rows"]
    assert row["cell"]["ratio"] == "4"
    assert row["metrics"] == f"{CELL}/metrics.json"
    metrics = json.loads((snapshot.folder / row["metrics"]).read_text())["metrics"]
    assert row["measures"]["top1"] == pytest.approx(metrics["top1"], abs=1e-6)
    said = snapshot.shrinkflow("trace", FIGURE, "--where", "strategy=random", "--where", "weights=A").stdout
    assert "all agree" in said and "rebuild:" in said and "top-1" in said
    assert "no part of a cell" in snapshot.refused("trace", FIGURE, "--where", "color=red")
    assert "there are strategy: dense" in snapshot.refused("trace", FIGURE, "--where", "strategy=none")


def test_a_cell_is_verified_and_a_crate_written_from_the_command_line(snapshot, tmp_path):
    done = snapshot.shrinkflow("verify", "--cell", CELL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CELL}/checkpoint.safetensors: identical" in done.stdout
    assert done.stdout.endswith("5 of 5 artifacts are identical\n")
    done = snapshot.shrinkflow("crate", "--out", str(tmp_path / "crate"), FIGURE)
    assert done.returncode == 0, done.stderr
    held = json.loads((tmp_path / "crate/ro-crate-metadata.json").read_text())["@graph"]
    names = {entity["@id"] for entity in held}
    assert {FIGURE, f"{CELL}/checkpoint.safetensors", "data/raw/digits/digits.csv.gz"} <= names
    assert (tmp_path / "crate" / FIGURE).read_bytes() == (snapshot.folder / FIGURE).read_bytes()
    assert "is there already" in snapshot.refused("crate", "--out", str(tmp_path / "crate"))
