"""The chain from data set to figures, run for real on a tiny study."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from shrinkflow import files, records
from tests.workflow.conftest import ROOT, Project

pytestmark = pytest.mark.slow

CELLS = [
    (weights, strategy, ratio)
    for weights in "AB"
    for strategy, ratio in (
        ("dense", "1"),
        ("random", "4"),
        ("global-magnitude", "4"),
        ("global-gradient-magnitude", "4"),
    )
]


def rows(project: Project, table: str) -> list[dict[str, str]]:
    path = project.folder / "results" / "tiny" / "tables" / f"{table}.csv"
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def cell(project: Project, weights: str, strategy: str, ratio: str):
    return project.folder / f"results/tiny/cells/digits/digitsnet/{weights}/{strategy}/ratio{ratio}/seed1"


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in finished.run("--cores", "1").stderr


def test_one_core_gives_the_same_bytes_as_two(finished, tmp_path):
    other = Project(tmp_path / "other")
    other.run("--cores", "1")
    ours, theirs = finished.artifacts(), other.artifacts()
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []
    # Checkpoints, masks, tables and figures are among them.
    assert {"safetensors", "csv", "svg", "png", "json"} <= {path.rsplit(".", 1)[1] for path in ours}


def test_the_results_have_a_row_per_cell_and_the_promised_columns(finished):
    found = rows(finished, "results")
    promised = (
        "dataset model weights strategy ratio seed compression speedup params params_nonzero macs "
        "macs_nonzero top1 top5 loss val_top1 dense_top1"
    )
    assert set(promised.split()) <= set(found[0])
    assert sorted((row["weights"], row["strategy"], row["ratio"]) for row in found) == sorted(CELLS)
    for row in found:
        assert int(row["params"]) == 94186
        if row["strategy"] == "dense":
            assert float(row["compression"]) == pytest.approx(1, abs=1e-3)
            assert row["top1"] == row["dense_top1"]
        else:
            # The count is exact: 94,186 / 4 = 23,546.5 parameters are left.
            assert int(row["params_nonzero"]) == 23546
            assert float(row["speedup"]) > 1
    assert len(rows(finished, "summary")) == len(CELLS)


def test_learning_happens_and_the_control_is_trained_too(finished):
    dense = next(row for row in rows(finished, "results") if row["strategy"] == "dense")
    assert float(dense["top1"]) > 0.6
    history = (cell(finished, "A", "dense", "1") / "history.csv").read_text().splitlines()
    pruned = (cell(finished, "A", "random", "4") / "history.csv").read_text().splitlines()
    assert len(history) == len(pruned) == 1 + 1 + 2


@pytest.mark.parametrize(("weights", "strategy", "ratio"), CELLS)
def test_pruned_weights_are_zero_and_kept_ones_are_counted(finished, weights, strategy, ratio):
    folder = cell(finished, weights, strategy, ratio)
    mask, state = (load_file(folder / f"{name}.safetensors") for name in ("mask", "checkpoint"))
    assert set(mask) < set(state)
    assert all(part.dtype == np.uint8 for part in mask.values())
    assert not any(state[name][part == 0].any() for name, part in mask.items())
    kept = sum(int(part.sum()) for part in mask.values())
    assert kept == (92448 if strategy == "dense" else 23546 - 1738)


def test_the_mask_is_that_of_the_definition(finished):
    """Global magnitude, spelt out by hand from the pretrained checkpoint."""
    weights = load_file(finished.folder / "results/tiny/pretrained/digits/digitsnet/A/checkpoint.safetensors")
    mask = load_file(cell(finished, "A", "global-magnitude", "4") / "mask.safetensors")
    magnitudes = np.concatenate([np.abs(weights[name]).ravel() for name in sorted(mask)])
    threshold = np.sort(magnitudes)[::-1][23546 - 1738 - 1]
    assert all((mask[name] == (np.abs(weights[name]) >= threshold)).all() for name in mask)


def test_every_artifact_has_a_record_that_agrees_with_it_and_its_inputs(finished):
    checked = 0
    for path in finished.artifacts():
        if path.endswith(records.SUFFIX):
            continue
        record = files.read_json(f"{finished.folder / path}{records.SUFFIX}")
        assert record["artifact"]["path"] == path
        assert record["artifact"]["md5"] == files.digest(finished.folder / path)
        for source in record["inputs"]:
            assert source["md5"] == files.digest(finished.folder / source["path"])
        assert re.fullmatch("[0-9a-f]{16}", record["code"]["fingerprint"])
        assert str(finished.folder) not in json.dumps(record)
        checked += 1
    assert checked > 60


def test_every_job_has_a_log_and_a_benchmark(finished):
    for kind, ending in (("logs", "log"), ("benchmarks", "tsv")):
        folder = finished.folder / "results" / "tiny" / kind
        assert len(list((folder / "finetune").rglob(f"*.{ending}"))) == len(CELLS)
        assert len(list(folder.rglob(f"*.{ending}"))) > 5 * len(CELLS)
    log = finished.folder / "results/tiny/logs/finetune/digits/digitsnet/A/random/ratio4/seed1.log"
    assert re.search(r"A/random/ratio4/seed1: epoch 2/2, .* left at most", log.read_text())


def test_figures_are_pictures(finished):
    folder = finished.folder / "results/tiny/figures"
    assert sorted(path.name for path in folder.glob("*.[sp]*g")) == sorted(
        f"{name}.{form}" for name in ("compression", "speedup", "weights") for form in ("png", "svg")
    )
    for path in folder.glob("*.png"):
        width, height = Image.open(path).size
        assert width > 600
        assert height > 400
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_progress_is_told(finished):
    text = (finished.folder.parent / "finished.log").read_text()
    assert "cells: 1 of 8 done, about " in text
    assert "cells: 8 of 8 done\n" in text


def test_the_menu_reads_well(finished):
    text = finished.run("--list").stdout
    for target in (
        "all",
        "datasets",
        "pretrained",
        "scores",
        "masks",
        "finetuned",
        "metrics",
        "tables",
        "figures",
    ):
        assert re.search(rf"^{target} \(.+\)$", text, re.MULTILINE), target


@pytest.mark.parametrize("program", sorted((ROOT / "workflow/scripts").glob("*.py")), ids=lambda p: p.stem)
def test_every_program_explains_itself(program):
    done = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "example" in done.stdout
    assert program.name in done.stdout


def test_a_program_runs_by_hand(finished, tmp_path):
    scores = "results/tiny/scores/digits/digitsnet/A/random/seed1/from-pretrained/scores.safetensors"
    done = subprocess.run(
        [
            *(sys.executable, "workflow/scripts/prune.py", "--scores", scores),
            *("--scope", "layer", "--ratio", "53", "--out", str(tmp_path / "mask.safetensors")),
        ],
        cwd=finished.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "warning: nothing is left of layer 'features.0.weight' at ratio 53" in done.stderr
    record = files.read_json(tmp_path / f"mask.safetensors{records.SUFFIX}")
    assert record["findings"] == {"collapsed": ["features.0.weight"]}
    assert record["parameters"] == {"ratio": 53.0, "budget": "parameters", "scope": "layer"}
