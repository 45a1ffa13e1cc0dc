from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import collect
from shrinkflow import files, tables
from shrinkflow.errors import UserError
from tests.unit import fake_results

SCRIPTS = Path(collect.__file__).parent

METRICS = {
    "compression": 2.0,
    "speedup": 1.5,
    "params": 100,
    "params_nonzero": 50,
    "macs": 300,
    "macs_nonzero": 200,
    "top1": 0.75,
    "top5": 0.9,
    "loss": 0.5,
    "val_top1": 0.8,
    "pruned_val_top1": 0.4,
    "best_epoch": 3,
    "epochs": 5,
    "collapsed_layers": 0,
    "best_test_top1": 0.76,
    "best_test_epoch": 2,
}
LAYERS = [
    {"name": "conv.weight", "shape": [8, 1, 3, 3], "weights": 72, "kept": 18, "prunable": True}
    | {"macs": 720, "macs_nonzero": 180},
    {"name": "hidden.weight", "shape": [4, 8], "weights": 32, "kept": 0, "prunable": True}
    | {"macs": 32, "macs_nonzero": 0},
    {"name": "head.weight", "shape": [2, 4], "weights": 8, "kept": 0, "prunable": False}
    | {"macs": 8, "macs_nonzero": 0},
]


def row(strategy="random", ratio=2.0, seed=0, weights="A", control="dense", **metrics):
    cell = {"dataset": "digits", "model": "digitsnet", "weights": weights, "strategy": strategy}
    return cell | {"ratio": ratio, "seed": seed, "control": control} | METRICS | metrics


def frame(*rows):
    return pd.DataFrame(list(rows), columns=tables.CURVE_COLUMNS)


def metrics_file(path, cell=None, control="dense", **metrics):
    values = {"dataset": "digits", "model": "digitsnet", "weights": "A", "strategy": "random"}
    values |= {"ratio": 2, "seed": 0} | (cell or {})
    document = {"cell": values, "control": control, "metrics": METRICS | metrics, "layers": LAYERS}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def written(rows):
    """Return the bytes of both tables."""
    results = tables.results(rows)
    with tempfile.TemporaryDirectory() as folder:
        tables.write("results", Path(folder, "r.csv"), results)
        tables.write("summary", Path(folder, "s.csv"), tables.summary(results))
        return Path(folder, "r.csv").read_bytes(), Path(folder, "s.csv").read_bytes()


def run(program, *arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPTS / program), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


class TestResults:
    def test_columns_are_those_others_rely_on(self):
        table = tables.results(frame(row("dense", 1.0), row()))
        assert ",".join(table.columns) == (
            "dataset,model,weights,strategy,ratio,seed,control,compression,speedup,params,params_nonzero,"
            "macs,macs_nonzero,top1,top5,loss,val_top1,dense_top1,top1_change,pruned_val_top1,"
            "best_epoch,epochs,collapsed_layers,best_test_top1,best_test_epoch"
        )

    def test_each_cell_meets_the_control_of_its_own_weights_and_seed(self):
        table = tables.results(
            frame(
                row(seed=0, top1=0.70),
                row(seed=1, top1=0.71),
                row(seed=0, weights="B", top1=0.72),
                row("dense", 1.0, seed=1, top1=0.81),
                row("dense", 1.0, seed=0, weights="B", top1=0.92),
                row("dense", 1.0, seed=0, top1=0.80),
            )
        )
        pruned = table[table["strategy"] == "random"]
        assert pruned["dense_top1"].tolist() == [0.80, 0.81, 0.92]
        np.testing.assert_allclose(pruned["top1_change"], [-0.10, -0.10, -0.20])
        assert (table[table["strategy"] == "dense"]["top1_change"] == 0).all()

    def test_each_cell_meets_the_control_it_names(self):
        scratch = "dense-initialisation"
        table = tables.results(
            frame(
                row(scratch, 1.0, control=scratch, top1=0.60),
                row(scratch, 1.0, seed=1, control=scratch, top1=0.61),
                row("dense", 1.0, top1=0.80),
                row("dense", 1.0, seed=1, top1=0.81),
                row("snip", control=scratch, top1=0.70),
                row("snip", seed=1, control=scratch, top1=0.72),
                row("random", top1=0.70),
            )
        )
        found = table.set_index(["strategy", "seed"])[["control", "dense_top1", "top1_change"]]
        assert found["control"].to_dict() == {
            ("dense", 0): "dense",
            ("dense", 1): "dense",
            (scratch, 0): scratch,
            (scratch, 1): scratch,
            ("random", 0): "dense",
            ("snip", 0): scratch,
            ("snip", 1): scratch,
        }
        assert found["dense_top1"].tolist() == [0.80, 0.81, 0.60, 0.61, 0.80, 0.60, 0.61]
        # 0.70 is worse than 0.80, and better than 0.60.
        np.testing.assert_allclose(found["top1_change"], [0, 0, 0, 0, -0.10, 0.10, 0.11])
        assert tables.is_control(table).tolist() == [True] * 4 + [False] * 3
        assert tables.summary(table)["control"].tolist() == ["dense", scratch, "dense", scratch]

    def test_order_controls_first_then_names_then_numbers(self):
        cells = [
            ("b", 10.0, 0),
            ("b", 9.5, 10),
            ("b", 9.5, 9),
            ("a", 2.0, 0),
            ("dense", 1.0, 0),
            ("dense", 1.0, 9),
            ("dense", 1.0, 10),
        ]
        other = row("dense-later", 1.0, 0, control="dense-later")
        table = tables.results(frame(other, *[row(*cell) for cell in cells]))
        order = list(zip(table["strategy"], table["ratio"], table["seed"], strict=True))
        assert order == [
            ("dense", 1.0, 0),
            ("dense", 1.0, 9),
            ("dense", 1.0, 10),
            ("dense-later", 1.0, 0),
            ("a", 2.0, 0),
            ("b", 9.5, 9),
            ("b", 9.5, 10),
            ("b", 10.0, 0),
        ]

    @pytest.mark.parametrize("other", [{"seed": 1}, {"weights": "B"}])
    def test_a_missing_control_is_named(self, other):
        with pytest.raises(UserError, match=r"A, strategy random, ratio 2, seed 0 has no .* add 'dense' at"):
            tables.results(frame(row(), row("dense", 1.0, **other)))

    def test_the_control_of_others_does_not_do(self):
        with pytest.raises(UserError, match=r"strategy snip, .* has no control; add 'dense-late'"):
            tables.results(frame(row("dense", 1.0), row(), row("snip", control="dense-late")))

    def test_a_control_is_at_ratio_1(self):
        with pytest.raises(UserError, match=r"has no control; add 'dense' at ratio 1"):
            tables.results(frame(row("dense", 2.0), row()))

    def test_seeds_of_one_ratio_with_different_controls_are_refused(self):
        others = [row(name, 1.0, seed, control=name) for name in ("dense", "dense-b") for seed in (0, 1)]
        with pytest.raises(UserError, match=r"strategy random, ratio 2 have different controls"):
            tables.results(frame(*others, row(), row(seed=1, control="dense-b")))

    def test_two_controls_of_one_seed_are_refused(self):
        with pytest.raises(UserError, match=r"strategy dense, ratio 1.5, seed 0 is there twice"):
            tables.results(frame(row("dense", 1.0), row("dense", 1.5)))

    def test_a_cell_that_is_there_twice_is_named(self):
        with pytest.raises(UserError, match=r"strategy random, ratio 2, seed 3 is there twice"):
            tables.results(frame(row("dense", 1.0, 3), row(seed=3), row(seed=3, top1=0.1)))

    def test_no_cells_are_refused(self):
        with pytest.raises(UserError, match="no cells"):
            tables.results(frame())


class TestSummary:
    def test_against_hand_computed_numbers(self):
        table = tables.results(
            frame(
                *[row("dense", 1.0, seed, top1=0.95) for seed in range(3)],
                *[row(seed=seed, top1=top1) for seed, top1 in enumerate((0.90, 0.91, 0.92))],
            )
        )
        summary = tables.summary(table)
        assert summary["strategy"].tolist() == ["dense", "random"]
        assert summary["n"].tolist() == [3, 3]
        pruned = summary.iloc[1]
        for part, top1 in [("mean", 0.91), ("sd", 0.01), ("low", 0.885159), ("high", 0.934841)]:
            assert pruned[f"top1_{part}"] == pytest.approx(top1, abs=1e-6)
        assert pruned["top1_change_mean"] == pytest.approx(-0.04)
        assert pruned["compression_sd"] == 0

    def test_columns(self):
        summary = tables.summary(fake_results.study()[0])
        names = ["compression", "speedup", "params_nonzero", "macs_nonzero"]
        names += ["top1", "top5", "loss", "val_top1", "top1_change"]
        assert list(summary.columns) == [
            *["dataset", "model", "weights", "strategy", "ratio", "control", "n"],
            *[f"{name}_{part}" for name in names for part in ("mean", "sd", "low", "high")],
        ]

    def test_sizes_are_means_of_counts(self, tmp_path):
        cells = [row(seed=seed, params_nonzero=10 + seed, macs_nonzero=70) for seed in range(3)]
        cells += [row("dense", 1.0, seed, params_nonzero=pd.NA) for seed in range(3)]
        tables.write("results", tmp_path / "r.csv", tables.results(frame(*cells)))
        summary = tables.summary(tables.read("results", tmp_path / "r.csv"))
        assert summary["params_nonzero_mean"].tolist()[1:] == [11]
        assert summary["params_nonzero_sd"].tolist()[1:] == [1]
        assert summary["macs_nonzero_mean"].tolist() == [200, 70]
        assert math.isnan(summary["params_nonzero_mean"][0])

    def test_one_seed_has_no_deviation(self, tmp_path):
        tables.write("summary", tmp_path / "s.csv", fake_results.study(seeds=1)[1])
        summary = tables.read("summary", tmp_path / "s.csv")
        assert summary["top1_sd"].isna().all()
        assert summary["top1_low"].isna().all()
        assert summary["top1_mean"].notna().all()

    def test_crossed_masks_are_left_out(self):
        cells = [row("dense", 1.0, seed=seed) for seed in (1, 2)]
        cells += [row("random", seed=1), row("random", seed=2)]
        cells += [row("random+mask1", seed=2, top1=0.0), row("random+mask2", seed=1, top1=0.0)]
        results = tables.results(frame(*cells))
        assert len(results) == 6
        summary = tables.summary(results)
        assert summary["strategy"].tolist() == ["dense", "random"]
        assert summary["top1_mean"].tolist() == [0.75, 0.75]

    def test_weights_are_not_pooled(self):
        summary = tables.summary(fake_results.study(weights=["A", "B"], seeds=2)[0])
        assert set(summary["n"]) == {2}


class TestFiles:
    def test_exact_text(self, tmp_path):
        table = tables.results(
            frame(
                row("dense", 1.0, top1=0.75, val_top1=math.nan, best_test_top1=None, best_test_epoch=None),
                row(ratio=2.5, top1=2 / 3, compression=math.inf, best_epoch=pd.NA, loss=1e-9),
            )
        )
        tables.write("results", tmp_path / "r.csv", table)
        assert (tmp_path / "r.csv").read_bytes().decode().split("\n")[1:] == [
            "digits,digitsnet,A,dense,1,0,dense,2.000000,1.500000,100,50,300,200,0.750000,0.900000,"
            "0.500000,,0.750000,0.000000,0.400000,3,5,0,,",
            "digits,digitsnet,A,random,2.5,0,dense,inf,1.500000,100,50,300,200,0.666667,0.900000,"
            "0.000000,0.800000,0.750000,-0.083333,0.400000,,5,0,0.760000,2",
            "",
        ]

    def test_no_negative_zero(self, tmp_path):
        table = tables.results(frame(row("dense", 1.0, top1=0.3), row(top1=0.3 - 1e-12)))
        tables.write("results", tmp_path / "r.csv", table)
        assert "-0.000000" not in (tmp_path / "r.csv").read_text()

    def test_missing_and_infinite_values_come_back(self, tmp_path):
        table = tables.results(
            frame(row("dense", 1.0), row(speedup=math.inf, loss=math.nan, best_epoch=None))
        )
        tables.write("results", tmp_path / "r.csv", table)
        back = tables.read("results", tmp_path / "r.csv").iloc[1]
        assert back["speedup"] == math.inf
        assert math.isnan(back["loss"])
        assert back["best_epoch"] is pd.NA

    @pytest.mark.parametrize(
        "name",
        [
            "NA",
            "1",
            "1e3",
            "null",
            "nan",
            "",
            "true",
            "-inf",
            "007",
            "a,b",
            'q"q',
            " a ",
            "ünï",
            "#",
        ],
    )
    def test_a_name_stays_text(self, name, tmp_path):
        curve = metrics_file(tmp_path / "0.json", {"weights": name})
        control = metrics_file(tmp_path / "1.json", {"weights": name, "strategy": "dense", "ratio": 1})
        for path in (curve, control):
            (path.with_suffix(".csv")).write_text(collect.text(collect.collect([path])))
        table = tables.results(tables.read_curves([tmp_path / "0.csv", tmp_path / "1.csv"]))
        tables.write("results", tmp_path / "r.csv", table)
        tables.write("summary", tmp_path / "s.csv", tables.summary(table))
        assert tables.read("results", tmp_path / "r.csv")["weights"].tolist() == [name, name]
        assert tables.read("summary", tmp_path / "s.csv")["weights"].tolist() == [name, name]

    def test_dtypes_do_not_depend_on_the_values(self, tmp_path):
        table = tables.results(frame(row("dense", 1.0, weights="1", best_epoch=None, top5=None)))
        tables.write("results", tmp_path / "r.csv", table)
        back = tables.read("results", tmp_path / "r.csv")
        assert back["weights"].tolist() == ["1"]
        assert back["best_epoch"].dtype == "Int64"
        assert back["top5"].dtype == "float64"
        assert back["seed"].tolist() == [0]

    @settings(max_examples=8, deadline=None)
    @given(st.randoms(use_true_random=False))
    def test_the_order_of_rows_changes_no_byte(self, random):
        rows = fake_results.rows(weights=["A", "B"], ratios=(2.0, 10.0), seeds=2)
        order = list(range(len(rows)))
        random.shuffle(order)
        assert written(rows.iloc[order]) == written(rows)

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda text: "", "damaged"),
            (lambda text: text.replace("top1_change", "change"), "change"),
            (lambda text: text[: text.rindex(",")], "damaged"),
            (lambda text: text.replace("0.750000", "0.75x"), "0.75x"),
            (lambda text: text.replace("random", '"random'), "damaged"),
            (lambda text: text.replace("dataset,model", "model,dataset"), "order"),
            (lambda text: text.replace("\n", ",1\n"), "not the table expected"),
        ],
    )
    def test_a_damaged_table_is_named(self, damage, says, tmp_path):
        path = tmp_path / "r.csv"
        tables.write("results", path, tables.results(frame(row("dense", 1.0), row())))
        path.write_text(damage(path.read_text()))
        with pytest.raises(UserError, match=says) as error:
            tables.read("results", path)
        assert str(path) in str(error.value)


class TestCollect:
    def test_columns_are_those_the_tables_read(self):
        assert tables.CURVE_COLUMNS == collect.COLUMNS
        assert tables.LAYER_COLUMNS == collect.LAYER_COLUMNS

    def test_rows_are_ordered_by_number(self, tmp_path):
        cells = [(10, 0), (9.5, 1), (2, 10), (2, 9)]
        paths = [
            metrics_file(tmp_path / f"{i}.json", {"ratio": ratio, "seed": seed})
            for i, (ratio, seed) in enumerate(cells)
        ]
        rows = collect.collect(paths)
        assert [(row["ratio"], row["seed"]) for row in rows] == sorted(cells)
        assert collect.text(rows) == collect.text(collect.collect(reversed(paths)))

    def test_numbers_are_written_in_full(self, tmp_path):
        path = metrics_file(tmp_path / "m.json", {"ratio": 2.0}, top1=2 / 3, val_top1=None)
        line = collect.text(collect.collect([path])).splitlines()[1]
        assert line == (
            "digits,digitsnet,A,random,2,0,dense,2.0,1.5,100,50,300,200,0.6666666666666666,0.9,0.5,,0.4,3,5,0,"
            "0.76,2"
        )

    def test_a_cell_that_is_there_twice_is_named(self, tmp_path):
        one = metrics_file(tmp_path / "one.json", {"ratio": 2})
        two = metrics_file(tmp_path / "two.json", {"ratio": 2.0})
        with pytest.raises(UserError, match=r"one.json and .*two.json are the same cell"):
            collect.collect([one, two])

    @pytest.mark.parametrize("name", ["dataset", "model", "weights", "strategy"])
    def test_curves_are_not_mixed(self, name, tmp_path):
        one = metrics_file(tmp_path / "one.json")
        two = metrics_file(tmp_path / "two.json", {name: "other", "seed": 1})
        with pytest.raises(UserError, match=f"differ in {name} "):
            collect.collect([one, two])

    @pytest.mark.parametrize(
        ("cell", "metrics", "says"),
        [
            ({"weights": None}, {}, "cell.weights .* None"),
            ({"weights": 1}, {}, "cell.weights .* 1"),
            ({"ratio": "2"}, {}, "cell.ratio"),
            ({"ratio": None}, {}, "cell.ratio"),
            ({"seed": 1.5}, {}, "cell.seed"),
            ({"seed": True}, {}, "cell.seed"),
            ({}, {"top1": "high"}, "metrics.top1"),
            ({}, {"collapsed_layers": ["conv1"]}, "metrics.collapsed_layers"),
        ],
    )
    def test_a_wrong_value_is_named(self, cell, metrics, says, tmp_path):
        path = metrics_file(tmp_path / "m.json", cell, **metrics)
        with pytest.raises(UserError, match=says):
            collect.read_cell(path)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[]", "lacks cell.dataset"),
            ("{}", "lacks cell.dataset"),
            ('{"cell": 3}', "lacks cell.dataset"),
            ('{"control": "dense"}', "lacks cell.dataset"),
            ("{", "not valid JSON"),
        ],
    )
    def test_another_document_is_refused(self, text, says, tmp_path):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(UserError, match=says):
            collect.read_cell(tmp_path / "m.json")

    @pytest.mark.parametrize("value", [None, 1, ["dense"], True])
    def test_a_control_is_text(self, value, tmp_path):
        path = metrics_file(tmp_path / "m.json", control=value)
        with pytest.raises(UserError, match=r"^control of .*m\.json cannot be"):
            collect.read_cell(path)

    def test_a_missing_control_is_named(self, tmp_path):
        path = metrics_file(tmp_path / "m.json")
        document = json.loads(path.read_text())
        del document["control"]
        path.write_text(json.dumps(document))
        with pytest.raises(UserError, match=r"m\.json lacks control; delete it and run again"):
            collect.read_cell(path)

    def test_a_missing_metric_is_named(self, tmp_path):
        path = metrics_file(tmp_path / "m.json")
        document = json.loads(path.read_text())
        del document["metrics"]["speedup"]
        path.write_text(json.dumps(document))
        with pytest.raises(UserError, match=r"m\.json lacks metrics\.speedup"):
            collect.read_cell(path)

    def test_starts_without_the_slow_libraries(self):
        code = "import sys, collect; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", code],
            cwd=SCRIPTS,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert "shrinkflow.files" in loaded
        assert not {"pandas", "scipy", "matplotlib", "torch"} & set(loaded)


class TestPrograms:
    def test_from_metrics_to_tables(self, tmp_path):
        rows = fake_results.rows(strategies=["random"], ratios=(2.0, 4.0), seeds=2)
        curves: dict[str, list[Path]] = {}
        for i, values in enumerate(json.loads(rows.to_json(orient="records"))):
            cell = {name: values.pop(name) for name in tables.CELL}
            path = metrics_file(tmp_path / f"{i}.json", cell, values.pop("control"), **values)
            curves.setdefault(cell["strategy"], []).append(path.relative_to(tmp_path))
        for strategy, paths in curves.items():
            done = run(
                "collect.py",
                "--metrics",
                *paths,
                "--out",
                f"{strategy}.csv",
                "--layers",
                f"{strategy}-layers.csv",
                "--top1",
                f"{strategy}.json",
                cwd=tmp_path,
            )
            assert (done.returncode, done.stderr) == (0, "")
        arguments = ["--results", "results.csv", "--summary", "tables/summary.csv"]
        arguments += ["--layers-out", "layers.csv"]
        inputs = ["random.csv", "dense.csv", "random-layers.csv", "dense-layers.csv"]
        done = run("summarise.py", "--curves", *inputs[:2], "--layers", *inputs[2:], *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")

        tables.write("results", tmp_path / "expected.csv", tables.results(rows))
        expected = (tmp_path / "expected.csv").read_bytes()
        assert (tmp_path / "results.csv").read_bytes() == expected
        assert len(tables.read("summary", tmp_path / "tables/summary.csv")) == 3
        record = files.read_json(tmp_path / "tables/summary.csv.record.json")
        assert [entry["path"] for entry in record["inputs"]] == inputs
        assert [entry["path"] for entry in record["outputs"]] == arguments[1::2]
        assert (tmp_path / "random.csv.record.json").is_file()
        lines = (tmp_path / "layers.csv").read_text().splitlines()
        assert len(lines) == 1 + 3 * len(rows)
        assert [line.split(",", 3)[3] for line in lines[1:4]] == [
            "dense,1,0,conv.weight,8x1x3x3,1,72,18,0.250000,720,180,0",
            "dense,1,0,hidden.weight,4x8,1,32,0,0.000000,32,0,1",
            "dense,1,0,head.weight,2x4,0,8,0,0.000000,8,0,0",
        ]

    def test_a_missing_control_is_one_line(self, tmp_path):
        metrics_file(tmp_path / "m.json")
        outputs = ["--out", "random.csv", "--layers", "layers.csv", "--top1", "random.json"]
        run("collect.py", "--metrics", "m.json", *outputs, cwd=tmp_path)
        arguments = ["--curves", "random.csv", "--layers", "layers.csv"]
        arguments += ["--results", "r.csv", "--summary", "s.csv", "--layers-out", "l.csv"]
        done = run("summarise.py", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("error: cell dataset digits, model digitsnet, weights A, ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "r.csv").exists()
